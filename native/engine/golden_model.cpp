// A model's folder: what the engine computes for its batch, against what the folder expects.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "error.h"
#include "generation.h"
#include "golden_parts.h"
#include "half.h"
#include "merge.h"
#include "trainer.h"

namespace credence::golden_parts {

namespace {

class ModelCheck {
 public:
  explicit ModelCheck(Subject& subject)
      : subject_(subject), base_(Base::open(subject.folder().string(), subject.options().device)) {
    const Json batch = read_json_file((subject.folder() / "batch.json").string());
    batch_ = {ids(batch.at("tokens")), ids(batch.at("cu_seqlens"))};
    completion_ = ids(batch.at("completion_mask"));
    subject.use_yardstick(subject.folder() / "bfloat16.json");
  }

  void forward() {
    const auto expected = tensors_in(subject_.folder() / "forward.safetensors");
    const auto policy = adapted({});
    std::vector<NamedTensor> wrote;
    for (const bool adapter : {false, true}) {
      const std::string who = adapter ? "adapter" : "base";
      PassRequest request;
      request.adapter = adapter;
      request.logprobs = request.entropy = request.logits = request.hidden = true;
      const PassResult got = Pass(policy).forward(batch_, request);
      std::vector<float> next(got.logprobs.size(), 0.0f);
      for (int b = 0; b < batch_.segments(); ++b) {
        for (int t = batch_.offsets[b]; t + 1 < batch_.offsets[b + 1]; ++t) next[t] = got.logprobs[t + 1];
      }
      const std::vector<std::pair<std::string, const std::vector<float>*>> quantities = {
          {"hidden", &got.hidden},
          {"logits", &got.logits},
          {"entropy", &got.entropy},
          {"token_logprob", &got.logprobs},
          {"next_logprob", &next}};
      for (const auto& [what, values] : quantities) {
        const NamedTensor& right = expected.at("out." + who + "." + what);
        Comparison c;
        c.add(*values, right.data);
        subject_.judge("forward." + who + "." + what, c, kRowBound);
        wrote.push_back({right.name, right.shape, *values});
      }
    }
    subject_.write("forward", wrote);
  }

  void sft() {
    const auto file = tensors_in(subject_.folder() / "sft.safetensors");
    const Json json = read_json_file((subject_.folder() / "sft.json").string());
    const Json &settings = json.at("settings"), &expected = json.at("expected");
    const auto policy = adapted({});
    Trainer trainer(policy, optimizer_of(settings));
    Loss loss;
    loss.nll_weights = file.at("in.weights").data;
    double count = 0;
    for (float weight : loss.nll_weights) count += weight;
    clear_first_tokens(loss.nll_weights);

    Comparison losses, gradients, finals;
    std::vector<NamedTensor> wrote;
    Json steps = Json::array();
    double first = 0;
    for (const Json& step : expected.at("steps").as_array()) {
      trainer.accumulate(batch_, loss);
      if (!steps.size()) compare(*policy, divided(trainer.gradients(), count), file, "out.grad.", gradients, wrote);
      const StepResult told = trainer.update(step.at("lr").as_number(), count);
      if (!steps.size()) first = told.loss;
      losses.add(told.loss, step.at("loss").as_number());
      losses.add(told.gradient_norm, step.at("grad_norm").as_number());
      Json entry = Json::object();
      entry.set("loss", told.loss);
      entry.set("grad_norm", told.gradient_norm);
      entry.set("lr", step.at("lr"));
      steps.push_back(entry);
    }
    losses.add(first, expected.at("loss").as_number());
    trainer.accumulate(batch_, loss);
    const double after = trainer.loss() / count;
    losses.add(after, expected.at("loss_after").as_number());
    compare(*policy, policy->read_parameters(), file, "out.final.", finals, wrote);
    subject_.judge("sft.loss", losses, kLossBound);
    subject_.judge("sft.grad", gradients, kGradientBound);
    subject_.judge("sft.final", finals, kFinalBound);
    Json numbers = Json::object(), document = Json::object();
    numbers.set("loss", first);
    numbers.set("steps", steps);
    numbers.set("loss_after", after);
    document.set("expected", numbers);
    subject_.write("sft", wrote);
    subject_.write("sft", document);
  }

