// The gradient's norm and AdamW over flat buffers.
#include "backends.h"
#include "kernels/reference/heads.h"

using namespace credence;
using namespace credence::testing;

OPERATOR_TEST("gradient_norm", "reference odd-shapes bits", is_its_definition) {
  std::vector<float> norms[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (size_t count : {1, 3, 17, 33, 8192, 50001}) {
        const auto g = normal(count, count);
        const auto device_g = floats_on_device(backend, g), norm = float_space(backend, 1);
        RUN_OPERATOR(backend, gradient_norm, (credence_gradient_norm{static_cast<int64_t>(count), *device_g, *norm}));
        EXPECT_CLOSE(norm->floats(), std::vector<double>{reference::gradient_norm(g)}, 1e-7);
        norms[threads - 1].push_back(norm->read<float>(1)[0]);
      }
    });
  EXPECT(norms[0] == norms[1]);
}

OPERATOR_TEST("gradient_norm", "reference", does_not_overflow_in_float32) {
  each_backend(1, [](Backend& backend) {
    const auto g = floats_on_device(backend, std::vector<double>(100, 1e30)), norm = float_space(backend, 1);
    RUN_OPERATOR(backend, gradient_norm, (credence_gradient_norm{100, *g, *norm}));
    EXPECT_CLOSE(norm->floats(), std::vector<double>{1e31}, 1e-6);
  });
}

