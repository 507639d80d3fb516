// The losses of proximal policy optimisation, kernels.h's credence_policy_loss and credence_value_loss, and what they know of tokens
// on the device.
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
  double temperature = 1;  // log-probabilities and entropy are those of the logits divided by it
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
  credence_value_sums value{};
};

/// Tokens whose weight is not 0.
std::vector<int32_t> where_not_0(const std::vector<float>& weights);

/// What the policy's loss knows of some tokens, on the device.
class PolicyLossRows {
 public:
  PolicyLossRows(const std::shared_ptr<Device>& device, const PpoLoss& loss, const std::vector<int32_t>& tokens);
  /// The operator over `count` of them, the first being `begin`. The caller's: rows, logprob, entropy, the gradients, and what is
  /// added to.
  credence_policy_loss at(size_t begin, int count) const;

 private:
  credence_policy_loss op_{};
  Buffer old_, advantage_, weight_, reference_;
};

/// The same of the value loss; the caller's: rows, value, the gradient, and what is added to.
class ValueLossRows {
 public:
  ValueLossRows(const std::shared_ptr<Device>& device, const PpoLoss::Value& loss, const std::vector<int32_t>& tokens);
  /// Over all of them.
  const credence_value_loss& op() const { return op_; }

 private:
  credence_value_loss op_{};
  Buffer old_, returns_, weight_;
};

}  // namespace credence
