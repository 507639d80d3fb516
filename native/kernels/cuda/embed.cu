// Rows of the embedding table, one block a token: x[t] = table[tokens[t]] scale.  x [T, H] float32.
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

template <class T>
__global__ void __launch_bounds__(256)
    embed_kernel(credence_embed p, const T* table, int64_t ld, int32_t vocabulary, int32_t width, Fault* faults) {
  const auto t = static_cast<int32_t>(blockIdx.x);
  if (t >= rows_of(p.batch.counts, p.batch.token_capacity, faults, Operator::embed)) return;
  const int32_t token = p.batch.tokens[t];
  if (fault(faults, Operator::embed, fault_of_token(token, t, vocabulary))) return;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += static_cast<int32_t>(blockDim.x))
    p.x[t * p.ldx + i] = to_float(table[token * ld + i]) * p.scale;
}

// The block of a token's first place adds all its places, in order.
__global__ void __launch_bounds__(256) embed_backward_kernel(credence_embed_backward p, Fault* faults) {
  __shared__ int32_t seen;
  const auto t = static_cast<int32_t>(blockIdx.x);
  const int32_t count = rows_of(p.batch.counts, p.batch.token_capacity, faults, Operator::embed_backward);
  if (t >= count) return;
  const int32_t token = p.batch.tokens[t], step = static_cast<int32_t>(blockDim.x);
  if (threadIdx.x == 0) seen = 0;
  __syncthreads();
  for (int32_t other = static_cast<int32_t>(threadIdx.x); other < t; other += step)
    if (p.batch.tokens[other] == token) seen = 1;
  __syncthreads();
  if (seen) return;
  float* const row = p.dtable + static_cast<int64_t>(token) * p.width;
  for (int32_t other = t; other < count; ++other) {
    if (p.batch.tokens[other] != token) continue;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.width; i += step)
      row[i] += p.scale * p.dx[other * p.lddx + i];
  }
}

constexpr int kThreads = 128;

}  // namespace

size_t embed_workspace(const credence_embed*) { return 0; }

int embed(Backend& backend, const credence_embed* p, void*) {
  const Weights& table = *of(p->table);
  return with_type(table.dtype, [&]<class T>() {
    return launch(backend, "embed", &embed_kernel<T>, dim3(static_cast<unsigned>(p->batch.token_capacity)),
                  dim3(kThreads), 0, *p, static_cast<const T*>(table.data), table.ld, table.rows, table.columns,
                  backend.fault);
  });
}

size_t embed_backward_workspace(const credence_embed_backward*) { return 0; }

int embed_backward(Backend& backend, const credence_embed_backward* p, void*) {
  return launch(backend, "embed_backward", &embed_backward_kernel, dim3(static_cast<unsigned>(p->batch.token_capacity)),
                dim3(kThreads), 0, *p, backend.fault);
}

}  // namespace credence::cuda
