#include "pack.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "../faults.h"
#include "check_rows.h"
#include "device.h"
#include "launch.h"
#include "memory.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

// W [rows, columns] out of a float32 master.
template <class T>
__global__ void pack_matrix(const float* master, int32_t rows, int32_t columns, T* w, int64_t ld) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < static_cast<int64_t>(rows) * columns) w[at / columns * ld + at % columns] = to_act<T>(master[at]);
}

__device__ __forceinline__ int32_t slice_of(const Lora& lora, int32_t rank) {
  int32_t s = lora.layout.slices - 1;
  while (rank < lora.first_rank[s]) --s;
  return s;
}

// A [ranks_padded, lda] and scale B [rows padded, ranks_padded]; zeros where an adapter has nothing.
template <class T>
__global__ void pack_adapter(Lora lora, const float* parameters, int64_t b_rows) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t a_size = lora.ranks_padded * lora.lda;
  if (at < a_size) {
    const auto rank = static_cast<int32_t>(at / lora.lda);
    const int64_t k = at % lora.lda;
    float value = 0;
    if (rank < lora.ranks && k < lora.layout.columns) {
      const int32_t s = slice_of(lora, rank);
      value = parameters[lora.layout.slice[s].a + (rank - lora.first_rank[s]) * int64_t{lora.layout.columns} + k];
    }
    static_cast<T*>(lora.a)[at] = to_act<T>(value);
  } else if (at < a_size + b_rows * lora.ldb) {
    const int64_t row = (at - a_size) / lora.ldb;
    const auto rank = static_cast<int32_t>((at - a_size) % lora.ldb);
    float value = 0;
    if (rank < lora.ranks) {
      const int32_t s = slice_of(lora, rank);
      const credence_lora_slice& slice = lora.layout.slice[s];
      if (row >= slice.row_begin && row < slice.row_end)
        value = slice.scale * parameters[slice.b + (row - slice.row_begin) * slice.rank + (rank - lora.first_rank[s])];
    }
    static_cast<T*>(lora.b)[at - a_size] = to_act<T>(value);
  }
}

template <class T>
int upload(Backend& backend, const Weights& w, const credence_weights_source& source) {
  constexpr int32_t kRows = 128;  // a file is read a block of rows at a time
  std::vector<float> block(static_cast<size_t>(kRows) * source.columns);
  std::vector<T> packed(static_cast<size_t>(kRows) * w.ld);
  for (int32_t row = 0; row < source.rows; row += kRows) {
    const int32_t count = std::min(kRows, source.rows - row);
    source.read(source.context, row, count, block.data());
    std::fill(packed.begin(), packed.end(), T{});
    for (int32_t r = 0; r < count; ++r)
      for (int32_t c = 0; c < source.columns; ++c) {
        const float value = block[static_cast<size_t>(r) * source.columns + c];
        if constexpr (sizeof(T) == 2) packed[r * w.ld + c] = __float2bfloat16(value);
        else packed[r * w.ld + c] = value;
      }
    const auto status = cudaMemcpyAsync(static_cast<T*>(w.data) + row * w.ld, packed.data(), count * w.ld * sizeof(T),
                                        cudaMemcpyHostToDevice, backend.stream);
    if (int error = check(backend, status, "pack")) return error;
  }
  return 0;
}

}  // namespace

void free_weights(Backend& backend, Weights* weights) {
  if (!weights) return;
  release(backend, weights->data);
  delete weights;
}