  /// Every weight is trained beside the adapter, embeddings and what has one dimension at rates of their own.
  void full() {
    const auto file = tensors_in(subject_.folder() / "full.safetensors");
    const Json json = read_json_file((subject_.folder() / "full.json").string());
    const Json &settings = json.at("settings"), &expected = json.at("expected");
    const auto policy = std::make_shared<Policy>(base_, (subject_.folder() / "adapter").string(),
                                                 std::vector<HeadSpec>{}, OwnedSpec{true, true, true, true});
    Trainer trainer(policy, optimizer_of(settings));
    Loss loss;
    loss.nll_weights = file.at("in.weights").data;
    double count = 0;
    for (float weight : loss.nll_weights) count += weight;
    clear_first_tokens(loss.nll_weights);

    Comparison losses, gradients;
    std::vector<NamedTensor> wrote;
    Json told = Json::array(), norms = Json::array();
    for (int64_t i = 0; i < settings.at("steps").as_integer(); ++i) {
      trainer.accumulate(batch_, loss);
      if (!i) compare(*policy, divided(trainer.gradients(), count), file, "out.grad.", gradients, wrote);
      std::map<Group, GroupSettings> groups;
      for (const GroupRange& range : policy->groups()) {
        if (const Json* own = settings.at("groups").find(group_name(range.group)))
          groups[range.group] = {own->at("lr").as_number(), own->at("weight_decay").as_number()};
      }
      const StepResult step = trainer.update(settings.at("lr").as_number(), count, groups);
      losses.add(step.loss, expected.at("losses")[i].as_number());
      losses.add(step.gradient_norm, expected.at("grad_norms")[i].as_number());
      told.push_back(step.loss);
      norms.push_back(step.gradient_norm);
    }
    trainer.accumulate(batch_, loss);
    const double after = trainer.loss() / count;
    losses.add(after, expected.at("loss_after").as_number());
    subject_.judge("full.loss", losses, kLossBound);
    subject_.judge("full.grad", gradients, kGradientBound);
    Json numbers = Json::object(), document = Json::object();
    numbers.set("losses", told);
    numbers.set("grad_norms", norms);
    numbers.set("loss_after", after);
    document.set("expected", numbers);
    subject_.write("full", wrote);
    subject_.write("full", document);
  }

  void heads() {
    const auto file = tensors_in(subject_.folder() / "heads.safetensors");
    const Json json = read_json_file((subject_.folder() / "heads.json").string());
    std::vector<NamedTensor> wrote;
    Json numbers = Json::object();
    for (const std::string kind : {"linear", "mlp"}) {
      HeadSpec spec;
      spec.name = kind == "linear" ? "linear.0" : "mlp";
      if (kind == "mlp") {
        spec.widths = {static_cast<int>(file.at("in.mlp.0.bias").shape[0]),
                       static_cast<int>(file.at("in.mlp.2.bias").shape[0])};
      }
      const auto policy = adapted({spec});
      std::vector<NamedTensor> given;
      for (const auto& [name, tensor] : file) {
        if (name.starts_with("in." + kind + ".")) given.push_back({name.substr(3), tensor.shape, tensor.data});
      }
      policy->set_parameters(given);
      Trainer trainer(policy, {});
      PassRequest request;
      request.heads = {{spec.name, {}}};
      for (int b = 0; b < batch_.segments(); ++b)
        request.heads[0].spans.push_back({b, batch_.length(b) - 1, batch_.length(b)});
      const std::vector<float> logit = trainer.forward(batch_, request).heads.at(spec.name);
      std::vector<float> score;
      for (float z : logit) score.push_back(static_cast<float>(1 / (1 + std::exp(-static_cast<double>(z)))));
      Loss loss;
      loss.read = request.heads[0];
      loss.targets = file.at("in.targets").data;
      trainer.accumulate(batch_, loss);
      const double value = trainer.loss() / batch_.segments();
      Comparison logits, losses, gradients;
      logits.add(logit, file.at("out." + kind + ".logit").data);
      logits.add(score, file.at("out." + kind + ".score").data);
      losses.add(value, json.at("expected").at(kind + ".loss").as_number());
      wrote.push_back({"out." + kind + ".logit", {batch_.segments()}, logit});
      wrote.push_back({"out." + kind + ".score", {batch_.segments()}, score});
      compare(*policy, divided(trainer.gradients(), batch_.segments()), file, "out." + kind + ".grad.", gradients,
              wrote);
      subject_.judge("heads." + kind + ".score", logits, kRowBound);
      subject_.judge("heads." + kind + ".loss", losses, kLossBound);
      subject_.judge("heads." + kind + ".grad", gradients, kGradientBound);
      numbers.set(kind + ".loss", value);
    }
    Json document = Json::object();
    document.set("expected", numbers);
    subject_.write("heads", wrote);
    subject_.write("heads", document);
  }

