// The way back through attention (kernels.h, credence_attention_backward; Dao et al. 2022, algorithm 4). Two passes, each of which owns what
// it sums, so that nothing is added by atomics and the order of sums is one: dK and dV by blocks of keys, over segments,
// the group's heads and queries in order; dQ by the items of queries, over keys in order. Scores are made in both; what is
// paid for the order is two of seven products.
#include "attention_tiles.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kStep = 32;  // queries or keys that are worked on at once: dK and dV fill the registers already

struct BackwardSpace {
  Workspace pieces;
  AttentionPlan plan;
  float* d;  // [T, heads] D = rowsum(dO o O)

  BackwardSpace(const credence_attention_backward* p, void* base)
      : pieces(base),
        plan(&pieces, p->batch, p->shape, true),
        d(pieces.take<float>(static_cast<int64_t>(p->batch.token_capacity) * p->shape.heads)) {}
};

// A warp a row.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    row_dots(const T* o, const T* d_o, AttentionPlan plan, int32_t heads, int32_t head_dim, float* d) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / kWarp;
  if (row / heads >= plan.counts[0]) return;
  float sum = 0;
  for (int32_t x = lane; x < head_dim; x += kWarp)
    sum += to_float(o[row * head_dim + x]) * to_float(d_o[row * head_dim + x]);
  sum = warp_reduce(sum, Sum());
  if (lane == 0) d[row] = sum;
}

/// The queries that see some of a block of keys of segment b, 32 tokens of one head at a time, in the order of sums: segments, the
/// group's heads, tokens.
struct QueryBlocks {
  const credence_batch& batch;
  const AttentionPlan& plan;
  int32_t b, first_row, first_key, last_key, group, window;
  int32_t c, head, t, from, to, limit;  // c sees keys below limit; its tokens [from, to) of the group's head `head`

  __device__ QueryBlocks(const credence_batch& of, const AttentionPlan& with, int32_t segment, int32_t block,
                         int32_t count, int32_t heads, int32_t seen)
      : batch(of),
        plan(with),
        b(segment),
        first_row(with.keys[of.cu_seqlens[segment] + block * kTileRows]),
        first_key(of.key_start[segment] + block * kTileRows),
        last_key(first_key + count - 1),
        group(heads),
        window(seen),
        c(segment - 1) {
    next_segment();
  }

  __device__ bool done() const { return c >= plan.counts[1]; }
  __device__ void next() {
    t += kStep;
    if (t < to && (window <= 0 || plan.before[t] - window < last_key)) return;
    t = from;
    if (++head == group) next_segment();
  }

 private:
  __device__ void next_segment() {
    head = 0;
    for (++c; c < plan.counts[1]; ++c) {
      if (c > b && !batch.prefix_of) {
        c = plan.counts[1];
        return;
      }
      limit = reach(batch, c, b);
      if (limit <= first_key) continue;
      t = from = c == b ? first_row : batch.cu_seqlens[c];
      to = batch.cu_seqlens[c + 1];
      if (from < to) return;
    }
  }
};

/// What belongs to the queries of a step.
struct Queries {
  float lse[kStep], d[kStep];
  Visible visible[kStep];
};

