// RMS norm (Zhang & Sennrich 2019, eq. 4) and layer norm (Ba et al. 2016): x [T, H] float32, y [T, H] act.
// A block reads its row two or three times, out of L1 after the first: the row's statistics need it whole.
#include "norm.h"

#include "column_sums.h"
#include "linear.h"

namespace credence::cuda {

namespace {

template <class T>
__global__ void __launch_bounds__(256) norm_kernel(NormRows p, Fault* faults, Operator op) {
  __shared__ float shared[kWarp];
  const auto r = static_cast<int64_t>(blockIdx.x);
  const int32_t first = static_cast<int32_t>(threadIdx.x), step = static_cast<int32_t>(blockDim.x);
  T* const laid_out = p.laid_out ? static_cast<T*>(p.laid_out) + r * p.ld_laid_out : nullptr;
  const bool real = r < rows_of(p.rows, p.capacity, faults, op);
  if (laid_out)
    for (int64_t i = real ? p.width + first : first; i < p.ld_laid_out; i += step) laid_out[i] = to_act<T>(0.0f);
  if (!real) return;
  const float* x = p.x + (p.index ? p.index[r] : r) * p.ldx;
  const NormRow n = norm_statistics(x, p.width, p.kind, p.eps, shared);
  if (p.inv_rms && first == 0) p.inv_rms[r] = n.inv;
  T* const y = p.y ? static_cast<T*>(p.y) + r * p.ldy : nullptr;
  float* const y_f32 = p.y_f32 ? p.y_f32 + r * p.ldy_f32 : nullptr;
  for (int32_t i = first; i < p.width; i += step) {
    const float value = (x[i] - n.mean) * n.inv * p.weight[i] + (p.bias ? p.bias[i] : 0.0f);
    if (y) y[i] = to_act<T>(value);
    if (laid_out) laid_out[i] = to_act<T>(value);
    if (y_f32) y_f32[i] = value;
  }
}

// dx += inv (g - [layer norm: mean(g)] - xhat mean(g xhat)) with xhat = (x - mean) inv and g = weight dy, by a whole block.
__device__ void add_norm_gradient(const NormGradient& g, NormRow n, const float* x, const float* dy, float* dx,
                                  float* shared) {
  const int32_t first = static_cast<int32_t>(threadIdx.x), step = static_cast<int32_t>(blockDim.x);
  float along = 0, level = 0;
  for (int32_t i = first; i < g.width; i += step) {
    const float upstream = dy[i] * g.weight[i];
    along += upstream * ((x[i] - n.mean) * n.inv);
    level += upstream;
  }
  along = block_reduce(along, Sum(), 0.0f, shared) / static_cast<float>(g.width);
  level = g.kind == CREDENCE_LAYER_NORM ? block_reduce(level, Sum(), 0.0f, shared) / static_cast<float>(g.width) : 0.0f;
  for (int32_t i = first; i < g.width; i += step)
    dx[i] += n.inv * (dy[i] * g.weight[i] - level - (x[i] - n.mean) * n.inv * along);
}

// One block a row of dy. Where an index stands several times, the block of the first adds them all, in order.
__global__ void __launch_bounds__(256)
    norm_gradient_kernel(NormGradient g, NormRow* statistics, Fault* faults, Operator op) {
  __shared__ float shared[kWarp];
  __shared__ int32_t seen;
  const auto r = static_cast<int32_t>(blockIdx.x);
  const int32_t count = rows_of(g.rows, g.capacity, faults, op);
  if (r >= count) return;
  const int64_t at = g.index ? g.index[r] : r;
  const float* x = g.x + at * g.ldx;
  const bool kept = g.inv_rms && g.kind == CREDENCE_RMS_NORM;
  const NormRow n = kept ? NormRow{0.0f, g.inv_rms[r]} : norm_statistics(x, g.width, g.kind, g.eps, shared);
  if (threadIdx.x == 0) statistics[r] = n;
  if (!g.dx) return;
  float* const dx = g.dx + at * g.lddx;
  if (!g.index) {
    add_norm_gradient(g, n, x, g.dy + r * g.lddy, dx, shared);
    return;
  }
  if (threadIdx.x == 0) seen = 0;
  __syncthreads();
  for (int32_t other = static_cast<int32_t>(threadIdx.x); other < r; other += static_cast<int32_t>(blockDim.x))
    if (g.index[other] == at) seen = 1;
  __syncthreads();
  if (seen) return;
  for (int32_t other = r; other < count; ++other)
    if (g.index[other] == at) add_norm_gradient(g, n, x, g.dy + other * g.lddy, dx, shared);
}

struct WeightGradient {
  NormGradient g;
  const NormRow* statistics;
  __device__ float operator()(int64_t r, int32_t c) const {
    const int64_t at = g.index ? g.index[r] : r;
    return g.dy[r * g.lddy + c] * ((g.x[at * g.ldx + c] - statistics[r].mean) * statistics[r].inv);
  }
};

struct BiasGradient {
  NormGradient g;
  __device__ float operator()(int64_t r, int32_t c) const { return g.dy[r * g.lddy + c]; }
};

}  // namespace

int norm_rows(Backend& backend, Operator op, credence_dtype dtype, const NormRows& p) {
  return with_type(dtype, [&]<class T>() {
    return launch(backend, name_of(op), &norm_kernel<T>, dim3(static_cast<unsigned>(p.capacity)),
                  dim3(static_cast<unsigned>(row_threads(p.width))), 0, p, backend.fault, op);
  });
}

NormGradientSpace::NormGradientSpace(Workspace* space, int64_t capacity, int64_t width)
    : statistics(space->take<NormRow>(capacity)), sums(space->take<float>(column_sums_floats(capacity, width))) {}

int norm_gradient(Backend& backend, Operator op, const NormGradient& g, const NormGradientSpace& space) {
  const char* name = name_of(op);
  int error = launch(backend, name, &norm_gradient_kernel, dim3(static_cast<unsigned>(g.capacity)),
                     dim3(static_cast<unsigned>(row_threads(g.width))), 0, g, space.statistics, backend.fault, op);
  if (!error && g.dweight)
    error = column_sums(backend, name, WeightGradient{g, space.statistics}, g.rows, g.capacity, 1, g.width, space.sums,
                        g.dweight);
  if (!error && g.dbias)
    error = column_sums(backend, name, BiasGradient{g}, g.rows, g.capacity, 1, g.width, space.sums, g.dbias);
  return error;
}

size_t norm_workspace(const credence_norm*) { return 0; }

int norm(Backend& backend, const credence_norm* p, void*) {
  const NormRows rows = {p->rows, p->capacity, p->width, p->kind,  p->eps,     p->index,   p->x,    p->ldx, p->weight,
                         p->bias, p->y,        p->ldy,   p->y_f32, p->ldy_f32, p->inv_rms, nullptr, 0};
  return norm_rows(backend, Operator::norm, p->dtype, rows);
}

size_t norm_backward_workspace(const credence_norm_backward* p) {
  Workspace space(nullptr);
  NormGradientSpace(&space, p->capacity, p->width);
  return space.used();
}

int norm_backward(Backend& backend, const credence_norm_backward* p, void* workspace) {
  Workspace space(workspace);
  const NormGradient g = {p->rows,   p->capacity, p->width, p->kind, p->eps, p->index, p->x,       p->ldx,
                          p->weight, p->inv_rms,  p->dy,    p->lddy, p->dx,  p->lddx,  p->dweight, p->dbias};
  return norm_gradient(backend, Operator::norm_backward, g, NormGradientSpace(&space, p->capacity, p->width));
}

}  // namespace credence::cuda
