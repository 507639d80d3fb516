// The mean over spans of rows, and its way back (kernels.h, credence_pool). Rows are added in order; one thread a column.
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 128;

// False, and a fault, where a span has no row.
__device__ bool covers(const credence_pool& p, int32_t s, Fault* faults, Operator op) {
  return !fault(faults, op, fault_of_span(s, p.from[s], p.to[s]));
}

__global__ void __launch_bounds__(kThreads) pool_kernel(credence_pool p, Fault* faults) {
  const auto s = static_cast<int32_t>(blockIdx.y);
  const auto i = static_cast<int64_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (s >= rows_of(p.rows, p.capacity, faults, Operator::pool) || !covers(p, s, faults, Operator::pool)) return;
  if (i >= p.width) return;
  float sum = 0;
  for (int64_t r = p.from[s]; r < p.to[s]; ++r) sum += p.x[r * p.ldx + i];
  p.y[s * p.width + i] = sum * (1.0f / static_cast<float>(p.to[s] - p.from[s]));
}

// Spans may share rows: a thread's column goes through all of them, in order.
__global__ void __launch_bounds__(kThreads) pool_backward_kernel(credence_pool p, Fault* faults) {
  const auto i = static_cast<int64_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const int32_t count = rows_of(p.rows, p.capacity, faults, Operator::pool_backward);
  for (int32_t s = 0; s < count; ++s) {
    if (!covers(p, s, faults, Operator::pool_backward)) return;
    if (i >= p.width) continue;
    const float dy = p.dy[s * int64_t{p.width} + i] * (1.0f / static_cast<float>(p.to[s] - p.from[s]));
    for (int64_t r = p.from[s]; r < p.to[s]; ++r) p.dx[r * p.lddx + i] += dy;
  }
}

}  // namespace

size_t pool_workspace(const credence_pool*) { return 0; }

int pool(Backend& backend, const credence_pool* p, void*) {
  return launch(backend, "pool", &pool_kernel,
                dim3(blocks_of(p->width, kThreads).x, static_cast<unsigned>(p->capacity)), dim3(kThreads), 0, *p,
                backend.fault);
}

size_t pool_backward_workspace(const credence_pool*) { return 0; }

int pool_backward(Backend& backend, const credence_pool* p, void*) {
  return launch(backend, "pool_backward", &pool_backward_kernel, blocks_of(p->width, kThreads), dim3(kThreads), 0, *p,
                backend.fault);
}

}  // namespace credence::cuda
