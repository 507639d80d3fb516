// A whole block in a family's order: serial and parallel residual, RMS and layer norm, as Llama, Qwen3 and GPT-NeoX have it.
// The definition's gradients are finite differences, and a table's operators in the same order give the definition.
#include "kernels/reference/block.h"

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct FamilyShape {
  const char* name;
  bool parallel, layer, gated, biases, per_head, qk_norm;
  int heads, kv_heads, head_dim, rotary_dim, hidden, intermediate;
  reference::Activation activation;
};
using enum reference::Activation;
const FamilyShape kFamilies[] = {
    {"llama", false, false, true, false, false, false, 4, 2, 6, 6, 13, 17, silu},
    {"qwen3", false, false, true, false, false, true, 2, 1, 8, 8, 9, 11, silu},
    {"gpt-neox", true, true, false, true, true, false, 3, 3, 8, 2, 24, 33, gelu},
    {"gpt-neox, gelu_tanh", true, true, false, true, true, false, 1, 1, 17, 4, 17, 3, gelu_tanh}};
const std::vector<int32_t> kEnds = {0, 5, 6, 9};

reference::Linear linear(uint64_t seed, int rows, int outputs, int columns, bool bias) {
  reference::Linear p;
  p.rows = rows, p.outputs = outputs, p.columns = columns;
  p.weights = normal(seed, static_cast<size_t>(outputs) * columns, 0.4);
  if (bias) p.bias = normal(seed + 1, outputs);
  p.slices = slices(seed + 2, columns, {0, outputs});
  return p;
}

reference::Norm norm(uint64_t seed, int rows, const FamilyShape& k) {
  reference::Norm p;
  p.rows = rows, p.width = k.hidden, p.layer = k.layer;
  p.weight = normal(seed, k.hidden);
  if (k.layer) p.bias = normal(seed + 1, k.hidden);
  return p;
}

reference::Block example(const FamilyShape& k) {
  reference::Block p;
  const int rows = kEnds.back();
  p.parallel = k.parallel;
  p.x = normal(1, static_cast<size_t>(rows) * k.hidden);
  p.input.norm = norm(2, rows, k);
  p.input.linear = linear(10, rows, (k.heads + 2 * k.kv_heads) * k.head_dim, k.hidden, k.biases);
  p.input.heads = p.attention.heads = k.heads;
  p.input.kv_heads = p.attention.kv_heads = k.kv_heads;
  p.input.head_dim = p.attention.head_dim = k.head_dim;
  p.input.rotary_dim = k.rotary_dim;
  p.input.per_head = k.per_head;
  if (k.qk_norm) p.input.q_norm = normal(20, k.head_dim), p.input.k_norm = normal(21, k.head_dim);
  for (size_t b = 0; b + 1 < kEnds.size(); ++b)
    for (int t = 0; t < kEnds[b + 1] - kEnds[b]; ++t) p.input.positions.push_back(t);
  for (int position = 0; position < rows; ++position)
    for (int i = 0; i < k.rotary_dim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / k.rotary_dim);
      p.input.rotary.push_back(static_cast<float>(std::cos(angle)));
      p.input.rotary.push_back(static_cast<float>(std::sin(angle)));
    }
  p.attention.segments.cu_seqlens = kEnds;
  p.attention.segments.key_start = {0, 0, 0};
  p.attention.scale = 1 / std::sqrt(k.head_dim);
  p.output = linear(30, rows, k.hidden, k.heads * k.head_dim, k.biases);
  p.mlp.norm = norm(4, rows, k);
  p.mlp.linear = linear(40, rows, k.intermediate * (k.gated ? 2 : 1), k.hidden, k.biases);
  p.mlp.activation = k.activation;
  p.mlp.gated = k.gated;
  p.down = linear(50, rows, k.hidden, k.intermediate, k.biases);
  return p;
}

credence_shape shape_of(const FamilyShape& k) {
  credence_shape shape = {};
  shape.hidden = k.hidden, shape.intermediate = k.intermediate;
  shape.heads = k.heads, shape.kv_heads = k.kv_heads, shape.head_dim = k.head_dim, shape.rotary_dim = k.rotary_dim;
  shape.norm = k.layer ? CREDENCE_LAYER_NORM : CREDENCE_RMS_NORM;
  shape.norm_eps = 1e-5f;
  shape.activation = static_cast<credence_activation>(k.activation);
  shape.gated = k.gated, shape.qk_norm = k.qk_norm;
  shape.qkv_layout = k.per_head ? CREDENCE_QKV_PER_HEAD : CREDENCE_QKV_STACKED;
  return shape;
}

