// Losses whose sums stay on the device: a weighted sum of a read-out, and the squared error of a head's sigmoid.
#include "backends.h"
#include "kernels/reference/heads.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// Room for more rows than there are, with numbers that nobody may read behind them.
MemoryPointer padded(Backend& backend, std::vector<double> values) {
  values.resize(values.size() + 7, NAN);
  return floats_on_device(backend, values);
}

}  // namespace

OPERATOR_TEST("weighted_sum", "reference odd-shapes bits", is_its_definition) {
  std::vector<double> sums[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (auto [rows, width] : {std::pair{1, 1}, {3, 97}, {97, 2}, {257, 1}, {300, 5}, {1025, 1}}) {
        auto weight = normal(1, static_cast<size_t>(rows) * width), value = normal(2, weight.size());
        weight.back() = 0, value.back() = NAN;  // a value of weight 0 is not read
        const auto count = on_device(backend, std::vector<int32_t>{rows});
        const auto w = padded(backend, weight), x = padded(backend, value);
        const auto sum = on_device(backend, std::vector<double>{2.5});
        RUN_OPERATOR(backend, weighted_sum,
                     (credence_weighted_sum{*count, rows + 3, width, *w, *x, sum->as<double>()}));
        sums[threads - 1].push_back(sum->read<double>(1)[0]);
        EXPECT_CLOSE(sum->read<double>(1), std::vector<double>{2.5 + reference::weighted_sum(weight, value)}, 1e-12);
      }
    });
  EXPECT(sums[0] == sums[1]);
}

OPERATOR_TEST("squared_error", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (int rows : {1, 3, 97, 257, 1025}) {
        auto z = normal(1, rows, 3), target = normal(2, rows);
        z[0] = 700, target[0] = 1;  // e^700 is beyond float32
        const auto expected = reference::squared_error(z, target);
        const auto count = on_device(backend, std::vector<int32_t>{rows});
        const auto device_z = padded(backend, z), device_target = padded(backend, target),
                   dz = float_space(backend, rows);
        const auto sum = on_device(backend, std::vector<double>{0.5});
        RUN_OPERATOR(backend, squared_error,
                     (credence_squared_error{*count, rows + 5, *device_z, *device_target, *dz, sum->as<double>()}));
        EXPECT_CLOSE(sum->read<double>(1), std::vector<double>{0.5 + expected.sum}, 1e-12);
        EXPECT_CLOSE(dz->floats(), expected.dz, 1e-7);
        bits[threads - 1].push_back(sum->bits());
        bits[threads - 1].push_back(dz->bits());
      }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("squared_error", "finite-difference", the_reference_is_the_finite_difference) {
  auto z = normal(1, 9, 2);
  const auto target = normal(2, 9);
  const auto gradient = reference::squared_error(z, target).dz;
  EXPECT_GRADIENT(z, gradient, [&] { return reference::squared_error(z, target).sum; });
}

OPERATOR_TEST("weighted_sum squared_error", "refusal", more_rows_than_there_is_room_for) {
  each_backend(1, [](Backend& backend) {
    const auto rows = on_device(backend, std::vector<int32_t>{5}), all = float_space(backend, 16);
    const auto sum = on_device(backend, std::vector<double>{0});
    const credence_weighted_sum weighted{*rows, 4, 1, *all, *all, sum->as<double>()};
    EXPECT(backend.refused(backend.table->weighted_sum(backend.handle, &weighted, nullptr)));
    const credence_squared_error squared{*rows, 4, *all, *all, *all, sum->as<double>()};
    EXPECT(backend.refused(backend.table->squared_error(backend.handle, &squared, nullptr)));
  });
}

TESTING_MAIN
