// project: the product with an adapter in its second segment, at every tile height and odd size, and its backward.
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

reference::Linear layer(int rows, int outputs, int columns, int adapters, bool bias, double drop = 0) {
  reference::Linear p;
  p.rows = rows;
  p.outputs = outputs;
  p.columns = columns;
  p.x = normal(1, static_cast<size_t>(rows) * columns);
  p.weights = normal(2, static_cast<size_t>(outputs) * columns, 0.3);
  if (bias) p.bias = normal(3, outputs);
  if (adapters == 1) p.slices = slices(4, columns, {0, outputs});
  if (adapters == 2) p.slices = slices(4, columns, {outputs / 5, outputs / 3, outputs / 2, outputs}, true);
  if (drop > 0) p.dropout = dropout(drop, rows);
  return p;
}

struct Shape {
  int rows, outputs, columns, adapters;
  bool bias;
  double drop = 0;
};
// The last two have so many columns, or outputs on the way back, that a product may take them in blocks.
const Shape kShapes[] = {{1, 1, 1, 0, false},           {1, 37, 51, 1, true},       {2, 64, 32, 2, false},
                         {5, 97, 33, 2, true},          {12, 40, 64, 1, false},     {13, 130, 97, 2, true},
                         {47, 33, 7, 1, true},          {130, 160, 96, 2, false},   {301, 70, 45, 2, true},
                         {3, 17, 1, 1, true},           {17, 1, 3, 1, false},       {33, 9, 33, 2, true},
                         {1, 17, 1, 1, false, 0.5},     {5, 33, 65, 2, true, 0.25}, {13, 130, 97, 2, true, 0.125},
                         {130, 40, 33, 1, false, 0.75}, {97, 9, 33, 1, true},       {257, 17, 9, 2, false},
                         {1025, 9, 17, 1, true},        {150, 33, 2101, 2, true},   {9, 1100, 40, 1, true, 0.5}};

struct Projected {
  std::vector<double> out, s;
  std::vector<uint8_t> bits;
};

Projected run(Backend& backend, const reference::Linear& p, const std::vector<double>& residual) {
  const Weights weights(backend, p.weights, p.outputs, p.columns);
  const Adapter adapter(backend, p);
  const DropoutOnDevice drop(backend, p.dropout);
  const auto rows = one(backend, p.rows), in = act_on_device(backend, p.x), x = floats_on_device(backend, residual);
  const auto bias = floats_on_device(backend, p.bias),
             s = act_space(backend, static_cast<size_t>(p.rows) * adapter.ranks());
  credence_project o = {};
  o.rows = *rows;
  o.capacity = p.rows;
  o.dtype = backend.dtype;
  o.weights = weights;
  o.lora = adapter;
  o.dropout = drop;
  o.bias = p.bias.empty() ? nullptr : bias->as<float>();
  o.in = in->raw();
  o.x = *x;
  o.x_out = *x;  // onto itself, as the engine does
  o.ldx = p.outputs;
  o.s = s->raw();
  RUN_OPERATOR(backend, project, o);
  return {x->floats(), s->act(), x->bits()};
}

reference::Linear rows_of(const reference::Linear& p, int first, int count) {
  reference::Linear part = p;
  part.rows = count;
  part.x.assign(p.x.begin() + first * p.columns, p.x.begin() + (first + count) * p.columns);
  if (p.dropout.p > 0)
    part.dropout.row_key.assign(p.dropout.row_key.begin() + first, p.dropout.row_key.begin() + first + count);
  return part;
}

}  // namespace

OPERATOR_TEST("project", "reference odd-shapes", is_the_reference) {
  for (const Shape& shape : kShapes)
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        reference::Linear p = layer(shape.rows, shape.outputs, shape.columns, shape.adapters, shape.bias, shape.drop);
        const auto residual = normal(9, static_cast<size_t>(p.rows) * p.outputs);
        const Projected got = run(backend, p, residual);
        const auto exact = reference::project(p, residual), exact_s = reference::lora_s(p);
        p.round = stored(backend);
        EXPECT_TWICE_PLAIN(backend, got.out, exact, reference::project(p, residual));
        EXPECT_TWICE_PLAIN(backend, got.s, exact_s, reference::lora_s(p));
      });
}

