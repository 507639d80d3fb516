// o = softmax(scale q k^T) v over pages of 64 keys (kernels.h, credence_attention; Dao et al. 2022, algorithm 1). A row is one query
// head of one token; the rows that read one kv head of one segment are numbered token by token, the group's heads
// together, so that a page of keys and values is fetched once for all of them, and decoding is the same kernel with few rows.
// A row's own sums run in the same order whatever tile it is in: over head dimensions, then pages from the sequence's start.
// Where keys may be split (split_keys), pieces of a decoded row's keys are work items of their own, and a second kernel puts
// their softmaxes together in order (Dao et al. 2023, Flash-Decoding).
#include "attention_tiles.h"
#include "page.h"

namespace credence::cuda {

namespace {

constexpr int kPiecePages = kPieceKeys / CREDENCE_PAGE;

/// What the pieces of a segment's one token leave, [pieces, segments, heads].
struct Parts {
  int32_t segments, heads;
  float* o;                // [head_dim], not yet divided
  float *highest, *total;  // score, and the sum of powers beside it

  __device__ __forceinline__ int64_t at(int32_t piece, int32_t segment, int32_t head) const {
    return (static_cast<int64_t>(piece) * segments + segment) * heads + head;
  }
};

struct ForwardSpace {
  Workspace memory;
  int32_t pieces;  // of a row at most; 1: none is split
  AttentionPlan plan;
  Parts parts;

  ForwardSpace(const credence_attention& p, void* base)
      : memory(base),
        pieces(Pieces::most(p)),
        plan(&memory, p.batch, p.shape, false, pieces),
        parts{p.batch.segment_capacity, p.shape.heads, nullptr, nullptr, nullptr} {
    if (pieces == 1) return;
    const int64_t count = int64_t{pieces} * parts.segments * parts.heads;
    parts.o = memory.take<float>(count * p.shape.head_dim);
    parts.highest = memory.take<float>(count);
    parts.total = memory.take<float>(count);
  }
};

// bf16: a block 64 rows, a warp 16 of them with scores, output and queries in registers. While a page is worked on the next one is
// on its way: two stages of K and V; q passes through the second before its page comes.
template <int D>
__global__ void __launch_bounds__(kTileThreads) attention_tiles(credence_attention p, AttentionPlan plan, Parts parts) {
  constexpr int kTile = kTileRows * kStride<D>;
  CREDENCE_DYNAMIC_SHARED(Bf16, shared);  // [2 stages][K, V][64][kStride]
  const credence_shape& shape = p.shape;
  if (!QueryTile::exists(shape, plan)) return;
  const QueryTile tile(p.batch, shape, plan);
  const int32_t d = shape.head_dim, rows = tile.rows;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;

  const Visible span = {visible_keys(p.batch, plan, p.window, tile.token(0)).begin,
                        visible_keys(p.batch, plan, p.window, tile.token(rows - 1)).end};
  int32_t lowest = span.begin / CREDENCE_PAGE, pages = (span.end + CREDENCE_PAGE - 1) / CREDENCE_PAGE;
  if (tile.piece >= 0) {
    const int32_t from = (span.begin / kPieceKeys + tile.piece) * kPiecePages;
    lowest = max(lowest, from);
    pages = min(pages, from + kPiecePages);
  }
  const int32_t* const table = p.batch.page_table + static_cast<int64_t>(tile.segment) * p.batch.pages_per_segment;
  const auto fetch = [&](int32_t page) {
    Bf16* const stage = shared + (page - lowest) % 2 * 2 * kTile;
    const Bf16* const keys = static_cast<const Bf16*>(p.pages) + page_key(shape, table[page], tile.kv_head, 0);
    const Bf16* const values = static_cast<const Bf16*>(p.pages) + page_value(shape, table[page], tile.kv_head, 0);
    load_rows<D, kTileRows>(stage, d, [&](int r) { return keys + r * d; });
    load_rows<D, kTileRows>(stage + kTile, d, [&](int r) { return values + r * d; });
  };

  Bf16* const queries = shared + 2 * kTile;
  load_rows<D, kTileRows>(queries, d,
                          [&](int r) { return r < rows ? static_cast<const Bf16*>(p.q) + tile.row(r) * d : nullptr; });
  ptx::cp_async_commit();
  if (lowest < pages) fetch(lowest);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();
  __syncthreads();
  uint32_t q[D / 16][4];
#pragma unroll
  for (int k = 0; k < D / 16; ++k) load_left<D>(q[k], queries, warp * 16, k * 16);

  // A lane has two rows of each block: lane / 4 of the warp's 16, and the one 8 below.
  Visible visible[2] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {}, o[D / 8][4] = {};
  const int32_t mine = warp * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (mine + half * 8 < rows) visible[half] = visible_keys(p.batch, plan, p.window, tile.token(mine + half * 8));
  const float factor = p.scale * kLog2E;  // scores are powers of two from here on

  for (int32_t page = lowest; page < pages; ++page) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // this page is here, and everyone is done with what the next one replaces
    if (page + 1 < pages) fetch(page + 1);
    ptx::cp_async_commit();
    const Bf16* const keys = shared + (page - lowest) % 2 * 2 * kTile;
    float s[8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) times_rows<D, 8>(s, q[k], keys, k * 16);

    float correction[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t begin = visible[half].begin - page * CREDENCE_PAGE - lane % 4 * 2;
      const int32_t end = visible[half].end - page * CREDENCE_PAGE - lane % 4 * 2;
      float high = -INFINITY;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[n][half * 2 + i];
          const int32_t key = n * 8 + i;
          x = begin <= key && key < end ? x * factor : -INFINITY;
          high = fmaxf(high, x);
        }
      high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, 1));
      high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, 2));
      const float now = fmaxf(most[half], high);
      const float base = now == -INFINITY ? 0.0f : now;  // no key yet: exp2(-inf - 0) is the 0 it has to be
      correction[half] = exp2f(most[half] - base);
      float sum = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) sum += s[n][half * 2 + i] = exp2f(s[n][half * 2 + i] - base);
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      total[half] = total[half] * correction[half] + sum;
      most[half] = now;
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] *= correction[i / 2];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t a[4];
      as_left(a, s[2 * k], s[2 * k + 1]);
      times_columns<D>(o, a, keys + kTile, k * 16);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t r = mine + half * 8;
    if (r >= rows) continue;
    const int64_t row = tile.row(r);
    if (tile.piece >= 0) {
      const int64_t at = parts.at(tile.piece, tile.segment, static_cast<int32_t>(row % shape.heads));
      store_floats<D>(parts.o + at * d, o, half, d);
      if (lane % 4 == 0) {
        parts.highest[at] = most[half];
        parts.total[at] = total[half];
      }
      continue;
    }
    store_row<D>(static_cast<Bf16*>(p.o) + row * d, o, half, total[half] > 0 ? 1.0f / total[half] : 0.0f, d);
    if (p.lse && lane % 4 == 0) p.lse[row] = total[half] > 0 ? (most[half] + log2f(total[half])) * kLn2 : -INFINITY;
  }
}

