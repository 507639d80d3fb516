// Norm, the fused QKV product, and what makes queries and keys of it:  h = norm(x);  [q|k|v] = h W^T + scale S B^T + bias;
// q/k norm; rotary (Su et al. 2021, eq. 34, pairs (i, i + rotary_dim / 2)); keys and values into their pages.
// T tokens, d head size, N = (heads + 2 kv_heads) d. After the product a warp finishes one head of one token in shared memory.
#include "column_sums.h"
#include "linear.h"
#include "norm.h"
#include "page.h"

namespace credence::cuda {

namespace {

constexpr int kMaxHeadDim = 256, kHeadsAtOnce = 4;  // heads of a block, a warp each

enum class Part { kQuery, kKey, kValue };

/// One head of one token's row of the product.
struct HeadOfToken {
  int64_t t;
  Part part;
  int32_t head, heads;  // of its part
};

// Items run over tokens, and in each over the heads of q, k and v.
__device__ __forceinline__ HeadOfToken head_of(const credence_shape& shape, int64_t item) {
  const int32_t all = shape.heads + 2 * shape.kv_heads, i = static_cast<int32_t>(item % all);
  const int64_t t = item / all;
  if (i < shape.heads) return {t, Part::kQuery, i, shape.heads};
  if (i < shape.heads + shape.kv_heads) return {t, Part::kKey, i - shape.heads, shape.kv_heads};
  return {t, Part::kValue, i - shape.heads - shape.kv_heads, shape.kv_heads};
}

// Where its numbers begin in a row of the product.
__device__ __forceinline__ int64_t place_of(const credence_shape& shape, const HeadOfToken& h) {
  const auto part = static_cast<int32_t>(h.part);
  if (shape.qkv_layout == CREDENCE_QKV_PER_HEAD) return (int64_t{3} * h.head + part) * shape.head_dim;
  const int32_t before = part == 0 ? 0 : part == 1 ? shape.heads : shape.heads + shape.kv_heads;
  return int64_t{before + h.head} * shape.head_dim;
}

// One thread: T and B fit, and the segments follow each other to the last token.
__global__ void check_batch(credence_batch batch, Fault* faults, Operator op) { fault(faults, op, fault_of(batch)); }

// A warp a segment: keys are counted 32 tokens at a time.
__global__ void __launch_bounds__(kWarp) place_keys(credence_batch batch, KeyPlace* places, Fault* faults) {
  const auto b = static_cast<int32_t>(blockIdx.x), lane = static_cast<int32_t>(threadIdx.x);
  if (b >= min(batch.counts[1], batch.segment_capacity)) return;
  const int32_t from = max(batch.cu_seqlens[b], 0), to = min(batch.cu_seqlens[b + 1], batch.token_capacity);
  int32_t key = batch.key_start[b], last = -1;
  for (int32_t base = from; base < to; base += kWarp) {
    const int32_t t = base + lane;
    const bool writes = t < to && is_key(batch, t);
    const unsigned keys = __ballot_sync(kAllLanes, writes);
    const int32_t mine = key + __popc(keys & ((1u << lane) - 1));
    if (t < to) {
      KeyPlace place = {0, -1, 0};
      if (writes && !fault(faults, Operator::attention_input, fault_of_key(batch, b, mine)))
        place = place_of_key(batch, b, mine);
      places[t] = place;
    }
    key += __popc(keys);
    for (int32_t i = 0; i < kWarp; ++i)
      if (keys >> i & 1) last = base + i;
  }
  __syncwarp();
  if (lane != 0) return;
  fault(faults, Operator::attention_input, fault_of_prefix(batch, b));
  if (last >= 0) places[last].clear = begins_page(batch, b, key - 1);
}

// A block a kv head.
template <class T>
__global__ void __launch_bounds__(128) copy_prefixes(credence_batch batch, credence_shape shape, T* pages) {
  __shared__ int32_t own;
  const auto head = static_cast<int32_t>(blockIdx.x), step = static_cast<int32_t>(blockDim.x);
  for (int32_t b = 0; b < min(batch.counts[1], batch.segment_capacity); ++b) {
    const PrefixEnd end = prefix_end(batch, b);
    if (end.slots == 0) continue;
    __syncthreads();
    if (threadIdx.x == 0) own = 0;
    __syncthreads();
    for (int32_t t = batch.cu_seqlens[b] + static_cast<int32_t>(threadIdx.x); t < batch.cu_seqlens[b + 1]; t += step)
      if (is_key(batch, t)) own = 1;
    __syncthreads();
    const int32_t count = (own ? end.slots : CREDENCE_PAGE) * shape.head_dim;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += step) {
      pages[page_key(shape, end.to, head, 0) + i] = pages[page_key(shape, end.from, head, 0) + i];
      pages[page_value(shape, end.to, head, 0) + i] = pages[page_value(shape, end.from, head, 0) + i];
    }
    __syncthreads();  // the next segment may copy from this one
  }
}

// Pairs (i, i + rotary_dim / 2) turned by the angle of the token's position; direction -1: back. A warp's own head.
__device__ __forceinline__ void turn(float* head, int32_t rotary_dim, const float* rotary, int64_t position,
                                     float direction) {
  const int32_t half = rotary_dim / 2, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  for (int32_t i = lane; i < half; i += kWarp) {
    const float* pair = rotary + (position * half + i) * 2;
    const float c = pair[0], s = direction * pair[1], a = head[i], b = head[half + i];
    head[i] = a * c - b * s;
    head[half + i] = b * c + a * s;
  }
  __syncwarp();
}

template <class T>
__global__ void __launch_bounds__(kHeadsAtOnce* kWarp)
    finish_heads(credence_attention_input p, const float* y, int64_t ldy, const KeyPlace* places) {
  __shared__ float rows[kHeadsAtOnce][kMaxHeadDim];
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const credence_shape& shape = p.shape;
  const HeadOfToken h = head_of(shape, static_cast<int64_t>(blockIdx.x) * kHeadsAtOnce + warp);
  if (h.t >= min(p.batch.counts[0], p.batch.token_capacity)) return;
  float* const head = rows[warp];
  const int32_t d = shape.head_dim;
  const int64_t at = place_of(shape, h);
  for (int32_t i = lane; i < d; i += kWarp) head[i] = y[h.t * ldy + at + i] + (p.bias ? p.bias[at + i] : 0.0f);
  __syncwarp();
  const bool value = h.part == Part::kValue, query = h.part == Part::kQuery;
  if (!value && shape.qk_norm) {
    T* const raw = p.qk_raw ? static_cast<T*>(p.qk_raw) +
                                  (h.t * (shape.heads + shape.kv_heads) + (query ? h.head : shape.heads + h.head)) * d
                            : nullptr;
    float squares = 0;
    for (int32_t i = lane; i < d; i += kWarp) {
      if (raw) raw[i] = to_act<T>(head[i]);
      squares += head[i] * head[i];
    }
    const float inv = 1.0f / sqrtf(warp_reduce(squares, Sum()) / static_cast<float>(d) + shape.norm_eps);
    const float* weight = query ? p.q_norm : p.k_norm;
    for (int32_t i = lane; i < d; i += kWarp) head[i] *= inv * weight[i];
    __syncwarp();
  }
  if (!value) turn(head, shape.rotary_dim, p.rotary, p.batch.positions[h.t], 1.0f);
  T* const out = static_cast<T*>(query ? p.q : value ? p.v : p.k);
  if (out)
    for (int32_t i = lane; i < d; i += kWarp) out[(h.t * h.heads + h.head) * d + i] = to_act<T>(head[i]);
  if (query || !p.pages || places[h.t].slot < 0) return;
  const KeyPlace place = places[h.t];
  T* const pages = static_cast<T*>(p.pages);
  T* const slot = pages + (value ? page_value(shape, place.page, h.head, place.slot)
                                 : page_key(shape, place.page, h.head, place.slot));
  for (int32_t i = lane; i < d; i += kWarp) slot[i] = to_act<T>(head[i]);
  if (!place.clear) return;
  for (int32_t i = d + lane; i < (CREDENCE_PAGE - place.slot) * d; i += kWarp) slot[i] = to_act<T>(0.0f);
}

// From d of q, k and v, turned back in place, to d of the product's row; inv [T, heads + kv_heads] of each normed head.
template <class T>
__global__ void __launch_bounds__(kHeadsAtOnce* kWarp)
    unfinish_heads(credence_attention_input_backward p, T* dy, int64_t lddy, float* inverses) {
  __shared__ float rows[kHeadsAtOnce][kMaxHeadDim];
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const credence_shape& shape = p.shape;
  const HeadOfToken h = head_of(shape, static_cast<int64_t>(blockIdx.x) * kHeadsAtOnce + warp);
  if (h.t >= min(p.batch.counts[0], p.batch.token_capacity)) return;
  float* const head = rows[warp];
  const int32_t d = shape.head_dim;
  const bool value = h.part == Part::kValue, query = h.part == Part::kQuery;
  T* const upstream = static_cast<T*>(query ? p.dq : value ? p.dv : p.dk) + (h.t * h.heads + h.head) * d;
  T* const out = dy + h.t * lddy + place_of(shape, h);
  for (int32_t i = lane; i < d; i += kWarp) head[i] = to_float(upstream[i]);
  __syncwarp();
  if (!value) {
    turn(head, shape.rotary_dim, p.rotary, p.batch.positions[h.t], -1.0f);
    for (int32_t i = lane; i < d; i += kWarp) {
      upstream[i] = to_act<T>(head[i]);
      head[i] = to_float(upstream[i]);  // what the norm's own gradients read
    }
  }
  if (value || !shape.qk_norm) {
    for (int32_t i = lane; i < d; i += kWarp) out[i] = to_act<T>(head[i]);
    return;
  }
  const int64_t row = h.t * (shape.heads + shape.kv_heads) + (query ? h.head : shape.heads + h.head);
  const T* const raw = static_cast<const T*>(p.qk_raw) + row * d;
  const float* weight = query ? p.q_norm : p.k_norm;
  float squares = 0, along = 0;
  for (int32_t i = lane; i < d; i += kWarp) {
    const float x = to_float(raw[i]);
    squares += x * x;
    along += head[i] * weight[i] * x;
  }
  const auto width = static_cast<float>(d);
  const float inv = 1.0f / sqrtf(warp_reduce(squares, Sum()) / width + shape.norm_eps);
  along = warp_reduce(along, Sum()) * inv / width;
  if (lane == 0) inverses[row] = inv;
  for (int32_t i = lane; i < d; i += kWarp)
    out[i] = to_act<T>(inv * (head[i] * weight[i] - to_float(raw[i]) * inv * along));
}

/// d of q_norm or k_norm: rows are tokens and in each the heads of one part, which begin at `first` of those of q and k.
template <class T>
struct HeadNormGradient {
  const T *upstream, *raw;
  const float* inverses;
  int32_t heads, first, all, head_dim;
  __device__ float operator()(int64_t r, int32_t c) const {
    const int64_t row = r / heads * all + first + r % heads;
    return to_float(upstream[r * head_dim + c]) * to_float(raw[row * head_dim + c]) * inverses[row];
  }
};

int check_shape(Backend& backend, Operator op, const credence_shape& shape) {
  const char* name = name_of(op);
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.heads % shape.kv_heads)
    return fail(backend, "%s: %d query heads cannot share %d kv heads evenly", name, shape.heads, shape.kv_heads);
  if (shape.qkv_layout == CREDENCE_QKV_PER_HEAD && shape.heads != shape.kv_heads)
    return fail(backend, "%s: q, k and v head by head need as many kv heads (%d) as heads (%d)", name, shape.kv_heads,
                shape.heads);
  if (shape.rotary_dim < 0 || shape.rotary_dim > shape.head_dim || shape.rotary_dim % 2)
    return fail(backend, "%s: rotary over %d dimensions of a head of %d; expected an even number of them", name,
                shape.rotary_dim, shape.head_dim);
  if (shape.head_dim < 1 || shape.head_dim > kMaxHeadDim)
    return fail(backend, "%s: head_dim is %d; this back end has room for %d", name, shape.head_dim, kMaxHeadDim);
  return 0;
}

