// mlp_input: norm, gate|up with an adapter, activation; sizes where up's columns straddle panels; and its backward.
#include "kernels/reference/mlp_input.h"

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Shape {
  int rows, hidden, intermediate;
  bool gated, layer;
  reference::Activation activation;
  double drop = 0;
  int rank = 0;  // of both adapters; 0: 5 and 3, or 3
};
using enum reference::Activation;
const Shape kShapes[] = {{1, 5, 3, true, false, silu},          {2, 33, 40, true, true, silu},
                         {5, 32, 64, true, false, silu},        {13, 31, 37, true, false, gelu},
                         {14, 48, 33, false, true, gelu},       {130, 24, 50, true, false, gelu_tanh},
                         {9, 16, 96, false, true, relu},        {5, 16, 150, true, false, silu},
                         {3, 20, 130, true, false, identity},   {150, 40, 70, true, false, silu},
                         {3, 17, 33, true, false, silu, 0.5},   {140, 33, 17, true, false, silu, 0.125},
                         {13, 64, 40, false, true, gelu, 0.25}, {1, 1, 1, true, false, silu},
                         {3, 3, 17, false, true, gelu_tanh},    {4, 17, 3, true, true, relu},
                         {17, 33, 1, true, false, gelu},        {97, 9, 17, true, false, silu},
                         {257, 8, 5, true, false, silu},        {1025, 5, 7, true, false, silu},
                         {150, 1061, 45, true, false, silu},    {5, 33, 37, true, false, silu, 0, 16},
                         {5, 33, 37, true, false, silu, 0, 64}, {5, 33, 37, true, false, silu, 0, 256}};

reference::MlpInput mlp(const Shape& s) {
  reference::MlpInput p;
  p.norm.rows = s.rows;
  p.norm.width = s.hidden;
  p.norm.layer = s.layer;
  if (s.hidden == 1) p.norm.eps = 1;  // else it is the sign of x, without a slope
  p.norm.x = normal(1, static_cast<size_t>(s.rows) * s.hidden);
  p.norm.weight = normal(2, s.hidden);
  if (s.layer) p.norm.bias = normal(3, s.hidden);
  p.linear.rows = s.rows;
  p.linear.outputs = s.intermediate * (s.gated ? 2 : 1);
  p.linear.columns = s.hidden;
  p.linear.weights = normal(4, static_cast<size_t>(p.linear.outputs) * s.hidden, 0.3);
  if (s.layer) p.linear.bias = normal(5, p.linear.outputs);
  p.linear.slices =
      slices(6, s.hidden,
             s.gated ? std::vector<int>{0, s.intermediate, 2 * s.intermediate} : std::vector<int>{0, s.intermediate},
             false, s.rank);
  if (s.drop > 0) p.linear.dropout = dropout(s.drop, s.rows);
  p.activation = s.activation;
  p.gated = s.gated;
  return p;
}

void round_as(reference::MlpInput* p, reference::Round round) { p->round = p->norm.round = p->linear.round = round; }

credence_shape shape_of(const reference::MlpInput& p) {
  credence_shape shape = {};
  shape.hidden = p.norm.width;
  shape.intermediate = p.linear.outputs / (p.gated ? 2 : 1);
  shape.norm = p.norm.layer ? CREDENCE_LAYER_NORM : CREDENCE_RMS_NORM;
  shape.norm_eps = static_cast<float>(p.norm.eps);
  shape.activation = static_cast<credence_activation>(p.activation);
  shape.gated = p.gated;
  return shape;
}

struct Ran {
  std::vector<double> h, u, a, s;
  std::vector<uint8_t> bits;
};