  /// loss = -mean over sequences of the label's log-probability among the candidates, after the last token.
  void closed_set() {
    const auto file = tensors_in(subject_.folder() / "closed_set.safetensors");
    const Json json = read_json_file((subject_.folder() / "closed_set.json").string());
    Loss::ClosedSet closed;
    closed.read.candidates = ids(json.at("inputs").at("candidates"));
    for (int b = 0; b < batch_.segments(); ++b) closed.read.rows.push_back(batch_.offsets[b + 1] - 1);
    closed.labels = ids(json.at("inputs").at("labels"));
    closed.weights.assign(closed.labels.size(), 1.0f);
    const auto policy = adapted({});
    Trainer trainer(policy, {});
    PassRequest request;
    request.closed_set = closed.read;
    const std::vector<float> logprob = trainer.forward(batch_, request).closed_set;
    Loss loss;
    loss.closed_set = closed;
    Comparison values, losses, gradients;
    const NamedTensor& right = file.at("out.logprob");
    values.add(logprob, right.data);
    std::vector<NamedTensor> wrote = {{right.name, right.shape, logprob}};
    trainer.accumulate(batch_, loss);
    const double value = trainer.loss() / batch_.segments();
    losses.add(value, json.at("expected").at("loss").as_number());
    compare(*policy, divided(trainer.gradients(), batch_.segments()), file, "out.grad.", gradients, wrote);
    subject_.judge("closed_set.logprob", values, kRowBound);
    subject_.judge("closed_set.loss", losses, kLossBound);
    subject_.judge("closed_set.grad", gradients, kGradientBound);
    Json numbers = Json::object(), document = Json::object();
    numbers.set("loss", value);
    document.set("expected", numbers);
    subject_.write("closed_set", wrote);
    subject_.write("closed_set", document);
  }

  /// Of the adapted model from the base, per token of the completions and in the mean over them.
  void divergence() {
    const auto file = tensors_in(subject_.folder() / "divergence.safetensors");
    const Json expected = read_json_file((subject_.folder() / "divergence.json").string()).at("expected");
    std::vector<float> weights(completion_.begin(), completion_.end());
    double count = 0;
    for (float weight : weights) count += weight;
    clear_first_tokens(weights);
    std::vector<NamedTensor> wrote;
    Json numbers = Json::object();
    for (const auto& [name, kind] :
         {std::pair{"kl", Divergence::kKl}, {"reverse_kl", Divergence::kReverseKl}, {"jsd", Divergence::kJsd}}) {
      const auto policy = adapted({});
      Trainer trainer(policy, {});
      PassRequest request;
      request.divergence = {kind, {weights.begin(), weights.end()}, true};
      const std::vector<float> per_token = trainer.forward(batch_, request).divergence;
      Loss loss;
      loss.divergence = kind;
      loss.divergence_weights = weights;
      const std::string prefix = std::string("divergence.") + name, out = std::string("out.") + name;
      Comparison values, means, gradients;
      const NamedTensor& right = file.at(out + ".per_token");
      values.add(per_token, right.data);
      wrote.push_back({right.name, right.shape, per_token});
      trainer.accumulate(batch_, loss);
      const double mean = trainer.loss() / count;
      means.add(mean, expected.at(std::string(name) + ".mean").as_number());
      compare(*policy, divided(trainer.gradients(), count), file, out + ".grad.", gradients, wrote);
      subject_.judge(prefix + ".per_token", values, kRowBound);
      subject_.judge(prefix + ".mean", means, kLossBound);
      subject_.judge(prefix + ".grad", gradients, kGradientBound);
      numbers.set(std::string(name) + ".mean", mean);
    }
    Json document = Json::object();
    document.set("expected", numbers);
    subject_.write("divergence", wrote);
    subject_.write("divergence", document);
  }