dim3 head_blocks(const credence_batch& batch, const credence_shape& shape) {
  return blocks_of(static_cast<int64_t>(batch.token_capacity) * (shape.heads + 2 * shape.kv_heads), kHeadsAtOnce);
}

struct ForwardSpace {
  Workspace pieces;
  LinearSpace linear;
  KeyPlace* places;

  ForwardSpace(const credence_attention_input* p, void* base)
      : pieces(base),
        linear(&pieces, p->batch.token_capacity, *of(p->qkv), of(p->lora), p->dropout),
        places(pieces.take<KeyPlace>(p->batch.token_capacity)) {}
};

struct BackwardSpace {
  Workspace pieces;
  LinearGradientSpace linear;
  NormGradientSpace norm;
  float *inverses, *sums;

  BackwardSpace(const credence_attention_input_backward* p, void* base)
      : pieces(base),
        linear(&pieces, p->batch.token_capacity, *of(p->qkv), of(p->lora), p->dropout),
        norm(&pieces, p->batch.token_capacity, p->shape.hidden),
        inverses(
            pieces.take<float>(static_cast<int64_t>(p->batch.token_capacity) * (p->shape.heads + p->shape.kv_heads))),
        sums(pieces.take<float>(
            column_sums_floats(static_cast<int64_t>(p->batch.token_capacity) * p->shape.heads, p->shape.head_dim))) {}
};

