// Sampling: the distribution it draws from, the token it draws, and that it scores a token as token_logprobs does.
#include "backends.h"
#include "kernels/reference/readouts.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Row {
  double temperature;
  int top_k;
  double top_p, repetition;
};

const std::vector<Row> kRows = {
    {0, 0, 1, 1},    {1, 0, 1, 1},      {0.7, 0, 0.9, 1},   {1, 50, 0.95, 1},   {1, 50, 1, 1.3},
    {0.5, 1, 1, 1},  {2, 5, 0.5, 1.05}, {1, 1100, 0.99, 1}, {1.5, 0, 0.3, 1.2}, {1, 3000, 1, 1},
    {1, 7, 0.01, 1}, {0, 0, 1, 2},      {1.3, 1024, 1, 1},  {1e-3, 0, 1, 1},    {100, 0, 0.999, 1},
};

struct Example {
  int rows, width, vocabulary;
  reference::Readout p;
  std::vector<Row> cuts;
  std::vector<std::vector<int32_t>> seen;
  std::vector<double> uniform;
};

Example example(int rows, int width, int vocabulary, uint64_t seed) {
  Example e{rows, width, vocabulary, {}, {}, {}, {}};
  e.p = {rows, width, vocabulary, normal(seed, static_cast<size_t>(rows) * width),
         normal(seed + 1, static_cast<size_t>(vocabulary) * width, 3 / std::sqrt(width))};
  // Ties: the weights of every tenth token are those of the token before it.
  for (int v = 10; v < vocabulary; v += 10)
    std::copy_n(e.p.weights.begin() + (v - 1) * width, width, e.p.weights.begin() + v * width);
  std::mt19937_64 random(seed);
  for (int r = 0; r < rows; ++r) {
    e.cuts.push_back(kRows[r % kRows.size()]);
    std::vector<int32_t> seen;
    for (int i = 0; i < vocabulary; i += 1 + static_cast<int>(random() % 9)) seen.push_back(i);
    std::shuffle(seen.begin(), seen.end(), random);
    e.seen.push_back(seen);
    e.uniform.push_back(std::uniform_real_distribution<double>(0, 1)(random));
  }
  return e;
}

struct Result {
  std::vector<int32_t> token;
  std::vector<float> logprob, logprob_cut, probabilities;
  bool operator==(const Result&) const = default;
};

struct OnDevice {
  Weights weights;
  MemoryPointer count, h, temperature, top_k, top_p, repetition, seen, offsets, uniform, token, logprob, logprob_cut,
      probabilities;
  credence_sample p{};

  OnDevice(Backend& backend, const Example& e, int first, int rows)
      : weights(backend, e.p.weights, e.vocabulary, e.width) {
    std::vector<double> t, tp, rep;
    std::vector<int32_t> k, ids, at = {0};
    for (int r = first; r < first + rows; ++r) {
      t.push_back(e.cuts[r].temperature), tp.push_back(e.cuts[r].top_p), rep.push_back(e.cuts[r].repetition);
      k.push_back(e.cuts[r].top_k);
      ids.insert(ids.end(), e.seen[r].begin(), e.seen[r].end());
      at.push_back(static_cast<int32_t>(ids.size()));
    }
    count = on_device(backend, std::vector<int32_t>{rows});
    h = act_on_device(backend, {e.p.h.begin() + first * e.width, e.p.h.begin() + (first + rows) * e.width});
    temperature = floats_on_device(backend, t), top_p = floats_on_device(backend, tp),
    repetition = floats_on_device(backend, rep);
    top_k = on_device(backend, k), seen = on_device(backend, ids), offsets = on_device(backend, at);
    uniform = on_device(backend, std::vector<double>(e.uniform.begin() + first, e.uniform.begin() + first + rows));
    token = float_space(backend, rows), logprob = float_space(backend, rows), logprob_cut = float_space(backend, rows);
    probabilities = float_space(backend, static_cast<size_t>(rows) * e.vocabulary);
    p = {*count,
         rows,
         e.width,
         e.vocabulary,
         backend.dtype,
         weights,
         h->raw(),
         e.width,
         *temperature,
         *top_k,
         *top_p,
         *repetition,
         *seen,
         *offsets,
         uniform->as<double>(),
         token->as<int32_t>(),
         *logprob,
         *logprob_cut,
         *probabilities};
  }
  Result read() const {
    const size_t rows = p.capacity;
    return {token->read<int32_t>(rows), logprob->read<float>(rows), logprob_cut->read<float>(rows),
            probabilities->read<float>(rows * p.vocabulary)};
  }
};

