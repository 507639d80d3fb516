// What attention and its backward know about a batch before they start: how many keys stand before each token, which rows are keys,
// and the work items, longest first, so that no multiprocessor is left with a long one at the end. Built on the device
// from cu_seqlens by one block; a batch that is wrong becomes a fault and a plan of no work.
#pragma once

#include "device.h"
#include "launch.h"

namespace credence::cuda {

constexpr int kTileRows = 64;      // rows of a query item, keys of a key item
constexpr int kMostHeadDim = 128;  // the largest compiled

/// A work item: rows [64 first, 64 first + 64) of a segment. Rows of queries are numbered token by token, the heads that read one kv
/// head together; rows of keys are the segment's own keys.
struct Item {
  int32_t segment, first;
};

struct AttentionPlan {
  int32_t* counts;   // [4] tokens, segments, items of queries, items of keys
  int32_t* before;   // [T] keys in front of each token
  int32_t* segment;  // [T] whose it is
  int32_t* keys;     // [T] from cu_seqlens[b] on: the rows of b that are keys, in order
  int32_t* own;      // [B] how many they are
  Item* queries;     // longest first
  Item* key_blocks;  // the same, or null: no backward

  AttentionPlan(Workspace* pieces, const credence_batch& batch, const credence_shape& shape, bool backward)
      : counts(pieces->take<int32_t>(4)),
        before(pieces->take<int32_t>(batch.token_capacity)),
        segment(pieces->take<int32_t>(batch.token_capacity)),
        keys(pieces->take<int32_t>(batch.token_capacity)),
        own(pieces->take<int32_t>(batch.segment_capacity)),
        queries(pieces->take<Item>(most_queries(batch, shape))),
        key_blocks(backward ? pieces->take<Item>(most_key_blocks(batch)) : nullptr) {}

  // At most one item of a segment is not full.
  static int64_t most_queries(const credence_batch& batch, const credence_shape& shape) {
    const int64_t group = shape.kv_heads > 0 ? shape.heads / shape.kv_heads : 0;
    return batch.token_capacity * group / kTileRows + batch.segment_capacity;
  }
  static int64_t most_key_blocks(const credence_batch& batch) {
    return batch.token_capacity / kTileRows + batch.segment_capacity;
  }
};

/// The keys a token sees: [begin, end), counted from the sequence's start.
struct Visible {
  int32_t begin, end;
};

__device__ __forceinline__ Visible visible_keys(const credence_batch& batch, const AttentionPlan& plan, int32_t window,
                                                int32_t t) {
  const int32_t before = plan.before[t];
  return {window > 0 ? max(before - window + 1, 0) : 0, before + (is_key(batch, t) ? 1 : 0)};
}

/// How many of segment b's keys, counted from the sequence's start, segment c reads as its prefix; 0 if they are not in its
/// chain of prefixes.
__device__ __forceinline__ int32_t reach(const credence_batch& batch, int32_t c, int32_t b) {
  int32_t least = INT32_MAX;
  while (c > b) {
    if (!batch.prefix_of || batch.prefix_of[c] < 0) return 0;
    least = min(least, batch.key_start[c]);
    c = batch.prefix_of[c];
  }
  return c == b ? least : 0;
}

/// The row of key j of segment b.
__device__ __forceinline__ int32_t key_row(const credence_batch& batch, const AttentionPlan& plan, int32_t b,
                                           int32_t j) {
  while (j < batch.key_start[b]) b = batch.prefix_of[b];
  return plan.keys[batch.cu_seqlens[b] + j - batch.key_start[b]];
}

/// Refuses shapes that no kernel is compiled for.
int check_attention(Backend& backend, Operator op, const credence_shape& shape);
int plan_attention(Backend& backend, Operator op, const credence_batch& batch, const credence_shape& shape,
                   int32_t window, const AttentionPlan& plan);

}  // namespace credence::cuda