Ran run(Backend& backend, const reference::MlpInput& p, int first, int count) {
  const int width = p.norm.width, outputs = p.linear.outputs, intermediate = outputs / (p.gated ? 2 : 1);
  const Weights weights(backend, p.linear.weights, outputs, width);
  const Adapter adapter(backend, p.linear);
  const DropoutOnDevice drop(backend, p.linear.dropout);
  const auto rows = one(backend, count), x = floats_on_device(backend, p.norm.x);
  const auto weight = floats_on_device(backend, p.norm.weight), norm_bias = floats_on_device(backend, p.norm.bias);
  const auto bias = floats_on_device(backend, p.linear.bias),
             h = act_space(backend, static_cast<size_t>(count) * width);
  const auto u = act_space(backend, static_cast<size_t>(count) * outputs),
             a = act_space(backend, static_cast<size_t>(count) * intermediate);
  const auto s = act_space(backend, static_cast<size_t>(count) * adapter.ranks()), inv = float_space(backend, count);
  credence_mlp_input o = {};
  o.rows = *rows;
  o.capacity = count;
  o.shape = shape_of(p);
  o.dtype = backend.dtype;
  o.x = x->as<float>() + first * width;
  o.ldx = width;
  o.norm_weight = *weight;
  o.norm_bias = p.norm.bias.empty() ? nullptr : norm_bias->as<float>();
  o.weights = weights;
  o.lora = adapter;
  o.dropout = drop;
  if (o.dropout.p > 0) o.dropout.row_key += first;
  o.bias = p.linear.bias.empty() ? nullptr : bias->as<float>();
  o.h = h->raw();
  o.u = u->raw();
  o.a = a->raw();
  o.inv_rms = *inv;
  o.s = s->raw();
  RUN_OPERATOR(backend, mlp_input, o);
  return {h->act(), u->act(), a->act(), s->act(), a->bits()};
}

}  // namespace

OPERATOR_TEST("mlp_input", "reference odd-shapes", is_the_reference) {
  for (const Shape& shape : kShapes)
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        reference::MlpInput p = mlp(shape);
        const Ran got = run(backend, p, 0, shape.rows);
        const auto exact = reference::mlp_input(p);
        round_as(&p, stored(backend));
        const auto plain = reference::mlp_input(p);
        EXPECT_TWICE_PLAIN(backend, got.h, exact.h, plain.h);
        EXPECT_TWICE_PLAIN(backend, got.u, exact.u, plain.u);
        EXPECT_TWICE_PLAIN(backend, got.a, exact.a, plain.a);
      });
}

OPERATOR_TEST("mlp_input", "bits", a_row_has_the_same_bits_in_any_batch) {
  for (int intermediate : {64, 70}) {
    const reference::MlpInput p = mlp({78, 33, intermediate, true, false, silu, intermediate == 70 ? 0.5 : 0});
    std::vector<std::vector<uint8_t>> all;
    for (int threads : {1, 2}) {
      size_t which = 0;
      each_backend(threads, [&](Backend& backend) {
        const auto whole = run(backend, p, 0, 78).bits;
        if (threads == 1) all.push_back(whole);
        EXPECT(whole == all[which++]);
        const size_t row_bytes = intermediate * (backend.bf16() ? 2 : 4);
        for (int count = 1, first = 0; first + count <= 78; first += count, ++count) {
          const auto bits = run(backend, p, first, count).bits;
          EXPECT(std::equal(bits.begin(), bits.end(), whole.begin() + static_cast<ptrdiff_t>(first * row_bytes)));
        }
      });
    }
  }
}