// bf16: a block 64 keys of one kv head, a warp 16 of them. Scores are made as S^T [keys, queries], so that P^T and dS^T are at once the
// left factors of dV = P^T dO and dK = dS^T Q.
template <int D>
__global__ void __launch_bounds__(kTileThreads)
    key_gradients(credence_attention_backward p, AttentionPlan plan, const float* d_of_rows) {
  constexpr int kTile = kTileRows * kStride<D>, kHalf = kStep * kStride<D>;
  CREDENCE_DYNAMIC_SHARED(Bf16, shared);  // K, V [64][kStride], then [2 stages][Q, dO][32][kStride]
  __shared__ Queries stages[2];
  const credence_shape& shape = p.shape;
  const auto item = static_cast<int32_t>(blockIdx.x) / shape.kv_heads,
             g = static_cast<int32_t>(blockIdx.x) % shape.kv_heads;
  if (item >= plan.counts[3]) return;
  const Item work = plan.key_blocks[item];
  const int32_t group = shape.heads / shape.kv_heads, size = shape.head_dim, b = work.segment;
  const int32_t count = min(plan.own[b] - work.first * kTileRows, kTileRows);
  const int32_t* const rows = plan.keys + p.batch.cu_seqlens[b] + work.first * kTileRows;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const auto key_of = [&](const void* base, int r) {
    return r < count ? static_cast<const Bf16*>(base) + (static_cast<int64_t>(rows[r]) * shape.kv_heads + g) * size
                     : nullptr;
  };
  Bf16 *const keys = shared, *const values = shared + kTile;
  load_rows<D, kTileRows>(keys, size, [&](int r) { return key_of(p.k, r); });
  load_rows<D, kTileRows>(values, size, [&](int r) { return key_of(p.v, r); });

  const auto fetch = [&](const QueryBlocks& at, int stage) {
    Bf16* const q = shared + 2 * kTile + stage * 2 * kHalf;
    const auto row = [&](int r) { return static_cast<int64_t>(at.t + r) * shape.heads + g * group + at.head; };
    const auto query_of = [&](const void* base, int r) {
      return at.t + r < at.to ? static_cast<const Bf16*>(base) + row(r) * size : nullptr;
    };
    load_rows<D, kStep>(q, size, [&](int r) { return query_of(p.q, r); });
    load_rows<D, kStep>(q + kHalf, size, [&](int r) { return query_of(p.d_o, r); });
    const auto r = static_cast<int32_t>(threadIdx.x);
    if (r >= kStep) return;
    const bool there = at.t + r < at.to;
    Visible visible = {};
    if (there) visible = visible_keys(p.batch, plan, p.window, at.t + r);
    stages[stage].visible[r] = {visible.begin, min(visible.end, at.limit)};
    stages[stage].lse[r] = there ? p.lse[row(r)] * kLog2E : 0.0f;
    stages[stage].d[r] = there ? d_of_rows[row(r)] : 0.0f;
  };

  QueryBlocks blocks(p.batch, plan, b, work.first, count, group, p.window);
  if (!blocks.done()) fetch(blocks, 0);
  ptx::cp_async_commit();
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  const float factor = p.scale * kLog2E;
  const int32_t key = blocks.first_key + warp * 16 + lane / 4;
  for (int stage = 0; !blocks.done(); stage ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these queries are here, and everyone is done with those that the next ones replace
    blocks.next();
    if (!blocks.done()) fetch(blocks, stage ^ 1);
    ptx::cp_async_commit();
    const Bf16* const q = shared + 2 * kTile + stage * 2 * kHalf;
    const Bf16* const d_o = q + kHalf;
    float s[kStep / 8][4] = {}, dp[kStep / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t a[4];
      load_left<D>(a, keys, warp * 16, k * 16);
      times_rows<D, kStep / 8>(s, a, q, k * 16);
      load_left<D>(a, values, warp * 16, k * 16);
      times_rows<D, kStep / 8>(dp, a, d_o, k * 16);
    }
    const Queries& of = stages[stage];
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t query = n * 8 + lane % 4 * 2 + i % 2, at = key + i / 2 * 8;
        const Visible visible = of.visible[query];
        const bool seen = visible.begin <= at && at < visible.end;
        const float probability = seen ? exp2f(s[n][i] * factor - of.lse[query]) : 0.0f;
        dp[n][i] = seen ? probability * (dp[n][i] - of.d[query]) : 0.0f;
        s[n][i] = probability;
      }
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
      uint32_t a[4];
      as_left(a, s[2 * k], s[2 * k + 1]);
      times_columns<D>(dv, a, d_o, k * 16);
      as_left(a, dp[2 * k], dp[2 * k + 1]);
      times_columns<D>(dk, a, q, k * 16);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t r = warp * 16 + lane / 4 + half * 8;
    if (r >= count) continue;
    const int64_t to = (static_cast<int64_t>(rows[r]) * shape.kv_heads + g) * size;
    store_row<D>(static_cast<Bf16*>(p.dk) + to, dk, half, p.scale, size);
    store_row<D>(static_cast<Bf16*>(p.dv) + to, dv, half, 1.0f, size);
  }
}