Weights* pack(Backend& backend, const credence_weights_source& source) {
  if (source.rows < 1 || source.columns < 1) {
    fail(backend, "a matrix of %d x %d cannot be packed", source.rows, source.columns);
    return nullptr;
  }
  std::unique_ptr<Weights> w(new (std::nothrow) Weights{source.rows, source.columns, source.dtype, source.backward != 0,
                                                        round_up(source.columns, 8) + kSlot, nullptr, 0, 0});
  if (!w) {
    fail(backend, "not enough memory to pack a matrix of %d x %d", source.rows, source.columns);
    return nullptr;
  }
  const int64_t rows = round_up(source.rows, 8) + (source.backward ? kSlot : 0);
  const size_t bytes = static_cast<size_t>(rows * w->ld) * element_bytes(source.dtype);
  w->data = allocate(backend, bytes, MemoryUse::kWeights);
  if (!w->data) return nullptr;
  // The matrix's own memory is the check's before the matrix is written.
  int status = check_rows(backend, {w->rows, round_up(w->columns, 8), kSlot, w->dtype, CREDENCE_F32}, w->data, w->ld);
  if (!status && backend.dry) return w.release();
  if (!status) status = check(backend, cudaMemsetAsync(w->data, 0, bytes, backend.stream), "pack");
  if (!status)
    status =
        source.dtype == CREDENCE_BF16 ? upload<__nv_bfloat16>(backend, *w, source) : upload<float>(backend, *w, source);
  if (!status) return w.release();
  release(backend, w->data);
  return nullptr;
}

namespace {

/// S = X A^T, and the second product of an adapter that no slot has room for.
int check_adapter(Backend& backend, const Lora& lora) {
  const credence_dtype dtype = lora.layout.dtype;
  if (int error = check_rows(backend, {lora.ranks, lora.lda, 0, dtype, dtype}, lora.a, lora.lda)) return error;
  if (lora.ranks_padded <= kSlot) return 0;
  return check_rows(backend, {lora.layout.rows, lora.ranks_padded, 0, dtype, CREDENCE_F32}, lora.b, lora.ldb);
}

}  // namespace

int repack(Backend& backend, Weights& w, const float* master) {
  if (backend.dry) return 0;
  return with_type(w.dtype, [&]<class T>() {
    return launch(backend, "repack", &pack_matrix<T>, blocks_of(static_cast<int64_t>(w.rows) * w.columns, kThreads),
                  dim3(kThreads), 0, master, w.rows, w.columns, static_cast<T*>(w.data), w.ld);
  });
}

void free_lora(Backend& backend, Lora* lora) {
  if (!lora) return;
  release(backend, lora->a);
  release(backend, lora->b);
  delete lora;
}

Lora* pack_lora(Backend& backend, const credence_lora_layout& layout, const float* parameters) {
  if (const char* reason = fault_of(layout)) {
    fail(backend, "the adapter's layout for a product of %d x %d %s", layout.rows, layout.columns, reason);
    return nullptr;
  }
  auto* lora = new (std::nothrow) Lora{};
  if (!lora) {
    fail(backend, "not enough memory for an adapter");
    return nullptr;
  }
  lora->layout = layout;
  for (int s = 0; s < layout.slices; ++s) {
    lora->first_rank[s] = lora->ranks;
    lora->ranks += layout.slice[s].rank;
  }
  lora->ranks_padded = static_cast<int32_t>(round_up(lora->ranks, 16));
  lora->lda = round_up(layout.columns, 8);
  lora->ldb = lora->ranks_padded;
  const size_t bytes = element_bytes(layout.dtype);
  lora->a = allocate(backend, static_cast<size_t>(lora->ranks_padded * lora->lda) * bytes, MemoryUse::kAdapters);
  lora->b = allocate(backend, static_cast<size_t>(round_up(layout.rows, 8) * lora->ldb) * bytes, MemoryUse::kAdapters);
  if (!lora->a || !lora->b || check_adapter(backend, *lora) || repack_lora(backend, *lora, parameters)) {
    free_lora(backend, lora);
    return nullptr;
  }
  return lora;
}

int repack_lora(Backend& backend, Lora& lora, const float* parameters) {
  if (backend.dry) return 0;
  static std::atomic<int64_t> versions{0};
  lora.version = ++versions;
  const int64_t b_rows = round_up(lora.layout.rows, 8);
  return with_type(lora.layout.dtype, [&]<class T>() {
    return launch(backend, "repack_lora", &pack_adapter<T>,
                  blocks_of(lora.ranks_padded * lora.lda + b_rows * lora.ldb, kThreads), dim3(kThreads), 0, lora,
                  parameters, b_rows);
  });
}

}  // namespace credence::cuda
