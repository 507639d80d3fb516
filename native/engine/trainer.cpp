#include "trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "random.h"

namespace credence {

Trainer::Trainer(std::shared_ptr<Policy> policy, const OptimizerSpec& optimizer,
                 std::shared_ptr<Communicator> communicator)
    : policy_(std::move(policy)),
      device_(policy_->base()->device()),
      optimizer_(optimizer),
      communicator_(std::move(communicator)),
      pass_(policy_) {
  if (!policy_->count()) fail("BAD_OPTION", "nothing to train: the policy has neither an adapter nor a head");
  if (device_->max_memory()) rehearsal_.emplace(*policy_);
  const size_t bytes = policy_->count() * sizeof(float);
  for (Buffer* buffer : {&gradients_, &m_, &v_}) {
    *buffer = Buffer(device_, bytes);
    buffer->zero();
  }
  norm_ = Buffer(device_, sizeof(float));
  if (rehearsal_) twin_ = std::make_unique<Trainer>(rehearsal_->policy(), optimizer);
}

void Trainer::prepare(bool head) {
  policy_->base()->prepare_backward(policy_->lowest_adapted());
  if (head) policy_->base()->prepare_head_backward();
}

PassSize Trainer::fit(const std::vector<PassSize>& sizes, bool head,
                      const std::function<void(Trainer&, const PassSize&)>& call) {
  const size_t limit = device_->max_memory();
  if (!limit) {
    prepare(head);
    return sizes.front();
  }
  const char* const way_out = "use shorter sequences, a smaller adapter or a smaller model";
  const size_t before = rehearsal_->rest(), ready = rehearsal_->peak([&] { twin_->prepare(head); });
  const bool new_weights = rehearsal_->rest() != before;
  size_t least = SIZE_MAX;
  for (const PassSize& size : sizes) {
    twin_->pass_ = Pass(twin_->policy_);
    const size_t need = std::max(ready, rehearsal_->peak([&] { call(*twin_, size); }));
    least = std::min(least, need);
    if (need > limit) continue;
    twin_->pass_ = Pass(twin_->policy_);
    twin_->policy_->base()->trim();
    const size_t left_over = device_->memory().current;
    if (new_weights || !(size == size_) || need + left_over > limit + rehearsal_->rest()) {
      pass_ = Pass(policy_);
      policy_->base()->trim();
    }
    prepare(head);
    return size;
  }
  fail_limit("this training step", least, limit, way_out);
}

namespace {

void check(const HostBatch& batch, const Loss& loss) {
  auto per_token = [&](const std::vector<float>& weights, const char* name) {
    if (!weights.empty() && weights.size() != batch.tokens.size()) {
      fail("BAD_BATCH", "%s: expected one for each of %zu tokens but received %zu", name, batch.tokens.size(),
           weights.size());
    }
  };
  per_token(loss.nll_weights, "weights");
  per_token(loss.divergence_weights, "divergence weights");
  if (loss.targets.size() != loss.read.spans.size()) {
    fail("BAD_BATCH", "targets: expected one for each of %zu spans but received %zu", loss.read.spans.size(),
         loss.targets.size());
  }
  for (const ReadSpan& span : loss.read.spans) {
    if (span.sequence < 0 || span.sequence >= batch.segments())
      fail("BAD_BATCH", "a span names sequence %d; the batch has %d", span.sequence, batch.segments());
  }
  if (!loss.closed_set) return;
  const auto& [read, labels, weights] = *loss.closed_set;
  if (labels.size() != read.rows.size() || weights.size() != read.rows.size()) {
    fail("BAD_BATCH", "closed set: expected a label and a weight for each of %zu rows but received %zu and %zu",
         read.rows.size(), labels.size(), weights.size());
  }
  for (int32_t row : read.rows) {
    if (row < 0 || row >= batch.tokens_count())
      fail("BAD_BATCH", "closed set: row %d is not one of the batch's %d", row, batch.tokens_count());
  }
  for (int32_t label : labels) {
    if (label < 0 || label >= static_cast<int32_t>(read.candidates.size()))
      fail("BAD_BATCH", "closed set: label %d is not one of the %zu candidates", label, read.candidates.size());
  }
}

/// Of `part`, which is these segments of the batch.
Loss part_of(const HostBatch& batch, const Loss& loss, const HostBatch& part, const std::vector<int>& segments) {
  std::vector<int> place(batch.segments(), -1);
  for (size_t i = 0; i < segments.size(); ++i) place[segments[i]] = static_cast<int>(i);
  Loss out;
  auto per_token = [&](const std::vector<float>& weights) {
    std::vector<float> taken;
    for (size_t i = 0; !weights.empty() && i < segments.size(); ++i) {
      taken.insert(taken.end(), weights.begin() + batch.offsets[segments[i]],
                   weights.begin() + batch.offsets[segments[i] + 1]);
    }
    return taken;
  };
  out.nll_weights = per_token(loss.nll_weights);
  out.divergence = loss.divergence;
  out.divergence_weights = per_token(loss.divergence_weights);
  out.read.head = loss.read.head;
  for (size_t s = 0; s < loss.read.spans.size(); ++s) {
    const ReadSpan& span = loss.read.spans[s];
    if (place[span.sequence] < 0) continue;
    out.read.spans.push_back({place[span.sequence], span.from, span.to});
    out.targets.push_back(loss.targets[s]);
  }
  if (loss.closed_set) {
    const auto& [read, labels, weights] = *loss.closed_set;
    out.closed_set = {{read.candidates, {}}, {}, {}};
    for (size_t r = 0; r < read.rows.size(); ++r) {
      const int b = static_cast<int>(std::upper_bound(batch.offsets.begin(), batch.offsets.end(), read.rows[r]) -
                                     batch.offsets.begin() - 1);
      if (place[b] < 0) continue;
      out.closed_set->read.rows.push_back(part.offsets[place[b]] + read.rows[r] - batch.offsets[b]);
      out.closed_set->labels.push_back(labels[r]);
      out.closed_set->weights.push_back(weights[r]);
    }
  }
  return out;
}

bool any(const std::vector<float>& weights) {
  return std::any_of(weights.begin(), weights.end(), [](float weight) { return weight != 0; });
}

double inner(const std::vector<float>& weights, const std::vector<float>& values) {
  double sum = 0;
  for (size_t t = 0; t < weights.size(); ++t) sum += static_cast<double>(weights[t]) * values[t];
  return sum;
}

}  // namespace

double Trainer::accumulate(const HostBatch& batch, const Loss& loss, const AbortFlag* abort) {
  batch.check(policy_->base()->family());
  check(batch, loss);
  const bool vocabulary = any(loss.nll_weights) || any(loss.divergence_weights);
  size_ = fit(pass_sizes(true), vocabulary,
              [&](Trainer& twin, const PassSize& size) { twin.accumulate_in(batch, loss, size, nullptr); });
  return accumulate_in(batch, loss, size_, abort);
}

namespace {

/// Adds the squared errors of sigmoid(z) to the targets to `total`; returns their derivatives with respect to z.
std::vector<float> squared_errors(const std::string& head, const std::vector<float>& z,
                                  const std::vector<float>& targets, double& total) {
  if (z.size() != targets.size()) fail("BAD_OPTION", "head %s has several outputs; this loss takes one", head.c_str());
  std::vector<float> dz;
  for (size_t s = 0; s < z.size(); ++s) {
    const double score = 1 / (1 + std::exp(-static_cast<double>(z[s])));
    total += (score - targets[s]) * (score - targets[s]);
    dz.push_back(static_cast<float>(2 * (score - targets[s]) * score * (1 - score)));
  }
  return dz;
}

void check_finite(double loss) {
  if (!std::isfinite(loss))
    fail("NOT_FINITE", "the loss is not finite. Lower the learning rate, or look for a damaged row");
}

}  // namespace

double Trainer::accumulate(const std::string& head, const std::vector<float>& hidden, const std::vector<float>& targets,
                           const AbortFlag* abort) {
  constexpr size_t kRows = 1024;  // at once: what bounds memory
  const size_t width = policy_->base()->family().hidden;
  if (hidden.size() != targets.size() * width) {
    fail("BAD_BATCH", "hidden states: expected %zu numbers for each of %zu targets but received %zu in all", width,
         targets.size(), hidden.size());
  }
  double total = 0;
  for (size_t from = 0; from < targets.size(); from += kRows) {
    check_abort(abort);
    const size_t to = std::min(targets.size(), from + kRows);
    const std::vector<float> some(targets.begin() + from, targets.begin() + to);
    const auto z = pass_.read_head(head, {hidden.begin() + from * width, hidden.begin() + to * width});
    pass_.backward_head(head, squared_errors(head, z, some, total), gradients_.f32());
  }
  check_finite(total);
  return total;
}

double Trainer::accumulate_in(const HostBatch& batch, const Loss& loss, const PassSize& size, const AbortFlag* abort) {
  double total = 0;
  for (const std::vector<int>& segments : batch.passes(size.tokens)) {
    const HostBatch part = batch.take(segments);
    total += accumulate_part(part, part_of(batch, loss, part, segments), size, dropout(segments), abort);
  }
  sequences_ += batch.segments();
  check_finite(total);
  return total;
}

std::optional<DropoutKeys> Trainer::dropout(const std::vector<int>& segments) const {
  if (!policy_->has_adapter() || policy_->adapter_config().dropout == 0) return std::nullopt;
  DropoutKeys keys{mixed(optimizer_.seed, step_, 0), {}};
  for (int segment : segments)
    keys.sequences.push_back((sequences_ + segment) * communicator_->size() + communicator_->rank());
  return keys;
}

double Trainer::accumulate_part(const HostBatch& batch, const Loss& loss, const PassSize& size,
                                const std::optional<DropoutKeys>& dropout, const AbortFlag* abort) {
  const bool nll = any(loss.nll_weights), divergence = any(loss.divergence_weights);
  const bool closed = loss.closed_set && any(loss.closed_set->weights), head = !loss.read.spans.empty();
  if (!nll && !divergence && !closed && !head) return 0;
  PassRequest request;
  request.keep = true;
  request.recompute = size.recompute;
  request.dropout = dropout;
  if (head) request.heads.push_back(loss.read);
  if (closed) request.closed_set = loss.closed_set->read;
  if (divergence) {
    std::vector<uint8_t> mask;
    for (float weight : loss.divergence_weights) mask.push_back(weight != 0);
    request.divergence = {loss.divergence, std::move(mask), false};
  }
  const PassResult read = pass_.forward(batch, request, abort);
  double total = 0;
  Upstream upstream;
  if (nll) {
    for (float weight : loss.nll_weights) upstream.logprobs.push_back(-weight);
  }
  if (head) {
    upstream.heads[loss.read.head] = squared_errors(loss.read.head, read.heads.at(loss.read.head), loss.targets, total);
  }
  if (closed) {
    const size_t width = loss.closed_set->read.candidates.size();
    upstream.closed_set.assign(read.closed_set.size(), 0.0f);
    for (size_t r = 0; r < loss.closed_set->labels.size(); ++r) {
      const size_t at = r * width + loss.closed_set->labels[r];
      upstream.closed_set[at] = -loss.closed_set->weights[r];
      total -= static_cast<double>(loss.closed_set->weights[r]) * read.closed_set[at];
    }
  }
  if (divergence) upstream.divergence = loss.divergence_weights;
  const PassResult again = pass_.backward(upstream, gradients_.f32(), abort);
  if (nll) total -= inner(loss.nll_weights, again.logprobs);
  if (divergence) total += inner(loss.divergence_weights, again.divergence);
  return total;
}

PassResult Trainer::forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort) {
  const bool vocabulary = request.logprobs || request.entropy || request.divergence;
  size_ = fit({{batch.tokens_count(), false}, {batch.tokens_count(), true}}, vocabulary,
              [&](Trainer& twin, const PassSize& size) {
                const PassResult result = twin.forward_in(batch, request, size, nullptr);
                Upstream upstream;
                if (request.logprobs) {
                  upstream.logprobs.assign(batch.tokens.size(), 1.0f);
                  for (int b = 0; b < batch.segments(); ++b) upstream.logprobs[batch.offsets[b]] = 0;
                }
                if (request.entropy) upstream.entropy.assign(batch.tokens.size(), 1.0f);
                upstream.heads = result.heads;
                upstream.closed_set = result.closed_set;
                if (request.divergence)
                  upstream.divergence.assign(request.divergence->mask.begin(), request.divergence->mask.end());
                twin.backward(upstream);
              });
  return forward_in(batch, request, size_, abort);
}

