// Norm, the fused QKV product, and what makes queries and keys of it:  h = norm(x);  [q|k|v] = h W^T + scale S B^T + bias;
// q/k norm; rotary (Su et al. 2021, eq. 34, pairs (i, i + rotary_dim / 2)); keys and values into their pages.
// T tokens, N = (heads + 2 kv_heads) head_dim.
//
// The product leaves float32 rows in the workspace, which a block of rows finishes while they are in L2. With few rows the
// product is shared out by columns instead, and the rows are finished after it.
#pragma once

#include <string.h>

#include "../keys.h"
#include "mlp_input.h"
#include "page.h"

namespace credence::cpu {

/// Where the heads of q, k and v stand in a row of the fused product.
template <class Isa>
struct HeadPlaces {
  int32_t q_step, k_first, v_first, kv_step;

  int64_t q(int head) const { return static_cast<int64_t>(head) * q_step; }
  int64_t k(int head) const { return k_first + static_cast<int64_t>(head) * kv_step; }
  int64_t v(int head) const { return v_first + static_cast<int64_t>(head) * kv_step; }
};

template <class Isa>
static inline HeadPlaces<Isa> head_places(const credence_shape& shape) {
  const int32_t d = shape.head_dim;
  if (shape.qkv_layout == CREDENCE_QKV_PER_HEAD) return {3 * d, d, 2 * d, 3 * d};
  return {d, shape.heads * d, (shape.heads + shape.kv_heads) * d, d};
}

template <class Isa>
int place_keys(credence_backend* backend, const credence_batch& batch, KeyPlace* places) {
  for (int32_t b = 0; b < batch.counts[1]; ++b) {
    if (int error = check(backend, "attention_input", fault_of_prefix(batch, b))) return error;
    int32_t key = batch.key_start[b], last = -1;
    for (int32_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t) {
      places[t] = {0, -1, 0};
      if (!is_key(batch, t)) continue;
      if (int error = check(backend, "attention_input", fault_of_key(batch, b, key))) return error;
      places[t] = place_of_key(batch, b, key++);
      last = t;
    }
    if (last >= 0) places[last].clear = begins_page(batch, b, key - 1);
  }
  return 0;
}

/// The first `slots` keys and values of a head from one page into another; a page written only by this is copied whole.
static inline void copy_slots(const PageLayout& layout, const float* from, float* to, int64_t slots) {
  for (int32_t d = 0; d < layout.key_dims; ++d)
    memcpy(to + d * CREDENCE_PAGE, from + d * CREDENCE_PAGE, slots * sizeof(float));
  const int64_t values = static_cast<int64_t>(CREDENCE_PAGE) * layout.key_dims;
  memcpy(to + values, from + values, slots * layout.head_dim * sizeof(float));
}

static inline void copy_slots(const PageLayout& layout, const bf16* from, bf16* to, int64_t slots) {
  for (int32_t d = 0; d < layout.key_dims; d += 2)
    memcpy(to + d * CREDENCE_PAGE, from + d * CREDENCE_PAGE, 2 * slots * sizeof(bf16));
  const int64_t values = static_cast<int64_t>(CREDENCE_PAGE) * layout.key_dims, whole = slots / 2 * 2 * layout.head_dim;
  memcpy(to + values, from + values, whole * sizeof(bf16));
  for (int32_t d = 0; slots % 2 && d < layout.head_dim; ++d)  // the pair's other half is the segment's own key
    to[values + whole + 2 * d] = from[values + whole + 2 * d];
}

template <class Isa, class T>
void copy_prefixes(credence_backend* backend, const credence_batch& batch, const PageLayout& layout, T* pages) {
  if (!batch.prefix_of) return;
  backend->pool.parallel(layout.kv_heads, [&](int64_t head, int) {
    for (int32_t b = 0; b < batch.counts[1]; ++b) {
      const PrefixEnd end = prefix_end(batch, b);
      if (end.slots == 0) continue;
      bool own = false;
      for (int32_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t) own = own || is_key(batch, t);
      copy_slots(layout, pages + page_keys(layout, end.from, static_cast<int>(head)),
                 pages + page_keys(layout, end.to, static_cast<int>(head)), own ? end.slots : CREDENCE_PAGE);
    }
  });
}

/// Turns a head of act or float32 by cos, sin [rotary_dim / 2, 2], in place; direction -1: back.
template <class Isa, class T>
static inline void turn(T* x, int32_t rotary_dim, const float* cosine, const float* sine, float direction) {
  const int32_t half = rotary_dim / 2;
  for (int32_t i = 0; i < half; i += Isa::W) {
    const auto lanes = Isa::first(half - i);
    const auto a = Isa::load(x + i, lanes), b = Isa::load(x + half + i, lanes);
    const auto c = Isa::load(cosine + i, lanes), s = Isa::mul(Isa::load(sine + i, lanes), Isa::set(direction));
    Isa::store(x + i, Isa::sub(Isa::mul(a, c), Isa::mul(b, s)), lanes);
    Isa::store(x + half + i, Isa::add(Isa::mul(b, c), Isa::mul(a, s)), lanes);
  }
}

/// Cosines and sines of one position, apart.
static inline void split_rotary(const float* rotary, int64_t position, int32_t half, float* cosine, float* sine) {
  const float* pair = rotary + position * half * 2;
  for (int32_t i = 0; i < half; ++i) {
    cosine[i] = pair[2 * i];
    sine[i] = pair[2 * i + 1];
  }
}

template <class Isa>
static inline void append_head(const PageLayout& layout, const KeyPlace& place, int head, const float* k,
                               const float* v, float* pages) {
  float* keys = pages + page_keys(layout, place.page, head) + place.slot;
  for (int32_t d = 0; d < layout.head_dim; ++d) keys[d * CREDENCE_PAGE] = k[d];
  float* values = pages + page_values(layout, place.page, head) + static_cast<int64_t>(place.slot) * layout.head_dim;
  for (int32_t d = 0; d < layout.head_dim; d += Isa::W) {
    const auto lanes = Isa::first(layout.head_dim - d);
    Isa::store(values + d, Isa::load(v + d, lanes), lanes);
  }
  if (!place.clear) return;
  const int32_t rest = CREDENCE_PAGE - 1 - place.slot;
  for (int32_t d = 0; d < layout.head_dim; ++d) memset(keys + d * CREDENCE_PAGE + 1, 0, rest * sizeof(float));
  memset(values + layout.head_dim, 0, sizeof(float) * rest * layout.head_dim);
}

// Neighbouring slots share a 32-bit word of V and may be written by two threads: each writes its 16 bits only.
template <class Isa>
static inline void append_head(const PageLayout& layout, const KeyPlace& place, int head, const float* k,
                               const float* v, bf16* pages) {
  bf16* keys = pages + page_keys(layout, place.page, head) + 2 * place.slot;
  for (int32_t d = 0; d < layout.key_dims; d += kPanel) {
    bf16 part[kPanel];
    for (int32_t i = 0; i < kPanel; i += Isa::W)
      Isa::store(part + i, Isa::load(k + d + i, Isa::first(layout.head_dim - d - i)));
    const int32_t end = layout.key_dims - d < kPanel ? layout.key_dims - d : kPanel;
    for (int32_t i = 0; i < end; i += 2) memcpy(keys + (d + i) * CREDENCE_PAGE, part + i, 2 * sizeof(bf16));
  }
  bf16* values =
      pages + page_values(layout, place.page, head) + static_cast<int64_t>(place.slot / 2 * 2) * layout.head_dim;
  for (int32_t d = 0; d < layout.head_dim; d += Isa::W) {
    const auto lanes = Isa::first(layout.head_dim - d);
    Isa::store_half(values + 2 * d + place.slot % 2, Isa::load(v + d, lanes), lanes);
    if (place.clear && place.slot % 2 == 0) Isa::store_half(values + 2 * d + 1, Isa::zero(), lanes);
  }
  if (!place.clear) return;
  for (int32_t d = 0; d < layout.key_dims; d += 2)
    memset(keys + d * CREDENCE_PAGE + 2, 0, 2 * sizeof(bf16) * (CREDENCE_PAGE - 1 - place.slot));
  const int64_t pairs = CREDENCE_PAGE / 2 - 1 - place.slot / 2;
  memset(values + 2 * layout.head_dim, 0, 2 * sizeof(bf16) * pairs * layout.head_dim);
}

template <class Isa, class T>
struct AttentionInputSpace {
  Arena<Isa> arena;
  LoraSpace<Isa, T> lora;
  float* y;              // [T, N padded] the product before it is finished
  float *cosine, *sine;  // [T, rotary_dim / 2]
  KeyPlace* places;      // [T]
  int64_t ldy;