// bf16: rows as in the forward pass, keys 32 at a time. Two blocks a multiprocessor: left to itself the compiler aims for four at
// D = 64 and spills.
template <int D>
__global__ void __launch_bounds__(kTileThreads, 2)
    query_gradients(credence_attention_backward p, AttentionPlan plan, const float* d_of_rows) {
  constexpr int kTile = kTileRows * kStride<D>, kHalf = kStep * kStride<D>;
  CREDENCE_DYNAMIC_SHARED(Bf16, shared);  // Q, dO [64][kStride], then [2 stages][K, V][32][kStride]
  const credence_shape& shape = p.shape;
  if (!QueryTile::exists(shape, plan)) return;
  const QueryTile tile(p.batch, shape, plan);
  const int32_t size = shape.head_dim, rows = tile.rows;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const auto query_of = [&](const void* base, int r) {
    return r < rows ? static_cast<const Bf16*>(base) + tile.row(r) * size : nullptr;
  };
  Bf16 *const queries = shared, *const upstream = shared + kTile;
  load_rows<D, kTileRows>(queries, size, [&](int r) { return query_of(p.q, r); });
  load_rows<D, kTileRows>(upstream, size, [&](int r) { return query_of(p.d_o, r); });

  const int32_t lowest = visible_keys(p.batch, plan, p.window, tile.token(0)).begin / kStep * kStep;
  const int32_t highest = visible_keys(p.batch, plan, p.window, tile.token(rows - 1)).end;
  const auto fetch = [&](int32_t key, int stage) {
    Bf16* const k = shared + 2 * kTile + stage * 2 * kHalf;
    const auto key_of = [&](const void* base, int r) {
      if (key + r >= highest) return static_cast<const Bf16*>(nullptr);
      return static_cast<const Bf16*>(base) +
             (static_cast<int64_t>(key_row(p.batch, plan, tile.segment, key + r)) * shape.kv_heads + tile.kv_head) *
                 size;
    };
    load_rows<D, kStep>(k, size, [&](int r) { return key_of(p.k, r); });
    load_rows<D, kStep>(k + kHalf, size, [&](int r) { return key_of(p.v, r); });
  };
  if (lowest < highest) fetch(lowest, 0);
  ptx::cp_async_commit();

  Visible visible[2] = {};
  float lse[2] = {}, d[2] = {}, dq[D / 8][4] = {};
  const int32_t mine = warp * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t r = mine + half * 8;
    if (r >= rows) continue;
    visible[half] = visible_keys(p.batch, plan, p.window, tile.token(r));
    lse[half] = p.lse[tile.row(r)] * kLog2E;
    d[half] = d_of_rows[tile.row(r)];
  }
  const float factor = p.scale * kLog2E;
  int stage = 0;
  for (int32_t key = lowest; key < highest; key += kStep, stage ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these keys are here, and everyone is done with those that the next ones replace
    if (key + kStep < highest) fetch(key + kStep, stage ^ 1);
    ptx::cp_async_commit();
    const Bf16* const k = shared + 2 * kTile + stage * 2 * kHalf;
    float s[kStep / 8][4] = {}, dp[kStep / 8][4] = {};
#pragma unroll
    for (int x = 0; x < D / 16; ++x) {
      uint32_t a[4];
      load_left<D>(a, queries, warp * 16, x * 16);
      times_rows<D, kStep / 8>(s, a, k, x * 16);
      load_left<D>(a, upstream, warp * 16, x * 16);
      times_rows<D, kStep / 8>(dp, a, k + kHalf, x * 16);
    }
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t at = key + n * 8 + lane % 4 * 2 + i % 2;
        const bool seen = visible[i / 2].begin <= at && at < visible[i / 2].end;
        dp[n][i] = seen ? exp2f(s[n][i] * factor - lse[i / 2]) * (dp[n][i] - d[i / 2]) : 0.0f;
      }
#pragma unroll
    for (int x = 0; x < kStep / 16; ++x) {
      uint32_t a[4];
      as_left(a, dp[2 * x], dp[2 * x + 1]);
      times_columns<D>(dq, a, k, x * 16);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (mine + half * 8 < rows)
      store_row<D>(static_cast<Bf16*>(p.dq) + tile.row(mine + half * 8) * size, dq, half, p.scale, size);
}

