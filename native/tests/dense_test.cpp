// Pooling and a head's layers, forward and backward.
#include "backends.h"
#include "kernels/reference/heads.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Pooling {
  int width, x_rows;
  std::vector<int32_t> from, to;
};
/// As many spans as packing makes, over a long run of rows.
Pooling of_300_spans() {
  Pooling p{3, 1025, {}, {}};
  for (int i = 0; i < 300; ++i) p.from.push_back(i * 7 % 1000), p.to.push_back(p.from.back() + 1 + i % 25);
  return p;
}

const std::vector<Pooling> kPoolings = {of_300_spans(),          {5, 257, {0}, {257}},
                                        {20, 9, {0}, {1}},       {1, 3, {0, 2}, {3, 3}},
                                        {3, 4, {1}, {4}},        {17, 2, {0, 0, 1}, {1, 2, 2}},
                                        {33, 6, {5, 0}, {6, 5}}, {97, 40, {3, 0, 10, 39}, {8, 40, 27, 40}},
                                        {64, 5, {1, 1}, {4, 2}}};

reference::Dense dense_example(int rows, int in, int out, bool relu, uint64_t seed) {
  return {rows,
          in,
          out,
          relu,
          normal(seed, static_cast<size_t>(rows) * in),
          normal(seed + 1, static_cast<size_t>(in) * out),
          normal(seed + 2, out)};
}

struct DenseResult {
  std::vector<double> y, dx, dweight, dbias;
  bool operator==(const DenseResult&) const = default;
};

// Gradients of parameters are added to `before`.
DenseResult run(Backend& backend, const reference::Dense& p, const std::vector<double>& dy, double before) {
  const auto rows = on_device(backend, std::vector<int32_t>{p.rows});
  const auto x = floats_on_device(backend, p.x), weight = floats_on_device(backend, p.weight),
             bias = floats_on_device(backend, p.bias);
  const auto y = float_space(backend, static_cast<size_t>(p.rows) * p.out), upstream = floats_on_device(backend, dy);
  const auto dx = float_space(backend, p.x.size());
  const auto dweight = floats_on_device(backend, std::vector<double>(p.weight.size(), before));
  const auto dbias = floats_on_device(backend, std::vector<double>(p.out, before));
  const credence_activation activation = p.relu ? CREDENCE_RELU : CREDENCE_IDENTITY;
  RUN_OPERATOR(backend, dense, (credence_dense{*rows, p.rows, p.in, p.out, activation, *x, *weight, *bias, *y}));
  RUN_OPERATOR(backend, dense_backward,
               (credence_dense_backward{*rows, p.rows, p.in, p.out, activation, *x, *weight, *y, *upstream, *dweight,
                                        *dbias, *dx}));
  return {y->floats(), dx->floats(), dweight->floats(), dbias->floats()};
}

}  // namespace

