#include "pass.h"

#include <algorithm>
#include <cmath>

namespace credence {

void check_abort(const AbortFlag* abort) {
  if (abort && abort->load(std::memory_order_relaxed)) fail("ABORTED", "stopped as asked");
}

Pass::Pass(std::shared_ptr<Policy> policy)
    : policy_(std::move(policy)), base_(policy_->base()), device_(base_->device()), batch_(device_) {}

void Pass::take_room(Pass& other) {
  kept_ = std::move(other.kept_);
  shared_ = std::move(other.shared_);
  kept_x_ = std::move(other.kept_x_);
  x_ = std::move(other.x_);
  pages_ = std::move(other.pages_);
  dx_ = std::move(other.dx_);
  da_ = std::move(other.da_);
  do_ = std::move(other.do_);
  dq_ = std::move(other.dq_);
  dk_ = std::move(other.dk_);
  dv_ = std::move(other.dv_);
  other.request_.keep = false;
}

const Policy* Pass::adapter() const { return request_.adapter ? policy_.get() : nullptr; }

credence_dropout Pass::dropout() const {
  if (!adapter() || !request_.dropout) return {};
  return {static_cast<float>(policy_->adapter_config().dropout), request_.dropout->key, row_keys_.as<uint64_t>()};
}

int Pass::lowest() const { return request_.adapter ? policy_->lowest_trained() : base_->family().layers; }

float* Pass::residual(int layer) { return request_.keep && layer >= lowest() ? kept_x_[layer].f32() : x_.f32(); }

void Pass::run(int layer, bool keep) {
  float *x = residual(layer), *x_out = residual(layer + 1);
  float* const mid = request_.keep && layer >= lowest() ? at(layer).mid.f32() : x;
  run_block(*base_, {layer, &batch_, adapter(), &at(layer), x, mid, x_out, pages_.as<>(), base_->rotary(longest_), keep,
                     dropout()});
}

PassResult Pass::forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort) {
  const Family& f = base_->family();
  batch.check(f);
  host_ = batch;
  request_ = request;
  heads_.clear();
  longest_ = host_.longest();
  const int pages = batch_.upload(host_);
  if (!pages_) pages_ = Buffer(device_);
  pages_.reserve(pages * device_->table().page_bytes(&base_->shape(), device_->dtype()));

  const int rows = host_.tokens_count();
  auto fit = [&](Buffer& x) {
    if (!x) x = Buffer(device_);
    x.reserve(static_cast<size_t>(rows) * f.hidden * 4);
  };
  kept_.resize(f.layers);
  kept_x_.resize(f.layers + 1);
  if (!request_.keep || lowest() > 0 || request_.divergence) fit(x_);
  if (request_.divergence) shared_.reserve(*base_, nullptr, 0, rows, false);  // the pass with the adapter off
  for (int layer = 0; layer < f.layers; ++layer) {
    const bool backward = request_.keep && layer >= lowest();
    at(layer).reserve(*base_, adapter(), layer, rows, backward);
    if (backward) fit(kept_x_[layer]);
  }
  if (request_.keep) fit(kept_x_[f.layers]);

  if (request_.dropout) {
    std::vector<uint64_t> keys;
    for (int b = 0; b < host_.segments(); ++b) {
      const uint64_t first = (request_.dropout->sequences.at(b) << 32) + host_.keys_before(b);
      for (int i = 0; i < host_.length(b); ++i) keys.push_back(first + i);
    }
    if (!row_keys_) row_keys_ = Buffer(device_);
    row_keys_.upload(keys);
  }
  PassResult result;
  const size_t depths = request_.collect.size();
  result.collected.resize(request_.spans.size() * depths * f.hidden);
  for (const HeadRead& read : request_.heads) {
    HeadState& state = heads_[read.head];
    state.head = &policy_->head(read.head);
  }
  if (request_.values) {
    values_ = {};
    values_.head = &policy_->head(request_.values->head);
  }
  auto read_depth = [&](int depth) {
    for (const HeadRead& read : request_.heads) {
      HeadState& state = heads_[read.head];
      if (state.head->spec.layer != depth) continue;
      pool(ranges_of(read.spans), depth, residual(depth), state);
      read_head(state);
      if (read.values) result.heads[read.head] = outputs_of(state);
    }
    if (request_.values && values_.head->spec.layer == depth) read_values(result);
    for (size_t d = 0; d < depths; ++d) {
      if (request_.collect[d] != depth) continue;
      HeadState state;
      pool(ranges_of(request_.spans), depth, residual(depth), state);
      const auto pooled = state.pooled.download<float>(request_.spans.size() * f.hidden);
      for (size_t s = 0; s < request_.spans.size(); ++s) {
        std::copy_n(pooled.begin() + s * f.hidden, f.hidden, result.collected.begin() + (s * depths + d) * f.hidden);
      }
    }
  };
  for (int depth : request_.collect) {
    if (depth < 0 || depth > f.layers) fail("BAD_OPTION", "collect: depth %d is not one of 0 to %d", depth, f.layers);
  }
  if (request_.closed_set) check_closed_set();
  if (request_.divergence) keep_reference(abort);
  run_blocks(read_depth, abort);
  if (request_.hidden) read_hidden(result);
  read_vocabulary(result);
  if (request_.closed_set && request_.closed_set->values) read_closed_set(result);
  if (request_.divergence && request_.divergence->values) read_divergence(result);
  return result;
}

void Pass::run_blocks(const std::function<void(int)>& read_depth, const AbortFlag* abort) {
  const Family& f = base_->family();
  device_->embed({batch_.view(), weights().embedding(), 1.0f, residual(0), f.hidden});
  for (int layer = 0; layer < f.layers; ++layer) {
    check_abort(abort);
    read_depth(layer);
    run(layer, keeps(layer));
  }
  read_depth(f.layers);
}

}  // namespace credence