  AttentionInputSpace(const credence_attention_input* p, void* base)
      : arena(base), lora(&arena, p->batch.token_capacity, p->lora, p->dropout, p->s) {
    const int64_t capacity = p->batch.token_capacity;
    ldy = panels_of(p->qkv->rows) * kPanel;
    y = arena.template take<float>(capacity * ldy);
    cosine = arena.template take<float>(capacity * (p->shape.rotary_dim / 2));
    sine = arena.template take<float>(capacity * (p->shape.rotary_dim / 2));
    places = arena.template take<KeyPlace>(capacity);
  }
};

template <class Isa>
size_t attention_input_workspace(const credence_attention_input* p) {
  return p->dtype == CREDENCE_BF16 ? AttentionInputSpace<Isa, bf16>(p, nullptr).arena.used()
                                   : AttentionInputSpace<Isa, float>(p, nullptr).arena.used();
}

template <class Isa, class T>
static inline void store_row(const float* x, int32_t width, T* out) {
  for (int32_t i = 0; i < width; i += Isa::W) {
    const auto lanes = Isa::first(width - i);
    Isa::store(out + i, Isa::load(x + i, lanes), lanes);
  }
}

/// Row t of the product, in y: bias, q/k norm, rotary, and out to q, k, v and the pages.
template <class Isa, class T>
void finish_qkv_row(const credence_attention_input* p, const AttentionInputSpace<Isa, T>& space,
                    const HeadPlaces<Isa>& at, const PageLayout& layout, int64_t t, float* y) {
  const credence_shape& shape = p->shape;
  const int32_t d = shape.head_dim, half = shape.rotary_dim / 2, outputs = p->qkv->rows;
  if (p->bias)
    for (int32_t i = 0; i < outputs; i += Isa::W) {
      const auto lanes = Isa::first(outputs - i);
      Isa::store(y + i, Isa::add(Isa::load(y + i, lanes), Isa::load(p->bias + i, lanes)), lanes);
    }
  float *cosine = space.cosine + t * half, *sine = space.sine + t * half;
  split_rotary(p->rotary, p->batch.positions[t], half, cosine, sine);
  const auto make = [&](float* head, const float* weight, int64_t raw, T* out) {
    if (shape.qk_norm) {
      if (p->qk_raw) store_row<Isa>(head, d, static_cast<T*>(p->qk_raw) + t * (shape.heads + shape.kv_heads) * d + raw);
      norm_row<Isa, T>(head, d, CREDENCE_RMS_NORM, shape.norm_eps, weight, nullptr, nullptr, head);
    }
    turn<Isa>(head, shape.rotary_dim, cosine, sine, 1.0f);
    if (out) store_row<Isa>(head, d, out);
  };
  for (int i = 0; i < shape.heads; ++i)
    make(y + at.q(i), p->q_norm, static_cast<int64_t>(i) * d, static_cast<T*>(p->q) + (t * shape.heads + i) * d);
  for (int i = 0; i < shape.kv_heads; ++i) {
    const int64_t row = (t * shape.kv_heads + i) * d;
    make(y + at.k(i), p->k_norm, static_cast<int64_t>(shape.heads + i) * d,
         p->k ? static_cast<T*>(p->k) + row : nullptr);
    if (p->v) store_row<Isa>(y + at.v(i), d, static_cast<T*>(p->v) + row);
    if (p->pages && space.places[t].slot >= 0)
      append_head<Isa>(layout, space.places[t], i, y + at.k(i), y + at.v(i), static_cast<T*>(p->pages));
  }
}

template <class Isa, class T>
int attention_input_of(credence_backend* backend, const credence_attention_input* p, void* workspace) {
  const AttentionInputSpace<Isa, T> space(p, workspace);
  const int64_t rows = p->batch.counts[0];
  const int32_t hidden = p->shape.hidden;
  T* h = static_cast<T*>(p->h);
  if (p->pages)
    if (int error = place_keys<Isa>(backend, p->batch, space.places)) return error;
  const NormedInput<Isa, T> input = {
      rows,         hidden, p->shape.norm, p->shape.norm_eps, p->x,       p->ldx,    p->norm_weight,
      p->norm_bias, h,      p->inv_rms,    p->lora,           p->dropout, space.lora};
  Product<T> product = product_of(static_cast<const T*>(h), hidden, p->qkv);
  add_tail(&product, p->lora, static_cast<const T*>(space.lora.s));
  const HeadPlaces<Isa> at = head_places<Isa>(p->shape);
  const PageLayout layout = page_layout(p->shape, p->dtype);
  const int64_t panels = panels_of(p->qkv->rows);
  const auto store = [&](float* y, int64_t first) {  // row `first` of the product is row 0 of y
    return [&space, y, first](int64_t row, int64_t count, int64_t panel, const float* tile, int64_t ld) {
      for (int64_t r = 0; r < count; ++r)
        for (int v = 0; v < kPanel; v += Isa::W)
          Isa::store(y + (row - first + r) * space.ldy + panel * kPanel + v, Isa::load(tile + r * ld + v));
    };
  };
  const int64_t block = 4 * Isa::kTileRows;
  const int threads = backend->pool.threads();
  if (rows >= 2 * threads * block) {
    backend->pool.parallel(ceil_div(rows, block), [&](int64_t i, int thread) {
      const int64_t begin = i * block, end = least(begin + block, rows);
      float* y = space.y + thread * block * space.ldy;
      input.range(begin, end);
      product_block<Isa, T>(product, begin, end, 0, panels, store(y, begin));
      for (int64_t t = begin; t < end; ++t)
        finish_qkv_row<Isa, T>(p, space, at, layout, t, y + (t - begin) * space.ldy);
    });
    if (p->pages) copy_prefixes<Isa>(backend, p->batch, layout, static_cast<T*>(p->pages));
    return 0;
  }
  input.all(backend);
  product_all<Isa>(backend, product, rows, panels, store(space.y, 0));
  for_rows<Isa>(backend, rows, 4 * p->qkv->rows,
                [&](int64_t t) { finish_qkv_row<Isa, T>(p, space, at, layout, t, space.y + t * space.ldy); });
  if (p->pages) copy_prefixes<Isa>(backend, p->batch, layout, static_cast<T*>(p->pages));
  return 0;
}

static inline int check_qkv(credence_backend* backend, const char* name, const credence_shape& shape) {
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.heads % shape.kv_heads)
    return fail(backend, "%s: %d query heads cannot share %d kv heads evenly", name, shape.heads, shape.kv_heads);
  if (shape.qkv_layout == CREDENCE_QKV_PER_HEAD && shape.heads != shape.kv_heads)
    return fail(backend, "%s: q, k and v head by head need as many kv heads (%d) as heads (%d)", name, shape.kv_heads,
                shape.heads);
  if (shape.rotary_dim < 0 || shape.rotary_dim > shape.head_dim || shape.rotary_dim % 2)
    return fail(backend, "%s: %d rotary dimensions; expected an even number up to the head's %d", name,
                shape.rotary_dim, shape.head_dim);
  return 0;
}