template <class T>
int head_norm_gradients(Backend& backend, const credence_attention_input_backward& p, const BackwardSpace& space) {
  const credence_shape& shape = p.shape;
  const int32_t all = shape.heads + shape.kv_heads;
  const auto sums = [&](const void* upstream, int32_t heads, int32_t first, float* out) {
    if (!out) return 0;
    const HeadNormGradient<T> value = {static_cast<const T*>(upstream),
                                       static_cast<const T*>(p.qk_raw),
                                       space.inverses,
                                       heads,
                                       first,
                                       all,
                                       shape.head_dim};
    return column_sums(backend, "attention_input_backward", value, p.batch.counts, p.batch.token_capacity, heads,
                       shape.head_dim, space.sums, out);
  };
  if (int error = sums(p.dq, shape.heads, 0, p.dq_norm)) return error;
  return sums(p.dk, shape.kv_heads, shape.heads, p.dk_norm);
}

}  // namespace

size_t attention_input_workspace(const credence_attention_input* p) { return ForwardSpace(p, nullptr).pieces.used(); }

int attention_input(Backend& backend, const credence_attention_input* p, void* workspace) {
  constexpr Operator op = Operator::attention_input;
  const credence_shape& shape = p->shape;
  const credence_batch& batch = p->batch;
  const Weights& w = *of(p->qkv);
  const Lora* lora = of(p->lora);
  if (int error = check_shape(backend, op, shape)) return error;
  if (int error = check_linear(backend, op, w, lora, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.hidden,
                               p->dtype, p->dropout, false))
    return error;
  const ForwardSpace space(p, workspace);
  const LinearSpace& linear = space.linear;
  if (int error = launch(backend, "attention_input", &check_batch, dim3(1), dim3(1), 0, batch, backend.fault, op))
    return error;
  if (p->pages)
    if (int error = launch(backend, "attention_input", &place_keys, dim3(static_cast<unsigned>(batch.segment_capacity)),
                           dim3(kWarp), 0, batch, space.places, backend.fault))
      return error;
  const NormRows rows = {
      batch.counts,   batch.token_capacity, shape.hidden, shape.norm,   shape.norm_eps, nullptr, p->x,       p->ldx,
      p->norm_weight, p->norm_bias,         p->h,         shape.hidden, nullptr,        0,       p->inv_rms, linear.x,
      linear.ldx};
  if (int error = norm_rows(backend, op, p->dtype, rows)) return error;
  if (int error = linear_forward(backend, op, batch.counts, batch.token_capacity, w, lora, p->dropout, linear, p->s))
    return error;
  return with_type(p->dtype, [&]<class T>() {
    int error = launch(backend, "attention_input", &finish_heads<T>, head_blocks(batch, shape),
                       dim3(kHeadsAtOnce * kWarp), 0, *p, linear.y, linear.ldy, space.places);
    if (!error && p->pages && batch.prefix_of)
      error = launch(backend, "attention_input", &copy_prefixes<T>, dim3(static_cast<unsigned>(shape.kv_heads)),
                     dim3(128), 0, batch, shape, static_cast<T*>(p->pages));
    return error;
  });
}