/// A layer of the block on the device: its weights, adapter, bias, S, and where their gradients go.
struct Layer {
  Weights weights;
  Adapter adapter;
  MemoryPointer bias, s, dweights, dbias;
  bool has_bias;
  Layer(Backend& backend, const reference::Linear& p)
      : weights(backend, p.weights, p.outputs, p.columns), adapter(backend, p), has_bias(!p.bias.empty()) {
    bias = floats_on_device(backend, p.bias);
    s = act_space(backend, static_cast<size_t>(p.rows) * adapter.ranks());
    dweights = floats_on_device(backend, std::vector<double>(p.weights.size()));
    dbias = floats_on_device(backend, std::vector<double>(p.outputs));
  }
  const float* bias_or_null() const { return has_bias ? bias->as<float>() : nullptr; }
  void expect(Backend& backend, const reference::LinearGradients& exact, double bound) const {
    EXPECT_CLOSE(dweights->floats(), exact.dweights, bound);
    if (has_bias) EXPECT_CLOSE(dbias->floats(), exact.dbias, bound);
    std::vector<double> flat(5, 0);
    flat.insert(flat.end(), exact.da[0].begin(), exact.da[0].end());
    flat.insert(flat.end(), exact.db[0].begin(), exact.db[0].end());
    EXPECT_CLOSE(adapter.gradient_values(), flat, bound + (backend.bf16() ? 0 : 1e-5));
  }
};

