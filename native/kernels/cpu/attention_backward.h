// The way back through attention (kernels.h, credence_attention_backward; Dao et al. 2022, algorithm 4), transposed: scores are
// made as S^T [keys, queries], so that what belongs to a query (its log-sum-exp, D, what it sees) is a vector over lanes, and
// P^T and dS^T are at once the left factors of dV = P^T dO and dK = dS^T Q. Only K needs packing for dQ = dS K.
//
// A work item is one kv head of one segment, with the segments that read its keys: whoever adds to a key's gradient is in the
// same item, in the order of heads, query blocks and segments.
#pragma once

#include <math.h>
#include <string.h>

#include "../keys.h"
#include "attention.h"
#include "backend.h"
#include "checks.h"
#include "linear.h"
#include "row_step.h"

namespace credence::cpu {

struct AttentionBackwardPlan {
  AttentionPlan rows;
  int32_t* roots;      // [B] the segment at the end of the chain of prefixes
  int64_t* key_begin;  // [B + 1] where a segment's keys begin in `keys`
  int32_t* keys;       // batch rows of each segment's keys, in order
  float *dk, *dv;      // [kv_heads, T, head_dim]
};

struct AttentionBackwardLayout {
  size_t roots, key_begin, keys, dk, dv, bytes;
};

static inline AttentionBackwardLayout attention_backward_layout(const credence_attention_backward* p) {
  const auto aligned = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t segments = p->batch.segment_capacity, tokens = p->batch.token_capacity;
  const size_t gradient = aligned(tokens * p->shape.kv_heads * p->shape.head_dim * sizeof(float));
  AttentionBackwardLayout at;
  at.roots = aligned(attention_plan_bytes(p->batch));
  at.key_begin = at.roots + aligned(segments * sizeof(int32_t));
  at.keys = at.key_begin + aligned((segments + 1) * sizeof(int64_t));
  at.dk = at.keys + aligned(segments * p->batch.pages_per_segment * CREDENCE_PAGE * sizeof(int32_t));
  at.dv = at.dk + gradient;
  at.bytes = at.dv + gradient;
  return at;
}

// Which rows are whose keys; an error where a gradient would have nowhere to go.
template <class Isa>
int attention_backward_plan(credence_backend* backend, const credence_attention_backward* p, void* workspace,
                            AttentionBackwardPlan* plan) {
  const credence_batch& batch = p->batch;
  const AttentionBackwardLayout at = attention_backward_layout(p);
  char* base = static_cast<char*>(workspace);
  plan->rows = attention_plan<Isa>(batch, 1, base);
  plan->roots = reinterpret_cast<int32_t*>(base + at.roots);
  plan->key_begin = reinterpret_cast<int64_t*>(base + at.key_begin);
  plan->keys = reinterpret_cast<int32_t*>(base + at.keys);
  plan->dk = reinterpret_cast<float*>(base + at.dk);
  plan->dv = reinterpret_cast<float*>(base + at.dv);
  int64_t end = 0;
  for (int32_t b = 0; b < batch.counts[1]; ++b) {
    const int32_t prefix = prefix_of(batch, b), shared = batch.key_start[b];
    if (int error = check(backend, "attention_backward", fault_of_prefix(batch, b))) return error;
    plan->key_begin[b] = end;
    plan->roots[b] = prefix < 0 ? b : plan->roots[prefix];
    int32_t own = 0;
    for (int32_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t) own += is_key(batch, t);
    const int64_t before = prefix < 0 ? 0 : plan->key_begin[prefix + 1] - plan->key_begin[prefix];
    if (int error =
            check(backend, "attention_backward", fault_of_keys(batch, b, own, static_cast<int32_t>(before), true)))
      return error;
    for (int32_t j = 0; j < shared; ++j) plan->keys[end++] = plan->keys[plan->key_begin[prefix] + j];
    for (int32_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t)
      if (is_key(batch, t)) plan->keys[end++] = t;
    plan->key_begin[b + 1] = end;
  }
  return 0;
}

// Up to 64 rows as [head_dim / kDepth][64][kDepth]: a lane is a row. What is missing is zero.
template <class Isa, class T>
void pack_lanes(const T* const* rows, int count, int head_dim, T* out) {
  constexpr int kDepth = RowStep<Isa, T>::kDepth;
  const int steps = (head_dim + kDepth - 1) / kDepth;
  if (count < CREDENCE_PAGE || head_dim % kDepth) memset(out, 0, sizeof(T) * steps * CREDENCE_PAGE * kDepth);
  for (int r = 0; r < count; ++r) {
    const T* row = rows[r];
    T* to = out + r * kDepth;
    int i = 0;
    for (; i + kDepth <= head_dim; i += kDepth, to += CREDENCE_PAGE * kDepth) memcpy(to, row + i, kDepth * sizeof(T));
    if (i < head_dim) *to = row[i];
  }
}

// out[i] = (a[i], b[i]) in bf16; a copy of a in float32, where a step is one row.
static inline void interleave(const bf16* a, const bf16* b, int count, bf16* out) {
  for (int i = 0; i < count; ++i) out[2 * i] = a[i], out[2 * i + 1] = b[i];
}

// Up to 64 rows as [64 / kDepth][head_dim][kDepth]: a lane is a dimension. Missing rows of the last step are zero.
template <class Isa, class T>
void pack_steps(const T* const* rows, int count, int width, T* out) {
  if constexpr (RowStep<Isa, T>::kDepth == 1) {
    for (int r = 0; r < count; ++r) memcpy(out + r * width, rows[r], sizeof(T) * width);
  } else {
    static constexpr T kZeros[kMaxHeadDim] = {};
    for (int r = 0; r < count; r += 2)
      interleave(rows[r], r + 1 < count ? rows[r + 1] : kZeros, width, out + r * width);
  }
}

// One kv head of one segment after the other of those whose keys begin in segment `root`.
template <class Isa, class T>
struct AttentionBackwardHead {
  static constexpr int kPage = CREDENCE_PAGE;
  static constexpr int kDepth = RowStep<Isa, T>::kDepth;

