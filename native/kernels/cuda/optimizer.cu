// The optimiser over the policy's flat buffers (kernels.h, credence_gradient_norm and credence_adamw).
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlock = 8192;  // numbers of one partial sum: the norm is the sum of these blocks in order

__global__ void __launch_bounds__(kThreads) square_sums(credence_gradient_norm p, double* partial) {
  __shared__ double shared[kWarp];
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlock, end = min(begin + kBlock, p.count);
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    sum += static_cast<double>(p.g[i]) * static_cast<double>(p.g[i]);
  sum = block_reduce(sum, Sum(), 0.0, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void add_square_sums(const double* partial, int64_t blocks, float* norm) {
  __shared__ double shared[kWarp];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
  sum = block_reduce(sum, Sum(), 0.0, shared);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

/// What of a step is the same for every number.
struct Step {
  float beta1, rest1, beta2, rest2, decay, rate, c2_root, eps, nearer;
};

// The clip factor is read here, and whether there is to be a step at all, so that the host need not wait for the norm.
__global__ void __launch_bounds__(kThreads) adamw_kernel(credence_adamw p, Step s) {
  if ((p.norm && !isfinite(*p.norm)) || (p.loss && !isfinite(*p.loss))) return;
  double clip = 1;
  if (p.norm && p.max_norm > 0) {
    const double ratio =
        static_cast<double>(p.max_norm) / (static_cast<double>(*p.norm) * static_cast<double>(p.gradient_scale) + 1e-6);
    clip = ratio < 1 ? ratio : 1;
  }
  const auto scale = static_cast<float>(static_cast<double>(p.gradient_scale) * clip);
  const int64_t i = p.begin + static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.end) return;
  const float g = p.g[i] * scale;
  const float m = s.beta1 * p.m[i] + s.rest1 * g, v = s.beta2 * p.v[i] + s.rest2 * g * g;
  p.m[i] = m;
  p.v[i] = v;
  const float after = p.p[i] * s.decay + s.rate * (m / (sqrtf(v) * s.c2_root + s.eps));
  p.p[i] = after;
  if (p.average) p.average[i] += s.nearer * (after - p.average[i]);
}

}  // namespace

size_t gradient_norm_workspace(const credence_gradient_norm* p) {
  return static_cast<size_t>(ceil_div(p->count, kBlock)) * sizeof(double);
}

int gradient_norm(Backend& backend, const credence_gradient_norm* p, void* workspace) {
  auto* const partial = static_cast<double*>(workspace);
  const int64_t blocks = ceil_div(p->count, kBlock);
  if (int error = launch(backend, "gradient_norm", &square_sums, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                         *p, partial))
    return error;
  return launch(backend, "gradient_norm", &add_square_sums, dim3(1), dim3(kThreads), 0, partial, blocks, p->norm);
}

size_t adamw_workspace(const credence_adamw*) { return 0; }

int adamw(Backend& backend, const credence_adamw* p, void*) {
  const auto step = static_cast<double>(p->step);
  const double c1 = 1 - pow(p->beta1, step), c2 = 1 - pow(p->beta2, step);
  const Step s = {static_cast<float>(p->beta1),
                  static_cast<float>(1 - p->beta1),
                  static_cast<float>(p->beta2),
                  static_cast<float>(1 - p->beta2),
                  static_cast<float>(1 - p->lr * p->weight_decay),
                  static_cast<float>(-p->lr / c1),
                  static_cast<float>(1 / sqrt(c2)),
                  static_cast<float>(p->eps),
                  static_cast<float>(1 - p->average_decay)};
  return launch(backend, "adamw", &adamw_kernel, blocks_of(p->end - p->begin, kThreads), dim3(kThreads), 0, *p, s);
}

}  // namespace credence::cuda