  /// One step's losses end to end, the value of a token being the head at the row before it.
  void ppo() {
    const auto file = tensors_in(subject_.folder() / "ppo.safetensors");
    const Json json = read_json_file((subject_.folder() / "ppo.json").string());
    const Json& settings = json.at("settings");
    PpoCase step(read_json_file((subject_.folder() / "batch.json").string()), settings, file);
    step.advantages.values = step.loss.value->old_values = file.at("in.old_value").data;
    step.advantages.gamma = settings.at("gamma").as_number();
    step.advantages.whiten_advantages =
        settings.at("whitening").as_string() == "unbiased" ? CREDENCE_UNBIASED : CREDENCE_BIASED;
    const AdvantageOutput advantage = advantages(base_->device(), step.advantages);
    PpoLoss& loss = step.loss;
    loss.advantages = advantage.whitened;
    loss.value->returns = advantage.returns;
    loss.value->head = "head";
    loss.value->coefficient = settings.at("vf_coef").as_number();
    HeadSpec head;
    head.name = "head";
    const auto policy = adapted({head});
    policy->set_parameters({{"head.weight", file.at("in.head.weight").shape, file.at("in.head.weight").data},
                            {"head.bias", file.at("in.head.bias").shape, file.at("in.head.bias").data}});
    Trainer trainer(policy, {});
    PassRequest request;
    request.logprobs = true;
    for (float mark : step.mask) request.mask.push_back(mark != 0);
    request.values = {head.name, request.mask};
    const PassResult read = trainer.forward(batch_, request);
    std::vector<float> ratio;
    double count = 0;
    for (size_t t = 0; t < step.mask.size(); ++t) {
      count += step.mask[t];
      ratio.push_back(step.mask[t] != 0 ? std::exp(read.logprobs[t] - loss.old_logprobs[t]) : 0);
    }
    trainer.accumulate(batch_, loss);
    const PpoSums sums = trainer.ppo_sums();
    std::vector<NamedTensor> wrote;
    const auto tensor = [&](const char* name, const std::vector<float>& got, bool from_files) {
      const NamedTensor& right = file.at(std::string("out.") + name);
      Comparison c;
      c.add(got, right.data);
      if (from_files) subject_.judge_files(std::string("ppo.") + name, c, kArrayBound);
      else subject_.judge(std::string("ppo.") + name, c, kRowBound);
      wrote.push_back({right.name, right.shape, got});
    };
    tensor("reward", advantage.rewards, true);
    tensor("advantage", advantage.advantages, true);
    tensor("return", advantage.returns, true);
    tensor("whitened", advantage.whitened, true);
    tensor("new_logprob", read.logprobs, false);
    tensor("new_value", read.values, false);
    tensor("ratio", ratio, false);
    Comparison losses, gradients;
    Json numbers = Json::object(), document = Json::object();
    for (const auto& [name, got] : {std::pair{"policy_loss", sums.policy.policy / count},
                                    {"value_loss", sums.value.loss / count},
                                    {"loss", sums.loss / count}}) {
      losses.add(got, json.at("expected").at(name).as_number());
      numbers.set(name, got);
    }
    compare(*policy, divided(trainer.gradients(), count), file, "out.grad.", gradients, wrote);
    subject_.judge("ppo.loss", losses, kLossBound);
    subject_.judge("ppo.grad", gradients, kGradientBound);
    document.set("expected", numbers);
    subject_.write("ppo", wrote);
    subject_.write("ppo", document);
  }

  void sampling() {
    const auto file = tensors_in(subject_.folder() / "sampling.safetensors");
    const std::vector<int32_t> prompt =
        ids(read_json_file((subject_.folder() / "sampling.json").string()).at("inputs").at("prompt"));
    const auto policy = adapted({});
    PassRequest request;
    request.logits = request.hidden = true;
    const HostBatch batch{prompt, {0, static_cast<int32_t>(prompt.size())}};
    const PassResult pass = Pass(policy).forward(batch, request);
    const int vocabulary = base_->family().vocabulary, width = base_->family().hidden;
    std::vector<NamedTensor> wrote;
    for (const auto& [name, right] : file) {
      std::vector<float> got;
      if (name == "out.logits") {
        got.assign(pass.logits.end() - vocabulary, pass.logits.end());
      } else {
        got = distribution(name, prompt, {pass.hidden.end() - width, pass.hidden.end()});
      }
      Comparison c;
      c.add(got, right.data);
      subject_.judge("sampling." + name.substr(4), c, name == "out.logits" ? kRowBound : kProbabilityBound);
      wrote.push_back({name, right.shape, got});
    }
    subject_.write("sampling", wrote);
  }