// float32, to check by: a warp sums one row, a lane makes what one of 32 pairs adds, then a lane sums every 32nd dimension.
constexpr int kParts = kMostHeadDim / kWarp;

__device__ __forceinline__ float dot(const float* a, const float* b, int32_t count) {
  float sum = 0;
  for (int32_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

__global__ void __launch_bounds__(kTileThreads)
    query_gradient_rows(credence_attention_backward p, AttentionPlan plan, const float* d_of_rows) {
  __shared__ float slopes[kTileWarps][kWarp];
  const credence_shape& shape = p.shape;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + warp, t = row / shape.heads;
  if (t >= plan.counts[0]) return;
  const int32_t size = shape.head_dim, g = static_cast<int32_t>(row % shape.heads) / (shape.heads / shape.kv_heads);
  const int32_t b = plan.segment[t];
  const Visible visible = visible_keys(p.batch, plan, p.window, static_cast<int32_t>(t));
  const auto *const k = static_cast<const float*>(p.k), *const v = static_cast<const float*>(p.v);
  const auto key_at = [&](int32_t j) {
    return (static_cast<int64_t>(key_row(p.batch, plan, b, j)) * shape.kv_heads + g) * size;
  };
  float dq[kParts] = {};
  for (int32_t first = visible.begin; first < visible.end; first += kWarp) {
    const int32_t count = min(visible.end - first, kWarp);
    if (lane < count) {
      const int64_t at = key_at(first + lane);
      const float s = p.scale * dot(static_cast<const float*>(p.q) + row * size, k + at, size);
      const float dp = dot(static_cast<const float*>(p.d_o) + row * size, v + at, size);
      slopes[warp][lane] = p.scale * expf(s - p.lse[row]) * (dp - d_of_rows[row]);
    }
    __syncwarp();
    for (int32_t j = 0; j < count; ++j) {
      const float* const key = k + key_at(first + j);
#pragma unroll
      for (int i = 0; i < kParts; ++i)
        if (lane + i * kWarp < size) dq[i] += slopes[warp][j] * key[lane + i * kWarp];
    }
    __syncwarp();
  }
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    if (lane + i * kWarp < size) static_cast<float*>(p.dq)[row * size + lane + i * kWarp] = dq[i];
}

__global__ void __launch_bounds__(kTileThreads)
    key_gradient_rows(credence_attention_backward p, AttentionPlan plan, const float* d_of_rows) {
  __shared__ float slopes[kTileWarps][kWarp], weights[kTileWarps][kWarp];
  const credence_shape& shape = p.shape;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + warp;
  const auto t = static_cast<int32_t>(row / shape.kv_heads), g = static_cast<int32_t>(row % shape.kv_heads);
  if (t >= plan.counts[0] || !is_key(p.batch, t)) return;
  const int32_t size = shape.head_dim, group = shape.heads / shape.kv_heads, b = plan.segment[t], key = plan.before[t];
  const int32_t segments = p.batch.prefix_of ? plan.counts[1] : b + 1;
  const auto *const q = static_cast<const float*>(p.q), *const d_o = static_cast<const float*>(p.d_o);
  float dk[kParts] = {}, dv[kParts] = {};
  for (int32_t c = b; c < segments; ++c) {
    if (reach(p.batch, c, b) <= key) continue;
    const int32_t from = c == b ? t : p.batch.cu_seqlens[c], to = p.batch.cu_seqlens[c + 1];
    for (int32_t head = g * group; head < (g + 1) * group; ++head)
      for (int32_t first = from; first < to; first += kWarp) {
        const int32_t count = min(to - first, kWarp);
        const auto row_at = [&](int32_t i) { return static_cast<int64_t>(first + i) * shape.heads + head; };
        if (lane < count) {
          const int64_t query = row_at(lane);
          const Visible visible = visible_keys(p.batch, plan, p.window, first + lane);
          const bool seen = visible.begin <= key && key < visible.end;
          const float s = p.scale * dot(static_cast<const float*>(p.k) + row * size, q + query * size, size);
          const float dp = dot(static_cast<const float*>(p.v) + row * size, d_o + query * size, size);
          weights[warp][lane] = seen ? expf(s - p.lse[query]) : 0.0f;
          slopes[warp][lane] = seen ? p.scale * weights[warp][lane] * (dp - d_of_rows[query]) : 0.0f;
        }
        __syncwarp();
        for (int32_t j = 0; j < count; ++j) {
          const int64_t query = row_at(j) * size;
#pragma unroll
          for (int i = 0; i < kParts; ++i) {
            if (lane + i * kWarp >= size) continue;
            dk[i] += slopes[warp][j] * q[query + lane + i * kWarp];
            dv[i] += weights[warp][j] * d_o[query + lane + i * kWarp];
          }
        }
        __syncwarp();
      }
  }
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    if (lane + i * kWarp >= size) continue;
    static_cast<float*>(p.dk)[row * size + lane + i * kWarp] = dk[i];
    static_cast<float*>(p.dv)[row * size + lane + i * kWarp] = dv[i];
  }
}

int in_float(Backend& backend, const credence_attention_backward& p, const BackwardSpace& space) {
  const char* name = name_of(Operator::attention_backward);
  const int64_t tokens = p.batch.token_capacity;
  if (int error = launch(backend, name, &key_gradient_rows, blocks_of(tokens * p.shape.kv_heads, kTileWarps),
                         dim3(kTileThreads), 0, p, space.plan, space.d))
    return error;
  return launch(backend, name, &query_gradient_rows, blocks_of(tokens * p.shape.heads, kTileWarps), dim3(kTileThreads),
                0, p, space.plan, space.d);
}

int in_bf16(Backend& backend, const credence_attention_backward& p, const BackwardSpace& space) {
  const char* name = name_of(Operator::attention_backward);
  const auto blocks = [&](int64_t items) { return dim3(static_cast<unsigned>(items * p.shape.kv_heads)); };
  return with_head_dim(p.shape.head_dim, [&]<int D>() {
    const size_t shared = sizeof(Bf16) * (2 * kTileRows + 4 * kStep) * kStride<D>;
    if (int error = launch(backend, name, &key_gradients<D>, blocks(AttentionPlan::most_key_blocks(p.batch)),
                           dim3(kTileThreads), shared, p, space.plan, space.d))
      return error;
    return launch(backend, name, &query_gradients<D>, blocks(AttentionPlan::most_queries(p.batch, p.shape)),
                  dim3(kTileThreads), shared, p, space.plan, space.d);
  });
}

}  // namespace

