// o = softmax(scale q k^T) v over pages of 64 keys (kernels.h, credence_attention). A row here is one query head of one token;
// the rows that read one kv head of one segment are numbered token by token, the group's heads together, and go through a page
// in blocks. Whatever block a row is in, its own sums run in the same order: over head dimensions for a score, over lanes in
// one tree for the maximum and the sum, over the page's keys in order for the output. So decoding has the bits of prefilling.
#pragma once

#include <math.h>

#include "backend.h"
#include "page.h"
#include "row_step.h"

namespace credence::cpu {

// Rows of one task. 48 rows of scores, probabilities and output take 30 KB at head_dim 64: they stay in L1.
static constexpr int kAttentionRows = 48;
static constexpr int kMaxHeadDim = 256;

/// Where each token's keys end, and which task is whose. Counts are read here, before the threads start.
struct AttentionPlan {
  int32_t* starts;  // [B + 1] first block of each segment
  int32_t* before;  // [T] keys in front of each token
};

static inline size_t attention_plan_bytes(const credence_batch& b) {
  return (static_cast<size_t>(b.segment_capacity) + 1 + b.token_capacity) * sizeof(int32_t);
}

template <class Isa>
AttentionPlan attention_plan(const credence_batch& b, int rows_per_token, void* workspace) {
  AttentionPlan plan;
  plan.starts = static_cast<int32_t*>(workspace);
  plan.before = plan.starts + b.segment_capacity + 1;
  int32_t blocks = 0;
  for (int32_t s = 0; s < b.counts[1]; ++s) {
    plan.starts[s] = blocks;
    blocks += ((b.cu_seqlens[s + 1] - b.cu_seqlens[s]) * rows_per_token + kAttentionRows - 1) / kAttentionRows;
    int32_t position = b.key_start[s];
    for (int32_t t = b.cu_seqlens[s]; t < b.cu_seqlens[s + 1]; ++t) {
      plan.before[t] = position;
      if (!b.query_only || !b.query_only[t]) ++position;
    }
  }
  plan.starts[b.counts[1]] = blocks;
  return plan;
}

/// First index whose start is beyond `at`, less one: the segment a block belongs to.
template <class Isa>
int32_t segment_of(const int32_t* starts, int32_t segments, int32_t at) {
  int32_t low = 0, high = segments;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    (starts[middle] <= at ? low : high) = middle;
  }
  return low;
}

/// The keys a row sees: [begin, end), counted from the sequence's start.
struct Visible {
  int32_t begin, end;
};

template <class Isa>
Visible visible_keys(const credence_batch& b, const AttentionPlan& plan, int32_t window, int32_t t) {
  const int32_t before = plan.before[t], own = b.query_only && b.query_only[t] ? 0 : 1;
  const int32_t begin = window > 0 && before - window + 1 > 0 ? before - window + 1 : 0;
  return {begin, before + own};
}

// s[r] = scale q[r] K over the lanes [0, 64), for R rows.
template <class Isa, class T, int R>
void page_scores(const T* const* q, const T* keys, int head_dim, float scale, int lanes, float* s) {
  using Step = RowStep<Isa, T>;
  constexpr int W = Isa::W, V = Isa::kVectorsAtOnce;
  for (int lane = 0; lane < lanes; lane += V * W) {
    typename Isa::F sum[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Isa::zero();
    const T* k = keys + lane * Step::kDepth;
    int d = 0;
    for (; d + Step::kDepth <= head_dim; d += Step::kDepth, k += CREDENCE_PAGE * Step::kDepth) {
      typename Step::P column[V];
      for (int v = 0; v < V; ++v) column[v] = Step::load(k + v * W * Step::kDepth);
      for (int r = 0; r < R; ++r) {
        const auto x = Step::spread(q[r] + d);
        for (int v = 0; v < V; ++v) sum[r][v] = Step::dot(sum[r][v], x, column[v]);
      }
    }
    if (d < head_dim) {
      for (int r = 0; r < R; ++r) {
        const auto x = Step::spread_half(q[r] + d);
        for (int v = 0; v < V; ++v) sum[r][v] = Step::dot(sum[r][v], x, Step::load(k + v * W * Step::kDepth));
      }
    }
    const auto factor = Isa::set(scale);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) Isa::store(s + r * CREDENCE_PAGE + lane + v * W, Isa::mul(sum[r][v], factor));
  }
}