  void greedy() {
    const Json json = read_json_file((subject_.folder() / "greedy.json").string());
    const auto policy = adapted({});
    Comparison c;
    Json cases = Json::array();
    for (const Json& test : json.at("cases").as_array()) {
      Json wrote = Json::object();
      for (const bool adapter : {false, true}) {
        GenerateOptions options;
        options.prompts = {ids(test.at("prompt"))};
        options.temperature = 0;
        options.max_new_tokens = static_cast<int>(json.at("max_new_tokens").as_integer());
        options.adapter = adapter;
        std::vector<int32_t> got;
        generate(policy, options, [&](std::vector<Sample>&& samples) { got = samples.front().tokens; });
        const char* who = adapter ? "adapter" : "base";
        const std::vector<int32_t> right = ids(test.at(who));
        for (size_t i = 0; i < std::max(right.size(), got.size()); ++i) {
          c.error += i >= right.size() || i >= got.size() || right[i] != got[i];  // tokens that differ
        }
        wrote.set(who, json_ids(got));
      }
      cases.push_back(wrote);
    }
    subject_.judge("greedy.tokens", c, 0);
    Json document = Json::object();
    document.set("cases", cases);
    subject_.write("greedy", document);
  }

  void merged() {
    const auto file = tensors_in(subject_.folder() / "merged.safetensors");
    const double right = read_json_file((subject_.folder() / "merged.json").string()).at("scaling").as_number();
    const auto policy = adapted({});
    const Adapter adapter = policy->adapter();
    Comparison weights, scaling;
    std::vector<NamedTensor> wrote;
    for (const AdapterPair& pair : adapter.pairs) {
      const std::string name =
          "model.layers." + std::to_string(pair.layer) + "." + projection_path(pair.projection) + ".weight";
      if (!file.count(name)) continue;
      std::vector<float> got = merged_projection(base_->files(), adapter, pair.layer, pair.projection);
      weights.add(got, file.at(name).data);
      wrote.push_back({name, base_->files().shape(name), std::move(got)});
    }
    weights.broken |= wrote.size() != file.size();  // a projection that carries no adapter
    scaling.add(adapter.config.scale(), right);
    subject_.judge_files("merged.weight", weights, kMergedBound);
    subject_.judge_files("merged.scaling", scaling, kMergedBound);
    Json document = Json::object();
    document.set("scaling", adapter.config.scale());
    subject_.write("merged", wrote);
    subject_.write("merged", document);
  }

 private:
  std::shared_ptr<Policy> adapted(const std::vector<HeadSpec>& heads) const {
    return std::make_shared<Policy>(base_, (subject_.folder() / "adapter").string(), heads);
  }

  static OptimizerSpec optimizer_of(const Json& settings) {
    OptimizerSpec optimizer;
    optimizer.beta1 = settings.at("betas")[0].as_number();
    optimizer.beta2 = settings.at("betas")[1].as_number();
    optimizer.epsilon = settings.at("eps").as_number();
    optimizer.weight_decay = settings.at("weight_decay").as_number();
    optimizer.max_gradient_norm = settings.at("max_grad_norm").as_number();
    return optimizer;
  }

  /// Nothing predicts a sequence's first token: it counts where a completion begins with it, and is 0.
  void clear_first_tokens(std::vector<float>& weights) const {
    for (int b = 0; b < batch_.segments(); ++b)
      if (batch_.length(b) > 0) weights.at(batch_.offsets[b]) = 0;
  }

  static std::vector<float> divided(std::vector<float> values, double count) {
    for (float& value : values) value = static_cast<float>(value / count);
    return values;
  }