// float32, to check by: a warp a row (or a piece of it), a lane two keys of a page, then a lane every 32nd dimension.
__global__ void __launch_bounds__(kTileThreads)
    attention_rows(credence_attention p, AttentionPlan plan, Parts parts, bool split) {
  __shared__ float weights[kTileWarps][CREDENCE_PAGE];
  const credence_shape& shape = p.shape;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + warp, t = row / shape.heads;
  if (t >= plan.counts[0]) return;
  const int32_t d = shape.head_dim, g = static_cast<int32_t>(row % shape.heads) / (shape.heads / shape.kv_heads);
  Visible visible = visible_keys(p.batch, plan, p.window, static_cast<int32_t>(t));
  const Pieces pieces = Pieces::of(p.batch, plan, p.window, static_cast<int32_t>(t), split);
  const auto piece = static_cast<int32_t>(blockIdx.y);
  if (piece >= pieces.count) return;
  if (pieces.count > 1) {
    const int32_t from = (pieces.first + piece) * kPieceKeys;
    visible = {max(visible.begin, from), min(visible.end, from + kPieceKeys)};
  }
  const int32_t* const table = p.batch.page_table + static_cast<int64_t>(plan.segment[t]) * p.batch.pages_per_segment;
  const float* const pages = static_cast<const float*>(p.pages);
  const float* const q = static_cast<const float*>(p.q) + row * d;
  float most = -INFINITY, total = 0, o[kMostHeadDim / kWarp] = {};
  for (int32_t from = visible.begin / CREDENCE_PAGE * CREDENCE_PAGE; from < visible.end; from += CREDENCE_PAGE) {
    const int64_t page = table[from / CREDENCE_PAGE];
    const int32_t begin = max(visible.begin - from, 0), end = min(visible.end - from, CREDENCE_PAGE);
    float s[2], high = -INFINITY;
    for (int32_t i = 0; i < 2; ++i) {
      const int32_t slot = lane + i * kWarp;
      s[i] = -INFINITY;
      if (slot < begin || slot >= end) continue;
      const float* const key = pages + page_key(shape, page, g, slot);
      float sum = 0;
      for (int32_t x = 0; x < d; ++x) sum += q[x] * key[x];
      s[i] = sum * p.scale;
      high = fmaxf(high, s[i]);
    }
    const float now = fmaxf(most, warp_reduce(high, Largest())), correction = expf(most - now);
    for (int32_t i = 0; i < 2; ++i) weights[warp][lane + i * kWarp] = s[i] = expf(s[i] - now);
    total = total * correction + warp_reduce(s[0] + s[1], Sum());
    most = now;
    __syncwarp();
#pragma unroll
    for (int32_t i = 0; i < kMostHeadDim / kWarp; ++i) {
      const int32_t x = lane + i * kWarp;
      o[i] *= correction;
      for (int32_t slot = begin; x < d && slot < end; ++slot)
        o[i] += weights[warp][slot] * pages[page_value(shape, page, g, slot) + x];
    }
    __syncwarp();
  }
  if (pieces.count > 1) {
    const int64_t at = parts.at(piece, plan.segment[t], static_cast<int32_t>(row % shape.heads));
#pragma unroll
    for (int32_t i = 0; i < kMostHeadDim / kWarp; ++i)
      if (lane + i * kWarp < d) parts.o[at * d + lane + i * kWarp] = o[i];
    if (lane == 0) {
      parts.highest[at] = most;
      parts.total[at] = total;
    }
    return;
  }
#pragma unroll
  for (int32_t i = 0; i < kMostHeadDim / kWarp; ++i)
    if (lane + i * kWarp < d) static_cast<float*>(p.o)[row * d + lane + i * kWarp] = total > 0 ? o[i] / total : 0.0f;
  if (p.lse && lane == 0) p.lse[row] = total > 0 ? most + logf(total) : -INFINITY;
}

