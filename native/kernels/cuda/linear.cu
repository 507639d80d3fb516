#include "linear.h"

#include "blas.h"
#include "column_sums.h"
#include "dropout.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

// One thread an element of `to`.
template <class T>
__global__ void lay_out_rows(const int32_t* rows, int32_t capacity, const T* from, int64_t ld_from, int32_t width,
                             T* to, int64_t ld_to, Fault* faults, Operator op) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / ld_to, c = at % ld_to;
  if (r >= capacity) return;
  const int32_t count = rows_of(rows, capacity, faults, op);
  to[at] = r < count && c < width ? from[r * ld_from + c] : to_act<T>(0.0f);
}

// [rows, width] out of what lay_out made.
template <class T>
__global__ void take_rows(const int32_t* rows, int32_t capacity, const T* from, int64_t ld_from, int32_t width, T* to) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / width;
  if (r < min(*rows, capacity)) to[at] = from[r * ld_from + at % width];
}

// scale B into the columns behind W [n8, k8], A into the rows behind it.
template <class T>
__global__ void fill_slots(T* w, int64_t ldw, int64_t n8, int64_t k8, const T* a, int64_t lda, const T* b, int64_t ldb,
                           int32_t ranks, bool backward) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < n8 * ranks) {
    w[at / ranks * ldw + k8 + at % ranks] = b[at / ranks * ldb + at % ranks];
  } else if (backward && at < (n8 + k8) * ranks) {
    const int64_t i = at - n8 * ranks;
    w[(n8 + i / k8) * ldw + i % k8] = a[i / k8 * lda + i % k8];
  }
}

// to = x where slice `slice` keeps it, else 0; four columns a thread, as Philox gives four words.
template <class T>
__global__ void keep_rows(const int32_t* rows, int32_t capacity, DropoutMask mask, int32_t slice, const T* x,
                          int64_t ldx, int32_t width, T* to, int64_t ld_to) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, groups = (width + 31) / 32 * 8;
  const int64_t r = at / groups;
  if (r >= capacity) return;
  const bool real = r < *rows;
  const int32_t first = dropout_column(at % groups);
  const DropoutWords words = real ? mask.words(r, slice, at % groups) : DropoutWords{};
  for (int w = 0; w < 4; ++w) {
    const int32_t c = first + 8 * w;
    if (c < ld_to)
      to[r * ld_to + c] = real && c < width && words.word[w] >= mask.limit ? x[r * ldx + c] : to_act<T>(0.0f);
  }
}

// dx += part where slice `slice` keeps it.
__global__ void add_kept(const int32_t* rows, int32_t capacity, DropoutMask mask, int32_t slice, const float* part,
                         int64_t ld, int32_t width, float* dx) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, groups = (width + 31) / 32 * 8;
  const int64_t r = at / groups;
  if (r >= min(*rows, capacity)) return;
  const DropoutWords words = mask.words(r, slice, at % groups);
  for (int w = 0; w < 4; ++w) {
    const int32_t c = dropout_column(at % groups) + 8 * w;
    if (c < width && words.word[w] >= mask.limit) dx[r * ld + c] += part[r * ld + c];
  }
}

template <class T>
struct Element {
  const T* x;
  int64_t ld;
  __device__ float operator()(int64_t r, int32_t c) const { return to_float(x[r * ld + c]); }
};

int64_t groups_of(int64_t width) { return (width + 31) / 32 * 8; }

bool fits_slot(const Lora* lora) { return !lora || lora->ranks_padded <= kSlot; }

