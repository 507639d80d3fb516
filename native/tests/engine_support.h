// A small random llama of odd sizes in a folder, every device that the engine's tests run on, gradients against differences,
// and rollouts for PPO.
#pragma once

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/trainer.h"
#include "files_support.h"
#include "testing.h"

namespace credence::testing {

/// Two layers, 40 wide, 4 heads of 20 over 2 key/value heads, vocabulary 97, untied head: multiples of nothing. Of other types than
/// llama: qwen2 has biases, qwen3 norms of q and k.
inline void write_small_model(const std::string& folder, bool tied = false, const std::string& type = "llama") {
  Json config = parse_json(R"({"model_type": "llama", "vocab_size": 97, "hidden_size": 40, "intermediate_size": 51,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20, "rms_norm_eps": 1e-05,
    "max_position_embeddings": 400, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2})");
  config.set("tie_word_embeddings", tied);
  config.set("model_type", type);
  const std::string text = config.text();
  write_bytes(folder + "/config.json", text);
  const Family family = family_from_config(config, "config.json");
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<NamedTensor> tensors;
  for (const WeightSpec& spec : weight_specs(family)) {
    NamedTensor tensor{spec.name, spec.shape, {}};
    const bool norm = spec.shape.size() == 1;
    const float scale = norm ? 0.1f : 1.5f / std::sqrt(static_cast<float>(spec.shape.back()));
    for (int64_t i = 0; i < product(spec.shape); ++i)
      tensor.data.push_back((norm ? 1.0f : 0.0f) + scale * normal(random));
    tensors.push_back(std::move(tensor));
  }
  write_tensors(folder + "/model.safetensors", tensors);
}

/// Every instruction set this machine runs, in both types; or the CUDA kernels that CREDENCE_TEST_TABLE names. Under a sanitizer the
/// best alone: the operators' own tests run the others there.
inline void each_device(const std::function<void(const DeviceOptions&)>& body, int threads = 1) {
  if (const credence_table* table = named_table()) {
    for (const char* dtype : {"f32", "bf16"}) body({table->name, dtype, "auto", threads});
    return;
  }
  for (const IsaStatus& status : cpu_isas()) {
    if (!status.unavailable.empty()) continue;
    for (const char* dtype : {"f32", "bf16"}) {
      const int before = state().failures;
      body({"cpu", dtype, status.isa, threads});
      if (state().failures != before) std::printf("    with %s %s\n", status.isa.c_str(), dtype);
    }
    if (std::getenv("CREDENCE_SANITIZED")) return;
  }
}

inline AdapterSpec small_adapter(std::vector<Projection> targets = {kProjections.begin(), kProjections.end()}) {
  AdapterSpec spec;
  spec.config.r = 3;
  spec.config.alpha = 7;
  spec.config.targets = std::move(targets);
  spec.seed = 5;
  return spec;
}

/// A policy whose B is not zero, so that its adapter does something.
inline std::shared_ptr<Policy> small_policy(const std::string& folder, const DeviceOptions& device,
                                            const std::vector<HeadSpec>& heads = {},
                                            const AdapterSpec& adapter = small_adapter(), const OwnedSpec& owned = {}) {
  const auto policy = std::make_shared<Policy>(Base::open(folder, device), std::optional(adapter), heads, owned);
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::vector<NamedTensor> tensors;
  const std::vector<float> flat = policy->read_parameters();
  for (const Parameter& p : policy->adapter_parameters()) {
    if (p.name.find("lora_B") == std::string::npos) continue;
    NamedTensor tensor{p.name, p.shape, {}};
    for (int64_t i = 0; i < p.count(); ++i) tensor.data.push_back(0.1f * normal(random));
    tensors.push_back(std::move(tensor));
  }
  policy->set_parameters(tensors);
  return policy;
}

inline std::vector<int32_t> random_tokens(std::mt19937& random, int count, int vocabulary = 97) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(random() % vocabulary));
  return out;
}

