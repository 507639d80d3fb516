#include "ppo.h"

namespace credence {

namespace {

/// The numbers of these tokens.
Buffer taken(const std::shared_ptr<Device>& device, const std::vector<float>& values,
             const std::vector<int32_t>& tokens) {
  std::vector<float> some;
  for (int32_t t : tokens) some.push_back(values[t]);
  Buffer buffer(device);
  buffer.upload(some);
  return buffer;
}

}  // namespace

std::vector<int32_t> where_not_0(const std::vector<float>& weights) {
  std::vector<int32_t> tokens;
  for (size_t t = 0; t < weights.size(); ++t) {
    if (weights[t] != 0) tokens.push_back(static_cast<int32_t>(t));
  }
  return tokens;
}

PolicyLossRows::PolicyLossRows(const std::shared_ptr<Device>& device, const PpoLoss& loss,
                               const std::vector<int32_t>& tokens)
    : old_(taken(device, loss.old_logprobs, tokens)),
      advantage_(taken(device, loss.advantages, tokens)),
      weight_(taken(device, loss.weights, tokens)) {
  op_.clip_low = static_cast<float>(loss.clip_low);
  op_.clip_high = static_cast<float>(loss.clip_high);
  op_.entropy_coefficient = static_cast<float>(loss.entropy);
  if (!loss.kl) return;
  reference_ = taken(device, loss.kl->reference, tokens);
  op_.kl_coefficient = static_cast<float>(loss.kl->coefficient);
  op_.kl_estimator = loss.kl->estimator;
}

credence_policy_loss PolicyLossRows::at(size_t begin, int count) const {
  credence_policy_loss op = op_;
  op.capacity = count;
  op.old_logprob = old_.f32() + begin;
  op.advantage = advantage_.f32() + begin;
  op.weight = weight_.f32() + begin;
  op.ref_logprob = reference_ ? reference_.f32() + begin : nullptr;
  return op;
}

ValueLossRows::ValueLossRows(const std::shared_ptr<Device>& device, const PpoLoss::Value& loss,
                             const std::vector<int32_t>& tokens)
    : returns_(taken(device, loss.returns, tokens)), weight_(taken(device, loss.weights, tokens)) {
  if (loss.clip != 0) old_ = taken(device, loss.old_values, tokens);
  op_.capacity = static_cast<int32_t>(tokens.size());
  op_.old_value = old_.f32();
  op_.returns = returns_.f32();
  op_.weight = weight_.f32();
  op_.clip = static_cast<float>(loss.clip);
  op_.coefficient = static_cast<float>(loss.coefficient);
}

}  // namespace credence