OPERATOR_TEST("project", "bits", a_row_has_the_same_bits_alone_in_any_batch_and_on_any_number_of_threads) {
  for (const auto& [columns, drop] : {std::pair{101, 0.0}, {101, 0.5}, {1061, 0.0}}) {
    const reference::Linear p = layer(79, 70, columns, 2, true, drop);
    const auto residual = normal(9, static_cast<size_t>(p.rows) * p.outputs);
    std::vector<std::vector<uint8_t>> all;
    for (int threads : {1, 2, 3}) {
      size_t which = 0;
      each_backend(threads, [&](Backend& backend) {
        const auto whole = run(backend, p, residual).bits;
        if (threads == 1) all.push_back(whole);
        EXPECT(whole == all[which++]);
        const size_t row_bytes = p.outputs * sizeof(float);
        for (int count = 1, first = 0; first + count <= p.rows; first += count, ++count) {  // every tile height
          const std::vector<double> part(residual.begin() + first * p.outputs,
                                         residual.begin() + (first + count) * p.outputs);
          const auto bits = run(backend, rows_of(p, first, count), part).bits;
          EXPECT(std::equal(bits.begin(), bits.end(), whole.begin() + static_cast<ptrdiff_t>(first * row_bytes)));
        }
      });
    }
  }
}

OPERATOR_TEST("project_backward", "reference odd-shapes bits", is_the_reference) {
  for (const Shape& shape : kShapes) {
    std::vector<std::vector<uint8_t>> all;
    for (int threads : {1, 2}) {
      size_t which = 0;
      each_backend(threads, [&](Backend& backend) {
        reference::Linear p = layer(shape.rows, shape.outputs, shape.columns, shape.adapters, shape.bias, shape.drop);
        const auto upstream = normal(10, static_cast<size_t>(p.rows) * p.outputs);
        const auto exact = reference::linear_backward(p, upstream);
        p.round = stored(backend);
        const auto plain = reference::linear_backward(p, upstream);

        const Weights weights(backend, p.weights, p.outputs, p.columns);
        const Adapter adapter(backend, p);
        const DropoutOnDevice drop(backend, p.dropout);
        const auto rows = one(backend, p.rows), in = act_on_device(backend, p.x),
                   s = act_on_device(backend, reference::lora_s(p));
        const auto dx = floats_on_device(backend, upstream), din = act_space(backend, p.x.size());
        const auto dweights = floats_on_device(backend, std::vector<double>(p.weights.size()));
        const auto dbias = floats_on_device(backend, std::vector<double>(p.outputs));
        credence_project_backward o = {};
        o.rows = *rows;
        o.capacity = p.rows;
        o.dtype = backend.dtype;
        o.weights = weights;
        o.lora = adapter;
        o.dropout = drop;
        o.in = in->raw();
        o.s = s->raw();
        o.dx = *dx;
        o.lddx = p.outputs;
        o.din = din->raw();
        o.gradients = adapter.gradients();
        o.dweights = *dweights;
        o.dbias = *dbias;
        RUN_OPERATOR(backend, project_backward, o);
        if (p.rows == 13) {
          using P = credence_project_backward;
          expect_each_alone<P>(backend, o, {{&P::dweights, dweights.get()}, {&P::dbias, dbias.get()}},
                               [&](const P& some) { RUN_OPERATOR(backend, project_backward, some); });
        }
        std::vector<double> rounded = plain.dx;
        for (double& value : rounded) value = p.round(value);
        EXPECT_TWICE_PLAIN(backend, din->act(), exact.dx, rounded);
        EXPECT_TWICE_PLAIN(backend, dweights->floats(), exact.dweights, plain.dweights);
        EXPECT_TWICE_PLAIN(backend, dbias->floats(), exact.dbias, plain.dbias);
        adapter.expect_gradients(exact, plain);
        auto bits = dweights->bits();
        for (const auto& more : {din->bits(), dbias->bits()}) bits.insert(bits.end(), more.begin(), more.end());
        if (threads == 1) all.push_back(bits);
        EXPECT(bits == all[which++]);
      });
    }
  }
}

