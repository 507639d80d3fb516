// Token log-probabilities, entropy and their gradients: against the definition, and that a row's bits are its own.
#include "kernels/reference/readouts.h"
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Example {
  reference::Readout p;
  std::vector<int32_t> targets;
  std::vector<double> d_logprob, d_entropy;
};

Example example(int rows, int width, int vocabulary, uint64_t seed) {
  Example e;
  e.p = {rows, width, vocabulary, normal(seed, static_cast<size_t>(rows) * width),
         normal(seed + 1, static_cast<size_t>(vocabulary) * width, 3 / std::sqrt(width))};
  for (int r = 0; r < rows; ++r) e.targets.push_back(r % 5 == 4 ? -1 : (r * 37 + 3) % vocabulary);
  e.targets[0] = vocabulary - 1;
  e.d_logprob = normal(seed + 2, rows), e.d_entropy = normal(seed + 3, rows);
  return e;
}

struct Result {
  std::vector<double> logprob, entropy, lse, logits, dh, dweights;
};

// What of the example's gradients is asked for; rows [first, first + count) of it are the batch.
Result run(Backend& backend, const Example& e, bool logprob_gradient, bool entropy_gradient, int first = 0,
           int count = -1) {
  const int rows = count < 0 ? e.p.rows : count, width = e.p.width, vocabulary = e.p.vocabulary;
  const int ldh = width + 3;  // rows apart from each other
  std::vector<double> h(static_cast<size_t>(rows) * ldh);
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < width; ++i)
      h[static_cast<size_t>(r) * ldh + i] = e.p.h[static_cast<size_t>(first + r) * width + i];
  const Weights weights(backend, e.p.weights, vocabulary, width);
  const auto slice = [&](const auto& all) {
    return std::decay_t<decltype(all)>(all.begin() + first, all.begin() + first + rows);
  };
  const auto count_on_device = on_device(backend, std::vector<int32_t>{rows}),
             targets = on_device(backend, slice(e.targets));
  const auto device_h = act_on_device(backend, h);
  const auto dl = floats_on_device(backend, slice(e.d_logprob)), de = floats_on_device(backend, slice(e.d_entropy));
  const auto logprob = float_space(backend, rows), entropy = float_space(backend, rows),
             lse = float_space(backend, rows);
  const auto logits = float_space(backend, static_cast<size_t>(rows) * vocabulary);
  const auto dh = float_space(backend, static_cast<size_t>(rows) * width);
  const auto dweights = floats_on_device(backend, std::vector<double>(static_cast<size_t>(vocabulary) * width));
  const bool any = logprob_gradient || entropy_gradient;
  const credence_token_logprobs p{*count_on_device,
                                  rows,
                                  width,
                                  vocabulary,
                                  backend.dtype,
                                  weights,
                                  device_h->raw(),
                                  ldh,
                                  *targets,
                                  *logprob,
                                  *entropy,
                                  *lse,
                                  *logits,
                                  logprob_gradient ? dl->as<float>() : nullptr,
                                  entropy_gradient ? de->as<float>() : nullptr,
                                  any ? dh->as<float>() : nullptr,
                                  width,
                                  any ? dweights->as<float>() : nullptr};
  RUN_OPERATOR(backend, token_logprobs, p);
  return {logprob->floats(), entropy->floats(), lse->floats(), logits->floats(), dh->floats(), dweights->floats()};
}

void expect_gradients(const Backend& backend, const Example& e, const std::vector<double>& d_logprob,
                      const std::vector<double>& d_entropy, const Result& got) {
  const auto exact = reference::token_logprobs_backward(e.p, e.targets, d_logprob, d_entropy);
  reference::Readout rounded = e.p;
  rounded.round = stored(backend);
  const auto plain = reference::token_logprobs_backward(rounded, e.targets, d_logprob, d_entropy);
  EXPECT_TWICE_PLAIN(backend, got.dh, exact.dh, plain.dh);
  EXPECT_TWICE_PLAIN(backend, got.dweights, exact.dweights, plain.dweights);
}

}  // namespace

OPERATOR_TEST("token_logprobs", "reference odd-shapes", are_their_definition) {
  for (int threads : {1, 2})
    each_backend(threads, [](Backend& backend) {
      for (auto [rows, width, vocabulary] : {std::array{1, 20, 33},
                                             {3, 17, 1},
                                             {2, 1, 65},
                                             {5, 33, 65},
                                             {13, 64, 256},
                                             {70, 21, 1000},
                                             {97, 9, 331},
                                             {257, 4, 331},
                                             {130, 36, 517}}) {
        if (backend.brief() && rows > 20) continue;
        const Example e = example(rows, width, vocabulary, 1);
        const auto expected = reference::token_logprobs(e.p, e.targets);
        const Result got = run(backend, e, true, false);
        EXPECT_CLOSE(got.logits, expected.logits, 2e-6);
        EXPECT_CLOSE(got.logprob, expected.logprob, 2e-6);
        EXPECT_CLOSE(got.entropy, expected.entropy, 2e-6);
        EXPECT_CLOSE(got.lse, expected.lse, 2e-6);
        for (bool with_entropy : {false, true}) {
          const Result back = run(backend, e, true, with_entropy);
          expect_gradients(backend, e, e.d_logprob, with_entropy ? e.d_entropy : std::vector<double>(), back);
        }
      }
    });
}