  const credence_attention_backward* p;
  const AttentionBackwardPlan& plan;
  int32_t g;

  // A block of up to 64 queries of one head, and what it sums.
  struct Queries {
    alignas(64) T q_lanes[kPage * kMaxHeadDim], do_lanes[kPage * kMaxHeadDim];
    alignas(64) T q_steps[kPage * kMaxHeadDim], do_steps[kPage * kMaxHeadDim];
    alignas(64) float dq[kPage * kMaxHeadDim];
    alignas(64) float lse[kPage], d[kPage], begin[kPage], end[kPage];  // begin less a half: both borders by "less"
    int count, last_key;
    int first_key;
  };
  // What one block of 64 keys makes of them.
  struct Keys {
    alignas(64) T k_steps[kPage * kMaxHeadDim];
    alignas(64) float s[kPage * kPage], dp[kPage * kPage];
    alignas(64) T probabilities[kPage * kPage], ds[kPage * kPage], ds_steps[kPage * kPage];
    alignas(64) float sums[kPage * kMaxHeadDim];
  };

  const T* row_of(const void* x, int64_t t, int heads, int head) const {
    return static_cast<const T*>(x) + (t * heads + head) * p->shape.head_dim;
  }
  float* gradient(float* base, int32_t t) const {
    return base + (static_cast<int64_t>(g) * p->batch.token_capacity + t) * p->shape.head_dim;
  }

  void load_queries(int32_t first, int count, int head, Queries* block) const {
    const int head_dim = p->shape.head_dim, heads = p->shape.heads;
    const T *q[kPage], *d_o[kPage];
    block->count = count;
    block->first_key = INT32_MAX, block->last_key = 0;
    for (int i = 0; i < kPage; ++i) block->lse[i] = block->d[i] = block->begin[i] = block->end[i] = 0;
    for (int i = 0; i < count; ++i) {
      const int32_t t = first + i;
      q[i] = row_of(p->q, t, heads, head), d_o[i] = row_of(p->d_o, t, heads, head);
      const T* o = row_of(p->o, t, heads, head);
      typename Isa::F sum = Isa::zero();
      for (int x = 0; x < head_dim; x += Isa::W) {
        const auto lanes = Isa::first(head_dim - x);
        sum = Isa::fma(Isa::load(o + x, lanes), Isa::load(d_o[i] + x, lanes), sum);
      }
      const Visible visible = visible_keys<Isa>(p->batch, plan.rows, p->window, t);
      block->lse[i] = p->lse[static_cast<int64_t>(t) * heads + head];
      block->d[i] = Isa::reduce_add(sum);
      block->begin[i] = static_cast<float>(visible.begin) - 0.5f;
      block->end[i] = static_cast<float>(visible.end);
      block->first_key = visible.begin < block->first_key ? visible.begin : block->first_key;
      block->last_key = visible.end > block->last_key ? visible.end : block->last_key;
    }
    pack_lanes<Isa>(q, count, head_dim, block->q_lanes);
    pack_lanes<Isa>(d_o, count, head_dim, block->do_lanes);
    pack_steps<Isa>(q, count, head_dim, block->q_steps);
    pack_steps<Isa>(d_o, count, head_dim, block->do_steps);
    memset(block->dq, 0, sizeof(float) * count * head_dim);
  }