// The pieces of a row that is split, in order: a warp a head of a segment. Scores are powers of two in bf16, of e in float32.
template <class T>
__global__ void __launch_bounds__(kTileThreads) join_pieces(credence_attention p, AttentionPlan plan, Parts parts) {
  constexpr bool kTwo = sizeof(T) == 2;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / kWarp;
  const auto segment = static_cast<int32_t>(warp / parts.heads), head = static_cast<int32_t>(warp % parts.heads);
  if (segment >= plan.counts[1]) return;
  const int32_t t = p.batch.cu_seqlens[segment], d = p.shape.head_dim;
  if (p.batch.cu_seqlens[segment + 1] - t != 1) return;
  const int32_t count = Pieces::of(p.batch, plan, p.window, t, true).count;
  if (count == 1) return;
  float most = -INFINITY, total = 0;
  for (int32_t i = 0; i < count; ++i) most = fmaxf(most, parts.highest[parts.at(i, segment, head)]);
  const auto share = [&](int64_t at) {  // of a piece whose scores are all -inf: 0
    const float less = parts.highest[at] - most;
    return parts.highest[at] == -INFINITY ? 0.0f : kTwo ? exp2f(less) : expf(less);
  };
  for (int32_t i = 0; i < count; ++i) {
    const int64_t at = parts.at(i, segment, head);
    total += share(at) * parts.total[at];
  }
  const int64_t row = static_cast<int64_t>(t) * parts.heads + head;
  const float factor = total > 0 ? 1.0f / total : 0.0f;
  for (int32_t x = lane; x < d; x += kWarp) {
    float o = 0;
    for (int32_t i = 0; i < count; ++i) {
      const int64_t at = parts.at(i, segment, head);
      o += share(at) * parts.o[at * d + x];
    }
    static_cast<T*>(p.o)[row * d + x] = to_act<T>(o * factor + 0.0f);  // as store_row: no negative zero
  }
  if (p.lse && lane == 0)
    p.lse[row] = total > 0 ? (kTwo ? (most + log2f(total)) * kLn2 : most + logf(total)) : -INFINITY;
}

}  // namespace

size_t attention_workspace(const credence_attention* p) { return ForwardSpace(*p, nullptr).memory.used(); }

int attention(Backend& backend, const credence_attention* p, void* workspace) {
  constexpr Operator op = Operator::attention;
  const credence_shape& shape = p->shape;
  if (int error = check_attention(backend, op, shape)) return error;
  const ForwardSpace space(*p, workspace);
  const AttentionPlan& plan = space.plan;
  const bool split = space.pieces > 1;
  if (int error = plan_attention(backend, op, p->batch, shape, p->window, plan, split)) return error;
  int error = 0;
  if (p->dtype == CREDENCE_F32) {
    dim3 blocks = blocks_of(static_cast<int64_t>(p->batch.token_capacity) * shape.heads, kTileWarps);
    blocks.y = static_cast<unsigned>(space.pieces);
    error = launch(backend, "attention", &attention_rows, blocks, dim3(kTileThreads), 0, *p, plan, space.parts, split);
  } else {
    const int64_t items = AttentionPlan::most_queries(p->batch, shape, space.pieces);
    error = with_head_dim(shape.head_dim, [&]<int D>() {
      return launch(backend, "attention", &attention_tiles<D>, dim3(static_cast<unsigned>(items * shape.kv_heads)),
                    dim3(kTileThreads), sizeof(Bf16) * 4 * kTileRows * kStride<D>, *p, plan, space.parts);
    });
  }
  if (error || !split) return error;
  const int64_t joined = int64_t{p->batch.segment_capacity} * shape.heads;
  return with_type(p->dtype, [&]<class T>() {
    return launch(backend, "attention", &join_pieces<T>, blocks_of(joined, kTileWarps), dim3(kTileThreads), 0, *p, plan,
                  space.parts);
  });
}

}  // namespace credence::cuda
