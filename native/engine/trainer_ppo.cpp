// A trainer's pass with the losses of proximal policy optimisation: what was sampled is scored again, and its gradients follow from
// that on the device. (docs/derivations/ppo.md.)
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

void Trainer::accumulate(const HostBatch& batch, const PpoLoss& loss, const AbortFlag* abort) {
  batch.check(policy_->base()->family());
  check(batch, loss);
  run_fitted(!where_not_0(loss.weights).empty(),
             [&](Trainer& on, const PassSize& size) { on.accumulate_in(batch, loss, size, abort); });
}

void Trainer::accumulate_in(const HostBatch& batch, const PpoLoss& loss, const PassSize& size, const AbortFlag* abort) {
  for (const std::vector<int>& segments : batch.passes(size.tokens))
    accumulate_part(batch.take(segments), part_of(batch, loss, segments), size, dropout(segments), abort);
  sequences_ += batch.segments();
}

void Trainer::accumulate_part(const HostBatch& batch, const PpoLoss& loss, const PassSize& size,
                              const std::optional<DropoutKeys>& dropout, const AbortFlag* abort) {
  const bool valued = loss.value && !where_not_0(loss.value->weights).empty();
  if (where_not_0(loss.weights).empty() && !valued) return;
  PassRequest request;
  request.keep = true;
  request.recompute = size.recompute;
  request.dropout = dropout;
  request.temperature = loss.temperature;
  if (valued) request.values = {loss.value->head, mask_of(loss.value->weights), false};
  pass_.forward(batch, request, abort);
  Upstream upstream;
  upstream.ppo = {&loss, told<credence_policy_sums>(offsetof(Told, sums.policy)),
                  told<credence_value_sums>(offsetof(Told, sums.value))};
  pass_.backward(upstream, gradients_.f32(), told_loss(), abort);
}

PpoSums Trainer::ppo_sums() {
  const PpoSums sums = told_.download<Told>(1)[0].sums;
  check_finite(sums.loss, "loss");
  return sums;
}

}  // namespace credence