Result run(Backend& backend, const Example& e, int first = 0, int rows = -1) {
  const OnDevice device(backend, e, first, rows < 0 ? e.rows : rows);
  RUN_OPERATOR(backend, sample, device.p);
  return device.read();
}

}  // namespace

OPERATOR_TEST("sample", "reference odd-shapes", draws_from_the_defined_distribution) {
  for (int threads : {1, 2})
    each_backend(threads, [](Backend& backend) {
      for (auto [rows, width, vocabulary] : {std::array{15, 20, 50},
                                             {15, 17, 1},
                                             {15, 1, 65},
                                             {15, 33, 65},
                                             {60, 24, 4000},
                                             {1, 9, 331},
                                             {97, 9, 331},
                                             {257, 5, 331},
                                             {1025, 3, 40}}) {
        if (backend.brief() && (vocabulary > 1000 || rows > 100)) continue;
        const Example e = example(rows, width, vocabulary, 1);
        const Result got = run(backend, e);
        const auto logits = reference::token_logprobs(e.p, std::vector<int32_t>(rows, 0)).logits;
        for (int r = 0; r < rows; ++r) {
          const Row& row = e.cuts[r];
          const std::vector<double> z(logits.begin() + static_cast<size_t>(r) * vocabulary,
                                      logits.begin() + static_cast<size_t>(r + 1) * vocabulary);
          const auto expected =
              reference::sampling_distribution(z, {row.temperature, static_cast<float>(row.top_p),
                                                   static_cast<float>(row.repetition), row.top_k, e.seen[r]});
          const std::vector<double> p(got.probabilities.begin() + static_cast<size_t>(r) * vocabulary,
                                      got.probabilities.begin() + static_cast<size_t>(r + 1) * vocabulary);
          EXPECT_CLOSE(p, expected, row.temperature < 0.01 ? 5e-3 : 2e-5);
          EXPECT_EQ(got.token[r], reference::pick(expected, e.uniform[r]));
          if (row.temperature >= 0.01) EXPECT_NEAR(got.logprob_cut[r], std::log(expected[got.token[r]]), 2e-4);
        }
      }
    });
}

OPERATOR_TEST("sample token_logprobs", "bits", a_token_has_the_log_probability_that_scoring_gives) {
  for (int threads : {1, 2})
    each_backend(threads, [](Backend& backend) {
      const Example e = example(70, 36, 1500, 3);
      const OnDevice device(backend, e, 0, e.rows);
      RUN_OPERATOR(backend, sample, device.p);
      const Result drawn = device.read();
      const auto scored = float_space(backend, e.rows), entropy = float_space(backend, e.rows);
      credence_token_logprobs p{};
      p.rows = *device.count, p.capacity = e.rows, p.width = e.width, p.vocabulary = e.vocabulary,
      p.dtype = backend.dtype;
      p.weights = device.weights, p.h = device.h->raw(), p.ldh = e.width, p.targets = device.p.token;
      p.logprob = *scored, p.entropy = *entropy;
      RUN_OPERATOR(backend, token_logprobs, p);
      EXPECT(scored->read<float>(e.rows) == drawn.logprob);
    });
}

