// A head's layer in float32, and its way back (kernels.h, credence_dense): y = activation(x W^T + b). Heads are small, so no
// product of blas.h: a warp an output, a thread a column of what is summed over rows, rows in order.
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads) dense_kernel(credence_dense p, Fault* faults) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp, r = at / p.out, o = at % p.out;
  if (r >= rows_of(p.rows, p.capacity, faults, Operator::dense)) return;
  const int64_t lane = threadIdx.x % kWarp;
  float sum = 0;
  for (int64_t i = lane; i < p.in; i += kWarp) sum += p.x[r * p.in + i] * p.weight[o * p.in + i];
  sum = warp_reduce(sum, Sum());
  if (lane != 0) return;
  if (p.bias) sum += p.bias[o];
  p.y[r * p.out + o] = p.activation == CREDENCE_RELU && sum < 0 ? 0.0f : sum;
}

// dy becomes the gradient before the activation.
__global__ void __launch_bounds__(kThreads) before_activation(credence_dense_backward p, Fault* faults) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t count = rows_of(p.rows, p.capacity, faults, Operator::dense_backward);
  if (at < count * p.out && p.activation == CREDENCE_RELU && !(p.y[at] > 0)) p.dy[at] = 0;
}

__global__ void __launch_bounds__(kThreads) input_gradient(credence_dense_backward p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / p.in, i = at % p.in;
  if (r >= min(*p.rows, p.capacity)) return;
  float sum = 0;
  for (int64_t o = 0; o < p.out; ++o) sum += p.dy[r * p.out + o] * p.weight[o * p.in + i];
  p.dx[at] = sum;
}

// Of output o: column i < in of its weights, column `in` stands for its bias.
__global__ void __launch_bounds__(kThreads) parameter_gradients(credence_dense_backward p) {
  const auto i = static_cast<int64_t>(blockIdx.x * blockDim.x + threadIdx.x), o = static_cast<int64_t>(blockIdx.y);
  const int32_t rows = min(*p.rows, p.capacity);
  if (i < p.in && p.dweight) {
    float sum = p.dweight[o * p.in + i];
    for (int64_t r = 0; r < rows; ++r) sum += p.dy[r * p.out + o] * p.x[r * p.in + i];
    p.dweight[o * p.in + i] = sum;
  }
  if (i == p.in && p.dbias) {
    float sum = p.dbias[o];
    for (int64_t r = 0; r < rows; ++r) sum += p.dy[r * p.out + o];
    p.dbias[o] = sum;
  }
}

int check_activation(Backend& backend, const char* name, credence_activation activation) {
  if (activation == CREDENCE_IDENTITY || activation == CREDENCE_RELU) return 0;
  return fail(backend, "%s: a head's layer has activation %d; identity and ReLU exist", name,
              static_cast<int>(activation));
}

}  // namespace

size_t dense_workspace(const credence_dense*) { return 0; }

int dense(Backend& backend, const credence_dense* p, void*) {
  if (int error = check_activation(backend, "dense", p->activation)) return error;
  return launch(backend, "dense", &dense_kernel, blocks_of(static_cast<int64_t>(p->capacity) * p->out, kWarps),
                dim3(kThreads), 0, *p, backend.fault);
}

size_t dense_backward_workspace(const credence_dense_backward*) { return 0; }

int dense_backward(Backend& backend, const credence_dense_backward* p, void*) {
  if (int error = check_activation(backend, "dense_backward", p->activation)) return error;
  int error =
      launch(backend, "dense_backward", &before_activation,
             blocks_of(static_cast<int64_t>(p->capacity) * p->out, kThreads), dim3(kThreads), 0, *p, backend.fault);
  if (!error && p->dx)
    error = launch(backend, "dense_backward", &input_gradient,
                   blocks_of(static_cast<int64_t>(p->capacity) * p->in, kThreads), dim3(kThreads), 0, *p);
  if (!error && (p->dweight || p->dbias))
    error =
        launch(backend, "dense_backward", &parameter_gradients,
               dim3(blocks_of(int64_t{p->in} + 1, kThreads).x, static_cast<unsigned>(p->out)), dim3(kThreads), 0, *p);
  return error;
}

}  // namespace credence::cuda