PassResult Trainer::forward_in(const HostBatch& batch, const PassRequest& request, const PassSize& size,
                               const AbortFlag* abort) {
  PassRequest kept = request;
  kept.keep = true;
  kept.recompute = size.recompute;
  std::vector<int> segments(std::max(0, batch.segments()));
  std::iota(segments.begin(), segments.end(), 0);
  kept.dropout = dropout(segments);
  sequences_ += batch.segments();
  return pass_.forward(batch, kept, abort);
}

void Trainer::backward(const Upstream& upstream, const AbortFlag* abort) {
  pass_.backward(upstream, gradients_.f32(), abort);
}

double Trainer::update(double learning_rate, double count) {
  if (communicator_->size() > 1) {
    std::vector<float> sum = gradients();
    communicator_->all_reduce_sum(sum.data(), sum.size());
    communicator_->all_reduce_sum(&count, 1);
    gradients_.write(sum.data(), sum.size() * sizeof(float));
  }
  if (!(count > 0)) fail("BAD_OPTION", "update: count %g is not positive. Was anything in the step supervised?", count);
  if (!(learning_rate >= 0)) fail("BAD_OPTION", "update: learning rate %g is not a number from 0 up", learning_rate);
  device_->gradient_norm({policy_->count(), gradients_.f32(), norm_.f32()});
  const double norm = norm_.download<float>(1)[0] / count;
  if (!std::isfinite(norm))
    fail("NOT_FINITE", "the gradient's norm is not finite. Lower the learning rate, or look for a damaged row");
  ++step_;
  sequences_ = 0;
  credence_adamw adamw{};
  adamw.end = policy_->count();
  adamw.p = policy_->parameters();
  adamw.m = m_.f32();
  adamw.v = v_.f32();
  adamw.g = gradients_.f32();
  adamw.norm = norm_.f32();
  adamw.gradient_scale = static_cast<float>(1 / count);
  adamw.max_norm = static_cast<float>(optimizer_.max_gradient_norm);
  adamw.lr = learning_rate;
  adamw.beta1 = optimizer_.beta1;
  adamw.beta2 = optimizer_.beta2;
  adamw.eps = optimizer_.epsilon;
  adamw.weight_decay = optimizer_.weight_decay;
  adamw.step = step_;
  device_->adamw(adamw);
  gradients_.zero();
  policy_->repack();
  return norm;
}

void Trainer::restore(int64_t step, uint64_t seed, const std::vector<float>& m, const std::vector<float>& v) {
  const size_t count = policy_->count();
  if (m.size() != count || v.size() != count) {
    fail("WRONG_MODEL", "optimiser state: expected %zu numbers but received %zu and %zu", count, m.size(), v.size());
  }
  m_.write(m.data(), count * sizeof(float));
  v_.write(v.data(), count * sizeof(float));
  step_ = step;
  sequences_ = 0;
  optimizer_.seed = seed;
}

}  // namespace credence
