// The order in which attention's work is taken on the device (attention_plan.h): longest first, every item once. No result depends
// on it, so that no other test would see it go.
#include "kernels/cuda/attention_plan.h"

#include <set>
#include <utility>

#include "backends.h"

extern "C" const credence_table* credence_backend_v4(int32_t version, const char** reason);

using namespace credence;
using namespace credence::testing;

namespace {

constexpr int kHeads = 6, kKvHeads = 3, kGroup = kHeads / kKvHeads;

int items_of(int rows) { return (rows + cuda::kTileRows - 1) / cuda::kTileRows; }

/// Each item of each segment once, and none after a shorter one.
template <class Items, class Length>
void expect_longest_first(const cuda::Item* items, int count, const std::vector<int>& lengths, Items items_of_segment,
                          Length length_of) {
  int expected = 0;
  for (int length : lengths) expected += items_of_segment(length);
  EXPECT_EQ(count, expected);
  std::set<std::pair<int, int>> seen;
  int before = INT32_MAX;
  for (int i = 0; i < count; ++i) {
    const cuda::Item& item = items[i];
    EXPECT(seen.insert({item.segment, item.first}).second);
    EXPECT(item.first < items_of_segment(lengths[item.segment]));
    const int length = length_of(lengths[item.segment], item.first);
    EXPECT(length <= before);
    before = length;
  }
}

}  // namespace

TEST(work_is_taken_longest_first_and_once) {
  const char* reason = nullptr;
  Backend backend(credence_backend_v4(CREDENCE_TABLE_VERSION, &reason), CREDENCE_F32, 1);
  const std::vector<int> lengths = {5, 700, 64, 1, 130, 300, 65};
  std::vector<int32_t> ends = {0};
  for (int length : lengths) ends.push_back(ends.back() + length);
  const auto segments = static_cast<int32_t>(lengths.size()), pages = 700 / CREDENCE_PAGE + 1;
  const auto counts = on_device(backend, std::vector<int32_t>{ends.back(), segments}),
             cu_seqlens = on_device(backend, ends), zeros = on_device(backend, std::vector<int32_t>(segments * pages));
  credence_batch batch{};
  batch.token_capacity = ends.back() + 70, batch.segment_capacity = segments + 2, batch.pages_per_segment = pages;
  batch.counts = *counts, batch.cu_seqlens = *cu_seqlens, batch.key_start = *zeros, batch.page_table = *zeros;
  credence_shape shape{};
  shape.heads = kHeads, shape.kv_heads = kKvHeads, shape.head_dim = 20;
  cuda::Workspace measured(nullptr);
  cuda::AttentionPlan(&measured, batch, shape, true);
  const Memory memory(backend, measured.used());
  cuda::Workspace workspace(memory.raw());
  const cuda::AttentionPlan plan(&workspace, batch, shape, true);
  EXPECT_EQ(cuda::plan_attention(cuda::of(backend.handle), cuda::Operator::attention_backward, batch, shape, 0, plan),
            0);
  EXPECT_EQ(backend.table->synchronise(backend.handle), 0);
  expect_longest_first(
      plan.queries, plan.counts[2], lengths, [](int length) { return items_of(length * kGroup); },
      [](int length, int first) {
        const int last = std::min((first + 1) * cuda::kTileRows, length * kGroup) - 1;
        return (last / kGroup + 1) / CREDENCE_PAGE;
      });
  expect_longest_first(plan.key_blocks, plan.counts[3], lengths, items_of,
                       [](int length, int first) { return (length - first * cuda::kTileRows) / CREDENCE_PAGE; });
}

TESTING_MAIN
