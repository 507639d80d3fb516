// The advantage step of a rollout: kernels.h's credence_advantage on numbers of the host.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"

namespace credence {

/// What is empty is not there; the formulas are those of credence_advantage.
struct AdvantageInput {
  std::vector<int32_t> offsets, completion_start;  // [B + 1], [B]
  std::vector<uint8_t> mask;                       // [T]
  std::vector<float> logprobs, reference, values;  // [T]
  std::vector<float> token_rewards;                // [T]
  std::vector<float> scores, bootstrap;            // [B]
  std::vector<int32_t> score_at;                   // [B]
  double kl_coefficient = 0;
  int kl_estimator = 1;
  bool kl_clamp = false;
  double score_shift = 0, score_scale = 1, score_clamp = 0;
  double gamma = 1, lambda = 1;
  credence_whitening whiten_rewards = CREDENCE_NOT_WHITENED, whiten_advantages = CREDENCE_NOT_WHITENED;
  bool keep_mean = false;
  double whiten_eps = 1e-8;
  /// Each completion stands in so many slots, as in a batch padded on the right: those behind it have value and divergence 0,
  /// and count in the scan and in every moment. 0: completions as they are.
  int slots = 0;
};

struct AdvantageOutput {
  std::vector<float> rewards, advantages, returns, whitened;  // [T], 0 outside completions
  std::vector<double> moments;                                // [6] as credence_advantage has them
};

/// Throws Error "BAD_BATCH" where the lists do not belong together.
AdvantageOutput advantages(const std::shared_ptr<Device>& device, const AdvantageInput& input);

}  // namespace credence
