#include "ppo.h"

#include <algorithm>
#include <cmath>

namespace credence {

namespace {

/// Lists of the tokens that count, on the device, and the gradient on its way back.
class Rows {
 public:
  Rows(std::shared_ptr<Device> device, const std::vector<float>& weights)
      : device_(std::move(device)), tokens_(where_not_0(weights)), total_(weights.size()), count_(device_) {
    count_.upload(std::vector<int32_t>{static_cast<int32_t>(tokens_.size())});
  }

  Buffer taken(const std::vector<float>& values) const {
    std::vector<float> some;
    for (int32_t t : tokens_) some.push_back(values[t]);
    Buffer buffer(device_);
    buffer.upload(some);
    return buffer;
  }
  template <class P>
  void set(P& op) const {
    op.rows = count_.i32();
    op.capacity = static_cast<int32_t>(tokens_.size());
  }
  Buffer space() const { return {device_, std::max<size_t>(1, tokens_.size()) * sizeof(float)}; }
  std::vector<float> spread(const Buffer& gradient) const {
    const auto values = gradient.download<float>(tokens_.size());
    std::vector<float> out(total_);
    for (size_t i = 0; i < tokens_.size(); ++i) out[tokens_[i]] = values[i];
    return out;
  }

 private:
  std::shared_ptr<Device> device_;
  std::vector<int32_t> tokens_;
  size_t total_;
  Buffer count_;
};

}  // namespace

std::vector<int32_t> where_not_0(const std::vector<float>& weights) {
  std::vector<int32_t> tokens;
  for (size_t t = 0; t < weights.size(); ++t) {
    if (weights[t] != 0) tokens.push_back(static_cast<int32_t>(t));
  }
  return tokens;
}

std::vector<float> policy_loss(const std::shared_ptr<Device>& device, const PpoLoss& loss,
                               const std::vector<float>& logprobs, credence_policy_sums& sums) {
  const Rows rows(device, loss.weights);
  const Buffer logprob = rows.taken(logprobs), old = rows.taken(loss.old_logprobs),
               advantage = rows.taken(loss.advantages), weight = rows.taken(loss.weights), d = rows.space(),
               sum(device, sizeof sums);
  const Buffer reference = loss.kl ? rows.taken(loss.kl->reference) : Buffer();
  credence_policy_loss op{};
  rows.set(op);
  op.logprob = logprob.f32();
  op.old_logprob = old.f32();
  op.advantage = advantage.f32();
  op.weight = weight.f32();
  op.clip_low = static_cast<float>(loss.clip_low);
  op.clip_high = static_cast<float>(loss.clip_high);
  if (loss.kl) {
    op.ref_logprob = reference.f32();
    op.kl_coefficient = static_cast<float>(loss.kl->coefficient);
    op.kl_estimator = loss.kl->estimator;
  }
  op.d_logprob = d.f32();
  op.sums = sum.as<credence_policy_sums>();
  device->policy_loss(op);
  const auto more = sum.download<credence_policy_sums>(1)[0];
  for (const auto member :
       {&credence_policy_sums::weight, &credence_policy_sums::policy, &credence_policy_sums::ratio,
        &credence_policy_sums::clipped, &credence_policy_sums::outside, &credence_policy_sums::old_kl1,
        &credence_policy_sums::old_kl2, &credence_policy_sums::reference_kl})
    sums.*member += more.*member;
  sums.ratio_change = std::max(sums.ratio_change, more.ratio_change);
  return rows.spread(d);
}

std::vector<float> value_loss(const std::shared_ptr<Device>& device, const PpoLoss::Value& loss,
                              const std::vector<float>& values, credence_value_sums& sums) {
  const Rows rows(device, loss.weights);
  const Buffer value = rows.taken(values), returns = rows.taken(loss.returns), weight = rows.taken(loss.weights),
               d = rows.space(), sum(device, sizeof sums);
  const Buffer old = loss.clip != 0 ? rows.taken(loss.old_values) : Buffer();
  credence_value_loss op{};
  rows.set(op);
  op.value = value.f32();
  op.old_value = old.f32();
  op.returns = returns.f32();
  op.weight = weight.f32();
  op.clip = static_cast<float>(loss.clip);
  op.coefficient = static_cast<float>(loss.coefficient);
  op.d_value = d.f32();
  op.sums = sum.as<credence_value_sums>();
  device->value_loss(op);
  const auto more = sum.download<credence_value_sums>(1)[0];
  for (const auto member : {&credence_value_sums::weight, &credence_value_sums::loss, &credence_value_sums::error,
                            &credence_value_sums::clipped})
    sums.*member += more.*member;
  return rows.spread(d);
}

}  // namespace credence
