// The read-outs beside token log-probabilities: a closed set of candidates, divergence from another policy.
#include "kernels/reference/readouts.h"
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

reference::Readout example(int rows, int width, int vocabulary, uint64_t seed) {
  return {rows, width, vocabulary, normal(seed, static_cast<size_t>(rows) * width),
          normal(seed + 1, static_cast<size_t>(vocabulary) * width, 2 / std::sqrt(width))};
}

}  // namespace

OPERATOR_TEST("closed_set", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (auto [rows, width, vocabulary] : {std::array{1, 20, 33},
                                             {3, 17, 1},
                                             {2, 1, 65},
                                             {5, 33, 65},
                                             {29, 61, 500},
                                             {97, 5, 331},
                                             {257, 4, 331},
                                             {1025, 3, 331},
                                             {2, 3, 151936}}) {
        if (backend.brief() && (rows > 100 || vocabulary > 1000)) continue;
        const auto p = example(rows, width, vocabulary, 1);
        std::vector<int32_t> ids = {vocabulary - 1, 3 % vocabulary, 32 % vocabulary, 0, vocabulary - 1};  // one twice
        if (vocabulary == 1) ids = {0};
        const int count = static_cast<int>(ids.size());
        const auto upstream = normal(5, static_cast<size_t>(rows) * count);
        const Weights weights(backend, p.weights, vocabulary, width);
        const auto device_rows = on_device(backend, std::vector<int32_t>{rows}), candidates = on_device(backend, ids);
        const auto h = act_on_device(backend, p.h), d = floats_on_device(backend, upstream);
        const auto logprob = float_space(backend, upstream.size()), dh = float_space(backend, p.h.size());
        const auto dweights = floats_on_device(backend, std::vector<double>(p.weights.size()));
        RUN_OPERATOR(backend, closed_set,
                     (credence_closed_set{*device_rows, rows, width, count, backend.dtype, weights, h->raw(), width,
                                          *candidates, *logprob, *d, *dh, width, *dweights}));
        const auto gradients = reference::closed_set_backward(p, ids, upstream);
        EXPECT_CLOSE(logprob->floats(), reference::closed_set(p, ids), 2e-6);
        EXPECT_CLOSE(dh->floats(), gradients.dh, 5e-6);
        EXPECT_CLOSE(dweights->floats(), gradients.dweights, 5e-6);
        bits[threads - 1].push_back(dweights->bits());
        bits[threads - 1].push_back(logprob->bits());
        bits[threads - 1].push_back(dh->bits());
      }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("closed_set", "refusal", refuses_a_candidate_beyond_the_vocabulary) {
  each_backend(1, [](Backend& backend) {
    const auto p = example(1, 20, 33, 1);
    const Weights weights(backend, p.weights, 33, 20);
    const auto rows = on_device(backend, std::vector<int32_t>{1}),
               candidates = on_device(backend, std::vector<int32_t>{2, 33});
    const auto h = act_on_device(backend, p.h), logprob = float_space(backend, 2);
    credence_closed_set parameters{};
    parameters.rows = *rows, parameters.capacity = 1, parameters.width = 20, parameters.candidates_count = 2;
    parameters.dtype = backend.dtype, parameters.weights = weights, parameters.candidates = *candidates;
    parameters.h = h->raw(), parameters.ldh = 20, parameters.logprob = *logprob;
    const Memory workspace(backend, backend.table->closed_set_workspace(&parameters));
    EXPECT(backend.refused(backend.table->closed_set(backend.handle, &parameters, workspace.raw())));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("candidate 1 is token 33") != std::string::npos);
  });
}

OPERATOR_TEST("divergence", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (auto [rows, width, vocabulary] : {std::array{1, 20, 33},
                                             {3, 17, 1},
                                             {2, 1, 65},
                                             {5, 33, 65},
                                             {61, 37, 600},
                                             {97, 9, 40},
                                             {257, 5, 331},
                                             {1025, 3, 5},
                                             {2, 3, 151936}})
        for (int kind : {0, 1, 2}) {
          if ((backend.brief() && (rows > 1000 || rows * vocabulary > 50000)) ||
              (backend.slow() && rows > 1000 && kind != 2) ||
              (vocabulary > 100000 && (kind != 2 || std::string(backend.table->isa) == "scalar")))
            continue;
          const auto p = example(rows, width, vocabulary, 1), q = example(rows, width, vocabulary, 11);
          const auto upstream = normal(5, rows);
          const Weights weights(backend, p.weights, vocabulary, width), others(backend, q.weights, vocabulary, width);
          const auto device_rows = on_device(backend, std::vector<int32_t>{rows});
          const auto h = act_on_device(backend, p.h), other = act_on_device(backend, q.h),
                     d = floats_on_device(backend, upstream);
          const auto values = float_space(backend, rows), dh = float_space(backend, p.h.size());
          const auto dweights = floats_on_device(backend, std::vector<double>(p.weights.size()));
          RUN_OPERATOR(backend, divergence,
                       (credence_divergence{*device_rows, rows, width, vocabulary, kind, backend.dtype, weights, others,
                                            h->raw(), other->raw(), width, width, *values, *d, *dh, width, *dweights}));
          const auto gradients = reference::divergence_backward(p, q, kind, upstream);
          EXPECT_CLOSE(values->floats(), reference::divergence(p, q, kind), 5e-6);
          reference::Readout rounded = p;
          rounded.round = stored(backend);
          const auto plain = reference::divergence_backward(rounded, q, kind, upstream);
          EXPECT_TWICE_PLAIN(backend, dh->floats(), gradients.dh, plain.dh);
          EXPECT_TWICE_PLAIN(backend, dweights->floats(), gradients.dweights, plain.dweights);
          bits[threads - 1].push_back(dweights->bits());
          bits[threads - 1].push_back(values->bits());
          bits[threads - 1].push_back(dh->bits());
        }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("closed_set divergence", "refusal", what_is_not_there_is_named) {
  each_backend(1, [](Backend& backend) {
    credence_closed_set none{};
    EXPECT(backend.refused(backend.table->closed_set(backend.handle, &none, nullptr)));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("there is no candidate") != std::string::npos);
    credence_divergence kind{};
    kind.kind = 3;
    EXPECT(backend.refused(backend.table->divergence(backend.handle, &kind, nullptr)));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("kind is 3") != std::string::npos);
  });
}

TESTING_MAIN