template <class Isa>
int attention_input(credence_backend* backend, const credence_attention_input* p, void* workspace) {
  const credence_shape& shape = p->shape;
  if (int error = check_batch(backend, "attention_input", p->batch)) return error;
  if (int error = check_qkv(backend, "attention_input", shape)) return error;
  if (int error =
          check_linear(backend, "attention_input", p->qkv, p->lora, (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
                       shape.hidden, p->dtype, p->dropout, false))
    return error;
  return p->dtype == CREDENCE_BF16 ? attention_input_of<Isa, bf16>(backend, p, workspace)
                                   : attention_input_of<Isa, float>(backend, p, workspace);
}

// --------------------------------------------------------------------------------------------------------------- backward

template <class Isa, class T>
struct AttentionInputBackwardSpace {
  Arena<Isa> arena;
  T* dy;                 // [T, N]
  float *cosine, *sine;  // [T, rotary_dim / 2]
  float *g, *y, *dx;     // [T, head_dim] a head's gradient, value and result in float32, where there is a q/k norm
  float* dh;             // [T, hidden]
  NormRow* statistics;   // [T]
  LinearBackwardSpace<Isa, T> linear;

  AttentionInputBackwardSpace(const credence_attention_input_backward* p, void* base)
      : arena(base),
        dy(arena.template take<T>(static_cast<int64_t>(p->batch.token_capacity) * p->qkv->rows)),
        cosine(arena.template take<float>(static_cast<int64_t>(p->batch.token_capacity) * (p->shape.rotary_dim / 2))),
        sine(arena.template take<float>(static_cast<int64_t>(p->batch.token_capacity) * (p->shape.rotary_dim / 2))),
        g(arena.template take<float>(static_cast<int64_t>(p->batch.token_capacity) * p->shape.head_dim)),
        y(arena.template take<float>(static_cast<int64_t>(p->batch.token_capacity) * p->shape.head_dim)),
        dx(arena.template take<float>(static_cast<int64_t>(p->batch.token_capacity) * p->shape.head_dim)),
        dh(arena.template take<float>(static_cast<int64_t>(p->batch.token_capacity) * p->shape.hidden)),
        statistics(arena.template take<NormRow>(p->batch.token_capacity)),
        linear(&arena, p->batch.token_capacity, p->qkv, p->lora, p->dropout, p->dweights != nullptr) {}
};

template <class Isa>
size_t attention_input_backward_workspace(const credence_attention_input_backward* p) {
  return p->dtype == CREDENCE_BF16 ? AttentionInputBackwardSpace<Isa, bf16>(p, nullptr).arena.used()
                                   : AttentionInputBackwardSpace<Isa, float>(p, nullptr).arena.used();
}

/// dweight[i] += sum over tokens, then heads, of d[t, head, i] xhat[t, head, i], in that order.
template <class Isa, class T>
void add_head_norm_gradient(const T* d, const T* raw, int64_t tokens, int heads, int64_t ldd, int64_t ld_raw,
                            int32_t head_dim, float eps, float* dweight, float* value) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int head = 0; head < heads; ++head) {
      const T* x = raw + t * ld_raw + head * head_dim;
      const T* g = d + t * ldd + head * head_dim;
      for (int32_t i = 0; i < head_dim; ++i) value[i] = Isa::get(x + i);
      const float inv = norm_statistics<Isa>(value, head_dim, CREDENCE_RMS_NORM, eps).inv;
      for (int32_t i = 0; i < head_dim; ++i) dweight[i] += Isa::get(g + i) * (value[i] * inv);
    }
}