  static void compare(const Policy& policy, const std::vector<float>& flat,
                      const std::map<std::string, NamedTensor>& file, const std::string& prefix, Comparison& c,
                      std::vector<NamedTensor>& wrote) {
    for (const Parameter& p : policy.all_parameters()) {
      std::vector<float> got(flat.begin() + p.offset, flat.begin() + p.offset + p.count());
      c.add(got, file.at(prefix + p.name).data);
      wrote.push_back({prefix + p.name, p.shape, std::move(got)});
    }
  }

  /// The probabilities after the processors that the tensor's name lists, e.g. temperature_0.7.top_k_5.
  std::vector<float> distribution(const std::string& name, const std::vector<int32_t>& prompt,
                                  const std::vector<float>& hidden) const {
    auto setting = [&](const std::string& key, double otherwise) {
      const size_t at = name.find(key);
      return at == std::string::npos ? otherwise : std::strtod(name.c_str() + at + key.size(), nullptr);
    };
    const auto& device = base_->device();
    const int vocabulary = base_->family().vocabulary, width = base_->family().hidden;
    const std::set<int32_t> distinct(prompt.begin(), prompt.end());
    std::vector<int32_t> seen(distinct.begin(), distinct.end());
    auto buffer = [&](const auto& values) {
      Buffer out(device);
      out.upload(values);
      return out;
    };
    Buffer h(device);
    if (device->dtype() == CREDENCE_BF16) {
      std::vector<uint16_t> rounded;
      for (float value : hidden) rounded.push_back(float_to_bf16(value));
      h.upload(rounded);
    } else {
      h.upload(hidden);
    }
    const Buffer rows = buffer(std::vector<int32_t>{1}),
                 top_k = buffer(std::vector<int32_t>{static_cast<int32_t>(setting("top_k_", 0))});
    const Buffer temperature = buffer(std::vector<float>{static_cast<float>(setting("temperature_", 1))});
    const Buffer top_p = buffer(std::vector<float>{static_cast<float>(setting("top_p_", 1))});
    const Buffer repetition = buffer(std::vector<float>{static_cast<float>(setting("repetition_", 1))});
    const Buffer ids_seen = buffer(seen), offsets = buffer(std::vector<int32_t>{0, static_cast<int32_t>(seen.size())});
    const Buffer uniform = buffer(std::vector<double>{0.5}), token(device, 4), logprob(device, 4);
    const Buffer probabilities(device, static_cast<size_t>(vocabulary) * 4);
    credence_sample sample{};
    sample.rows = rows.i32();
    sample.capacity = 1;
    sample.width = width;
    sample.vocabulary = vocabulary;
    sample.dtype = device->dtype();
    sample.weights = base_->head();
    sample.h = h.as<>();
    sample.ldh = width;
    sample.temperature = temperature.f32();
    sample.top_k = top_k.i32();
    sample.top_p = top_p.f32();
    sample.repetition = repetition.f32();
    sample.seen = ids_seen.i32();
    sample.seen_offsets = offsets.i32();
    sample.uniform = uniform.as<double>();
    sample.token = token.i32();
    sample.logprob = logprob.f32();
    sample.probabilities = probabilities.f32();
    device->sample(sample);
    return probabilities.download<float>(vocabulary);
  }

  Subject& subject_;
  std::shared_ptr<Base> base_;
  HostBatch batch_;
  std::vector<int32_t> completion_;  // [T] 1: a token of a completion
};

}  // namespace

void check_model(Subject& subject, std::set<std::string>& present) {
  ModelCheck check(subject);
  const std::pair<const char*, void (ModelCheck::*)()> subjects[] = {{"forward", &ModelCheck::forward},
                                                                     {"sft", &ModelCheck::sft},
                                                                     {"full", &ModelCheck::full},
                                                                     {"heads", &ModelCheck::heads},
                                                                     {"closed_set", &ModelCheck::closed_set},
                                                                     {"divergence", &ModelCheck::divergence},
                                                                     {"sampling", &ModelCheck::sampling},
                                                                     {"greedy", &ModelCheck::greedy},
                                                                     {"merged", &ModelCheck::merged},
                                                                     {"ppo", &ModelCheck::ppo}};
  for (const auto& [name, run] : subjects) {
    if (!present.count(name)) continue;
    (check.*run)();
    present.erase(name);
  }
}

}  // namespace credence::golden_parts