OPERATOR_TEST("adamw", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (double max_norm : {0.0, 0.01, 1e9}) {
        constexpr int kCount = 20003, kBegin = 5, kEnd = 20000;
        auto p = normal(1, kCount), m = std::vector<double>(kCount), v = std::vector<double>(kCount);
        auto average = normal(2, kCount);
        const auto device_p = floats_on_device(backend, p), device_m = floats_on_device(backend, m),
                   device_v = floats_on_device(backend, v), device_average = floats_on_device(backend, average);
        const auto untouched = p, average_before = average;
        for (int64_t step = 1; step <= 4; ++step) {
          const auto g = normal(10 + step, kCount);
          const double norm = reference::gradient_norm(g);
          const reference::AdamW settings{0.25, max_norm, 0.01 * static_cast<double>(step), 0.9, 0.999, 1e-8, 0.1,
                                          step, 0.9};
          reference::adamw(settings, norm, g, &p, &m, &v, &average);
          const auto device_g = floats_on_device(backend, g), device_norm = floats_on_device(backend, {norm});
          RUN_OPERATOR(backend, adamw,
                       (credence_adamw{kBegin, kEnd, *device_p, *device_m, *device_v, *device_g, *device_norm, 0.25f,
                                       static_cast<float>(max_norm), settings.lr, 0.9, 0.999, 1e-8, 0.1, step, nullptr,
                                       *device_average, 0.9}));
        }
        const auto inside = [&](const std::vector<double>& x) {
          return std::vector<double>(x.begin() + kBegin, x.begin() + kEnd);
        };
        EXPECT_CLOSE(inside(device_p->floats()), inside(p), 2e-6);
        EXPECT_CLOSE(inside(device_m->floats()), inside(m), 2e-6);
        EXPECT_CLOSE(inside(device_v->floats()), inside(v), 2e-6);
        EXPECT_CLOSE(inside(device_average->floats()), inside(average), 2e-6);
        const auto after = device_p->floats(), average_after = device_average->floats();
        for (int i : {0, 4, 20000, 20002}) {
          EXPECT_EQ(after[i], untouched[i]);
          EXPECT_EQ(average_after[i], average_before[i]);
        }
        bits[threads - 1].push_back(device_p->bits());
        bits[threads - 1].push_back(device_average->bits());
      }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("adamw", "reference", without_a_norm_does_not_clip) {
  each_backend(1, [](Backend& backend) {
    std::vector<double> p = {1, 2}, m = {0, 0}, v = {0, 0};
    const std::vector<double> g = {3, -4};
    const auto device_p = floats_on_device(backend, p), device_m = floats_on_device(backend, m),
               device_v = floats_on_device(backend, v);
    const auto device_g = floats_on_device(backend, g);
    reference::adamw({1, 0, 0.1, 0.9, 0.999, 1e-8, 0, 1}, 5, g, &p, &m, &v);
    RUN_OPERATOR(backend, adamw,
                 (credence_adamw{0, 2, *device_p, *device_m, *device_v, *device_g, nullptr, 1, 1, 0.1, 0.9, 0.999, 1e-8,
                                 0, 1, nullptr}));
    EXPECT_CLOSE(device_p->floats(), p, 1e-6);
    EXPECT_CLOSE(device_m->floats(), m, 1e-6);
  });
}

OPERATOR_TEST("adamw", "reference", moves_nothing_where_the_norm_or_the_loss_is_not_finite) {
  each_backend(1, [](Backend& backend) {
    const float infinity = INFINITY;
    for (const auto& [norm, loss] :
         {std::pair<float, double>{NAN, 1}, {infinity, 1}, {1, NAN}, {1, -INFINITY}, {1, 1}}) {
      const auto p = floats_on_device(backend, {1, 2}), m = floats_on_device(backend, {3, 4}),
                 v = floats_on_device(backend, {5, 6}), g = floats_on_device(backend, {7, 8}),
                 average = floats_on_device(backend, {9, 10});
      const auto device_norm = on_device(backend, std::vector<float>{norm});
      const auto device_loss = on_device(backend, std::vector<double>{loss});
      RUN_OPERATOR(backend, adamw,
                   (credence_adamw{0, 2, *p, *m, *v, *g, *device_norm, 1, 1, 0.1, 0.9, 0.999, 1e-8, 0, 1,
                                   device_loss->as<double>(), *average, 0.5}));
      const bool moved = std::isfinite(norm) && std::isfinite(loss);
      EXPECT((p->floats() != std::vector<double>{1, 2}) == moved);
      EXPECT((m->floats() != std::vector<double>{3, 4}) == moved);
      EXPECT((v->floats() != std::vector<double>{5, 6}) == moved);
      EXPECT((average->floats() != std::vector<double>{9, 10}) == moved);
    }
  });
}

// A thousand steps at .999: what is lost of each small difference to float32 keeps to what docs/derivations/adamw.md allows.
OPERATOR_TEST("adamw", "reference", a_slow_average_keeps_its_digits) {
  each_backend(1, [](Backend& backend) {
    constexpr size_t kCount = 24;
    const auto p = normal(1, kCount), none = std::vector<double>(kCount);
    const auto device_p = floats_on_device(backend, p), device_m = floats_on_device(backend, none),
               device_v = floats_on_device(backend, none), device_average = floats_on_device(backend, p),
               device_g = floats_on_device(backend, normal(2, kCount));
    const auto start = device_average->floats();
    auto average = start;
    for (int64_t step = 1; step <= 1000; ++step) {
      RUN_OPERATOR(backend, adamw,
                   (credence_adamw{0, kCount, *device_p, *device_m, *device_v, *device_g, nullptr, 1, 0, 1e-4, 0.9,
                                   0.999, 1e-8, 0, step, nullptr, *device_average, 0.999}));
      const auto now = device_p->floats();
      for (size_t i = 0; i < kCount; ++i) average[i] = 0.999 * average[i] + 0.001 * now[i];
    }
    const auto got = device_average->floats();
    for (size_t i = 0; i < kCount; ++i) {
      EXPECT(std::fabs(average[i] - start[i]) > 0.02);  // there was something to follow
      EXPECT(std::fabs(got[i] - average[i]) <= 6e-5 * std::max(std::fabs(start[i]), std::fabs(average[i])));
    }
  });
}

OPERATOR_TEST("adamw", "odd-shapes", a_part_of_any_size_and_nothing_beside_it) {
  each_backend(2, [](Backend& backend) {
    for (int64_t begin : {0, 1, 17})
      for (int64_t count : {0, 1, 3, 17, 33}) {
        constexpr size_t kAll = 64;
        auto p = normal(1, kAll), m = normal(2, kAll), v = std::vector<double>(kAll, 0.5);
        const auto g = normal(4, kAll);
        const auto device_p = floats_on_device(backend, p), device_m = floats_on_device(backend, m),
                   device_v = floats_on_device(backend, v), device_g = floats_on_device(backend, g);
        const auto part = [&](const std::vector<double>& x) {
          return std::vector<double>(x.begin() + begin, x.begin() + begin + count);
        };
        auto average = normal(5, kAll);
        const auto device_average = floats_on_device(backend, average);
        auto part_p = part(p), part_m = part(m), part_v = part(v), part_average = part(average);
        reference::adamw({1, 0, 0.1, 0.9, 0.999, 1e-8, 0.01, 3, 0.75}, 0, part(g), &part_p, &part_m, &part_v,
                         &part_average);
        std::copy(part_average.begin(), part_average.end(), average.begin() + begin);
        std::copy(part_p.begin(), part_p.end(), p.begin() + begin);
        std::copy(part_m.begin(), part_m.end(), m.begin() + begin);
        std::copy(part_v.begin(), part_v.end(), v.begin() + begin);
        RUN_OPERATOR(backend, adamw,
                     (credence_adamw{begin, begin + count, *device_p, *device_m, *device_v, *device_g, nullptr, 1, 0,
                                     0.1, 0.9, 0.999, 1e-8, 0.01, 3, nullptr, *device_average, 0.75}));
        EXPECT_CLOSE(device_p->floats(), p, 1e-6);
        EXPECT_CLOSE(device_m->floats(), m, 1e-6);
        EXPECT_CLOSE(device_v->floats(), v, 1e-6);
        EXPECT_CLOSE(device_average->floats(), average, 1e-6);
      }
  });
}

TESTING_MAIN
