// A trainer's pass with the losses of proximal policy optimisation: new log-probabilities and values are read, their gradients
// follow from what was sampled, and go back. (docs/derivations/ppo.md.)
#include <cmath>

#include "trainer.h"

namespace credence {

namespace {

void check(const HostBatch& batch, const PpoLoss& loss) {
  const auto per_token = [&](const std::vector<float>& values, const char* name) {
    if (values.size() != batch.tokens.size()) {
      fail("BAD_BATCH", "%s: expected one for each of %zu tokens but received %zu", name, batch.tokens.size(),
           values.size());
    }
  };
  if (!loss.weights.empty()) {
    per_token(loss.weights, "weights");
    per_token(loss.old_logprobs, "old log-probabilities");
    per_token(loss.advantages, "advantages");
    if (loss.kl) per_token(loss.kl->reference, "the reference's log-probabilities");
  }
  if (!loss.value) return;
  per_token(loss.value->weights, "value weights");
  per_token(loss.value->returns, "returns");
  if (loss.value->clip != 0) per_token(loss.value->old_values, "old values");
}

std::vector<uint8_t> mask_of(const std::vector<float>& weights) {
  std::vector<uint8_t> mask;
  for (float weight : weights) mask.push_back(weight != 0);
  return mask;
}

/// These segments' part of a loss.
PpoLoss part_of(const HostBatch& batch, const PpoLoss& loss, const std::vector<int>& segments) {
  PpoLoss out = loss;
  const auto take = [&](std::vector<float>& values) {
    std::vector<float> taken;
    for (size_t i = 0; !values.empty() && i < segments.size(); ++i)
      taken.insert(taken.end(), values.begin() + batch.offsets[segments[i]],
                   values.begin() + batch.offsets[segments[i] + 1]);
    values = std::move(taken);
  };
  for (auto* values : {&out.weights, &out.old_logprobs, &out.advantages}) take(*values);
  if (out.kl) take(out.kl->reference);
  if (out.value)
    for (auto* values : {&out.value->weights, &out.value->old_values, &out.value->returns}) take(*values);
  return out;
}

}  // namespace

PpoSums Trainer::accumulate(const HostBatch& batch, const PpoLoss& loss, const AbortFlag* abort) {
  batch.check(policy_->base()->family());
  check(batch, loss);
  size_ = fit(pass_sizes(true), !where_not_0(loss.weights).empty(),
              [&](Trainer& twin, const PassSize& size) { twin.accumulate_in(batch, loss, size, nullptr); });
  return accumulate_in(batch, loss, size_, abort);
}

PpoSums Trainer::accumulate_in(const HostBatch& batch, const PpoLoss& loss, const PassSize& size,
                               const AbortFlag* abort) {
  PpoSums sums;
  for (const std::vector<int>& segments : batch.passes(size.tokens))
    accumulate_part(batch.take(segments), part_of(batch, loss, segments), size, dropout(segments), abort, sums);
  sequences_ += batch.segments();
  sums.loss = sums.policy.policy - loss.entropy * sums.entropy;
  if (loss.kl) sums.loss += loss.kl->coefficient * sums.policy.reference_kl;
  if (loss.value) sums.loss += loss.value->coefficient * sums.value.loss;
  if (!std::isfinite(sums.loss))
    fail("NOT_FINITE", "the loss is not finite. Lower the learning rate, or look for a damaged row");
  return sums;
}

void Trainer::accumulate_part(const HostBatch& batch, const PpoLoss& loss, const PassSize& size,
                              const std::optional<DropoutKeys>& dropout, const AbortFlag* abort, PpoSums& sums) {
  const std::vector<int32_t> tokens = where_not_0(loss.weights);
  const std::vector<int32_t> valued = loss.value ? where_not_0(loss.value->weights) : std::vector<int32_t>();
  if (tokens.empty() && valued.empty()) return;
  PassRequest request;
  request.keep = true;
  request.recompute = size.recompute;
  request.dropout = dropout;
  if (!tokens.empty()) {
    request.logprobs = request.entropy = true;
    request.mask = mask_of(loss.weights);
  }
  if (!valued.empty()) request.values = {loss.value->head, mask_of(loss.value->weights)};
  const PassResult read = pass_.forward(batch, request, abort);
  Upstream upstream;
  if (!tokens.empty()) {
    upstream.logprobs = policy_loss(device_, loss, read.logprobs, sums.policy);
    if (loss.entropy != 0) upstream.entropy.assign(batch.tokens.size(), 0.0f);
    size_t next = 0;
    for (int b = 0; b < batch.segments(); ++b) {
      for (; next < tokens.size() && tokens[next] < batch.offsets[b + 1]; ++next) {
        const int row = batch.row_before(b, tokens[next]);
        const float weight = loss.weights[tokens[next]];
        sums.entropy += static_cast<double>(weight) * read.entropy[row];
        if (loss.entropy != 0) upstream.entropy[row] -= static_cast<float>(loss.entropy * weight);
      }
    }
  }
  if (!valued.empty()) upstream.values = value_loss(device_, *loss.value, read.values, sums.value);
  pass_.backward(upstream, gradients_.f32(), nullptr, abort);
}

}  // namespace credence