void run(Backend& backend, const FamilyShape& k, const reference::Block& p, const std::vector<double>& dy) {
  const int rows = kEnds.back();
  const size_t wide = static_cast<size_t>(rows) * k.hidden, q_size = static_cast<size_t>(rows) * k.heads * k.head_dim,
               kv_size = static_cast<size_t>(rows) * k.kv_heads * k.head_dim;
  const credence_shape shape = shape_of(k);
  const Layer qkv(backend, p.input.linear), output(backend, p.output), up(backend, p.mlp.linear), down(backend, p.down);
  const auto row_count = one(backend, rows), counts = on_device(backend, std::vector<int32_t>{rows, 3}),
             ends = on_device(backend, kEnds), positions = on_device(backend, p.input.positions),
             starts = on_device(backend, std::vector<int32_t>{0, 0, 0}),
             table = on_device(backend, std::vector<int32_t>{0, 1, 2});
  const credence_batch batch{rows, 3, 1, *counts, nullptr, *ends, *positions, *starts, *table, nullptr, nullptr};
  const auto x = floats_on_device(backend, p.x), rotary = floats_on_device(backend, p.input.rotary);
  const auto norm1 = floats_on_device(backend, p.input.norm.weight),
             bias1 = floats_on_device(backend, p.input.norm.bias);
  const auto norm2 = floats_on_device(backend, p.mlp.norm.weight), bias2 = floats_on_device(backend, p.mlp.norm.bias);
  const auto q_norm = floats_on_device(backend, p.input.q_norm), k_norm = floats_on_device(backend, p.input.k_norm);
  const auto h1 = act_space(backend, wide), h2 = act_space(backend, wide), q = act_space(backend, q_size);
  const auto o = act_space(backend, q_size), key = act_space(backend, kv_size), value = act_space(backend, kv_size);
  const auto raw = act_space(backend, q_size + kv_size),
             a = act_space(backend, static_cast<size_t>(rows) * k.intermediate);
  const auto u = act_space(backend, static_cast<size_t>(rows) * p.mlp.linear.outputs);
  const auto lse = float_space(backend, static_cast<size_t>(rows) * k.heads), y = float_space(backend, wide);
  const Memory pages(backend, 3 * backend.table->page_bytes(&shape, backend.dtype));

  credence_attention_input in = {};
  in.batch = batch, in.shape = shape, in.dtype = backend.dtype, in.x = *x, in.ldx = k.hidden;
  in.norm_weight = *norm1, in.norm_bias = k.layer ? bias1->as<float>() : nullptr;
  in.qkv = qkv.weights, in.lora = qkv.adapter, in.bias = qkv.bias_or_null(), in.s = qkv.s->raw();
  in.q_norm = *q_norm, in.k_norm = *k_norm, in.rotary = *rotary, in.pages = pages.raw();
  in.h = h1->raw(), in.q = q->raw(), in.k = key->raw(), in.v = value->raw(), in.qk_raw = raw->raw();
  RUN_OPERATOR(backend, attention_input, in);
  const float scale = static_cast<float>(p.attention.scale);
  RUN_OPERATOR(backend, attention,
               (credence_attention{batch, shape, backend.dtype, scale, 0, q->raw(), pages.raw(), o->raw(), *lse}));
  credence_project add = {};
  add.rows = *row_count, add.capacity = rows, add.dtype = backend.dtype, add.ldx = k.hidden;
  add.weights = output.weights, add.lora = output.adapter, add.bias = output.bias_or_null(), add.s = output.s->raw();
  add.in = o->raw(), add.x = *x, add.x_out = *y;
  RUN_OPERATOR(backend, project, add);
  const auto mid = floats_on_device(backend, y->floats());
  const float* mlp_x = k.parallel ? x->as<float>() : mid->as<float>();
  credence_mlp_input mlp = {};
  mlp.rows = *row_count, mlp.capacity = rows, mlp.shape = shape, mlp.dtype = backend.dtype;
  mlp.x = mlp_x, mlp.ldx = k.hidden, mlp.norm_weight = *norm2, mlp.norm_bias = k.layer ? bias2->as<float>() : nullptr;
  mlp.weights = up.weights, mlp.lora = up.adapter, mlp.bias = up.bias_or_null(), mlp.s = up.s->raw();
  mlp.h = h2->raw(), mlp.u = u->raw(), mlp.a = a->raw();
  RUN_OPERATOR(backend, mlp_input, mlp);
  add.weights = down.weights, add.lora = down.adapter, add.bias = down.bias_or_null(), add.s = down.s->raw();
  add.in = a->raw(), add.x = add.x_out = *y;
  RUN_OPERATOR(backend, project, add);
  const double bound = backend.bf16() ? 3e-2 : 2e-5;
  EXPECT_CLOSE(y->floats(), reference::block(p), bound);

  const auto exact = reference::block_backward(p, dy);
  const auto upstream = floats_on_device(backend, dy), dx = floats_on_device(backend, dy);
  const auto da = act_space(backend, static_cast<size_t>(rows) * k.intermediate), d_o = act_space(backend, q_size);
  const auto dq = act_space(backend, q_size), dk = act_space(backend, kv_size), dv = act_space(backend, kv_size);
  const auto zeros = [&](int count) { return floats_on_device(backend, std::vector<double>(count)); };
  const auto dnorm1 = zeros(k.hidden), dbias1 = zeros(k.hidden), dnorm2 = zeros(k.hidden), dbias2 = zeros(k.hidden);
  const auto dq_norm = zeros(k.head_dim), dk_norm = zeros(k.head_dim);
  const auto project_back = [&](const Layer& layer, const Memory& input, const float* d, const Memory& out) {
    credence_project_backward b = {};
    b.rows = *row_count, b.capacity = rows, b.dtype = backend.dtype, b.weights = layer.weights, b.lora = layer.adapter;
    b.in = input.raw(), b.s = layer.s->raw(), b.dx = d, b.lddx = k.hidden, b.din = out.raw();
    b.gradients = layer.adapter.gradients(), b.dweights = *layer.dweights, b.dbias = *layer.dbias;
    RUN_OPERATOR(backend, project_backward, b);
  };
  project_back(down, *a, *dx, *da);
  credence_mlp_input_backward mlp_back = {};
  mlp_back.rows = *row_count, mlp_back.capacity = rows, mlp_back.shape = shape, mlp_back.dtype = backend.dtype;
  mlp_back.x = mlp_x, mlp_back.ldx = mlp_back.lddx = k.hidden, mlp_back.norm_weight = *norm2;
  mlp_back.norm_bias = mlp.norm_bias, mlp_back.weights = up.weights, mlp_back.lora = up.adapter;
  mlp_back.h = h2->raw(), mlp_back.u = u->raw(), mlp_back.s = up.s->raw(), mlp_back.da = da->raw(), mlp_back.dx = *dx;
  mlp_back.gradients = up.adapter.gradients(), mlp_back.dweights = *up.dweights, mlp_back.dbias = *up.dbias;
  mlp_back.dnorm_weight = *dnorm2, mlp_back.dnorm_bias = *dbias2;
  RUN_OPERATOR(backend, mlp_input_backward, mlp_back);
  project_back(output, *o, k.parallel ? upstream->as<float>() : dx->as<float>(), *d_o);
  RUN_OPERATOR(backend, attention_backward,
               (credence_attention_backward{batch, shape, backend.dtype, scale, 0, q->raw(), key->raw(), value->raw(),
                                            o->raw(), *lse, d_o->raw(), dq->raw(), dk->raw(), dv->raw()}));
  credence_attention_input_backward back = {};
  back.batch = batch, back.shape = shape, back.dtype = backend.dtype, back.x = *x, back.ldx = back.lddx = k.hidden;
  back.norm_weight = *norm1, back.norm_bias = in.norm_bias, back.qkv = qkv.weights, back.lora = qkv.adapter;
  back.q_norm = *q_norm, back.k_norm = *k_norm, back.rotary = *rotary, back.h = h1->raw(), back.s = qkv.s->raw();
  back.qk_raw = raw->raw(), back.dq = dq->raw(), back.dk = dk->raw(), back.dv = dv->raw(), back.dx = *dx;
  back.gradients = qkv.adapter.gradients(), back.dweights = *qkv.dweights, back.dbias = *qkv.dbias;
  back.dnorm_weight = *dnorm1, back.dnorm_bias = *dbias1, back.dq_norm = *dq_norm, back.dk_norm = *dk_norm;
  RUN_OPERATOR(backend, attention_input_backward, back);
  const double loose = backend.bf16() ? 8e-2 : 3e-5;  // in bf16 the operators are held to more by their own tests
  EXPECT_CLOSE(dx->floats(), exact.dx, loose);
  EXPECT_CLOSE(dnorm1->floats(), exact.input.norm.dweight, loose);
  EXPECT_CLOSE(dnorm2->floats(), exact.mlp.norm.dweight, loose);
  if (k.layer) {
    EXPECT_CLOSE(dbias1->floats(), exact.input.norm.dbias, loose);
    EXPECT_CLOSE(dbias2->floats(), exact.mlp.norm.dbias, loose);
  }
  if (k.qk_norm) {
    EXPECT_CLOSE(dq_norm->floats(), exact.input.dq_norm, loose);
    EXPECT_CLOSE(dk_norm->floats(), exact.input.dk_norm, loose);
  }
  qkv.expect(backend, exact.input.linear, loose);
  output.expect(backend, exact.output, loose);
  up.expect(backend, exact.mlp.linear, loose);
  down.expect(backend, exact.down, loose);
}

}  // namespace

