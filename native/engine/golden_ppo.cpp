// The folder of PPO's arithmetic: rewards, advantages, losses and their gradients from stored log-probabilities and values.
#include <cmath>

#include "golden_parts.h"

namespace credence::golden_parts {

PpoCase::PpoCase(const Json& batch, const Json& settings, const std::map<std::string, NamedTensor>& file) {
  advantages.offsets = ids(batch.at("cu_seqlens"));
  advantages.completion_start = ids(batch.at("completion_starts"));
  advantages.logprobs = file.at("in.old_logprob").data;
  advantages.reference = file.at("in.ref_logprob").data;
  advantages.scores = file.at("in.score").data;
  advantages.kl_coefficient = settings.at("beta").as_number();
  advantages.lambda = settings.at("lam").as_number();
  advantages.whiten_eps = settings.at("whiten_eps").as_number();
  for (int32_t mark : ids(batch.at("completion_mask"))) mask.push_back(static_cast<float>(mark));
  loss.weights = mask;
  loss.old_logprobs = advantages.logprobs;
  loss.clip_low = loss.clip_high = settings.at("cliprange").as_number();
  PpoLoss::Value& value = loss.value.emplace();
  value.weights = mask;
  value.clip = settings.at("cliprange_value").as_number();
}

namespace {

class PpoCheck {
 public:
  explicit PpoCheck(Subject& subject)
      : subject_(subject),
        device_(Device::open(subject.options().device)),
        file_(tensors_in(subject.folder() / "ppo.safetensors")),
        json_(read_json_file((subject.folder() / "ppo.json").string())),
        case_(read_json_file((subject.folder() / "batch.json").string()), json_.at("settings"), file_) {
    for (float mark : case_.mask) count_ += mark;
    case_.advantages.values = case_.loss.value->old_values = file_.at("in.value").data;
  }

  void run() {
    credence_policy_sums sums{};
    for (const std::string gamma : {"1.0", "0.95"}) {
      const std::string name = "gamma_" + gamma + ".";
      case_.advantages.gamma = std::stod(gamma);
      for (const auto& [kind, whitening] :
           {std::pair{"plain", CREDENCE_NOT_WHITENED}, {"unbiased", CREDENCE_UNBIASED}, {"biased", CREDENCE_BIASED}}) {
        const bool plain = whitening == CREDENCE_NOT_WHITENED;
        case_.advantages.whiten_advantages = whitening;
        const AdvantageOutput step = advantages(device_, case_.advantages);
        if (plain) {
          if (gamma == "1.0") tensor("reward", step.rewards);
          tensor(name + "advantage", step.advantages);
          tensor(name + "return", step.returns);
          value(name, step.returns);
        } else {
          tensor(name + "whitened_" + kind, step.whitened);
        }
        PpoLoss loss = case_.loss;
        loss.advantages = step.whitened;
        const auto gradient = policy_loss(loss, file_.at("in.new_logprob").data, &sums);
        number(name + kind + ".policy_loss", sums.policy / count_);
        tensor(name + kind + ".grad.new_logprob", divided(gradient));
      }
    }
    number("clip_fraction", sums.outside / count_);
    number("approx_kl_k1", sums.old_kl1 / count_);
    PpoLoss to_reference = case_.loss;
    to_reference.advantages.assign(case_.mask.size(), 0.0f);
    to_reference.kl = {case_.advantages.reference, 0, 1};
    policy_loss(to_reference, case_.advantages.logprobs, &sums);
    number("kl_to_reference_k1", sums.reference_kl / count_);
    Json document = Json::object();
    document.set("expected", numbers_);
    subject_.write("ppo", wrote_);
    subject_.write("ppo", document);
  }

 private:
  void value(const std::string& name, const std::vector<float>& returns) {
    PpoLoss::Value loss = *case_.loss.value;
    loss.returns = returns;
    const ValueLossRows rows(device_, loss, where_not_0(loss.weights));
    credence_value_loss op = rows.op();
    credence_value_sums sums{};
    const auto gradient = run(op, op.value, op.d_value, file_.at("in.new_value").data, &sums, &Device::value_loss);
    number(name + "value_loss", sums.loss / count_);
    tensor(name + "grad.new_value", divided(gradient));
  }
  std::vector<float> policy_loss(const PpoLoss& loss, const std::vector<float>& logprobs, credence_policy_sums* sums) {
    const auto tokens = where_not_0(loss.weights);
    const PolicyLossRows rows(device_, loss, tokens);
    credence_policy_loss op = rows.at(0, static_cast<int>(tokens.size()));
    return run(op, op.logprob, op.d_logprob, logprobs, sums, &Device::policy_loss);
  }
  /// An operator over the tokens that count: d(loss) / d(values) [T], and its sums.
  template <class P, class Sums>
  std::vector<float> run(P& op, const float*& read, float*& gradient, const std::vector<float>& values, Sums* sums,
                         void (Device::*launch)(const P&)) {
    const auto tokens = where_not_0(case_.mask);
    std::vector<float> some, out(values.size());
    for (int32_t t : tokens) some.push_back(values[t]);
    Buffer count(device_), in(device_), d(device_, some.size() * sizeof(float)), sum(device_, sizeof(Sums));
    count.upload(std::vector<int32_t>{static_cast<int32_t>(tokens.size())});
    in.upload(some);
    sum.zero();
    op.rows = count.i32();
    read = in.f32();
    gradient = d.f32();
    op.sums = sum.as<Sums>();
    (*device_.*launch)(op);
    *sums = sum.download<Sums>(1)[0];
    const auto slopes = d.download<float>(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) out[tokens[i]] = slopes[i];
    return out;
  }
  std::vector<float> divided(std::vector<float> values) const {
    for (float& x : values) x = static_cast<float>(x / count_);
    return values;
  }
  void tensor(const std::string& name, std::vector<float> got) {
    const NamedTensor& right = file_.at("out." + name);
    Comparison c;
    c.add(got, right.data);
    subject_.judge_files("ppo." + name, c, kArrayBound);
    wrote_.push_back({right.name, right.shape, std::move(got)});
  }
  void number(const std::string& name, double got) {
    Comparison c;
    c.add(got, json_.at("expected").at(name).as_number());
    subject_.judge_files("ppo." + name, c, kArrayBound);
    numbers_.set(name, got);
  }

  Subject& subject_;
  std::shared_ptr<Device> device_;
  std::map<std::string, NamedTensor> file_;
  Json json_;
  PpoCase case_;
  double count_ = 0;
  std::vector<NamedTensor> wrote_;
  Json numbers_ = Json::object();
};

}  // namespace

void check_ppo(Subject& subject, std::set<std::string>& present) {
  PpoCheck(subject).run();
  present.erase("ppo");
}

}  // namespace credence::golden_parts