  // Rows of s and dp become rows of P^T and dS^T = scale P^T (dP^T - D).
  void probabilities(const Queries& block, int key, int row, Keys* keys) const {
    const auto at = Isa::set(static_cast<float>(key)), scale = Isa::set(p->scale);
    for (int i = 0; i < kPage; i += Isa::W) {
      const auto seen = Isa::both(Isa::less(Isa::load(block.begin + i), at), Isa::less(at, Isa::load(block.end + i)));
      const auto e = Isa::exp(Isa::sub(Isa::load(keys->s + row * kPage + i), Isa::load(block.lse + i)));
      const auto probability = Isa::select(seen, e, Isa::zero());
      const auto slope = Isa::mul(Isa::sub(Isa::load(keys->dp + row * kPage + i), Isa::load(block.d + i)), scale);
      Isa::store(keys->probabilities + row * kPage + i, probability);
      Isa::store(keys->ds + row * kPage + i, Isa::select(seen, Isa::mul(probability, slope), Isa::zero()));
    }
  }

  // sums[key] = to[key's row] + left[key] right, over the block's queries; then back to the rows.
  void add_to_rows(const T* left, const T* right, const int32_t* rows, int count, int queries, float* to,
                   float* sums) const {
    const int head_dim = p->shape.head_dim;
    for (int j = 0; j < count; ++j) memcpy(sums + j * head_dim, gradient(to, rows[j]), sizeof(float) * head_dim);
    in_groups<Isa::kRowsAtOnce>(count, [&](int r, auto height) {
      constexpr int R = decltype(height)::value;
      page_values_sum<Isa, T, R>(left + r * kPage, kPage, kDepth, right, head_dim, 0, queries, kOnes,
                                 sums + r * head_dim);
    });
    for (int j = 0; j < count; ++j) memcpy(gradient(to, rows[j]), sums + j * head_dim, sizeof(float) * head_dim);
  }
  static constexpr float kOnes[6] = {1, 1, 1, 1, 1, 1};

  void block_of_keys(Queries* block, const int32_t* rows, int first_key, int count, Keys* keys) const {
    const int head_dim = p->shape.head_dim, kv_heads = p->shape.kv_heads;
    const T *k[kPage], *v[kPage];
    for (int j = 0; j < count; ++j)
      k[j] = row_of(p->k, rows[j], kv_heads, g), v[j] = row_of(p->v, rows[j], kv_heads, g);
    in_groups<Isa::kRowsAtOnce>(count, [&](int r, auto height) {
      constexpr int R = decltype(height)::value;
      page_scores<Isa, T, R>(k + r, block->q_lanes, head_dim, p->scale, kPage, keys->s + r * kPage);
      page_scores<Isa, T, R>(v + r, block->do_lanes, head_dim, 1, kPage, keys->dp + r * kPage);
    });
    for (int j = 0; j < count; ++j) probabilities(*block, first_key + j, j, keys);
    add_to_rows(keys->probabilities, block->do_steps, rows, count, block->count, plan.dv, keys->sums);
    add_to_rows(keys->ds, block->q_steps, rows, count, block->count, plan.dk, keys->sums);
    // dQ: dS's pairs of keys are one row above the other in dS^T, so two rows are laced together.
    const T* lines[kPage];
    for (int j = 0; j < count; ++j) lines[j] = keys->ds + j * kPage;
    pack_steps<Isa>(lines, count, kPage, keys->ds_steps);
    pack_steps<Isa>(k, count, head_dim, keys->k_steps);
    in_groups<Isa::kRowsAtOnce>(block->count, [&](int r, auto height) {
      constexpr int R = decltype(height)::value;
      page_values_sum<Isa, T, R>(keys->ds_steps + r * kDepth, kDepth, kPage * kDepth, keys->k_steps, head_dim, 0, count,
                                 kOnes, block->dq + r * head_dim);
    });
  }