int prepare_slots(Backend& backend, const char* name, const Weights& w, const Lora& lora) {
  // A graph fills the slots each time: an adapter that is packed again, or runs outside it, changes nothing in its recording.
  if (!backend.recording && w.filled == lora.version && w.filled_after == backend.replays) return 0;
  const int64_t n8 = round_up(w.rows, 8), k8 = round_up(w.columns, 8);
  const int status = with_type(w.dtype, [&]<class T>() {
    return launch(backend, name, &fill_slots<T>, blocks_of((n8 + k8) * lora.ranks_padded, kThreads), dim3(kThreads), 0,
                  static_cast<T*>(w.data), w.ld, n8, k8, static_cast<const T*>(lora.a), lora.lda,
                  static_cast<const T*>(lora.b), lora.ldb, lora.ranks_padded, w.backward);
  });
  if (!status && !backend.recording) {
    w.filled = lora.version;
    w.filled_after = backend.replays;
  }
  return status;
}

void* at(void* data, credence_dtype dtype, int64_t element) {
  return static_cast<char*>(data) + element * static_cast<int64_t>(element_bytes(dtype));
}

int keep(Backend& backend, const char* name, credence_dtype dtype, const int32_t* rows, int32_t capacity,
         const credence_dropout& dropout, int slice, const void* x, int64_t ldx, int32_t width, void* to) {
  return with_type(dtype, [&]<class T>() {
    return launch(backend, name, &keep_rows<T>, blocks_of(capacity * groups_of(width), kThreads), dim3(kThreads), 0,
                  rows, capacity, DropoutMask(dropout), slice, static_cast<const T*>(x), ldx, width,
                  static_cast<T*>(to), round_up(width, 8));
  });
}

float scale_of(const credence_dropout& dropout) {
  return dropout.p > 0 ? static_cast<float>(1 / (1 - static_cast<double>(dropout.p))) : 1.0f;
}

}  // namespace

__global__ void add_runs(const float* parts, int32_t runs, int32_t columns, float* out) {
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (column >= columns) return;
  float sum = 0;
  for (int32_t run = 0; run < runs; ++run) sum += parts[static_cast<int64_t>(run) * columns + column];
  out[column] += sum;
}

const char* name_of(Operator op) {
  static constexpr const char* kNames[] = {
#define CREDENCE_NAME(name) #name,
      CREDENCE_OPERATORS(CREDENCE_NAME)
#undef CREDENCE_NAME
  };
  return kNames[static_cast<int32_t>(op)];
}

int check_linear(Backend& backend, Operator op, const Weights& weights, const Lora* lora, int32_t rows, int32_t columns,
                 credence_dtype dtype, const credence_dropout& dropout, bool backward) {
  const LinearArguments have = {weights.rows, weights.columns, weights.dtype, weights.backward,
                                lora ? &lora->layout : nullptr};
  const Words wrong = fault_of(have, rows, columns, dtype, dropout, backward);
  return *wrong.text ? fail(backend, "%s: %s", name_of(op), wrong.text) : 0;
}

int lay_out(Backend& backend, Operator op, credence_dtype dtype, const int32_t* rows, int32_t capacity,
            const void* from, int64_t ld_from, int32_t width, void* to, int64_t ld_to) {
  return with_type(dtype, [&]<class T>() {
    return launch(backend, name_of(op), &lay_out_rows<T>, blocks_of(capacity * ld_to, kThreads), dim3(kThreads), 0,
                  rows, capacity, static_cast<const T*>(from), ld_from, width, static_cast<T*>(to), ld_to,
                  backend.fault, op);
  });
}

LinearSpace::LinearSpace(Workspace* space, int64_t capacity, const Weights& weights, const Lora* lora,
                         const credence_dropout& dropout) {
  ldx = round_up(weights.columns, 8) + (lora ? lora->ranks_padded : 0);
  ldy = round_up(weights.rows, 8);
  x = space->take(capacity * ldx, weights.dtype);
  kept = lora && dropout.p > 0 ? space->take(capacity * round_up(weights.columns, 8), weights.dtype) : nullptr;
  y = space->take<float>(capacity * ldy);
}

