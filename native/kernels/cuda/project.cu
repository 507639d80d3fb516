// The output projection and the MLP's second product, onto the residual stream:  x_out = x + in W^T + scale S B^T + bias.
// T tokens, N hidden, K columns. The product is over the capacity, so it goes to the workspace first: rows beyond the count are
// nobody's to write.
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void add_to_residual(credence_project p, int32_t outputs, const float* y, int64_t ldy) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / outputs, c = at % outputs;
  if (r >= min(*p.rows, p.capacity)) return;
  p.x_out[r * p.ldx + c] = p.x[r * p.ldx + c] + (y[r * ldy + c] + (p.bias ? p.bias[c] : 0.0f));
}

// d(x_out) as act, zeros behind it and in rows beyond the count.
template <class T>
__global__ void take_upstream(credence_project_backward p, int32_t outputs, T* dy, int64_t lddy, Fault* faults) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / lddy, c = at % lddy;
  if (r >= p.capacity) return;
  const int32_t count = rows_of(p.rows, p.capacity, faults, Operator::project_backward);
  dy[at] = to_act<T>(r < count && c < outputs ? p.dx[r * p.lddx + c] : 0.0f);
}

template <class T>
__global__ void give_gradient(const int32_t* rows, int32_t capacity, const float* dx, int64_t lddx, int32_t columns,
                              T* din) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / columns;
  if (r < min(*rows, capacity)) din[at] = to_act<T>(dx[r * lddx + at % columns]);
}

}  // namespace

size_t project_workspace(const credence_project* p) {
  Workspace space(nullptr);
  LinearSpace(&space, p->capacity, *of(p->weights), of(p->lora), p->dropout);
  return space.used();
}

int project(Backend& backend, const credence_project* p, void* workspace) {
  const Weights& w = *of(p->weights);
  const Lora* lora = of(p->lora);
  if (int error = check_linear(backend, Operator::project, w, lora, w.rows, w.columns, p->dtype, p->dropout, false))
    return error;
  Workspace pieces(workspace);
  const LinearSpace space(&pieces, p->capacity, w, lora, p->dropout);
  if (int error = lay_out(backend, Operator::project, p->dtype, p->rows, p->capacity, p->in, w.columns, w.columns,
                          space.x, space.ldx))
    return error;
  if (int error = linear_forward(backend, Operator::project, p->rows, p->capacity, w, lora, p->dropout, space, p->s))
    return error;
  return launch(backend, "project", &add_to_residual, blocks_of(static_cast<int64_t>(p->capacity) * w.rows, kThreads),
                dim3(kThreads), 0, *p, w.rows, space.y, space.ldy);
}

size_t project_backward_workspace(const credence_project_backward* p) {
  Workspace space(nullptr);
  LinearGradientSpace(&space, p->capacity, *of(p->weights), of(p->lora), p->dropout);
  return space.used();
}

int project_backward(Backend& backend, const credence_project_backward* p, void* workspace) {
  constexpr Operator op = Operator::project_backward;
  const Weights& w = *of(p->weights);
  const Lora* lora = of(p->lora);
  if (int error = check_linear(backend, op, w, lora, w.rows, w.columns, p->dtype, p->dropout, p->din != nullptr))
    return error;
  Workspace pieces(workspace);
  const LinearGradientSpace space(&pieces, p->capacity, w, lora, p->dropout);
  return with_type(p->dtype, [&]<class T>() {
    int error = launch(backend, "project_backward", &take_upstream<T>, blocks_of(p->capacity * space.lddy, kThreads),
                       dim3(kThreads), 0, *p, w.rows, static_cast<T*>(space.dy), space.lddy, backend.fault);
    if (!error)
      error = linear_backward(backend, op, p->rows, p->capacity, w, lora, p->dropout, space, p->in, p->s, p->gradients,
                              p->dweights, p->dbias, p->din != nullptr);
    if (error || !p->din) return error;
    return launch(backend, "project_backward", &give_gradient<T>,
                  blocks_of(static_cast<int64_t>(p->capacity) * w.columns, kThreads), dim3(kThreads), 0, p->rows,
                  p->capacity, space.dx, space.lddx, w.columns, static_cast<T*>(p->din));
  });
}

}  // namespace credence::cuda