  void segment(int32_t b, Queries* block, Keys* keys) const {
    const int group = p->shape.heads / p->shape.kv_heads, head_dim = p->shape.head_dim;
    const int32_t* rows = plan.keys + plan.key_begin[b];
    const int32_t from = p->batch.cu_seqlens[b], to = p->batch.cu_seqlens[b + 1];
    for (int head = g * group; head < (g + 1) * group; ++head)
      for (int32_t first = from; first < to; first += kPage) {
        const int count = to - first < kPage ? to - first : kPage;
        load_queries(first, count, head, block);
        for (int key = block->first_key / kPage * kPage; key < block->last_key; key += kPage)
          block_of_keys(block, rows + key, key, block->last_key - key < kPage ? block->last_key - key : kPage, keys);
        for (int i = 0; i < count; ++i) {
          T* dq = static_cast<T*>(p->dq) + (static_cast<int64_t>(first + i) * p->shape.heads + head) * head_dim;
          for (int x = 0; x < head_dim; x += Isa::W) {
            const auto lanes = Isa::first(head_dim - x);
            Isa::store(dq + x, Isa::load(block->dq + i * head_dim + x, lanes), lanes);
          }
        }
      }
  }

  void clear(int32_t b) const {
    const int32_t from = p->batch.cu_seqlens[b], to = p->batch.cu_seqlens[b + 1];
    const size_t bytes = sizeof(float) * (to - from) * p->shape.head_dim;
    memset(gradient(plan.dk, from), 0, bytes);
    memset(gradient(plan.dv, from), 0, bytes);
  }

  void write(int32_t b) const {
    const int head_dim = p->shape.head_dim;
    for (int32_t t = p->batch.cu_seqlens[b]; t < p->batch.cu_seqlens[b + 1]; ++t) {
      const int64_t at = (static_cast<int64_t>(t) * p->shape.kv_heads + g) * head_dim;
      for (int x = 0; x < head_dim; x += Isa::W) {
        const auto lanes = Isa::first(head_dim - x);
        Isa::store(static_cast<T*>(p->dk) + at + x, Isa::load(gradient(plan.dk, t) + x, lanes), lanes);
        Isa::store(static_cast<T*>(p->dv) + at + x, Isa::load(gradient(plan.dv, t) + x, lanes), lanes);
      }
    }
  }

  void run(int32_t root) const {
    Queries block;
    Keys keys;
    const int32_t segments = p->batch.counts[1];
    for (int32_t b = root; b < segments; ++b)
      if (plan.roots[b] == root) clear(b);
    for (int32_t b = root; b < segments; ++b)
      if (plan.roots[b] == root) segment(b, &block, &keys);
    for (int32_t b = root; b < segments; ++b)
      if (plan.roots[b] == root) write(b);
  }
};

template <class Isa>
size_t attention_backward_workspace(const credence_attention_backward* p) {
  return attention_backward_layout(p).bytes;
}

template <class Isa>
int attention_backward(credence_backend* backend, const credence_attention_backward* p, void* workspace) {
  if (p->shape.head_dim > kMaxHeadDim)
    return fail(backend, "attention_backward: head_dim is %d; this back end has room for %d (kMaxHeadDim)",
                p->shape.head_dim, kMaxHeadDim);
  AttentionBackwardPlan plan;
  if (attention_backward_plan<Isa>(backend, p, workspace, &plan)) return 1;
  const int32_t kv_heads = p->shape.kv_heads;
  backend->pool.parallel(static_cast<int64_t>(p->batch.counts[1]) * kv_heads, [&](int64_t task, int) {
    const int32_t b = static_cast<int32_t>(task / kv_heads), g = static_cast<int32_t>(task % kv_heads);
    if (plan.roots[b] != b) return;
    if (p->dtype == CREDENCE_BF16) AttentionBackwardHead<Isa, bf16>{p, plan, g}.run(b);
    else AttentionBackwardHead<Isa, float>{p, plan, g}.run(b);
  });
  return 0;
}

}  // namespace credence::cpu