int linear_forward(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, const Weights& weights,
                   const Lora* lora, const credence_dropout& dropout, const LinearSpace& space, void* s) {
  const char* name = name_of(op);
  const credence_dtype dtype = weights.dtype;
  const int64_t k8 = round_up(weights.columns, 8);
  if (capacity == 0) return 0;
  Product base{capacity, weights.rows, k8, dtype, space.x, space.ldx};
  base.w = weights.data;
  base.ldw = weights.ld;
  base.y = space.y;
  base.ldy = space.ldy;
  if (!lora) return product(backend, base);

  void* const tail = at(space.x, dtype, k8);
  for (int i = 0; i < (dropout.p > 0 ? lora->layout.slices : 1); ++i) {
    Product p{capacity, lora->ranks, k8, dtype, space.x, space.ldx};
    p.w = lora->a;
    p.ldw = lora->lda;
    p.y = tail;
    p.ldy = space.ldx;
    p.y_dtype = dtype;
    if (dropout.p > 0) {
      if (int error =
              keep(backend, name, dtype, rows, capacity, dropout, i, space.x, space.ldx, weights.columns, space.kept))
        return error;
      p.outputs = lora->layout.slice[i].rank;
      p.x = space.kept;
      p.ldx = k8;
      p.w = at(lora->a, dtype, lora->first_rank[i] * lora->lda);
      p.y = at(tail, dtype, lora->first_rank[i]);
      p.alpha = scale_of(dropout);
    }
    if (int error = product(backend, p)) return error;
  }
  if (s) {
    const int error = with_type(dtype, [&]<class T>() {
      return launch(backend, name, &take_rows<T>, blocks_of(static_cast<int64_t>(capacity) * lora->ranks, kThreads),
                    dim3(kThreads), 0, rows, capacity, static_cast<const T*>(tail), space.ldx, lora->ranks,
                    static_cast<T*>(s));
    });
    if (error) return error;
  }
  if (fits_slot(lora)) {
    if (int error = prepare_slots(backend, name, weights, *lora)) return error;
    base.tail = lora->ranks_padded;
    base.inputs = k8 + base.tail;
    return product(backend, base);
  }
  if (int error = product(backend, base)) return error;
  Product second{capacity, weights.rows, lora->ranks_padded, dtype, tail, space.ldx};
  second.w = lora->b;
  second.ldw = lora->ldb;
  second.y = space.y;
  second.ldy = space.ldy;
  second.add = true;
  return product(backend, second);
}

LinearGradientSpace::LinearGradientSpace(Workspace* space, int64_t capacity, const Weights& weights, const Lora* lora,
                                         const credence_dropout& dropout) {
  const int64_t k8 = round_up(weights.columns, 8);
  const bool drops = lora && dropout.p > 0;
  lddy = round_up(weights.rows, 8) + (lora ? lora->ranks_padded : 0);
  lddx = k8;
  dy = space->take(capacity * lddy, weights.dtype);
  x = space->take(capacity * k8, weights.dtype);
  s = lora ? space->take(capacity * lora->ranks_padded, weights.dtype) : nullptr;
  kept = drops ? space->take(capacity * k8, weights.dtype) : nullptr;
  dx = space->take<float>(capacity * k8);
  part = drops ? space->take<float>(capacity * k8) : nullptr;
  sums = space->take<float>(column_sums_floats(capacity, weights.rows));
}