// Ranks around what a back end has room for beside the weights, one adapter after the other on the same weights, then none.
OPERATOR_TEST("project project_backward", "reference odd-shapes", adapters_of_any_rank_take_turns) {
  each_backend(1, [](Backend& backend) {
    reference::Linear p = layer(5, 41, 33, 0, true);
    const auto residual = normal(9, static_cast<size_t>(p.rows) * p.outputs);
    const auto upstream = normal(10, residual.size());
    const Weights weights(backend, p.weights, p.outputs, p.columns);
    const auto rows = one(backend, p.rows), in = act_on_device(backend, p.x), bias = floats_on_device(backend, p.bias);
    for (const int rank : {16, 64, 1, 65, 256, 5, 0}) {
      p.slices.clear();
      if (rank) {
        p.slices = {{0, p.outputs, rank, 0.75, normal(20 + rank, static_cast<size_t>(rank) * p.columns, 0.1),
                     normal(30 + rank, static_cast<size_t>(p.outputs) * rank, 0.1)}};
      }
      p.round = &reference::exact;
      const auto exact = reference::project(p, residual);
      const auto exact_gradients = reference::linear_backward(p, upstream);
      p.round = stored(backend);
      const auto plain = reference::project(p, residual);
      const auto plain_gradients = reference::linear_backward(p, upstream);
      const Adapter adapter(backend, p);
      const auto x = floats_on_device(backend, residual), dx = floats_on_device(backend, upstream);
      const auto s = act_space(backend, static_cast<size_t>(p.rows) * rank), din = act_space(backend, p.x.size());
      credence_project o = {};
      o.rows = *rows, o.capacity = p.rows, o.dtype = backend.dtype, o.weights = weights, o.lora = adapter;
      o.bias = *bias, o.in = in->raw(), o.x = o.x_out = *x, o.ldx = p.outputs, o.s = s->raw();
      RUN_OPERATOR(backend, project, o);
      EXPECT_TWICE_PLAIN(backend, x->floats(), exact, plain);
      credence_project_backward b = {};
      b.rows = *rows, b.capacity = p.rows, b.dtype = backend.dtype, b.weights = weights, b.lora = adapter;
      b.in = in->raw(), b.s = s->raw(), b.dx = *dx, b.lddx = p.outputs, b.din = din->raw();
      b.gradients = adapter.gradients();
      RUN_OPERATOR(backend, project_backward, b);
      std::vector<double> rounded = plain_gradients.dx;
      for (double& value : rounded) value = p.round(value);
      EXPECT_TWICE_PLAIN(backend, din->act(), exact_gradients.dx, rounded);
      adapter.expect_gradients(exact_gradients, plain_gradients);
    }
  });
}

OPERATOR_TEST("project_backward", "finite-difference", the_reference_is_the_finite_difference) {
  for (double drop : {0.0, 0.3}) {
    reference::Linear p = layer(6, 23, 17, 2, true, drop);
    const auto upstream = normal(11, static_cast<size_t>(p.rows) * p.outputs);
    const auto gradients = reference::linear_backward(p, upstream);
    const auto loss = [&] { return inner(reference::linear(p), upstream); };
    EXPECT_GRADIENT(p.x, gradients.dx, loss);
    EXPECT_GRADIENT(p.weights, gradients.dweights, loss);
    EXPECT_GRADIENT(p.bias, gradients.dbias, loss);
    for (size_t i = 0; i < p.slices.size(); ++i) {
      EXPECT_GRADIENT(p.slices[i].a, gradients.da[i], loss);
      EXPECT_GRADIENT(p.slices[i].b, gradients.db[i], loss);
    }
  }
}

OPERATOR_TEST("project", "bits", repacking_is_packing) {
  each_backend(2, [&](Backend& backend) {
    const reference::Linear p = layer(7, 45, 39, 0, false);
    const auto residual = normal(9, static_cast<size_t>(p.rows) * p.outputs);
    const auto expected = run(backend, p, residual).bits;
    const std::vector<double> zeros(p.weights.size());
    const Weights weights(backend, zeros, p.outputs, p.columns);
    const auto master = floats_on_device(backend, p.weights);
    backend.table->repack(backend.handle, const_cast<credence_weights*>(static_cast<const credence_weights*>(weights)),
                          *master);
    const auto rows = one(backend, p.rows), in = act_on_device(backend, p.x), x = floats_on_device(backend, residual);
    credence_project o = {};
    o.rows = *rows;
    o.capacity = p.rows;
    o.dtype = backend.dtype;
    o.weights = weights;
    o.in = in->raw();
    o.x = o.x_out = *x;
    o.ldx = p.outputs;
    RUN_OPERATOR(backend, project, o);
    EXPECT(x->bits() == expected);
  });
}