OPERATOR_TEST("pool pool_backward", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (const Pooling& c : kPoolings) {
        const int ldx = c.width + 5, spans = static_cast<int>(c.from.size());
        const auto x = normal(1, static_cast<size_t>(c.x_rows) * ldx);
        std::vector<double> dense_x;
        for (int r = 0; r < c.x_rows; ++r)
          dense_x.insert(dense_x.end(), x.begin() + r * ldx, x.begin() + r * ldx + c.width);
        const auto rows = on_device(backend, std::vector<int32_t>{spans});
        const auto from = on_device(backend, c.from), to = on_device(backend, c.to),
                   device_x = floats_on_device(backend, x);
        const auto y = float_space(backend, static_cast<size_t>(spans) * c.width);
        RUN_OPERATOR(backend, pool,
                     (credence_pool{*rows, spans, c.width, *from, *to, *device_x, ldx, *y, nullptr, nullptr, 0}));
        EXPECT_CLOSE(y->floats(), reference::pool(dense_x, c.width, c.from, c.to), 1e-6);

        const auto dy = normal(2, static_cast<size_t>(spans) * c.width);
        auto expected = reference::pool_backward(dy, c.width, c.x_rows, c.from, c.to);
        for (double& d : expected) d += 0.5;
        const auto device_dy = floats_on_device(backend, dy),
                   dx = floats_on_device(backend, std::vector<double>(expected.size(), 0.5));
        RUN_OPERATOR(backend, pool_backward,
                     (credence_pool{*rows, spans, c.width, *from, *to, nullptr, 0, nullptr, *device_dy, *dx, c.width}));
        EXPECT_CLOSE(dx->floats(), expected, 1e-6);
        bits[threads - 1].push_back(y->bits());
        bits[threads - 1].push_back(dx->bits());
      }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("pool pool_backward", "refusal", a_span_of_no_row_is_an_error) {
  each_backend(1, [](Backend& backend) {
    const auto rows = on_device(backend, std::vector<int32_t>{2}),
               from = on_device(backend, std::vector<int32_t>{0, 3}),
               to = on_device(backend, std::vector<int32_t>{1, 3}), all = float_space(backend, 16);
    const credence_pool p{*rows, 2, 4, *from, *to, *all, 4, *all, *all, *all, 4};
    for (const auto run : {backend.table->pool, backend.table->pool_backward}) {
      EXPECT(backend.refused(run(backend.handle, &p, nullptr)));
      EXPECT(std::string(backend.table->last_error(backend.handle)).find("span 1 covers no row") != std::string::npos);
    }
  });
}

OPERATOR_TEST("dense dense_backward", "reference odd-shapes bits", is_its_definition) {
  std::vector<DenseResult> results[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (auto [rows, in, out] : {std::array{1, 1, 1},
                                   {2, 3, 17},
                                   {3, 17, 33},
                                   {5, 33, 1},
                                   {3, 97, 1},
                                   {33, 576, 40},
                                   {16, 20, 3},
                                   {97, 20, 1},
                                   {257, 9, 5},
                                   {1025, 5, 2}})
        for (bool relu : {false, true}) {
          const auto p = dense_example(rows, in, out, relu, 1);
          const auto dy = normal(9, static_cast<size_t>(rows) * out);
          auto expected = reference::dense_backward(p, dy);
          for (double& d : expected.dweight) d += 0.25;
          for (double& d : expected.dbias) d += 0.25;
          const DenseResult got = run(backend, p, dy, 0.25);
          EXPECT_CLOSE(got.y, reference::dense(p), 2e-6);
          EXPECT_CLOSE(got.dx, expected.dx, 2e-6);
          EXPECT_CLOSE(got.dweight, expected.dweight, 2e-6);
          EXPECT_CLOSE(got.dbias, expected.dbias, 2e-6);
          results[threads - 1].push_back(got);
        }
    });
  EXPECT(results[0] == results[1]);
}

OPERATOR_TEST("dense dense_backward", "refusal", an_activation_that_heads_do_not_have) {
  each_backend(1, [](Backend& backend) {
    credence_dense p{};
    credence_dense_backward d{};
    p.activation = d.activation = CREDENCE_GELU;
    EXPECT(backend.refused(backend.table->dense(backend.handle, &p, nullptr)));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("identity and ReLU exist") != std::string::npos);
    EXPECT(backend.refused(backend.table->dense_backward(backend.handle, &d, nullptr)));
  });
}

OPERATOR_TEST("dense dense_backward", "bits", a_row_is_its_own) {
  each_backend(2, [](Backend& backend) {
    auto p = dense_example(5, 61, 7, true, 3);
    const auto before = run(backend, p, normal(4, 35), 0);
    for (int i = 0; i < 61; ++i) p.x[i] = 9;  // row 0
    const auto after = run(backend, p, normal(4, 35), 0);
    EXPECT(std::equal(before.y.begin() + 7, before.y.end(), after.y.begin() + 7));
    EXPECT(std::equal(before.dx.begin() + 61, before.dx.end(), after.dx.begin() + 61));
    EXPECT(before.y != after.y);
  });
}

OPERATOR_TEST("pool_backward dense_backward", "finite-difference", the_reference_is_the_finite_difference) {
  auto x = normal(1, 12 * 5);
  const std::vector<int32_t> from = {0, 3, 2}, to = {4, 12, 3};
  const auto dy = normal(2, 15);
  const auto dx = reference::pool_backward(dy, 5, 12, from, to);
  const auto pool_loss = [&] { return inner(reference::pool(x, 5, from, to), dy); };
  EXPECT_GRADIENT(x, dx, pool_loss);
  for (bool relu : {false, true}) {
    auto p = dense_example(4, 6, 3, relu, 5);
    const auto d = normal(8, 12);
    const auto g = reference::dense_backward(p, d);
    const auto loss = [&] { return inner(reference::dense(p), d); };
    EXPECT_GRADIENT(p.x, g.dx, loss);
    EXPECT_GRADIENT(p.weight, g.dweight, loss);
    EXPECT_GRADIENT(p.bias, g.dbias, loss);
  }
}

TESTING_MAIN
