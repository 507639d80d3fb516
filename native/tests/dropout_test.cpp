// Dropout of an adapter's input: the mask's definition, its statistics, and that a token's mask is its own. The operators that
// take it (project, mlp_input, attention_input and their backward) are tested with it beside everything else.
#include "kernels/philox.h"

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// The factors of a mask [T, columns], seen through project: with A = I and x = 1, S is the mask.
std::vector<double> masks(Backend& backend, const reference::Dropout& d, int columns, int slices) {
  reference::Linear p;
  p.rows = static_cast<int>(d.row_key.size());
  p.columns = columns;
  p.outputs = slices;
  p.x.assign(static_cast<size_t>(p.rows) * columns, 1);
  p.weights.assign(static_cast<size_t>(slices) * columns, 0);
  p.dropout = d;
  for (int i = 0; i < slices; ++i) {
    reference::LoraSlice slice{i,
                               i + 1,
                               columns,
                               1,
                               std::vector<double>(static_cast<size_t>(columns) * columns),
                               std::vector<double>(columns)};
    for (int k = 0; k < columns; ++k) slice.a[static_cast<size_t>(k) * columns + k] = 1;
    p.slices.push_back(slice);
  }
  const Weights weights(backend, p.weights, p.outputs, p.columns);
  const Adapter adapter(backend, p);
  const DropoutOnDevice drop(backend, d);
  const auto rows = one(backend, p.rows), in = act_on_device(backend, p.x);
  const auto x = floats_on_device(backend, std::vector<double>(static_cast<size_t>(p.rows) * p.outputs));
  const auto s = act_space(backend, static_cast<size_t>(p.rows) * adapter.ranks());
  credence_project o = {};
  o.rows = *rows;
  o.capacity = p.rows;
  o.dtype = backend.dtype;
  o.weights = weights;
  o.lora = adapter;
  o.dropout = drop;
  o.in = in->raw();
  o.x = o.x_out = *x;
  o.ldx = p.outputs;
  o.s = s->raw();
  RUN_OPERATOR(backend, project, o);
  return s->act();
}

}  // namespace

// The first vectors of the authors' own table (Random123, kat_vectors).
TEST(philox_gives_the_published_words) {
  EXPECT((philox({0, 0, 0, 0}, 0) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT((philox({ones, ones, ones, ones}, ~uint64_t{0}) ==
          std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT((philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822) ==
          std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

OPERATOR_TEST("project", "reference odd-shapes", dropout_masks_are_the_definition) {
  for (int columns : {1, 3, 33, 65})
    each_backend(2, [&](Backend& backend) {
      constexpr int kRows = 19, kSlices = 3;
      const reference::Dropout d = dropout(0.25, kRows);
      const auto got = masks(backend, d, columns, kSlices);
      std::vector<double> expected;
      for (int t = 0; t < kRows; ++t)
        for (int s = 0; s < kSlices; ++s)
          for (int k = 0; k < columns; ++k) expected.push_back(d.keeps(t, s, k) * d.scale());
      EXPECT_CLOSE(got, expected, backend.epsilon());
    });
}

// n draws of a mask with probability p: the share of dropped elements is within 5 standard deviations of p, the mean of the
// factors of 1, and two slices, two columns, two rows, two keys drop together as often as independent ones do.
OPERATOR_TEST("project", "reference", dropout_has_the_statistics_of_independent_draws) {
  constexpr int kRows = 2000, kColumns = 64;
  constexpr double kP = 0.3, kCount = static_cast<double>(kRows) * kColumns;
  const auto dropped = [&](const reference::Dropout& d, int slice) {
    std::vector<uint8_t> mask;
    for (int t = 0; t < kRows; ++t)
      for (int k = 0; k < kColumns; ++k) mask.push_back(d.keeps(t, slice, k) == 0);
    return mask;
  };
  reference::Dropout d = dropout(kP, kRows), other = d;
  other.key += 1;
  const auto first = dropped(d, 0), second = dropped(d, 1), elsewhere = dropped(other, 0);
  const auto near = [](double count, double p, double n) { EXPECT_NEAR(count / n, p, 5 * std::sqrt(p * (1 - p) / n)); };
  for (const auto& mask : {first, second, elsewhere}) {
    double sum = 0;
    for (uint8_t one : mask) sum += one;
    near(sum, kP, kCount);
    EXPECT_NEAR((kCount - sum) / (1 - kP) / kCount, 1, 5 * std::sqrt(kP / (1 - kP) / kCount));
  }
  const auto together = [&](const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, size_t shift) {
    double sum = 0;
    for (size_t i = 0; i + shift < a.size(); ++i) sum += a[i] && b[i + shift];
    near(sum, kP * kP, static_cast<double>(a.size() - shift));
  };
  together(first, second, 0);                                                   // slices
  together(first, elsewhere, 0);                                                // keys
  for (size_t shift : {1, 8, 32}) together(first, first, shift);                // columns, as the words lie
  for (size_t shift : {kColumns, kColumns + 1}) together(first, first, shift);  // rows
}

// Where a token stands does not matter, which one it is does.
OPERATOR_TEST("project", "bits", dropout_masks_follow_the_token) {
  each_backend(2, [](Backend& backend) {
    constexpr int kColumns = 40;
    reference::Dropout d = dropout(0.5, 30), turned = d;
    std::reverse(turned.row_key.begin(), turned.row_key.end());
    const auto all = masks(backend, d, kColumns, 1), back = masks(backend, turned, kColumns, 1);
    for (int t = 0; t < 30; ++t)
      EXPECT(
          std::equal(all.begin() + t * kColumns, all.begin() + (t + 1) * kColumns, back.begin() + (29 - t) * kColumns));
    EXPECT(!std::equal(all.begin(), all.begin() + kColumns, all.begin() + kColumns));
    d.key ^= uint64_t{1} << 63;
    EXPECT(masks(backend, d, kColumns, 1) != all);
  });
}

TESTING_MAIN
