// Backward through the blocks, from the last to the first that something trainable needs.
#include <algorithm>
#include <cmath>

#include "pass.h"

namespace credence {

float* Pass::final_norm_gradient() const { return owned_gradient(policy_->owned().final_norm()); }

float* Pass::head_gradient() const { return owned_gradient(policy_->owned().head()); }

void Pass::prepare_head_backward() {
  if (adapter()) policy_->prepare_head_backward();
  else base_->prepare_head_backward();
}

void Pass::backward(const Upstream& upstream, float* gradients, double* loss, const AbortFlag* abort) {
  if (!request_.keep) fail("BAD_STATE", "backward: no forward pass is held open");
  const Family& f = base_->family();
  const size_t rows = host_.tokens.size(), act = device_->act_bytes();
  auto fit = [&](Buffer& buffer, size_t bytes) {
    if (!buffer) buffer = Buffer(device_);
    buffer.reserve(bytes);
  };
  const int lowest = this->lowest();
  gradients_ = adapter() ? gradients : nullptr;
  float* const dtable = owned_gradient(policy_->owned().embedding());
  const auto goes_on = [&](int depth) { return depth > lowest || dtable; };
  fit(dx_, rows * f.hidden * 4);
  dx_.zero();
  backward_vocabulary(upstream, loss);
  if (upstream.ppo) backward_policy(*upstream.ppo, loss);
  if (!upstream.closed_set.empty()) backward_closed_set(upstream.closed_set, loss);
  if (!upstream.divergence.empty()) backward_divergence(upstream.divergence, loss);
  if (!upstream.values.empty() && !request_.values)
    fail("BAD_STATE", "upstream.values: the forward pass read no values");
  auto heads_at = [&](int depth) {
    for (auto& [name, state] : heads_) {
      if (state.head->spec.layer != depth) continue;
      const auto given = upstream.heads.find(name), fused = upstream.targets.find(name);
      if (given != upstream.heads.end())
        backward_head(state, given_upstream(state, given->second), gradients, goes_on(depth));
      if (fused != upstream.targets.end())
        backward_head(state, squared_errors(state, fused->second, loss), gradients, goes_on(depth));
    }
    if (!upstream.values.empty() && values_.head->spec.layer == depth)
      backward_values(upstream.values, gradients, goes_on(depth));
    if (upstream.ppo && request_.values && values_.head->spec.layer == depth)
      backward_head(values_, value_errors(*upstream.ppo, loss), gradients, goes_on(depth));
  };
  heads_at(f.layers);
  if (lowest < f.layers) {
    policy_->prepare_backward();
    fit(da_, rows * f.intermediate * act);
    fit(do_, rows * f.query_width() * act);
    fit(dq_, rows * f.query_width() * act);
    fit(dk_, rows * f.kv_width() * act);
    fit(dv_, rows * f.kv_width() * act);
  }
  for (int layer = f.layers - 1; layer >= 0; --layer) {
    check_abort(abort);
    if (layer >= lowest) backward_block(layer, gradients, goes_on(layer));
    heads_at(layer);
  }
  if (dtable) device_->embed_backward({batch_.view(), f.hidden, 1.0f, dx_.f32(), f.hidden, dtable});
  gradients_ = nullptr;
}

void Pass::backward_block(int layer, float* gradients, bool below) {
  const Family& f = base_->family();
  const WeightsOf weights_of = this->weights();
  const Owned::Block& owned = policy_->owned().block(layer);
  const auto gradient_of = [&](int64_t offset) { return owned_gradient(offset); };
  const auto product_gradient = [&](Product product) { return gradient_of(owned.product[static_cast<int>(product)]); };
  const auto bias_gradient = [&](Product product) { return gradient_of(owned.bias[static_cast<int>(product)]); };
  if (request_.recompute) run(layer, true);
  Activations& a = at(layer);
  const credence_dtype dtype = device_->dtype();
  auto weights = [&](Product product) { return weights_of.product(layer, product); };

  auto dropout = [&](Product product) { return product_dropout(this->dropout(), layer, product); };

  credence_project_backward out{};
  out.rows = batch_.rows();
  out.capacity = batch_.capacity();
  out.dtype = dtype;
  out.weights = weights(Product::kMlpOut);
  out.lora = lora_handle(adapter(), layer, Product::kMlpOut);
  out.dropout = dropout(Product::kMlpOut);
  out.in = a.a.as<>();
  out.s = a.s4.as<>();
  out.dx = dx_.f32();
  out.lddx = f.hidden;
  out.din = da_.as<>();
  out.gradients = gradients;
  out.dweights = product_gradient(Product::kMlpOut);
  out.dbias = bias_gradient(Product::kMlpOut);
  device_->project_backward(out);

  credence_mlp_input_backward mlp{};
  mlp.rows = batch_.rows();
  mlp.capacity = batch_.capacity();
  mlp.shape = base_->shape();
  mlp.dtype = dtype;
  mlp.x = a.mid.f32();
  mlp.ldx = f.hidden;
  mlp.norm_weight = weights_of.mlp_norm(layer);
  mlp.inv_rms = a.inv2.f32();
  mlp.weights = weights(Product::kMlpIn);
  mlp.lora = lora_handle(adapter(), layer, Product::kMlpIn);
  mlp.dropout = dropout(Product::kMlpIn);
  mlp.h = a.h2.as<>();
  mlp.u = a.u.as<>();
  mlp.s = a.s3.as<>();
  mlp.da = da_.as<>();
  mlp.dx = dx_.f32();
  mlp.lddx = f.hidden;
  mlp.gradients = gradients;
  mlp.dweights = product_gradient(Product::kMlpIn);
  mlp.dbias = bias_gradient(Product::kMlpIn);
  mlp.dnorm_weight = gradient_of(owned.mlp_norm);
  device_->mlp_input_backward(mlp);

  out.weights = weights(Product::kOut);
  out.lora = lora_handle(adapter(), layer, Product::kOut);
  out.dropout = dropout(Product::kOut);
  out.in = a.o.as<>();
  out.s = a.s2.as<>();
  out.din = do_.as<>();
  out.dweights = product_gradient(Product::kOut);
  out.dbias = bias_gradient(Product::kOut);
  device_->project_backward(out);

  credence_attention_backward attention{};
  attention.batch = batch_.view();
  attention.shape = base_->shape();
  attention.dtype = dtype;
  attention.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(f.head_dim)));
  attention.window = f.windows[layer];
  attention.q = a.q.as<>();
  attention.k = a.k.as<>();
  attention.v = a.v.as<>();
  attention.o = a.o.as<>();
  attention.lse = a.lse.f32();
  attention.d_o = do_.as<>();
  attention.dq = dq_.as<>();
  attention.dk = dk_.as<>();
  attention.dv = dv_.as<>();
  device_->attention_backward(attention);

  credence_attention_input_backward in{};
  in.batch = batch_.view();
  in.shape = base_->shape();
  in.dtype = dtype;
  in.x = residual(layer);
  in.ldx = f.hidden;
  in.norm_weight = weights_of.attention_norm(layer);
  in.inv_rms = a.inv1.f32();
  in.qkv = weights(Product::kQkv);
  in.lora = lora_handle(adapter(), layer, Product::kQkv);
  in.dropout = dropout(Product::kQkv);
  in.q_norm = weights_of.q_norm(layer);
  in.k_norm = weights_of.k_norm(layer);
  in.rotary = base_->rotary(longest_);
  in.h = a.h1.as<>();
  in.s = a.s1.as<>();
  in.qk_raw = a.qk_raw.as<>();
  in.dq = dq_.as<>();
  in.dk = dk_.as<>();
  in.dv = dv_.as<>();
  in.dx = below ? dx_.f32() : nullptr;
  in.lddx = f.hidden;
  in.gradients = gradients;
  in.dweights = product_gradient(Product::kQkv);
  in.dbias = bias_gradient(Product::kQkv);
  in.dnorm_weight = gradient_of(owned.attention_norm);
  in.dq_norm = gradient_of(owned.q_norm);
  in.dk_norm = gradient_of(owned.k_norm);
  device_->attention_input_backward(in);
}

}  // namespace credence
