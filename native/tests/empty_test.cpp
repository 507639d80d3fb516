// No rows, no tokens, no segments, in room for some: every operator says yes and touches nothing.
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// One piece of memory that every pointer of an operator's parameters points to, full of NaN, and what comes with it.
struct Nothing {
  static constexpr int kWidth = 8, kCapacity = 3;
  Backend& backend;
  std::vector<double> values = normal(1, 3 * kWidth * kWidth);
  Weights qkv, square, pair;
  MemoryPointer counts, all;
  credence_batch batch = {};
  credence_shape shape = {};
  std::vector<uint8_t> before;

  explicit Nothing(Backend& b)
      : backend(b),
        qkv(b, values, 3 * kWidth, kWidth),
        square(b, values, kWidth, kWidth),
        pair(b, values, 2 * kWidth, kWidth),
        counts(on_device(b, std::vector<int32_t>{0, 0})),
        all(float_space(b, 4096)) {
    batch.token_capacity = batch.segment_capacity = kCapacity;
    batch.pages_per_segment = 1;
    batch.counts = *counts;
    batch.cu_seqlens = *counts;  // [0]
    batch.tokens = batch.positions = batch.key_start = batch.page_table = all->as<int32_t>();
    shape.hidden = shape.intermediate = shape.head_dim = shape.rotary_dim = kWidth;
    shape.heads = shape.kv_heads = shape.gated = 1;
    before = all->bits();
  }
  float* floats() const { return *all; }
  void* act() const { return all->raw(); }
  const int32_t* rows() const { return *counts; }
  void expect_untouched(const char* what) const {
    if (all->bits() != before) report(__FILE__, __LINE__, std::string(what) + " wrote something for no rows");
  }
};

/// Fills what parameters have in common, runs, and looks.
#define RUN_ON_NOTHING(nothing, operation, p)    \
  do {                                           \
    RUN_OPERATOR(nothing.backend, operation, p); \
    nothing.expect_untouched(#operation);        \
  } while (0)

}  // namespace

OPERATOR_TEST("embed embed_backward norm norm_backward pool pool_backward dense dense_backward", "odd-shapes",
              no_rows) {
  each_backend(2, [](Backend& backend) {
    const Nothing n(backend);
    const int width = Nothing::kWidth, capacity = Nothing::kCapacity;
    RUN_ON_NOTHING(n, embed, (credence_embed{n.batch, n.square, 1, n.floats(), width}));
    RUN_ON_NOTHING(n, embed_backward, (credence_embed_backward{n.batch, width, 1, n.floats(), width, n.floats()}));
    credence_norm norm = {};
    norm.rows = n.rows(), norm.capacity = capacity, norm.width = width, norm.dtype = backend.dtype;
    norm.x = norm.weight = n.floats(), norm.y = n.act(), norm.y_f32 = norm.inv_rms = n.floats();
    RUN_ON_NOTHING(n, norm, norm);
    credence_norm_backward back = {};
    back.rows = n.rows(), back.capacity = capacity, back.width = width;
    back.x = back.weight = back.dy = n.floats(), back.dx = back.dweight = back.dbias = n.floats();
    RUN_ON_NOTHING(n, norm_backward, back);
    const credence_pool pool{n.rows(), capacity,   width,      n.rows(),   n.rows(), n.floats(),
                             width,    n.floats(), n.floats(), n.floats(), width};
    RUN_ON_NOTHING(n, pool, pool);
    RUN_ON_NOTHING(n, pool_backward, pool);
    RUN_ON_NOTHING(n, dense,
                   (credence_dense{n.rows(), capacity, width, width, CREDENCE_RELU, n.floats(), n.floats(), n.floats(),
                                   n.floats()}));
    RUN_ON_NOTHING(n, dense_backward,
                   (credence_dense_backward{n.rows(), capacity, width, width, CREDENCE_RELU, n.floats(), n.floats(),
                                            n.floats(), n.floats(), n.floats(), n.floats(), n.floats()}));
  });
}