// Qwen2's vocabulary. Rows that are cut by count, by mass and not at all.
OPERATOR_TEST("sample token_logprobs", "reference odd-shapes", of_a_large_vocabulary) {
  each_backend(1, [](Backend& backend) {
    if (backend.brief() || std::string(backend.table->isa) == "scalar") return;  // a draw over all of it is slow there
    Example e = example(3, 4, 151936, 11);
    e.cuts = {{1, 50, 1, 1}, {0.8, 0, 0.9, 1.1}, {1, 0, 1, 1}};
    const Result got = run(backend, e);
    const auto scored = reference::token_logprobs(e.p, got.token);
    for (int r = 0; r < e.rows; ++r) {
      const std::vector<double> z(scored.logits.begin() + static_cast<ptrdiff_t>(r) * e.vocabulary,
                                  scored.logits.begin() + static_cast<ptrdiff_t>(r + 1) * e.vocabulary);
      const Row& row = e.cuts[r];
      const auto expected = reference::sampling_distribution(
          z,
          {row.temperature, static_cast<float>(row.top_p), static_cast<float>(row.repetition), row.top_k, e.seen[r]});
      EXPECT_NEAR(got.logprob[r], scored.logprob[r], 2e-5);
      const auto from = got.probabilities.begin() + static_cast<ptrdiff_t>(r) * e.vocabulary;
      EXPECT_CLOSE(std::vector<double>(from, from + e.vocabulary), expected, 5e-5);
      EXPECT_EQ(got.token[r], reference::pick(expected, e.uniform[r]));
    }
  });
}

OPERATOR_TEST("sample", "bits", has_the_same_bits_alone_in_any_batch_and_for_any_number_of_threads) {
  const Example e = example(75, 20, 2100, 5);
  std::vector<Result> results[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      if (backend.brief()) return;
      const Result all = run(backend, e);
      for (int r : {0, 1, 3, 8, 40, 74}) {
        const Result alone = run(backend, e, r, 1);
        EXPECT_EQ(alone.token[0], all.token[r]);
        EXPECT_EQ(alone.logprob[0], all.logprob[r]);
        EXPECT_EQ(alone.logprob_cut[0], all.logprob_cut[r]);
        EXPECT(std::equal(alone.probabilities.begin(), alone.probabilities.end(),
                          all.probabilities.begin() + r * e.vocabulary));
      }
      results[threads - 1].push_back(all);
    });
  EXPECT(results[0] == results[1]);
}

OPERATOR_TEST("sample", "reference", ties_go_to_the_lower_id) {
  each_backend(1, [](Backend& backend) {
    Example e = example(3, 20, 600, 7);
    for (int v = 1; v < e.vocabulary; ++v) std::copy_n(e.p.weights.begin(), e.width, e.p.weights.begin() + v * e.width);
    e.cuts = {{0, 0, 1, 1}, {1, 40, 1, 1}, {1, 0, 0.0501, 1}};  // all logits equal: 1, 40 and 31 of 600 stay
    const Result got = run(backend, e);
    const auto kept = [&](int r) {
      std::vector<int> ids;
      for (int v = 0; v < e.vocabulary; ++v)
        if (got.probabilities[r * e.vocabulary + v] > 0) ids.push_back(v);
      return ids;
    };
    EXPECT_EQ(got.token[0], 0);
    for (auto [r, count] : {std::pair{0, 1}, {1, 40}, {2, 31}}) {
      const auto ids = kept(r);
      EXPECT_EQ(static_cast<int>(ids.size()), count);
      EXPECT_EQ(ids.back(), count - 1);
    }
  });
}

OPERATOR_TEST("sample", "refusal", logits_that_are_no_numbers_are_an_error) {
  each_backend(1, [](Backend& backend) {
    Example e = example(2, 20, 90, 9);
    for (int i = 0; i < e.width; ++i) e.p.h[e.width + i] = NAN;
    for (Row row : {Row{1, 50, 1, 1}, Row{1, 0, 1, 1}}) {
      e.cuts = {row, row};
      const OnDevice device(backend, e, 0, 2);
      const Memory workspace(backend, backend.table->sample_workspace(&device.p));
      EXPECT(backend.refused(backend.table->sample(backend.handle, &device.p, workspace.raw())));
      EXPECT(std::string(backend.table->last_error(backend.handle)).find("row 1") != std::string::npos);
    }
  });
}

TESTING_MAIN