int linear_backward(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, const Weights& weights,
                    const Lora* lora, const credence_dropout& dropout, const LinearGradientSpace& space, const void* x,
                    const void* s, float* gradients, float* dweights, float* dbias, bool input) {
  const char* name = name_of(op);
  const credence_dtype dtype = weights.dtype;
  const int64_t k8 = round_up(weights.columns, 8), n8 = round_up(weights.rows, 8);
  const bool drops = lora && dropout.p > 0;
  if (capacity == 0) return 0;
  if (dbias) {
    const int error = with_type(dtype, [&]<class T>() {
      return column_sums(backend, name, Element<T>{static_cast<const T*>(space.dy), space.lddy}, rows, capacity, 1,
                         weights.rows, space.sums, dbias);
    });
    if (error) return error;
  }
  if (dweights || (lora && gradients)) {
    if (int error = lay_out(backend, op, dtype, rows, capacity, x, weights.columns, weights.columns, space.x, k8))
      return error;
  }
  if (dweights) {
    Product p{weights.rows, weights.columns, capacity, dtype, space.dy, space.lddy};
    p.x_transposed = p.w_transposed = p.add = true;
    p.w = space.x;
    p.ldw = k8;
    p.y = dweights;
    p.ldy = weights.columns;
    if (int error = product(backend, p)) return error;
  }
  void* const g = at(space.dy, dtype, n8);
  if (lora) {
    Product p{capacity, lora->ranks, n8, dtype, space.dy, space.lddy};
    p.w = lora->b;
    p.ldw = lora->ldb;
    p.w_transposed = true;
    p.y = g;
    p.ldy = space.lddy;
    p.y_dtype = dtype;
    p.alpha = drops ? scale_of(dropout) : 1.0f;
    if (int error = product(backend, p)) return error;
  }
  if (lora && gradients) {
    if (int error =
            lay_out(backend, op, dtype, rows, capacity, s, lora->ranks, lora->ranks, space.s, lora->ranks_padded))
      return error;
    for (int i = 0; i < lora->layout.slices; ++i) {
      const credence_lora_slice& slice = lora->layout.slice[i];
      if (drops)
        if (int error =
                keep(backend, name, dtype, rows, capacity, dropout, i, space.x, k8, weights.columns, space.kept))
          return error;
      Product da{slice.rank, weights.columns, capacity, dtype, at(g, dtype, lora->first_rank[i]), space.lddy};
      da.x_transposed = da.w_transposed = da.add = true;
      da.w = drops ? space.kept : space.x;
      da.ldw = k8;
      da.y = gradients + slice.a;
      da.ldy = weights.columns;
      if (int error = product(backend, da)) return error;
      Product db{slice.row_end - slice.row_begin,      slice.rank, capacity, dtype,
                 at(space.dy, dtype, slice.row_begin), space.lddy};
      db.x_transposed = db.w_transposed = db.add = true;
      db.w = at(space.s, dtype, lora->first_rank[i]);
      db.ldw = lora->ranks_padded;
      db.y = gradients + slice.b;
      db.ldy = slice.rank;
      db.alpha = slice.scale;
      if (int error = product(backend, db)) return error;
    }
  }
  if (!input) return 0;

  Product base{capacity, weights.columns, n8, dtype, space.dy, space.lddy};
  base.w = weights.data;
  base.ldw = weights.ld;
  base.w_transposed = true;
  base.y = space.dx;
  base.ldy = space.lddx;
  if (lora && !drops && fits_slot(lora)) {
    if (int error = prepare_slots(backend, name, weights, *lora)) return error;
    base.tail = lora->ranks_padded;
    base.inputs = n8 + base.tail;
    return product(backend, base);
  }
  if (int error = product(backend, base)) return error;
  if (!lora) return 0;
  for (int i = 0; i < (drops ? lora->layout.slices : 1); ++i) {
    Product p{capacity, weights.columns, lora->ranks, dtype, g, space.lddy};
    p.w = lora->a;
    p.ldw = lora->lda;
    p.w_transposed = true;
    p.y = space.dx;
    p.ldy = space.lddx;
    p.add = !drops;
    if (drops) {
      p.x = at(g, dtype, lora->first_rank[i]);
      p.inputs = lora->layout.slice[i].rank;
      p.w = at(lora->a, dtype, lora->first_rank[i] * lora->lda);
      p.y = space.part;
    }
    if (int error = product(backend, p)) return error;
    if (!drops) continue;
    if (int error =
            launch(backend, name, &add_kept, blocks_of(capacity * groups_of(weights.columns), kThreads), dim3(kThreads),
                   0, rows, capacity, DropoutMask(dropout), i, space.part, space.lddx, weights.columns, space.dx))
      return error;
  }
  return 0;
}

}  // namespace credence::cuda