OPERATOR_TEST("attention_input attention attention_backward attention_input_backward", "odd-shapes", no_tokens) {
  each_backend(2, [](Backend& backend) {
    const Nothing n(backend);
    credence_attention_input in = {};
    in.batch = n.batch, in.shape = n.shape, in.dtype = backend.dtype, in.qkv = n.qkv;
    in.x = in.norm_weight = in.rotary = n.floats();
    in.pages = in.h = in.q = in.k = in.v = in.s = n.act(), in.inv_rms = n.floats();
    RUN_ON_NOTHING(n, attention_input, in);
    credence_attention attention = {};
    attention.batch = n.batch, attention.shape = n.shape, attention.dtype = backend.dtype, attention.scale = 1;
    attention.q = attention.pages = n.act(), attention.o = n.act(), attention.lse = n.floats();
    RUN_ON_NOTHING(n, attention, attention);
    credence_attention_backward back = {};
    back.batch = n.batch, back.shape = n.shape, back.dtype = backend.dtype, back.scale = 1;
    back.q = back.k = back.v = back.o = back.d_o = n.act(), back.lse = n.floats();
    back.dq = back.dk = back.dv = n.act();
    RUN_ON_NOTHING(n, attention_backward, back);
    credence_attention_input_backward input_back = {};
    input_back.batch = n.batch, input_back.shape = n.shape, input_back.dtype = backend.dtype, input_back.qkv = n.qkv;
    input_back.x = input_back.norm_weight = input_back.rotary = n.floats();
    input_back.h = input_back.s = n.act(), input_back.dq = input_back.dk = input_back.dv = n.act();
    input_back.dx = input_back.dweights = input_back.dbias = input_back.dnorm_weight = n.floats();
    RUN_ON_NOTHING(n, attention_input_backward, input_back);
  });
}

OPERATOR_TEST("project project_backward mlp_input mlp_input_backward", "odd-shapes", no_rows) {
  each_backend(2, [](Backend& backend) {
    const Nothing n(backend);
    const int width = Nothing::kWidth, capacity = Nothing::kCapacity;
    credence_project project = {};
    project.rows = n.rows(), project.capacity = capacity, project.dtype = backend.dtype, project.weights = n.square;
    project.in = n.act(), project.x = project.x_out = n.floats(), project.ldx = width;
    RUN_ON_NOTHING(n, project, project);
    credence_project_backward project_back = {};
    project_back.rows = n.rows(), project_back.capacity = capacity, project_back.dtype = backend.dtype;
    project_back.weights = n.square, project_back.in = n.act(), project_back.dx = n.floats();
    project_back.din = n.act(), project_back.dweights = project_back.dbias = n.floats();
    RUN_ON_NOTHING(n, project_backward, project_back);
    credence_mlp_input mlp = {};
    mlp.rows = n.rows(), mlp.capacity = capacity, mlp.shape = n.shape, mlp.dtype = backend.dtype, mlp.weights = n.pair;
    mlp.x = mlp.norm_weight = n.floats(), mlp.h = mlp.u = mlp.a = n.act(), mlp.inv_rms = n.floats();
    RUN_ON_NOTHING(n, mlp_input, mlp);
    credence_mlp_input_backward mlp_back = {};
    mlp_back.rows = n.rows(), mlp_back.capacity = capacity, mlp_back.shape = n.shape, mlp_back.dtype = backend.dtype;
    mlp_back.weights = n.pair, mlp_back.x = mlp_back.norm_weight = n.floats();
    mlp_back.h = mlp_back.u = mlp_back.da = n.act();
    mlp_back.dx = mlp_back.dweights = mlp_back.dbias = mlp_back.dnorm_weight = n.floats();
    RUN_ON_NOTHING(n, mlp_input_backward, mlp_back);
  });
}