OPERATOR_TEST("mlp_input_backward", "reference odd-shapes bits", is_the_reference) {
  for (const Shape& shape : kShapes)
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        reference::MlpInput p = mlp(shape);
        const auto da = normal(11, static_cast<size_t>(shape.rows) * shape.intermediate);
        const auto exact = reference::mlp_input_backward(p, da);
        round_as(&p, stored(backend));
        const auto plain = reference::mlp_input_backward(p, da);
        const Ran forward = run(backend, p, 0, shape.rows);

        const Weights weights(backend, p.linear.weights, p.linear.outputs, p.norm.width);
        const Adapter adapter(backend, p.linear);
        const DropoutOnDevice drop(backend, p.linear.dropout);
        const auto rows = one(backend, shape.rows), x = floats_on_device(backend, p.norm.x);
        const auto weight = floats_on_device(backend, p.norm.weight);
        const auto h = act_on_device(backend, forward.h), u = act_on_device(backend, forward.u);
        const auto s = act_on_device(backend, forward.s), upstream = act_on_device(backend, da);
        const auto zeros = [&](size_t count) { return floats_on_device(backend, std::vector<double>(count)); };
        const auto dx = zeros(p.norm.x.size()), dweights = zeros(p.linear.weights.size()),
                   dbias = zeros(p.linear.outputs);
        const auto dnorm_weight = zeros(p.norm.width), dnorm_bias = zeros(p.norm.width);
        credence_mlp_input_backward o = {};
        o.rows = *rows;
        o.capacity = shape.rows;
        o.shape = shape_of(p);
        o.dtype = backend.dtype;
        o.x = *x;
        o.ldx = o.lddx = p.norm.width;
        o.norm_weight = *weight;
        o.weights = weights;
        o.lora = adapter;
        o.dropout = drop;
        o.h = h->raw();
        o.u = u->raw();
        o.s = s->raw();
        o.da = upstream->raw();
        o.dx = *dx;
        o.gradients = adapter.gradients();
        o.dweights = *dweights;
        o.dbias = *dbias;
        o.dnorm_weight = *dnorm_weight;
        o.dnorm_bias = *dnorm_bias;
        RUN_OPERATOR(backend, mlp_input_backward, o);
        EXPECT_TWICE_PLAIN(backend, dx->floats(), exact.norm.dx, plain.norm.dx);
        EXPECT_TWICE_PLAIN(backend, dnorm_weight->floats(), exact.norm.dweight, plain.norm.dweight);
        EXPECT_TWICE_PLAIN(backend, dnorm_bias->floats(), exact.norm.dbias, plain.norm.dbias);
        EXPECT_TWICE_PLAIN(backend, dweights->floats(), exact.linear.dweights, plain.linear.dweights);
        EXPECT_TWICE_PLAIN(backend, dbias->floats(), exact.linear.dbias, plain.linear.dbias);
        adapter.expect_gradients(exact.linear, plain.linear);

        if (shape.rows == 13) {
          using P = credence_mlp_input_backward;
          expect_each_alone<P>(backend, o,
                               {{&P::dx, dx.get()},
                                {&P::dweights, dweights.get()},
                                {&P::dbias, dbias.get()},
                                {&P::dnorm_weight, dnorm_weight.get()},
                                {&P::dnorm_bias, dnorm_bias.get()}},
                               [&](const P& some) { RUN_OPERATOR(backend, mlp_input_backward, some); });
        }

        // Frozen but for the adapter, dx has the same bits: in blocks of rows when there are many.
        const Adapter alone(backend, p.linear);
        const auto frozen = zeros(p.norm.x.size());
        o.dx = *frozen;
        o.dweights = o.dbias = o.dnorm_weight = o.dnorm_bias = o.gradients = nullptr;
        RUN_OPERATOR(backend, mlp_input_backward, o);
        EXPECT(frozen->bits() == dx->bits());

        // Nothing adapted below: the adapter's gradients are the same without dx.
        o.gradients = alone.gradients();
        o.dx = nullptr;
        RUN_OPERATOR(backend, mlp_input_backward, o);
        alone.expect_gradients(exact.linear, plain.linear);
      });
}

OPERATOR_TEST("mlp_input_backward", "finite-difference", the_reference_is_the_finite_difference) {
  for (const Shape& shape : {kShapes[1], kShapes[3], kShapes[4], kShapes[8], Shape{4, 9, 7, true, false, gelu_tanh},
                             Shape{4, 17, 5, false, true, gelu_tanh, 0.5}}) {
    reference::MlpInput p =
        mlp({4, shape.hidden, shape.intermediate, shape.gated, shape.layer, shape.activation, shape.drop});
    const auto da = normal(11, static_cast<size_t>(4) * shape.intermediate);
    const auto gradients = reference::mlp_input_backward(p, da);
    const auto loss = [&] { return inner(reference::mlp_input(p).a, da); };
    EXPECT_GRADIENT(p.norm.x, gradients.norm.dx, loss);
    EXPECT_GRADIENT(p.norm.weight, gradients.norm.dweight, loss);
    if (shape.layer) {
      EXPECT_GRADIENT(p.norm.bias, gradients.norm.dbias, loss);
      EXPECT_GRADIENT(p.linear.bias, gradients.linear.dbias, loss);
    }
    EXPECT_GRADIENT(p.linear.weights, gradients.linear.dweights, loss);
    for (size_t i = 0; i < p.linear.slices.size(); ++i) {
      EXPECT_GRADIENT(p.linear.slices[i].a, gradients.linear.da[i], loss);
      EXPECT_GRADIENT(p.linear.slices[i].b, gradients.linear.db[i], loss);
    }
  }
}

TESTING_MAIN
