#include "trainer.h"

#include <cmath>

namespace credence {

Trainer::Trainer(std::shared_ptr<Policy> policy, const OptimizerSpec& optimizer)
    : policy_(std::move(policy)), device_(policy_->base()->device()), optimizer_(optimizer), pass_(policy_) {
  if (!policy_->count()) fail("BAD_OPTION", "nothing to train: the policy has neither an adapter nor a head");
  const size_t bytes = policy_->count() * sizeof(float);
  for (Buffer* buffer : {&gradients_, &m_, &v_}) {
    *buffer = Buffer(device_, bytes);
    buffer->zero();
  }
  norm_ = Buffer(device_, sizeof(float));
}

double Trainer::accumulate(const HostBatch& batch, const Loss& loss, const AbortFlag* abort) {
  const bool nll = !loss.nll_weights.empty();
  if (nll && loss.nll_weights.size() != batch.tokens.size()) {
    fail("BAD_BATCH", "weights: expected one for each of %zu tokens but received %zu", batch.tokens.size(),
         loss.nll_weights.size());
  }
  if (!nll && loss.targets.size() != loss.read.spans.size()) {
    fail("BAD_BATCH", "targets: expected one for each of %zu spans but received %zu", loss.read.spans.size(),
         loss.targets.size());
  }
  batch.check(policy_->base()->family());
  double total = 0;
  for (int begin = 0; begin < batch.segments();) {
    int end = begin + 1;
    while (end < batch.segments() && batch.offsets[end + 1] - batch.offsets[begin] <= kTokensAtOnce) ++end;
    HostBatch part;
    part.tokens.assign(batch.tokens.begin() + batch.offsets[begin], batch.tokens.begin() + batch.offsets[end]);
    for (int b = begin; b <= end; ++b) part.offsets.push_back(batch.offsets[b] - batch.offsets[begin]);
    PassRequest request;
    request.keep = true;
    Upstream upstream;
    if (nll) {
      pass_.forward(part, request, abort);
      upstream.logprobs.resize(part.tokens.size());
      const float* weights = loss.nll_weights.data() + batch.offsets[begin];
      for (size_t t = 0; t < part.tokens.size(); ++t) upstream.logprobs[t] = -weights[t];
      const std::vector<float> logprobs = pass_.backward(upstream, gradients_.f32(), abort);
      for (size_t t = 0; t < part.tokens.size(); ++t) total -= static_cast<double>(weights[t]) * logprobs[t];
    } else {
      HeadRead read{loss.read.head, {}};
      std::vector<float> targets;
      for (size_t s = 0; s < loss.read.spans.size(); ++s) {
        const ReadSpan& span = loss.read.spans[s];
        if (span.sequence < begin || span.sequence >= end) continue;
        read.spans.push_back({span.sequence - begin, span.from, span.to});
        targets.push_back(loss.targets[s]);
      }
      if (!read.spans.empty()) {
        request.heads.push_back(read);
        const PassResult result = pass_.forward(part, request, abort);
        const std::vector<float>& z = result.heads.at(read.head);
        if (z.size() != targets.size())
          fail("BAD_OPTION", "head %s has several outputs; this loss takes one", read.head.c_str());
        std::vector<float>& dz = upstream.heads[read.head];
        for (size_t s = 0; s < z.size(); ++s) {
          const double score = 1 / (1 + std::exp(-static_cast<double>(z[s])));
          total += (score - targets[s]) * (score - targets[s]);
          dz.push_back(static_cast<float>(2 * (score - targets[s]) * score * (1 - score)));
        }
        pass_.backward(upstream, gradients_.f32(), abort);
      }
    }
    begin = end;
  }
  if (!std::isfinite(total))
    fail("NOT_FINITE", "the loss is not finite. Lower the learning rate, or look for a damaged row");
  return total;
}

PassResult Trainer::forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort) {
  PassRequest kept = request;
  kept.keep = true;
  return pass_.forward(batch, kept, abort);
}

void Trainer::backward(const Upstream& upstream, const AbortFlag* abort) {
  pass_.backward(upstream, gradients_.f32(), abort);
}

double Trainer::update(double learning_rate, double count) {
  if (!(count > 0)) fail("BAD_OPTION", "update: count %g is not positive. Was anything in the step supervised?", count);
  if (!(learning_rate >= 0)) fail("BAD_OPTION", "update: learning rate %g is not a number from 0 up", learning_rate);
  device_->gradient_norm({policy_->count(), gradients_.f32(), norm_.f32()});
  const double norm = norm_.download<float>(1)[0] / count;
  if (!std::isfinite(norm))
    fail("NOT_FINITE", "the gradient's norm is not finite. Lower the learning rate, or look for a damaged row");
  ++step_;
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

void Trainer::restore(int64_t step, const std::vector<float>& m, const std::vector<float>& v) {
  const size_t count = policy_->count();
  if (m.size() != count || v.size() != count) {
    fail("WRONG_MODEL", "optimiser state: expected %zu numbers but received %zu and %zu", count, m.size(), v.size());
  }
  m_.write(m.data(), count * sizeof(float));
  v_.write(v.data(), count * sizeof(float));
  step_ = step;
}

}  // namespace credence
