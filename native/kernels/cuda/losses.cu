// Losses whose sums stay on the device (kernels.h, credence_weighted_sum and credence_squared_error). A few numbers a row: one block, a
// thread every 256th, a fixed tree; double throughout.
#include "device.h"
#include "launch.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) weighted_sum_kernel(credence_weighted_sum p, Fault* faults) {
  __shared__ double shared[kWarp];
  const int64_t count = int64_t{rows_of(p.rows, p.capacity, faults, Operator::weighted_sum)} * p.width;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads)
    if (p.weight[i] != 0) sum += static_cast<double>(p.weight[i]) * static_cast<double>(p.value[i]);
  sum = block_reduce(sum, Sum(), 0.0, shared);
  if (threadIdx.x == 0) *p.sum += sum;
}

__global__ void __launch_bounds__(kThreads) squared_error_kernel(credence_squared_error p, Fault* faults) {
  __shared__ double shared[kWarp];
  const int32_t rows = rows_of(p.rows, p.capacity, faults, Operator::squared_error);
  double sum = 0;
  for (auto r = static_cast<int32_t>(threadIdx.x); r < rows; r += kThreads) {
    const double s = 1 / (1 + exp(-static_cast<double>(p.z[r]))), error = s - static_cast<double>(p.target[r]);
    sum += error * error;
    p.dz[r] = static_cast<float>(2 * error * s * (1 - s));
  }
  sum = block_reduce(sum, Sum(), 0.0, shared);
  if (threadIdx.x == 0) *p.sum += sum;
}

}  // namespace

size_t weighted_sum_workspace(const credence_weighted_sum*) { return 0; }

int weighted_sum(Backend& backend, const credence_weighted_sum* p, void*) {
  return launch(backend, "weighted_sum", &weighted_sum_kernel, dim3(1), dim3(kThreads), 0, *p, backend.fault);
}

size_t squared_error_workspace(const credence_squared_error*) { return 0; }

int squared_error(Backend& backend, const credence_squared_error* p, void*) {
  return launch(backend, "squared_error", &squared_error_kernel, dim3(1), dim3(kThreads), 0, *p, backend.fault);
}

}  // namespace credence::cuda
