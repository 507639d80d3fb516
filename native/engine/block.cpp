#include "block.h"

#include <algorithm>
#include <cmath>

#include "random.h"

namespace credence {

void Activations::reserve(const Base& base, const Policy* policy, int layer, int row_count, bool keep) {
  const Family& f = base.family();
  const auto& device = base.device();
  const size_t rows = row_count, act = device->act_bytes();
  auto fit = [&](Buffer& buffer, size_t bytes) {
    if (!buffer) buffer = Buffer(device);
    buffer.reserve(std::max<size_t>(bytes, 1));
  };
  fit(h1, rows * f.hidden * act);
  fit(q, rows * f.query_width() * act);
  fit(o, rows * f.query_width() * act);
  fit(h2, rows * f.hidden * act);
  fit(a, rows * f.intermediate * act);
  if (!keep) return;
  fit(mid, rows * f.hidden * 4);
  fit(k, rows * f.kv_width() * act);
  fit(v, rows * f.kv_width() * act);
  fit(lse, rows * f.heads * 4);
  if (f.qk_norm) fit(qk_raw, rows * (f.query_width() + f.kv_width()) * act);
  fit(inv1, rows * 4);
  fit(inv2, rows * 4);
  fit(u, rows * f.intermediate * (f.gated_mlp ? 2 : 1) * act);
  auto ranks = [&](Product product) -> size_t {
    const Lora* lora = policy ? policy->lora(layer, product) : nullptr;
    return lora ? lora->ranks : 0;
  };
  fit(s1, rows * ranks(Product::kQkv) * act);
  fit(s2, rows * ranks(Product::kOut) * act);
  fit(s3, rows * ranks(Product::kMlpIn) * act);
  fit(s4, rows * ranks(Product::kMlpOut) * act);
}

credence_dropout product_dropout(const credence_dropout& pass, int layer, Product product) {
  return {pass.p, mixed(pass.key, layer, static_cast<uint32_t>(product)), pass.row_key};
}

void run_block(const Base& base, const BlockRun& run) {
  const Family& f = base.family();
  const auto& device = base.device();
  const WeightsOf weights_of(base, run.adapter);
  Activations& a = *run.act;
  const bool keep = run.keep;
  const credence_dtype dtype = device->dtype();
  auto weights = [&](Product product) { return weights_of.product(run.layer, product); };
  auto lora = [&](Product product) { return lora_handle(run.adapter, run.layer, product); };
  auto bias = [&](Product product) { return weights_of.bias(run.layer, product); };
  auto dropout = [&](Product product) { return product_dropout(run.dropout, run.layer, product); };
  credence_attention_input in{};
  in.batch = run.batch->view();
  in.shape = base.shape();
  in.dtype = dtype;
  in.x = run.x;
  in.ldx = f.hidden;
  in.norm_weight = weights_of.attention_norm(run.layer);
  in.qkv = weights(Product::kQkv);
  in.lora = lora(Product::kQkv);
  in.dropout = dropout(Product::kQkv);
  in.bias = bias(Product::kQkv);
  in.q_norm = weights_of.q_norm(run.layer);
  in.k_norm = weights_of.k_norm(run.layer);
  in.rotary = run.rotary;
  in.pages = run.pages;
  in.h = a.h1.as<>();
  in.q = a.q.as<>();
  if (keep) {
    in.k = a.k.as<>();
    in.v = a.v.as<>();
    in.inv_rms = a.inv1.f32();
    in.s = a.s1.as<>();
    in.qk_raw = a.qk_raw.as<>();
  }
  device->attention_input(in);

  device->attention({run.batch->view(), base.shape(), dtype,
                     static_cast<float>(1 / std::sqrt(static_cast<double>(f.head_dim))), f.windows[run.layer],
                     a.q.as<>(), run.pages, a.o.as<>(), keep ? a.lse.f32() : nullptr, run.split_keys});

  credence_project out{};
  out.rows = run.batch->rows();
  out.capacity = run.batch->capacity();
  out.dtype = dtype;
  out.weights = weights(Product::kOut);
  out.lora = lora(Product::kOut);
  out.dropout = dropout(Product::kOut);
  out.bias = bias(Product::kOut);
  out.in = a.o.as<>();
  out.x = run.x;
  out.x_out = run.mid;
  out.ldx = f.hidden;
  out.s = keep ? a.s2.as<>() : nullptr;
  device->project(out);

  credence_mlp_input mlp{};
  mlp.rows = run.batch->rows();
  mlp.capacity = run.batch->capacity();
  mlp.shape = base.shape();
  mlp.dtype = dtype;
  mlp.x = out.x_out;
  mlp.ldx = f.hidden;
  mlp.norm_weight = weights_of.mlp_norm(run.layer);
  mlp.weights = weights(Product::kMlpIn);
  mlp.lora = lora(Product::kMlpIn);
  mlp.dropout = dropout(Product::kMlpIn);
  mlp.bias = bias(Product::kMlpIn);
  mlp.h = a.h2.as<>();
  mlp.a = a.a.as<>();
  if (keep) {
    mlp.u = a.u.as<>();
    mlp.inv_rms = a.inv2.f32();
    mlp.s = a.s3.as<>();
  }
  device->mlp_input(mlp);

  out.weights = weights(Product::kMlpOut);
  out.lora = lora(Product::kMlpOut);
  out.dropout = dropout(Product::kMlpOut);
  out.bias = bias(Product::kMlpOut);
  out.in = a.a.as<>();
  out.x = mlp.x;
  out.x_out = run.x_out;
  out.s = keep ? a.s4.as<>() : nullptr;
  device->project(out);
}

const float* final_norm_at(Base& base, const Policy* policy, double temperature) {
  if (temperature == 1) return WeightsOf(base, policy).final_norm();
  if (policy && policy->owned().final_norm() >= 0) {
    fail(
        "UNSUPPORTED",
        "log-probabilities at the temperature %g of a policy that trains its own last norm. Take 1, or leave the norms to the base",
        temperature);
  }
  return base.final_norm(temperature);
}

credence_norm final_norm(const Base& base, const Policy* policy, const float* x, const Buffer& count,
                         const Buffer& index, int rows) {
  credence_norm norm{};
  norm.rows = count.i32();
  norm.capacity = rows;
  norm.width = base.family().hidden;
  norm.dtype = base.device()->dtype();
  norm.kind = base.shape().norm;
  norm.eps = base.shape().norm_eps;
  norm.index = index.i32();
  norm.x = x;
  norm.ldx = base.family().hidden;
  norm.weight = WeightsOf(base, policy).final_norm();
  return norm;
}

credence_token_logprobs token_logprobs(const Base& base, const Policy* policy, const Buffer& h, const Buffer& count,
                                       const Buffer& targets, int rows) {
  credence_token_logprobs read{};
  read.rows = count.i32();
  read.capacity = rows;
  read.width = base.family().hidden;
  read.vocabulary = base.family().vocabulary;
  read.dtype = base.device()->dtype();
  read.weights = WeightsOf(base, policy).head();
  read.h = h.as<>();
  read.ldh = base.family().hidden;
  read.targets = targets.i32();
  return read;
}

std::vector<float> apply_head(const Policy& policy, const Head& head, const std::vector<float>& hidden) {
  const auto& device = policy.base()->device();
  const int width = head.layers.front().in;
  if (hidden.size() % width) fail("BAD_BATCH", "hidden states: %zu numbers are not rows of %d", hidden.size(), width);
  const int rows = static_cast<int>(hidden.size() / width);
  if (!rows) return {};
  Buffer count(device), x(device);
  count.upload(std::vector<int32_t>{rows});
  x.upload(hidden);
  for (size_t i = 0; i < head.layers.size(); ++i) {
    const HeadLayer& layer = head.layers[i];
    Buffer y(device, static_cast<size_t>(rows) * layer.out * 4);
    device->dense({count.i32(), rows, layer.in, layer.out,
                   i + 1 < head.layers.size() ? CREDENCE_RELU : CREDENCE_IDENTITY, x.f32(),
                   policy.parameters() + layer.weight, policy.bias_of(layer), y.f32()});
    x = std::move(y);
  }
  return x.download<float>(static_cast<size_t>(rows) * head.layers.back().out);
}

}  // namespace credence