OPERATOR_TEST("attention_input attention project mlp_input", "reference", in_the_order_of_a_family_are_its_block) {
  for (const FamilyShape& k : kFamilies) {
    const reference::Block p = example(k);
    const auto dy = normal(60, p.x.size());
    for (int threads : {1, 2}) {
      const int before = state().failures;
      each_backend(threads, [&](Backend& backend) { run(backend, k, p, dy); });
      if (state().failures != before) std::printf("    as %s\n", k.name);
    }
  }
}

OPERATOR_TEST("project_backward mlp_input_backward attention_backward attention_input_backward", "finite-difference",
              the_block_of_a_family_has_the_gradient_of_finite_differences) {
  for (const FamilyShape& k : kFamilies) {
    reference::Block p = example(k);
    const auto dy = normal(60, p.x.size());
    const auto g = reference::block_backward(p, dy);
    const auto loss = [&] { return inner(reference::block(p), dy); };
    EXPECT_GRADIENT(p.x, g.dx, loss);
    EXPECT_GRADIENT(p.input.norm.weight, g.input.norm.dweight, loss);
    EXPECT_GRADIENT(p.mlp.norm.weight, g.mlp.norm.dweight, loss);
    EXPECT_GRADIENT(p.input.linear.weights, g.input.linear.dweights, loss);
    EXPECT_GRADIENT(p.output.weights, g.output.dweights, loss);
    EXPECT_GRADIENT(p.mlp.linear.slices[0].a, g.mlp.linear.da[0], loss);
    EXPECT_GRADIENT(p.down.slices[0].b, g.down.db[0], loss);
    if (k.biases) {
      EXPECT_GRADIENT(p.input.linear.bias, g.input.linear.dbias, loss);
      EXPECT_GRADIENT(p.down.bias, g.down.dbias, loss);
      EXPECT_GRADIENT(p.input.norm.bias, g.input.norm.dbias, loss);
      EXPECT_GRADIENT(p.mlp.norm.bias, g.mlp.norm.dbias, loss);
    }
    if (k.qk_norm) EXPECT_GRADIENT(p.input.q_norm, g.input.dq_norm, loss);
  }
}

TESTING_MAIN
