// Tiles of bf16 rows in shared memory and their products by mma.m16n8k16. A tile's rows are kStride = D + 8 elements apart, an odd
// number of 16-byte units, so that the eight rows of an ldmatrix lie in different banks. D is a head size that is
// compiled; a smaller head has zeros behind it, which add nothing to a product.
#pragma once

#include "attention_plan.h"
#include "ptx.h"

namespace credence::cuda {

using Bf16 = __nv_bfloat16;

constexpr int kTileThreads = 128, kTileWarps = kTileThreads / kWarp;  // a warp 16 rows of 64
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <int D>
constexpr int kStride = D + 8;

/// What a block works on in attention and in dQ: up to 64 rows that read one kv head of one segment. Rows of a segment are numbered
/// token by token, the group's heads together.
struct QueryTile {
  const credence_shape& shape;
  const int32_t kv_head, group, segment, from, first, rows;
  const int32_t piece;  // of the rows' keys; -1: all of them

  /// Whether the plan has an item for the block.
  static __device__ __forceinline__ bool exists(const credence_shape& of, const AttentionPlan& plan) {
    return static_cast<int32_t>(blockIdx.x) / of.kv_heads < plan.counts[2];
  }
  __device__ __forceinline__ QueryTile(const credence_batch& batch, const credence_shape& of, const AttentionPlan& plan)
      : QueryTile(batch, of, plan.queries[static_cast<int32_t>(blockIdx.x) / of.kv_heads]) {}

  __device__ __forceinline__ int32_t token(int32_t r) const { return from + (first + r) / group; }
  /// Of q and o.
  __device__ __forceinline__ int64_t row(int32_t r) const {
    return static_cast<int64_t>(token(r)) * shape.heads + kv_head * group + (first + r) % group;
  }

 private:
  __device__ __forceinline__ QueryTile(const credence_batch& batch, const credence_shape& of, Item work)
      : shape(of),
        kv_head(static_cast<int32_t>(blockIdx.x) % of.kv_heads),
        group(of.heads / of.kv_heads),
        segment(work.segment),
        from(batch.cu_seqlens[segment]),
        first(work.first * kTileRows),
        rows(min((batch.cu_seqlens[segment + 1] - from) * group - first, kTileRows)),
        piece(work.piece) {}
};

/// Rows [0, kRows) of a tile: row(r) is d elements in global memory, or null for zeros. There after cp_async_wait and a barrier.
template <int D, int kRows, class Row>
__device__ __forceinline__ void load_rows(Bf16* tile, int32_t d, Row row) {
  constexpr int kPieces = D / 8;  // of 16 bytes
  const bool aligned = d % 8 == 0;
  for (auto i = static_cast<int>(threadIdx.x); i < kRows * kPieces; i += kTileThreads) {
    const int r = i / kPieces, at = i % kPieces * 8;
    const Bf16* const from = row(r);
    Bf16* const to = tile + r * kStride<D> + at;
    if (from && aligned && at < d) {
      ptx::cp_async16(to, from + at);
    } else {
      for (int x = 0; x < 8; ++x) to[x] = from && at + x < d ? from[at + x] : to_act<Bf16>(0.0f);
    }
  }
}

/// The left factor's block [row .. row + 16) x [column .. column + 16).
template <int D>
__device__ __forceinline__ void load_left(uint32_t (&a)[4], const Bf16* tile, int row, int column) {
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
  ptx::ldmatrix4(a, tile + (row + lane % 16) * kStride<D> + column + lane / 16 * 8);
}

/// c0, c1 += a times two blocks of 8 columns of the right factor; b as ldmatrix left it.
__device__ __forceinline__ void multiply(float (&c0)[4], float (&c1)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[4]) {
  const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
  ptx::mma_m16n8k16(c0, a, b0);
  ptx::mma_m16n8k16(c1, a, b1);
}

/// c [16, 8 kBlocks] += a R^T, where a is columns [column, column + 16) of the left factor and R's rows are the tile's.
template <int D, int kBlocks>
__device__ __forceinline__ void times_rows(float (&c)[kBlocks][4], const uint32_t (&a)[4], const Bf16* tile,
                                           int column) {
  static_assert(kBlocks % 2 == 0);
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int n = 0; n < kBlocks; n += 2) {
    uint32_t b[4];
    ptx::ldmatrix4(b, tile + (n * 8 + lane / 16 * 8 + lane % 8) * kStride<D> + column + lane / 8 % 2 * 8);
    multiply(c[n], c[n + 1], a, b);
  }
}

/// c [16, D] += a R, where a is columns [row, row + 16) of the left factor and R's rows are the tile's.
template <int D>
__device__ __forceinline__ void times_columns(float (&c)[D / 8][4], const uint32_t (&a)[4], const Bf16* tile, int row) {
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int n = 0; n < D / 8; n += 2) {
    uint32_t b[4];
    ptx::ldmatrix4_transposed(b, tile + (row + lane % 16) * kStride<D> + n * 8 + lane / 16 * 8);
    multiply(c[n], c[n + 1], a, b);
  }
}

/// Two neighbouring blocks of a result as the left factor of the next product, rounded.
__device__ __forceinline__ void as_left(uint32_t (&a)[4], const float (&c0)[4], const float (&c1)[4]) {
  a[0] = ptx::pack_bf16(c0[0], c0[1]);
  a[1] = ptx::pack_bf16(c0[2], c0[3]);
  a[2] = ptx::pack_bf16(c1[0], c1[1]);
  a[3] = ptx::pack_bf16(c1[2], c1[3]);
}

/// Columns 0 .. d of one of the two rows that a lane has of c (half 0: row lane / 4, 1: 8 below) times `factor`, as a row of bf16.
template <int D>
__device__ __forceinline__ void store_row(Bf16* to, const float (&c)[D / 8][4], int half, float factor, int32_t d) {
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    const int at = n * 8 + lane % 4 * 2;
    // + 0 makes a negative zero, which depends on how many zeros were added, a positive one.
    const float x = c[n][half * 2] * factor + 0.0f, y = c[n][half * 2 + 1] * factor + 0.0f;
    if (d % 2 == 0 && at < d) {
      *reinterpret_cast<uint32_t*>(to + at) = ptx::pack_bf16(x, y);
    } else if (at < d) {
      to[at] = to_act<Bf16>(x);
      if (at + 1 < d) to[at + 1] = to_act<Bf16>(y);
    }
  }
}

/// The same columns of the same row, as they are.
template <int D>
__device__ __forceinline__ void store_floats(float* to, const float (&c)[D / 8][4], int half, int32_t d) {
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (n * 8 + lane % 4 * 2 + i < d) to[n * 8 + lane % 4 * 2 + i] = c[n][half * 2 + i];
}

/// body.template operator()<D>() with the smallest compiled head size that holds d.
template <class Body>
int with_head_dim(int32_t d, const Body& body) {
  if (d <= 64) return body.template operator()<64>();
  if (d <= 80) return body.template operator()<80>();
  if (d <= 96) return body.template operator()<96>();
  return body.template operator()<kMostHeadDim>();
}

}  // namespace credence::cuda