// o[r] = o[r] correction[r] + p[r] V over the keys [first, last) of a page, for R rows. p of row r and step i (a pair of keys, or
// one in float32) is at p + r row_stride + i step_stride.
template <class Isa, class T, int R>
void page_values_sum(const T* p, int row_stride, int step_stride, const T* values, int head_dim, int first, int last,
                     const float* correction, float* o) {
  using Step = RowStep<Isa, T>;
  constexpr int W = Isa::W, V = Isa::kVectorsAtOnce;
  for (int d = 0; d < head_dim; d += V * W) {
    const bool whole = d + V * W <= head_dim;
    typename Isa::M mask[V];
    typename Isa::F sum[R][V];
    for (int v = 0; v < V; ++v) mask[v] = Isa::first(head_dim - d - v * W);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        sum[r][v] = Isa::mul(Isa::load(o + r * head_dim + d + v * W, mask[v]), Isa::set(correction[r]));
    for (int j = first / Step::kDepth * Step::kDepth; j < last; j += Step::kDepth) {
      const T* row = values + static_cast<int64_t>(j) * head_dim + d * Step::kDepth;
      typename Step::P line[V];
      for (int v = 0; v < V; ++v)
        line[v] = whole ? Step::load(row + v * W * Step::kDepth) : Step::load(row + v * W * Step::kDepth, mask[v]);
      for (int r = 0; r < R; ++r) {
        const auto x = Step::spread(p + r * row_stride + j / Step::kDepth * step_stride);
        for (int v = 0; v < V; ++v) sum[r][v] = Step::dot(sum[r][v], x, line[v]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) Isa::store(o + r * head_dim + d + v * W, sum[r][v], mask[v]);
  }
}

// One row against one page of scores, of which [begin, end) count: the running maximum and sum of the online softmax
// (Milakov & Gimelshein 2018), probabilities in p, and what the sums so far are multiplied by.
template <class Isa, class T>
float online_softmax(const float* s, int begin, int end, float* most, float* total, T* p) {
  constexpr int W = Isa::W;
  const auto none = Isa::set(-INFINITY);
  typename Isa::F high = none;
  const auto counts = [&](int lane) { return lanes_between<Isa>(begin - lane, end - lane); };
  for (int lane = 0; lane < CREDENCE_PAGE; lane += W)
    high = Isa::max(Isa::select(counts(lane), Isa::load(s + lane), none), high);
  const float page_most = Isa::reduce_max(high);
  const float now = page_most > *most ? page_most : *most;
  const float correction = exp_of<Isa>(*most - now);
  typename Isa::F sum = Isa::zero();
  for (int lane = 0; lane < CREDENCE_PAGE; lane += W) {
    const auto e = Isa::select(counts(lane), Isa::exp(Isa::sub(Isa::load(s + lane), Isa::set(now))), Isa::zero());
    sum = Isa::add(sum, e);
    Isa::store(p + lane, e);
  }
  *total = *total * correction + Isa::reduce_add(sum);
  *most = now;
  return correction;
}

// Rows [first, first + count) of segment b and kv head g, count <= kAttentionRows.
template <class Isa, class T>
void attention_rows(const credence_attention* p, const AttentionPlan& plan, int32_t b, int32_t g, int32_t first,
                    int32_t count) {
  const credence_shape& shape = p->shape;
  const int32_t head_dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const PageLayout layout = page_layout(shape, p->dtype);
  const T* pool = static_cast<const T*>(p->pages);
  const int32_t begin_token = p->batch.cu_seqlens[b];
  alignas(64) float s[kAttentionRows * CREDENCE_PAGE];
  alignas(64) T probabilities[kAttentionRows * CREDENCE_PAGE];
  alignas(64) float o[kAttentionRows * kMaxHeadDim];
  const T* q[kAttentionRows];
  Visible visible[kAttentionRows];
  float most[kAttentionRows], total[kAttentionRows], correction[kAttentionRows];
  int32_t lowest = INT32_MAX, highest = 0;
  for (int32_t r = 0; r < count; ++r) {
    const int32_t t = begin_token + (first + r) / group, head = g * group + (first + r) % group;
    q[r] = static_cast<const T*>(p->q) + (static_cast<int64_t>(t) * shape.heads + head) * head_dim;
    visible[r] = visible_keys<Isa>(p->batch, plan, p->window, t);
    lowest = visible[r].begin < lowest ? visible[r].begin : lowest;
    highest = visible[r].end > highest ? visible[r].end : highest;
    most[r] = -INFINITY, total[r] = 0;
  }
  memset(o, 0, sizeof(float) * count * head_dim);
  for (int32_t page = lowest / CREDENCE_PAGE; page * CREDENCE_PAGE < highest; ++page) {
    const int64_t at = p->batch.page_table[static_cast<int64_t>(b) * p->batch.pages_per_segment + page];
    const T* keys = pool + page_keys(layout, at, g);
    const T* values = pool + page_values(layout, at, g);
    const int32_t from = page * CREDENCE_PAGE;
    in_groups<Isa::kRowsAtOnce>(count, [&](int r0, auto rows) {
      constexpr int R = decltype(rows)::value;
      int low = CREDENCE_PAGE, high = 0;
      for (int r = r0; r < r0 + R; ++r) {
        const int begin = visible[r].begin > from ? visible[r].begin - from : 0;
        const int end = visible[r].end - from < CREDENCE_PAGE ? visible[r].end - from : CREDENCE_PAGE;
        if (begin >= end) continue;
        low = begin < low ? begin : low;
        high = end > high ? end : high;
      }
      if (low >= high) return;
      page_scores<Isa, T, R>(q + r0, keys, head_dim, p->scale, high, s + r0 * CREDENCE_PAGE);
      for (int r = r0; r < r0 + R; ++r) {
        const int begin = visible[r].begin > from ? visible[r].begin - from : 0;
        const int end = visible[r].end - from < CREDENCE_PAGE ? visible[r].end - from : CREDENCE_PAGE;
        if (begin < end) {
          correction[r] = online_softmax<Isa>(s + r * CREDENCE_PAGE, begin, end, &most[r], &total[r],
                                              probabilities + r * CREDENCE_PAGE);
        } else {  // nothing here for this row: zeros, and its sums stay as they are
          memset(probabilities + r * CREDENCE_PAGE, 0, CREDENCE_PAGE * sizeof(T));
          correction[r] = 1;
        }
      }
      page_values_sum<Isa, T, R>(probabilities + r0 * CREDENCE_PAGE, CREDENCE_PAGE, RowStep<Isa, T>::kDepth, values,
                                 head_dim, low, high, correction + r0, o + r0 * head_dim);
    });
  }
  for (int32_t r = 0; r < count; ++r) {
    const int32_t t = begin_token + (first + r) / group, head = g * group + (first + r) % group;
    const int64_t row = static_cast<int64_t>(t) * shape.heads + head;
    T* out = static_cast<T*>(p->o) + row * head_dim;
    const auto factor = Isa::set(total[r] > 0 ? 1 / total[r] : 0.0f);
    for (int32_t d = 0; d < head_dim; d += Isa::W) {
      const auto mask = Isa::first(head_dim - d);
      // + 0 makes a negative zero, which depends on how many zeros were added, a positive one.
      Isa::store(out + d, Isa::add(Isa::mul(Isa::load(o + r * head_dim + d, mask), factor), Isa::zero()), mask);
    }
    if (p->lse) p->lse[row] = total[r] > 0 ? most[r] + logf(total[r]) : -INFINITY;
  }
}

template <class Isa>
size_t attention_workspace(const credence_attention* p) {
  return attention_plan_bytes(p->batch);
}

template <class Isa>
int attention(credence_backend* backend, const credence_attention* p, void* workspace) {
  const credence_shape& shape = p->shape;
  if (shape.head_dim > kMaxHeadDim)
    return fail(backend, "attention: head_dim is %d; this back end has room for %d (kMaxHeadDim)", shape.head_dim,
                kMaxHeadDim);
  const int32_t group = shape.heads / shape.kv_heads;
  const AttentionPlan plan = attention_plan<Isa>(p->batch, group, workspace);
  const int32_t segments = p->batch.counts[1], blocks = plan.starts[segments];
  backend->pool.parallel(static_cast<int64_t>(blocks) * shape.kv_heads, [&](int64_t task, int) {
    const int32_t block = static_cast<int32_t>(task / shape.kv_heads), g = static_cast<int32_t>(task % shape.kv_heads);
    const int32_t b = segment_of<Isa>(plan.starts, segments, block);
    const int32_t rows = (p->batch.cu_seqlens[b + 1] - p->batch.cu_seqlens[b]) * group;
    const int32_t first = (block - plan.starts[b]) * kAttentionRows;
    const int32_t count = rows - first < kAttentionRows ? rows - first : kAttentionRows;
    if (p->dtype == CREDENCE_BF16) attention_rows<Isa, bf16>(p, plan, b, g, first, count);
    else attention_rows<Isa, float>(p, plan, b, g, first, count);
  });
  return 0;
}

}  // namespace credence::cpu