size_t attention_backward_workspace(const credence_attention_backward* p) {
  return BackwardSpace(p, nullptr).pieces.used();
}

int attention_backward(Backend& backend, const credence_attention_backward* p, void* workspace) {
  constexpr Operator op = Operator::attention_backward;
  const char* name = name_of(op);
  const credence_shape& shape = p->shape;
  const int64_t tokens = p->batch.token_capacity;
  if (int error = check_attention(backend, op, shape)) return error;
  const BackwardSpace space(p, workspace);
  if (int error = plan_attention(backend, op, p->batch, shape, p->window, space.plan)) return error;
  // A token that is no key has no gradient of one.
  const size_t bytes = static_cast<size_t>(tokens * shape.kv_heads * shape.head_dim) * element_bytes(p->dtype);
  for (void* gradient : {p->dk, p->dv})
    if (p->batch.query_only)
      if (int error = check(backend, cudaMemsetAsync(gradient, 0, bytes, backend.stream), name)) return error;
  return with_type(p->dtype, [&]<class T>() {
    if (int error = launch(backend, name, &row_dots<T>, blocks_of(tokens * shape.heads, kTileWarps), dim3(kTileThreads),
                           0, static_cast<const T*>(p->o), static_cast<const T*>(p->d_o), space.plan, shape.heads,
                           shape.head_dim, space.d))
      return error;
    return p->dtype == CREDENCE_BF16 ? in_bf16(backend, *p, space) : in_float(backend, *p, space);
  });
}

}  // namespace credence::cuda