// Qwen2's vocabulary, in blocks; and more rows than a block or a chunk is made for.
OPERATOR_TEST("token_logprobs", "reference odd-shapes", of_a_large_vocabulary_and_of_many_rows_with_gradients) {
  each_backend(1, [](Backend& backend) {
    if (backend.brief() || std::string(backend.table->isa) == "scalar") return;
    for (auto [rows, width, vocabulary] : {std::array{3, 4, 151936}, {1025, 3, 40}}) {
      const Example e = example(rows, width, vocabulary, 21);
      const auto expected = reference::token_logprobs(e.p, e.targets);
      const Result got = run(backend, e, true, true);
      EXPECT_CLOSE(got.logprob, expected.logprob, 5e-6);
      EXPECT_CLOSE(got.entropy, expected.entropy, 5e-6);
      if (backend.bf16()) {
        expect_gradients(backend, e, e.d_logprob, e.d_entropy, got);
        continue;
      }
      const auto gradients = reference::token_logprobs_backward(e.p, e.targets, e.d_logprob, e.d_entropy);
      EXPECT_CLOSE(got.dh, gradients.dh, 1e-4);  // a sum of 151,936 numbers in float32
      EXPECT_CLOSE(got.dweights, gradients.dweights, 1e-4);
    }
  });
}

OPERATOR_TEST("token_logprobs", "reference", without_an_upstream_for_the_target) {
  each_backend(1, [](Backend& backend) {
    const Example e = example(7, 20, 100, 4);
    expect_gradients(backend, e, {}, e.d_entropy, run(backend, e, false, true));
  });
}

OPERATOR_TEST("token_logprobs", "bits", a_row_has_the_same_bits_alone_and_in_any_batch) {
  const Example e = example(150, 36, 1100, 6);
  std::vector<std::vector<double>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      if (backend.brief()) return;
      const Result all = run(backend, e, true, false);
      for (auto [first, count] : {std::pair{0, 1}, {77, 1}, {149, 1}, {60, 29}}) {
        const Result some = run(backend, e, true, false, first, count);
        EXPECT(std::equal(some.logprob.begin(), some.logprob.end(), all.logprob.begin() + first));
        EXPECT(std::equal(some.entropy.begin(), some.entropy.end(), all.entropy.begin() + first));
        EXPECT(std::equal(some.dh.begin(), some.dh.end(), all.dh.begin() + first * e.p.width));
      }
      for (const auto& values : {all.logprob, all.entropy, all.lse, all.dh, all.dweights})
        bits[threads - 1].push_back(values);
    });
  EXPECT(bits[0] == bits[1]);
}

// More rows than a chunk of the backward pass holds: the vocabulary is large enough for that.
OPERATOR_TEST("token_logprobs", "bits", in_chunks_are_the_same) {
  each_backend(2, [](Backend& backend) {
    if (backend.slow()) return;  // 40,000 tokens are too many for it
    const Example e = example(900, 8, 40000, 8);
    const Result all = run(backend, e, true, false), last = run(backend, e, true, false, 880, 20);
    EXPECT(std::equal(last.logprob.begin(), last.logprob.end(), all.logprob.begin() + 880));
    EXPECT(std::equal(last.dh.begin(), last.dh.end(), all.dh.begin() + 880 * e.p.width));
  });
}

OPERATOR_TEST("token_logprobs", "refusal", refuse_a_target_beyond_the_vocabulary) {
  each_backend(1, [](Backend& backend) {
    Example e = example(3, 20, 40, 1);
    const Weights weights(backend, e.p.weights, 40, 20);
    const auto rows = on_device(backend, std::vector<int32_t>{3}),
               targets = on_device(backend, std::vector<int32_t>{1, 40, 2}), h = act_on_device(backend, e.p.h);
    credence_token_logprobs p{};
    p.rows = *rows, p.capacity = 3, p.width = 20, p.vocabulary = 40, p.dtype = backend.dtype, p.weights = weights,
    p.targets = *targets, p.h = h->raw(), p.ldh = 20;
    const Memory workspace(backend, backend.table->token_logprobs_workspace(&p));
    EXPECT(backend.refused(backend.table->token_logprobs(backend.handle, &p, workspace.raw())));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("row 1 has target 40") != std::string::npos);
  });
}

OPERATOR_TEST("token_logprobs closed_set divergence", "finite-difference", the_reference_is_the_finite_difference) {
  Example e = example(4, 6, 11, 2);
  const auto g = reference::token_logprobs_backward(e.p, e.targets, e.d_logprob, e.d_entropy);
  std::vector<double> upstream = e.d_logprob;
  for (int r = 0; r < 4; ++r)
    if (e.targets[r] < 0) upstream[r] = 0;
  const auto loss = [&] {
    const auto out = reference::token_logprobs(e.p, e.targets);
    return inner(out.logprob, upstream) + inner(out.entropy, e.d_entropy);
  };
  EXPECT_GRADIENT(e.p.h, g.dh, loss);
  EXPECT_GRADIENT(e.p.weights, g.dweights, loss);

  const std::vector<int32_t> candidates = {3, 9, 0};
  const auto d = normal(5, 12);
  const auto closed = reference::closed_set_backward(e.p, candidates, d);
  const auto closed_loss = [&] { return inner(reference::closed_set(e.p, candidates), d); };
  EXPECT_GRADIENT(e.p.h, closed.dh, closed_loss);
  EXPECT_GRADIENT(e.p.weights, closed.dweights, closed_loss);

  const reference::Readout other = example(4, 6, 11, 20).p;
  for (int kind : {0, 1, 2}) {
    const auto divergence = reference::divergence_backward(e.p, other, kind, e.d_logprob);
    const auto divergence_loss = [&] { return inner(reference::divergence(e.p, other, kind), e.d_logprob); };
    EXPECT_GRADIENT(e.p.h, divergence.dh, divergence_loss);
    EXPECT_GRADIENT(e.p.weights, divergence.dweights, divergence_loss);
  }
}

TESTING_MAIN