OPERATOR_TEST("project", "refusal", what_cannot_be_done_is_refused_with_the_reason) {
  each_backend(1, [&](Backend& backend) {
    const reference::Linear p = layer(2, 8, 8, 1, false);
    const Weights weights(backend, p.weights, p.outputs, p.columns);
    const Adapter adapter(backend, p);
    const auto rows = one(backend, 3), x = float_space(backend, 64), in = act_space(backend, 64);
    credence_project o = {};
    o.rows = *rows;
    o.capacity = 2;
    o.dtype = backend.dtype;
    o.weights = weights;
    o.lora = adapter;
    o.in = in->raw();
    o.x = o.x_out = *x;
    o.ldx = 8;
    const Memory workspace(backend, backend.table->project_workspace(&o));
    const auto refused = [&](const char* why) {
      EXPECT(backend.refused(backend.table->project(backend.handle, &o, workspace.raw())));
      EXPECT(std::string(backend.table->last_error(backend.handle)).find(why) != std::string::npos);
    };
    refused("3 rows, but there is room for 2");
    o.capacity = 3;
    o.dropout.p = 0.1f;
    refused("dropout needs row_key");
    o.dropout.p = 1;
    refused("expected a probability from 0, below 1");
    o.dropout.p = 0;
    o.dtype = backend.bf16() ? CREDENCE_F32 : CREDENCE_BF16;
    refused("must have one type");
  });
}

OPERATOR_TEST("project_backward mlp_input_backward attention_input_backward token_logprobs divergence", "refusal",
              weights_packed_without_their_transpose) {
  each_backend(1, [](Backend& backend) {
    const credence_weights_source source = {
        3,      3, backend.dtype,
        0,      0, [](void*, int32_t, int32_t count, float* out) { std::fill_n(out, 3 * count, 1.0f); },
        nullptr};
    credence_weights* weights = backend.table->pack(backend.handle, &source);
    const auto none = on_device(backend, std::vector<int32_t>{0, 0});
    const auto out = float_space(backend, 9);
    const auto refused = [&](int status) {
      EXPECT(status != 0);
      EXPECT(std::string(backend.table->last_error(backend.handle)).find("packed without") != std::string::npos);
    };
    credence_project_backward project = {};
    project.rows = *none, project.dtype = backend.dtype, project.weights = weights, project.din = out->raw();
    refused(backend.table->project_backward(backend.handle, &project, nullptr));
    credence_mlp_input_backward mlp = {};
    mlp.rows = *none, mlp.dtype = backend.dtype, mlp.weights = weights, mlp.dx = *out;
    mlp.shape.hidden = mlp.shape.intermediate = 3;
    refused(backend.table->mlp_input_backward(backend.handle, &mlp, nullptr));
    credence_attention_input_backward input = {};
    input.batch.counts = input.batch.cu_seqlens = *none, input.dtype = backend.dtype, input.qkv = weights;
    input.shape.hidden = 3, input.shape.heads = input.shape.kv_heads = input.shape.head_dim = 1, input.dx = *out;
    refused(backend.table->attention_input_backward(backend.handle, &input, nullptr));
    credence_token_logprobs tokens = {};
    tokens.rows = *none, tokens.width = tokens.vocabulary = 3, tokens.dtype = backend.dtype, tokens.weights = weights;
    tokens.d_logprob = tokens.dh = *out;
    refused(backend.table->token_logprobs(backend.handle, &tokens, nullptr));
    credence_divergence divergence = {};
    divergence.rows = *none, divergence.width = divergence.vocabulary = 3, divergence.dtype = backend.dtype;
    divergence.weights = divergence.weights_other = weights, divergence.upstream = divergence.dh = *out;
    refused(backend.table->divergence(backend.handle, &divergence, nullptr));
    backend.table->free_weights(backend.handle, weights);
  });
}

TESTING_MAIN