/// No entry differs by more than `tolerance` of its tensor's largest.
inline void expect_gradients(const Policy& policy, const std::vector<float>& got, const std::vector<float>& expected,
                             double tolerance, const char* file, int line) {
  for (const Parameter& p : policy.all_parameters()) {
    double worst = 0, largest = 0;
    for (int64_t i = p.offset; i < p.offset + p.count(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
      const double error = std::fabs(static_cast<double>(got[i]) - expected[i]);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    if (!(worst <= tolerance * largest))
      report(file, line, p.name + " differs by " + show(worst) + ", its largest entry is " + show(largest));
  }
}
#define EXPECT_GRADIENTS(policy, got, expected, tolerance) \
  ::credence::testing::expect_gradients(policy, got, expected, tolerance, __FILE__, __LINE__)

inline double largest(const std::vector<float>& values) {
  double out = 0;
  for (float value : values) out = std::max(out, std::fabs(static_cast<double>(value)));
  return out;
}

/// What trainer.accumulate(batch, loss) gives is the finite difference of its loss: of each tensor that has a part of `least` in the
/// gradient, along its own gradient, one number that every element enters.
template <class AnyLoss>
void expect_finite_differences(const std::shared_ptr<Policy>& policy, const HostBatch& batch, const AnyLoss& loss,
                               const std::string& name, double step, double least, double relative, double absolute) {
  Trainer trainer(policy, {});
  trainer.accumulate(batch, loss);
  const std::vector<float> gradient = trainer.gradients(), original = policy->read_parameters();
  EXPECT(largest(gradient) > 0);
  for (const Parameter& p : policy->all_parameters()) {
    double norm = 0;
    for (int64_t i = p.offset; i < p.offset + p.count(); ++i) norm += static_cast<double>(gradient[i]) * gradient[i];
    norm = std::sqrt(norm);
    if (norm < least * largest(gradient)) continue;
    const NamedTensor there{p.name, p.shape, {original.begin() + p.offset, original.begin() + p.offset + p.count()}};
    const auto moved = [&](double by) {
      NamedTensor tensor = there;
      for (int64_t i = 0; i < p.count(); ++i) tensor.data[i] += static_cast<float>(by * gradient[p.offset + i] / norm);
      policy->set_parameters({tensor});
      Trainer probe(policy, {});
      probe.accumulate(batch, loss);
      policy->set_parameters({there});
      return probe.loss();
    };
    const double difference = (moved(step) - moved(-step)) / (2 * step);
    if (!(std::fabs(difference - norm) <= relative * norm + absolute))
      report(__FILE__, __LINE__,
             name + " " + p.name + ": gradient " + show(norm) + ", finite difference " + show(difference));
  }
}

inline HostBatch batch_of(const std::vector<std::vector<int32_t>>& sequences) {
  HostBatch batch;
  batch.offsets.push_back(0);
  for (const auto& sequence : sequences) {
    batch.tokens.insert(batch.tokens.end(), sequence.begin(), sequence.end());
    batch.offsets.push_back(batch.tokens_count());
  }
  return batch;
}

inline std::vector<HeadSpec> ppo_critics() { return {{"worth", -1, {}, 1, 4}, {"deep", 1, {6}, 1, 9}}; }

/// Two prompts, the first with three completions behind it, the second with its own in one sequence.
inline HostBatch ppo_rollouts(std::mt19937& random) {
  HostBatch batch = batch_of({random_tokens(random, 7), random_tokens(random, 4), random_tokens(random, 1),
                              random_tokens(random, 3), random_tokens(random, 8)});
  batch.prefix_of = {-1, 0, 0, 0, -1};
  return batch;
}

/// Of the rollouts' tokens from 7 on but the last sequence's first three, each with a weight of its own; the critic is "worth".
inline PpoLoss ppo_loss_of(const HostBatch& batch) {
  PpoLoss loss;
  const size_t tokens = batch.tokens.size();
  const auto some = [&](double from, double to, int seed) {
    std::mt19937 random(seed);
    std::vector<float> out;
    for (size_t t = 0; t < tokens; ++t)
      out.push_back(static_cast<float>(from + (to - from) * (random() % 1000) / 1000));
    return out;
  };
  loss.weights = some(0.5, 1.5, 1), loss.advantages = some(-1, 1, 2), loss.old_logprobs = some(-6, -4, 3);
  for (int t = 0; t < 7; ++t) loss.weights[t] = 0;
  for (int t = batch.offsets[4]; t < batch.offsets[4] + 3; ++t) loss.weights[t] = 0;
  loss.kl = {some(-6, -4, 4), 0.3, 3};
  loss.entropy = 0.2;
  loss.value = {"worth", loss.weights, some(-0.3, 0.3, 5), some(-1, 1, 6), 0.2, 0.7};
  loss.value->weights[9] = 0;
  return loss;
}

}  // namespace credence::testing