OPERATOR_TEST("token_logprobs closed_set divergence sample", "odd-shapes", no_rows) {
  each_backend(2, [](Backend& backend) {
    const Nothing n(backend);
    const int width = Nothing::kWidth, capacity = Nothing::kCapacity;
    credence_token_logprobs tokens = {};
    tokens.rows = n.rows(), tokens.capacity = capacity, tokens.width = tokens.vocabulary = width;
    tokens.dtype = backend.dtype, tokens.weights = n.square, tokens.h = n.act(), tokens.targets = n.rows();
    tokens.logprob = tokens.entropy = tokens.lse = tokens.logits = n.floats();
    tokens.d_logprob = tokens.d_entropy = n.floats(), tokens.dh = tokens.dweights = n.floats();
    RUN_ON_NOTHING(n, token_logprobs, tokens);
    RUN_ON_NOTHING(n, closed_set,
                   (credence_closed_set{n.rows(), capacity, width, 2, backend.dtype, n.square, n.act(), width, n.rows(),
                                        n.floats(), n.floats(), n.floats(), width, n.floats()}));
    RUN_ON_NOTHING(n, divergence,
                   (credence_divergence{n.rows(), capacity, width, width, 2, backend.dtype, n.square, n.square, n.act(),
                                        n.act(), width, width, n.floats(), n.floats(), n.floats(), width, n.floats()}));
    credence_sample sample = {};
    sample.rows = n.rows(), sample.capacity = capacity, sample.width = sample.vocabulary = width;
    sample.dtype = backend.dtype, sample.weights = n.square, sample.h = n.act();
    sample.temperature = sample.top_p = sample.repetition = n.floats(), sample.top_k = n.rows();
    sample.token = n.all->as<int32_t>(), sample.logprob = sample.probabilities = n.floats();
    RUN_ON_NOTHING(n, sample, sample);
  });
}

OPERATOR_TEST("weighted_sum squared_error gradient_norm adamw advantage policy_loss value_loss", "odd-shapes",
              no_numbers) {
  each_backend(2, [](Backend& backend) {
    const Nothing n(backend);
    const auto norm = float_space(backend, 1), sum = on_device(backend, std::vector<double>{1.5});
    RUN_ON_NOTHING(n, weighted_sum,
                   (credence_weighted_sum{n.rows(), Nothing::kCapacity, 2, n.floats(), n.floats(), sum->as<double>()}));
    RUN_ON_NOTHING(
        n, squared_error,
        (credence_squared_error{n.rows(), Nothing::kCapacity, n.floats(), n.floats(), n.floats(), sum->as<double>()}));
    EXPECT_EQ(sum->read<double>(1)[0], 1.5);
    RUN_ON_NOTHING(n, gradient_norm, (credence_gradient_norm{0, n.floats(), *norm}));
    EXPECT_EQ(norm->floats()[0], 0.0);
    RUN_ON_NOTHING(n, adamw,
                   (credence_adamw{5, 5, n.floats(), n.floats(), n.floats(), n.floats(), nullptr, 1, 0, 0.1, 0.9, 0.999,
                                   1e-8, 0, 1, nullptr}));
    credence_advantage advantage = {};
    const Memory moments(backend, 48);
    advantage.counts = n.rows(), advantage.token_capacity = advantage.segment_capacity = Nothing::kCapacity;
    advantage.cu_seqlens = advantage.completion_start = n.rows(), advantage.kl_estimator = 1;
    advantage.logprob = advantage.ref_logprob = advantage.value = advantage.score = n.floats();
    advantage.reward = advantage.advantage = advantage.returns = n.floats(), advantage.moments = moments.as<double>();
    RUN_ON_NOTHING(n, advantage, advantage);
    EXPECT(moments.read<double>(6) == std::vector<double>(6));
    const auto policy = on_device(backend, std::vector<double>(10, 2.5)),
               value = on_device(backend, std::vector<double>(4, 2.5));
    RUN_ON_NOTHING(n, policy_loss,
                   (credence_policy_loss{n.rows(), Nothing::kCapacity, n.floats(), n.floats(), n.floats(), n.floats(),
                                         n.floats(), n.floats(), 0.2f, 0.2f, 1, 1, 1, n.floats(), n.floats(),
                                         policy->as<credence_policy_sums>(), sum->as<double>()}));
    RUN_ON_NOTHING(n, value_loss,
                   (credence_value_loss{n.rows(), Nothing::kCapacity, n.floats(), n.floats(), n.floats(), n.floats(),
                                        0.2f, 1, n.floats(), value->as<credence_value_sums>(), sum->as<double>()}));
    EXPECT(policy->read<double>(10) == std::vector<double>(10, 2.5));
    EXPECT(value->read<double>(4) == std::vector<double>(4, 2.5));
    EXPECT_EQ(sum->read<double>(1)[0], 1.5);
  });
}

TESTING_MAIN