size_t attention_input_backward_workspace(const credence_attention_input_backward* p) {
  return BackwardSpace(p, nullptr).pieces.used();
}

int attention_input_backward(Backend& backend, const credence_attention_input_backward* p, void* workspace) {
  constexpr Operator op = Operator::attention_input_backward;
  const credence_shape& shape = p->shape;
  const credence_batch& batch = p->batch;
  const Weights& w = *of(p->qkv);
  const bool input = p->dx || p->dnorm_weight || p->dnorm_bias;
  if (int error = check_shape(backend, op, shape)) return error;
  if (int error = check_linear(backend, op, w, of(p->lora), (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
                               shape.hidden, p->dtype, p->dropout, input))
    return error;
  const BackwardSpace space(p, workspace);
  const LinearGradientSpace& linear = space.linear;
  if (int error =
          launch(backend, "attention_input_backward", &check_batch, dim3(1), dim3(1), 0, batch, backend.fault, op))
    return error;
  const size_t dy_bytes = static_cast<size_t>(batch.token_capacity * linear.lddy) * element_bytes(p->dtype);
  if (int error = check(backend, cudaMemsetAsync(linear.dy, 0, dy_bytes, backend.stream), "attention_input_backward"))
    return error;
  int error = with_type(p->dtype, [&]<class T>() {
    if (int status = launch(backend, "attention_input_backward", &unfinish_heads<T>, head_blocks(batch, shape),
                            dim3(kHeadsAtOnce * kWarp), 0, *p, static_cast<T*>(linear.dy), linear.lddy, space.inverses))
      return status;
    return shape.qk_norm ? head_norm_gradients<T>(backend, *p, space) : 0;
  });
  if (!error)
    error = linear_backward(backend, op, batch.counts, batch.token_capacity, w, of(p->lora), p->dropout, linear, p->h,
                            p->s, p->gradients, p->dweights, p->dbias, input);
  if (error || !input) return error;
  const NormGradient norm = {
      batch.counts,    batch.token_capacity, shape.hidden, shape.norm, shape.norm_eps, nullptr, p->x,
      p->ldx,          p->norm_weight,       p->inv_rms,   linear.dx,  linear.lddx,    p->dx,   p->lddx,
      p->dnorm_weight, p->dnorm_bias};
  return norm_gradient(backend, op, norm, space.norm);
}

}  // namespace credence::cuda
