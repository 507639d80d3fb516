// The losses of proximal policy optimisation on numbers of the host: kernels.h's credence_policy_loss and credence_value_loss.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device.h"

namespace credence {

/// The losses of proximal policy optimisation (Schulman et al. 2017, eq. 7 and 9) over tokens that were sampled; all lists are
/// token-aligned [T], and what has weight 0 is not read. With ratio = exp(new - old log-probability):
///   sum w (max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)) + kl.coefficient k - entropy H)
///   + value.coefficient 0.5 sum w' max((v - return)^2, (old + clip(v - old, -c, c) - return)^2)
/// H is the entropy of the row before a token, v the head there, k an estimate of the divergence from the reference.
struct PpoLoss {
  std::vector<float> weights, old_logprobs, advantages;  // weights may be empty: no policy
  double clip_low = 0.2, clip_high = 0.2;                // infinity: not clipped there
  double entropy = 0;
  struct Kl {
    std::vector<float> reference;  // log-probabilities
    double coefficient = 0;
    int estimator = 1;  // 1, 2, 3 (kernels.h, credence_advantage)
  };
  std::optional<Kl> kl;
  struct Value {
    std::string head;
    std::vector<float> weights, old_values, returns;  // old_values may be empty where clip is 0
    double clip = 0, coefficient = 1;                 // clip 0: none
  };
  std::optional<Value> value;
};

/// Not divided.
struct PpoSums {
  double loss = 0;  // what the gradients are of
  credence_policy_sums policy{};
  double entropy = 0;  // sum w H
  credence_value_sums value{};
};

/// Tokens whose weight is not 0.
std::vector<int32_t> where_not_0(const std::vector<float>& weights);

/// Adds the loss of log-probabilities [T] to the sums; returns its gradient [T], entropy apart.
std::vector<float> policy_loss(const std::shared_ptr<Device>& device, const PpoLoss& loss,
                               const std::vector<float>& logprobs, credence_policy_sums& sums);
/// The same of values [T]; the gradient is that of the coefficient times the loss.
std::vector<float> value_loss(const std::shared_ptr<Device>& device, const PpoLoss::Value& loss,
                              const std::vector<float>& values, credence_value_sums& sums);

}  // namespace credence
