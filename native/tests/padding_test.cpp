// Query-only tokens of a batch, which stand for the PAD rows of one padded on the right: seen by nobody, at their own place,
// learnt through, and refused where they would mean nothing.
#include <algorithm>
#include <cmath>

#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

constexpr int32_t kPad = 2;

/// Sequences of these lengths, each followed by a query-only token at each of its places.
struct Padded {
  HostBatch batch;
  std::vector<int> lengths;
};

Padded padded(const std::vector<std::pair<int, std::vector<int>>>& rows) {
  std::mt19937 random(29);
  Padded out;
  out.batch.offsets.push_back(0);
  for (const auto& [length, places] : rows) {
    for (int32_t token : random_tokens(random, length)) {
      out.batch.tokens.push_back(token);
      out.batch.query_only.push_back(0);
      out.batch.positions.push_back(-1);
    }
    for (int place : places) {
      out.batch.tokens.push_back(kPad);
      out.batch.query_only.push_back(1);
      out.batch.positions.push_back(place);
    }
    out.batch.offsets.push_back(out.batch.tokens_count());
    out.lengths.push_back(length);
  }
  return out;
}

/// Every row after the last norm.
std::vector<std::vector<float>> states(const std::shared_ptr<Policy>& policy, const HostBatch& batch) {
  PassRequest request;
  request.hidden = true;
  const std::vector<float> flat = Pass(policy).forward(batch, request).hidden;
  const int width = policy->base()->family().hidden;
  std::vector<std::vector<float>> out;
  for (int t = 0; t < batch.tokens_count(); ++t)
    out.emplace_back(flat.begin() + static_cast<ptrdiff_t>(t) * width,
                     flat.begin() + static_cast<ptrdiff_t>(t + 1) * width);
  return out;
}

// 63 and 64 keys end just before and on a page's border: the query-only token would have opened the next page.
const std::vector<std::pair<int, std::vector<int>>> kRows = {
    {1, {5}}, {63, {63, 200}}, {64, {200, 200}}, {70, {}}, {9, {9}}};

}  // namespace

TEST(a_query_only_token_changes_no_other_row) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const auto policy = small_policy(folder.path(), device);
    const auto with = states(policy, padded(kRows).batch);
    auto bare = kRows;
    for (auto& [length, places] : bare) places.clear();
    const Padded plain = padded(bare);
    const auto without = states(policy, plain.batch);
    const Padded all = padded(kRows);
    for (int b = 0; b < all.batch.segments(); ++b) {
      for (int i = 0; i < all.lengths[b]; ++i)
        EXPECT(with[all.batch.offsets[b] + i] == without[plain.batch.offsets[b] + i]);
      const HostBatch alone = all.batch.take({b});
      const auto own = states(policy, alone);
      for (int i = 0; i < all.batch.length(b); ++i) EXPECT(with[all.batch.offsets[b] + i] == own[i]);
    }
  });
}

TEST(a_query_only_token_sees_neither_itself_nor_another_and_stands_at_its_place) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  const Padded all = padded(kRows);
  const auto read = states(policy, all.batch);
  const int second = all.batch.offsets[2], third = all.batch.offsets[3];
  EXPECT(read[third - 2] == read[third - 1]);    // same token, same place, same keys
  EXPECT(read[second - 2] != read[second - 1]);  // another place
  HostBatch seen = all.batch.take({4});          // the same token as one that sees itself
  seen.query_only.clear();
  const auto ordinary = states(policy, seen);
  EXPECT(ordinary[9] != read.back());
  for (int i = 0; i < 9; ++i) EXPECT(ordinary[i] == read[all.batch.offsets[4] + i]);
}

