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
  int32_t piece;  // of the rows' keys (Pieces); -1: all of them
};

struct AttentionPlan {
  int32_t* counts;   // [4] tokens, segments, items of queries, items of keys
  int32_t* before;   // [T] keys in front of each token
  int32_t* segment;  // [T] whose it is
  int32_t* keys;     // [T] from cu_seqlens[b] on: the rows of b that are keys, in order
  int32_t* own;      // [B] how many they are
  int32_t* pieces;   // [B] of its rows' keys (Pieces)
  Item* queries;     // longest first
  Item* key_blocks;  // the same, or null: no backward

  AttentionPlan(Workspace* memory, const credence_batch& batch, const credence_shape& shape, bool backward,
                int32_t most_pieces = 1)
      : counts(memory->take<int32_t>(4)),
        before(memory->take<int32_t>(batch.token_capacity)),
        segment(memory->take<int32_t>(batch.token_capacity)),
        keys(memory->take<int32_t>(batch.token_capacity)),
        own(memory->take<int32_t>(batch.segment_capacity)),
        pieces(memory->take<int32_t>(batch.segment_capacity)),
        queries(memory->take<Item>(most_queries(batch, shape, most_pieces))),
        key_blocks(backward ? memory->take<Item>(most_key_blocks(batch)) : nullptr) {}

  // At most one item of a segment is not full; a segment of one token has each of its own once for every piece.
  static int64_t most_queries(const credence_batch& batch, const credence_shape& shape, int32_t most_pieces = 1) {
    const int64_t group = shape.kv_heads > 0 ? shape.heads / shape.kv_heads : 0;
    return batch.token_capacity * group / kTileRows + batch.segment_capacity +
           batch.segment_capacity * (most_pieces - 1) * ceil_div(group, kTileRows);
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

/// Where a row's keys are cut when they are split: every kPieceKeys from the sequence's start, so that it depends on nothing but the
/// row. Only the token of a segment of one is split; a row whose keys lie in one piece runs as if nobody had asked.
/// 256 keys are four pages, enough to hide the first one's way here behind; what a piece leaves is a hundredth of what it reads.
constexpr int kPieceKeys = 256;
static_assert(kPieceKeys % CREDENCE_PAGE == 0);

struct Pieces {
  int32_t first, count;  // count 1: not split

  static __device__ __forceinline__ Pieces of(const credence_batch& batch, const AttentionPlan& plan, int32_t window,
                                              int32_t t, bool split) {
    const int32_t* const ends = batch.cu_seqlens + plan.segment[t];
    if (!split || ends[1] - ends[0] != 1) return {0, 1};
    const Visible visible = visible_keys(batch, plan, window, t);
    if (visible.end <= visible.begin) return {0, 1};
    const int32_t first = visible.begin / kPieceKeys;
    return {first, (visible.end - 1) / kPieceKeys - first + 1};
  }
  /// What a row can have at most.
  static int32_t most(const credence_attention& p) {
    if (!p.split_keys) return 1;
    const int64_t of_table = ceil_div(int64_t{p.batch.pages_per_segment} * CREDENCE_PAGE, kPieceKeys);
    const int64_t of_window = p.window > 0 ? ceil_div(p.window - 1, kPieceKeys) + 1 : of_table;
    return static_cast<int32_t>(std::max<int64_t>(std::min(of_table, of_window), 1));
  }
};

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
                   int32_t window, const AttentionPlan& plan, bool split = false);

}  // namespace credence::cuda
