#include "vocabulary.h"

#include <algorithm>

#include "blas.h"
#include "device.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kLogitBytes = int64_t{256} << 20;

// Rows of the chunk as a product reads them.
template <class T>
__global__ void lay_out_chunk(const int32_t* rows, int32_t capacity, Chunk chunk, const T* h, int64_t ldh,
                              int32_t width, T* to, int64_t ld_to, Fault* faults, Operator op) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / ld_to, c = at % ld_to;
  if (r >= chunk.size) return;
  const bool real = chunk.first + r < rows_of(rows, capacity, faults, op) && c < width;
  to[at] = real ? h[(chunk.first + r) * ldh + c] : to_act<T>(0.0f);
}

// A block a row, twice over its logits: the largest, then sum e^(z - m) and sum e^(z - m) (z - m) in double trees.
//   lse = m + log S;  entropy = log S - (sum e^(z - m) (z - m)) / S
__global__ void __launch_bounds__(kThreads) sum_rows(const int32_t* rows, int32_t capacity, Chunk chunk, const float* z,
                                                     int64_t ldz, int32_t vocabulary, RowSums* sums) {
  __shared__ double shared[kWarp];
  __shared__ float shared_most[kWarp];
  const int64_t r = blockIdx.x;
  if (chunk.first + r >= min(*rows, capacity)) return;
  const float* row = z + r * ldz;
  float most = -INFINITY;
  for (int32_t v = static_cast<int32_t>(threadIdx.x); v < vocabulary; v += kThreads) most = Largest()(row[v], most);
  most = block_reduce(most, Largest(), -INFINITY, shared_most);
  double sum = 0, weighted = 0;
  for (int32_t v = static_cast<int32_t>(threadIdx.x); v < vocabulary; v += kThreads) {
    const float below = row[v] - most, e = expf(below);
    sum += static_cast<double>(e);
    weighted +=
        static_cast<double>(e) * static_cast<double>(below < -200.0f ? -200.0f : below);  // 0 (-inf) would be NaN
  }
  sum = block_reduce(sum, Sum(), 0.0, shared);
  weighted = block_reduce(weighted, Sum(), 0.0, shared);
  if (threadIdx.x != 0) return;
  const double log_sum = log(sum);
  sums[r] = {most, static_cast<float>(static_cast<double>(most) + log_sum),
             static_cast<float>(log_sum - weighted / sum)};
}

__global__ void give_rows(const int32_t* rows, int32_t capacity, Chunk chunk, const float* from, int64_t ld_from,
                          int32_t width, float* to, int64_t ld_to) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / width;
  if (r < chunk.size && chunk.first + r < min(*rows, capacity))
    to[(chunk.first + r) * ld_to + at % width] = from[r * ld_from + at % width];
}

}  // namespace

LogitSpace::LogitSpace(Workspace* space, int32_t capacity, int32_t width, int32_t vocabulary, credence_dtype dtype) {
  ldz = round_up(vocabulary, 8);
  ldh = round_up(width, 8);
  const int64_t fit = kLogitBytes / (ldz * static_cast<int64_t>(sizeof(float)));
  chunk = static_cast<int32_t>(std::min<int64_t>(capacity, std::max<int64_t>(fit, 64)));
  h = space->take(chunk * ldh, dtype);
  z = space->take<float>(chunk * ldz);
  sums = space->take<RowSums>(chunk);
}

int logits(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, Chunk chunk, const Weights& weights,
           const void* h, int64_t ldh, const LogitSpace& space, bool sums) {
  const char* name = name_of(op);
  int error = with_type(weights.dtype, [&]<class T>() {
    return launch(backend, name, &lay_out_chunk<T>, blocks_of(chunk.size * space.ldh, kThreads), dim3(kThreads), 0,
                  rows, capacity, chunk, static_cast<const T*>(h), ldh, weights.columns, static_cast<T*>(space.h),
                  space.ldh, backend.fault, op);
  });
  if (error) return error;
  Product p{chunk.size, weights.rows, space.ldh, weights.dtype, space.h, space.ldh};
  p.w = weights.data;
  p.ldw = weights.ld;
  p.y = space.z;
  p.ldy = space.ldz;
  error = product(backend, p);
  if (error || !sums) return error;
  return launch(backend, name, &sum_rows, dim3(static_cast<unsigned>(chunk.size)), dim3(kThreads), 0, rows, capacity,
                chunk, space.z, space.ldz, weights.rows, space.sums);
}

LogitGradientSpace::LogitGradientSpace(Workspace* space, const LogitSpace& logits, credence_dtype dtype)
    : dz(space->take(logits.chunk * logits.ldz, dtype)), dh(space->take<float>(logits.chunk * logits.ldh)) {}

int logit_gradients(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, Chunk chunk,
                    const Weights& weights, const LogitSpace& space, const LogitGradientSpace& gradients, float* dh,
                    int64_t lddh, float* dweights) {
  if (dh) {
    Product p{chunk.size, weights.columns, space.ldz, weights.dtype, gradients.dz, space.ldz};
    p.w = weights.data;
    p.ldw = weights.ld;
    p.w_transposed = true;
    p.y = gradients.dh;
    p.ldy = space.ldh;
    int error = product(backend, p);
    if (!error)
      error = launch(backend, name_of(op), &give_rows,
                     blocks_of(static_cast<int64_t>(chunk.size) * weights.columns, kThreads), dim3(kThreads), 0, rows,
                     capacity, chunk, gradients.dh, space.ldh, weights.columns, dh, lddh);
    if (error) return error;
  }
  if (!dweights) return 0;
  Product p{weights.rows, weights.columns, chunk.size, weights.dtype, gradients.dz, space.ldz};
  p.x_transposed = p.w_transposed = p.add = true;
  p.w = space.h;
  p.ldw = space.ldh;
  p.y = dweights;
  p.ldy = weights.columns;
  return product(backend, p);
}

}  // namespace credence::cuda