TEST(gradients_go_through_query_only_tokens) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "scalar", 1}, {{"sure", -1, {}, 1, 4}});
  const Padded all = padded({{9, {20}}, {4, {}}, {6, {6}}});
  Loss loss;
  loss.read.head = "sure";
  for (int b = 0; b < all.batch.segments(); ++b)
    loss.read.spans.push_back({b, all.batch.length(b) - 1, all.batch.length(b)});
  loss.targets = {0.2f, 0.9f, 0.4f};
  Trainer trainer(policy, {});
  trainer.accumulate(all.batch, loss);
  const std::vector<float> gradient = trainer.gradients();
  for (const auto* list : {&policy->adapter_parameters(), &policy->head_parameters()}) {
    for (const Parameter& p : *list) {
      // Along the tensor's own gradient: one number that every element enters.
      const std::vector<float> original = policy->read_parameters();
      double norm = 0;
      for (int64_t i = 0; i < p.count(); ++i) norm += std::pow(gradient[p.offset + i], 2.0);
      norm = std::sqrt(norm);
      EXPECT(norm > 0);
      constexpr double kStep = 5e-3;
      const auto moved = [&](double by) {
        NamedTensor tensor{p.name, p.shape, {original.begin() + p.offset, original.begin() + p.offset + p.count()}};
        const NamedTensor back = tensor;
        for (int64_t i = 0; i < p.count(); ++i)
          tensor.data[i] += static_cast<float>(by * gradient[p.offset + i] / norm);
        policy->set_parameters({tensor});
        Trainer probe(policy, {});
        probe.accumulate(all.batch, loss);
        const double value = probe.loss();
        policy->set_parameters({back});
        return value;
      };
      const double difference = (moved(kStep) - moved(-kStep)) / (2 * kStep);
      if (std::fabs(difference - norm) > 0.02 * norm + 2e-4)
        report(__FILE__, __LINE__, p.name + ": gradient " + show(norm) + ", finite difference " + show(difference));
    }
  }
  // Cut into passes of one sequence, the sums are the same.
  Trainer cut(policy, {});
  for (int b = 0; b < all.batch.segments(); ++b) {
    Loss one = loss;
    one.read.spans = {{0, all.batch.length(b) - 1, all.batch.length(b)}};
    one.targets = {loss.targets[b]};
    cut.accumulate(all.batch.take({b}), one);
  }
  EXPECT_GRADIENTS(*policy, cut.gradients(), gradient, 1e-5);
}

TEST(query_only_tokens_that_mean_nothing_are_refused) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const Family family = small_policy(folder.path(), {"cpu", "f32", "scalar", 1})->base()->family();
  const auto changed = [&](auto change) {
    HostBatch batch = padded({{3, {7}}, {2, {}}}).batch;
    change(batch);
    return batch;
  };
  changed([](HostBatch&) {}).check(family);
  EXPECT_THROWS(changed([](HostBatch& b) { b.query_only[1] = 1; }).check(family), "stand at the end");
  EXPECT_THROWS(changed([](HostBatch& b) { b.query_only.assign(b.tokens.size(), 1); }).check(family), "sees nothing");
  EXPECT_THROWS(changed([](HostBatch& b) { b.positions[3] = 2; }).check(family), "expected one from 3 on");
  EXPECT_THROWS(changed([](HostBatch& b) { b.positions[3] = 400; }).check(family), "context of 400");
  EXPECT_THROWS(changed([](HostBatch& b) { b.positions[1] = 3; }).check(family), "only query-only tokens");
  EXPECT_THROWS(changed([](HostBatch& b) { b.query_only.pop_back(); }).check(family), "query_only: expected one");
  EXPECT_THROWS(changed([](HostBatch& b) { b.positions.pop_back(); }).check(family), "positions: expected one");
  EXPECT_THROWS(changed([](HostBatch& b) { b.prefix_of = {-1, 0}; }).check(family), "ends in a query-only token");
  Family windowed = family;
  windowed.windows.assign(windowed.layers, 7);
  EXPECT_THROWS(changed([](HostBatch&) {}).check(windowed), "sees 7 tokens back");
  windowed.windows.assign(windowed.layers, 8);
  changed([](HostBatch&) {}).check(windowed);
}

TESTING_MAIN
