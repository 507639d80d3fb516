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
        sums = {};
        const auto gradient = policy_loss(device_, loss, file_.at("in.new_logprob").data, sums);
        number(name + kind + ".policy_loss", sums.policy / count_);
        tensor(name + kind + ".grad.new_logprob", divided(gradient));
      }
    }
    number("clip_fraction", sums.outside / count_);
    number("approx_kl_k1", sums.old_kl1 / count_);
    PpoLoss to_reference = case_.loss;
    to_reference.advantages.assign(case_.mask.size(), 0.0f);
    to_reference.kl = {case_.advantages.reference, 0, 1};
    sums = {};
    policy_loss(device_, to_reference, case_.advantages.logprobs, sums);
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
    credence_value_sums sums{};
    const auto gradient = value_loss(device_, loss, file_.at("in.new_value").data, sums);
    number(name + "value_loss", sums.loss / count_);
    tensor(name + "grad.new_value", divided(gradient));
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