template <class Isa, class T>
static inline void attention_input_backward_of(credence_backend* backend, const credence_attention_input_backward* p,
                                               void* workspace) {
  AttentionInputBackwardSpace<Isa, T> space(p, workspace);
  const credence_shape& shape = p->shape;
  const int64_t rows = p->batch.counts[0], outputs = p->qkv->rows;
  const int32_t d = shape.head_dim, half = shape.rotary_dim / 2;
  const int64_t ld_raw = static_cast<int64_t>(shape.heads + shape.kv_heads) * d;
  const HeadPlaces<Isa> at = head_places<Isa>(shape);
  for_rows<Isa>(backend, rows, 4 * outputs, [&](int64_t t) {
    T* dy = space.dy + t * outputs;
    float *cosine = space.cosine + t * half, *sine = space.sine + t * half;
    split_rotary(p->rotary, p->batch.positions[t], half, cosine, sine);
    const auto unmake = [&](T* head, const float* weight, int64_t raw, T* out) {
      turn<Isa>(head, shape.rotary_dim, cosine, sine, -1.0f);
      float *g = space.g + t * d, *y = space.y + t * d, *dx = space.dx + t * d;
      for (int32_t i = 0; i < d; i += Isa::W) {
        const auto lanes = Isa::first(d - i);
        const auto value = Isa::load(head + i, lanes);
        if (!shape.qk_norm) {
          Isa::store(out + i, value, lanes);
          continue;
        }
        Isa::store(g + i, value, lanes);
        Isa::store(y + i, Isa::load(static_cast<const T*>(p->qk_raw) + t * ld_raw + raw + i, lanes), lanes);
        Isa::store(dx + i, Isa::zero(), lanes);
      }
      if (!shape.qk_norm) return;
      norm_backward_row<Isa>(y, d, CREDENCE_RMS_NORM, norm_statistics<Isa>(y, d, CREDENCE_RMS_NORM, shape.norm_eps),
                             weight, g, dx);
      store_row<Isa>(dx, d, out);
    };
    for (int i = 0; i < shape.heads; ++i)
      unmake(static_cast<T*>(p->dq) + (t * shape.heads + i) * d, p->q_norm, static_cast<int64_t>(i) * d, dy + at.q(i));
    for (int i = 0; i < shape.kv_heads; ++i) {
      const int64_t row = (t * shape.kv_heads + i) * d;
      unmake(static_cast<T*>(p->dk) + row, p->k_norm, static_cast<int64_t>(shape.heads + i) * d, dy + at.k(i));
      for (int32_t j = 0; j < d; ++j) dy[at.v(i) + j] = static_cast<const T*>(p->dv)[row + j];
    }
  });
  if (shape.qk_norm && p->dq_norm)
    add_head_norm_gradient<Isa>(static_cast<const T*>(p->dq), static_cast<const T*>(p->qk_raw), rows, shape.heads,
                                static_cast<int64_t>(shape.heads) * d, ld_raw, d, shape.norm_eps, p->dq_norm, space.y);
  if (shape.qk_norm && p->dk_norm)
    add_head_norm_gradient<Isa>(static_cast<const T*>(p->dk), static_cast<const T*>(p->qk_raw) + shape.heads * d, rows,
                                shape.kv_heads, static_cast<int64_t>(shape.kv_heads) * d, ld_raw, d, shape.norm_eps,
                                p->dk_norm, space.y);
  linear_gradients<Isa, T>(backend, p->qkv, p->lora, p->dropout, space.linear, static_cast<const T*>(p->h),
                           static_cast<const T*>(p->s), space.dy, rows, p->gradients, p->dweights, p->dbias);
  if (!p->dx && !p->dnorm_weight && !p->dnorm_bias) return;
  const NormGradient norm = {rows, shape.hidden, shape.norm,     shape.norm_eps,  nullptr,
                             p->x, p->ldx,       p->norm_weight, p->inv_rms,      nullptr,
                             0,    p->dx,        p->lddx,        p->dnorm_weight, p->dnorm_bias};
  normed_input_gradient<Isa, T>(
      backend, input_gradient<Isa, T>(backend, p->qkv, p->lora, p->dropout, &space.linear, space.dy, rows), norm,
      space.dh, space.statistics);
}

template <class Isa>
int attention_input_backward(credence_backend* backend, const credence_attention_input_backward* p, void* workspace) {
  const credence_shape& shape = p->shape;
  if (int error = check_batch(backend, "attention_input_backward", p->batch)) return error;
  if (int error = check_qkv(backend, "attention_input_backward", shape)) return error;
  if (int error = check_linear(backend, "attention_input_backward", p->qkv, p->lora,
                               (shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.hidden, p->dtype, p->dropout,
                               p->dx || p->dnorm_weight || p->dnorm_bias))
    return error;
  if (p->dtype == CREDENCE_BF16) attention_input_backward_of<Isa, bf16>(backend, p, workspace);
  else attention_input_backward_of<Isa, float>(backend, p, workspace);
  return 0;
}

}  // namespace credence::cpu
