// Heads and pooled hidden states of a pass, and their way back.
#include <algorithm>

#include "pass.h"

namespace credence {

namespace {

Buffer uploaded(const std::shared_ptr<Device>& device, const std::vector<int32_t>& values) {
  Buffer buffer(device, std::max<size_t>(values.size(), 1) * sizeof(int32_t));
  if (!values.empty()) buffer.write(values.data(), values.size() * sizeof(int32_t));
  return buffer;
}

}  // namespace

std::vector<Pass::RowRange> Pass::ranges_of(const std::vector<ReadSpan>& spans) const {
  std::vector<RowRange> ranges;
  for (const ReadSpan& span : spans) {
    if (span.sequence < 0 || span.sequence >= host_.segments()) {
      fail("BAD_BATCH", "a span names sequence %d; the batch has %d", span.sequence, host_.segments());
    }
    if (span.from < 0 || span.to <= span.from || span.to > host_.length(span.sequence)) {
      fail("BAD_BATCH", "a span covers rows %d to %d of sequence %d, which has %d", span.from, span.to, span.sequence,
           host_.length(span.sequence));
    }
    const int begin = host_.offsets[span.sequence];
    ranges.push_back({begin + span.from, begin + span.to});
  }
  return ranges;
}

void Pass::pool(const std::vector<RowRange>& ranges, int depth, const float* x, HeadState& state) {
  const Family& f = base_->family();
  std::vector<int32_t> from, to, index;
  for (const auto& [first, last] : ranges) {
    if (depth == f.layers) {
      from.push_back(static_cast<int32_t>(index.size()));
      for (int t = first; t < last; ++t) index.push_back(t);
      to.push_back(static_cast<int32_t>(index.size()));
    } else {
      from.push_back(first);
      to.push_back(last);
    }
  }
  state.spans = static_cast<int>(ranges.size());
  state.from = uploaded(device_, from);
  state.to = uploaded(device_, to);
  state.count = uploaded(device_, {state.spans});
  state.pooled = Buffer(device_, std::max<size_t>(1, ranges.size()) * f.hidden * 4);
  if (depth == f.layers) {
    state.touched = static_cast<int>(index.size());
    state.index = uploaded(device_, index);
    state.rows = uploaded(device_, {state.touched});
    state.normed = Buffer(device_, std::max<size_t>(1, index.size()) * f.hidden * 4);
    credence_norm norm = final_norm(*base_, adapter(), residual(f.layers), state.rows, state.index, state.touched);
    norm.y_f32 = state.normed.f32();
    norm.ldy_f32 = f.hidden;
    device_->norm(norm);
    x = state.normed.f32();
  }
  credence_pool pool{};
  pool.rows = state.count.i32();
  pool.capacity = state.spans;
  pool.width = f.hidden;
  pool.from = state.from.i32();
  pool.to = state.to.i32();
  pool.x = x;
  pool.ldx = f.hidden;
  pool.y = state.pooled.f32();
  device_->pool(pool);
}

void Pass::read_head(HeadState& state) {
  const std::vector<HeadLayer>& layers = state.head->layers;
  const float* x = state.pooled.f32();
  state.outputs.clear();
  for (size_t i = 0; i < layers.size(); ++i) {
    state.outputs.emplace_back(device_, std::max<size_t>(1, state.spans) * layers[i].out * 4);
    device_->dense({state.count.i32(), state.spans, layers[i].in, layers[i].out,
                    i + 1 < layers.size() ? CREDENCE_RELU : CREDENCE_IDENTITY, x,
                    policy_->parameters() + layers[i].weight, policy_->bias_of(layers[i]), state.outputs.back().f32()});
    x = state.outputs.back().f32();
  }
}

std::vector<float> Pass::outputs_of(const HeadState& state) const {
  return state.outputs.back().download<float>(static_cast<size_t>(state.spans) * state.head->layers.back().out);
}

void Pass::read_values(PassResult& result) {
  const HeadSpec& spec = values_.head->spec;
  if (spec.outputs != 1) {
    fail("BAD_OPTION", "values: head %s has %d outputs; a value is one number", spec.name.c_str(), spec.outputs);
  }
  const TokenRows at = rows_before(request_.values->mask, "values.mask");
  value_tokens_ = at.tokens;
  std::vector<RowRange> ranges;
  for (int32_t row : at.rows) ranges.push_back({row, row + 1});
  pool(ranges, spec.layer, residual(spec.layer), values_);
  read_head(values_);
  if (!request_.values->values) return;
  const std::vector<float> values = outputs_of(values_);
  result.values.assign(host_.tokens.size(), 0.0f);
  for (size_t i = 0; i < values.size(); ++i) result.values[value_tokens_[i]] = values[i];
}

void Pass::backward_values(const std::vector<float>& upstream, float* gradients, bool into_residual) {
  if (upstream.size() != host_.tokens.size()) {
    fail("BAD_BATCH", "upstream.values: expected one for each of %zu tokens but received %zu", host_.tokens.size(),
         upstream.size());
  }
  std::vector<float> dv;
  for (int32_t t : value_tokens_) dv.push_back(upstream[t]);
  backward_head(values_, given_upstream(values_, dv), gradients, into_residual);
}

void Pass::learn_head(const std::string& head, const std::vector<float>& hidden, const std::vector<float>& targets,
                      float* gradients, double* loss) {
  HeadState state;
  state.head = &policy_->head(head);
  state.spans = static_cast<int>(targets.size());
  state.count = uploaded(device_, {state.spans});
  state.pooled = Buffer(device_);
  state.pooled.upload(hidden);
  read_head(state);
  backward_head(state, squared_errors(state, targets, loss), gradients, false);
}

Buffer Pass::given_upstream(const HeadState& state, const std::vector<float>& upstream) const {
  const size_t expected = static_cast<size_t>(state.spans) * state.head->layers.back().out;
  if (upstream.size() != expected) {
    fail("BAD_BATCH", "upstream of head %s: expected %zu numbers but received %zu", state.head->spec.name.c_str(),
         expected, upstream.size());
  }
  Buffer dy(device_);
  dy.upload(upstream);
  return dy;
}

Buffer Pass::squared_errors(const HeadState& state, const std::vector<float>& targets, double* loss) {
  if (state.head->spec.outputs != 1)
    fail("BAD_OPTION", "head %s has several outputs; this loss takes one", state.head->spec.name.c_str());
  Buffer target(device_), dy(device_, targets.size() * sizeof(float));
  target.upload(targets);
  device_->squared_error({state.count.i32(), state.spans, state.outputs.back().f32(), target.f32(), dy.f32(), loss});
  return dy;
}

Buffer Pass::value_errors(const PpoUpstream& ppo, double* loss) {
  const ValueLossRows rows(device_, *ppo.loss->value, value_tokens_);
  Buffer dv(device_, std::max<size_t>(1, value_tokens_.size()) * sizeof(float));
  credence_value_loss op = rows.op();
  op.rows = values_.count.i32();
  op.value = values_.outputs.back().f32();
  op.d_value = dv.f32();
  op.sums = ppo.value;
  op.loss = loss;
  device_->value_loss(op);
  return dv;
}

void Pass::backward_head(HeadState& state, Buffer dy, float* gradients, bool into_residual) {
  const Family& f = base_->family();
  const std::vector<HeadLayer>& layers = state.head->layers;
  for (size_t i = layers.size(); i-- > 0;) {
    const bool first = i == 0;
    Buffer dx(device_, static_cast<size_t>(state.spans) * layers[i].in * 4);
    device_->dense_backward({state.count.i32(), state.spans, layers[i].in, layers[i].out,
                             i + 1 < layers.size() ? CREDENCE_RELU : CREDENCE_IDENTITY,
                             first ? state.pooled.f32() : state.outputs[i - 1].f32(),
                             policy_->parameters() + layers[i].weight, state.outputs[i].f32(), dy.f32(),
                             gradients ? gradients + layers[i].weight : nullptr,
                             gradients && layers[i].bias >= 0 ? gradients + layers[i].bias : nullptr,
                             first && !into_residual ? nullptr : dx.f32()});
    dy = std::move(dx);
  }
  if (!into_residual) return;
  const bool last = state.head->spec.layer == f.layers;
  Buffer dnormed(device_);
  if (last) {
    dnormed.reserve(static_cast<size_t>(state.touched) * f.hidden * 4);
    dnormed.zero();
  }
  credence_pool pool{};
  pool.rows = state.count.i32();
  pool.capacity = state.spans;
  pool.width = f.hidden;
  pool.from = state.from.i32();
  pool.to = state.to.i32();
  pool.ldx = f.hidden;
  pool.dy = dy.f32();
  pool.dx = last ? dnormed.f32() : dx_.f32();
  pool.lddx = f.hidden;
  device_->pool_backward(pool);
  if (!last) return;
  credence_norm_backward back{};
  back.rows = state.rows.i32();
  back.capacity = state.touched;
  back.width = f.hidden;
  back.kind = base_->shape().norm;
  back.eps = base_->shape().norm_eps;
  back.index = state.index.i32();
  back.x = residual(f.layers);
  back.ldx = f.hidden;
  back.weight = weights().final_norm();
  back.dweight = final_norm_gradient();
  back.dy = dnormed.f32();
  back.lddy = f.hidden;
  back.dx = dx_.f32();
  back.lddx = f.hidden;
  device_->norm_backward(back);
}

}  // namespace credence
