// Norm, the fused gate|up product and the activation:  h = norm(x);  u = h W^T + scale S B^T + bias;
//   a = activation(gate) up  (gated: u = gate|up)   or   a = activation(u).
// T tokens, I intermediate, N = 2 I or I. `a` is made from the product's float32, u is kept beside it as act.
#include "activation.h"
#include "launch.h"
#include "linear.h"
#include "norm.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

// One thread an element of a.
template <class T, credence_activation A>
__global__ void activate_rows(credence_mlp_input p, const float* y, int64_t ldy) {
  const int32_t width = p.shape.intermediate, ldu = p.shape.gated ? 2 * width : width;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / width, c = at % width;
  if (r >= min(*p.rows, p.capacity)) return;
  const float gate = y[r * ldy + c] + (p.bias ? p.bias[c] : 0.0f);
  const float up = p.shape.gated ? y[r * ldy + width + c] + (p.bias ? p.bias[width + c] : 0.0f) : 1.0f;
  if (p.u) {
    T* const u = static_cast<T*>(p.u) + r * ldu;
    u[c] = to_act<T>(gate);
    if (p.shape.gated) u[width + c] = to_act<T>(up);
  }
  static_cast<T*>(p.a)[at] = to_act<T>(activate<A>(gate) * up);
}

// d of gate and up, or of u; zeros behind them and in rows beyond the count. One thread an element of du.
template <class T, credence_activation A>
__global__ void activation_gradient(credence_mlp_input_backward p, T* du, int64_t lddu, Fault* faults) {
  const int32_t width = p.shape.intermediate, ldu = p.shape.gated ? 2 * width : width;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / lddu, c = at % lddu;
  if (r >= p.capacity) return;
  float d = 0;
  if (r < rows_of(p.rows, p.capacity, faults, Operator::mlp_input_backward) && c < ldu) {
    const T* const u = static_cast<const T*>(p.u) + r * ldu;
    const T* const da = static_cast<const T*>(p.da) + r * width;
    if (c >= width) d = to_float(da[c - width]) * activate<A>(to_float(u[c - width]));
    else d = to_float(da[c]) * derivative<A>(to_float(u[c])) * (p.shape.gated ? to_float(u[width + c]) : 1.0f);
  }
  du[at] = to_act<T>(d);
}

int32_t outputs_of(const credence_shape& shape) { return shape.intermediate * (shape.gated ? 2 : 1); }

struct BackwardSpace {
  Workspace pieces;
  LinearGradientSpace linear;
  NormGradientSpace norm;

  BackwardSpace(const credence_mlp_input_backward* p, void* base)
      : pieces(base),
        linear(&pieces, p->capacity, *of(p->weights), of(p->lora), p->dropout),
        norm(&pieces, p->capacity, p->shape.hidden) {}
};

}  // namespace

size_t mlp_input_workspace(const credence_mlp_input* p) {
  Workspace space(nullptr);
  LinearSpace(&space, p->capacity, *of(p->weights), of(p->lora), p->dropout);
  return space.used();
}

int mlp_input(Backend& backend, const credence_mlp_input* p, void* workspace) {
  constexpr Operator op = Operator::mlp_input;
  const Weights& w = *of(p->weights);
  const Lora* lora = of(p->lora);
  const int32_t hidden = p->shape.hidden;
  if (int error = check_linear(backend, op, w, lora, outputs_of(p->shape), hidden, p->dtype, p->dropout, false))
    return error;
  Workspace pieces(workspace);
  const LinearSpace space(&pieces, p->capacity, w, lora, p->dropout);
  const NormRows rows = {
      p->rows,        p->capacity,  hidden, p->shape.norm, p->shape.norm_eps, nullptr, p->x,       p->ldx,
      p->norm_weight, p->norm_bias, p->h,   hidden,        nullptr,           0,       p->inv_rms, space.x,
      space.ldx};
  if (int error = norm_rows(backend, op, p->dtype, rows)) return error;
  if (int error = linear_forward(backend, op, p->rows, p->capacity, w, lora, p->dropout, space, p->s)) return error;
  return with_type(p->dtype, [&]<class T>() {
    return with_activation(backend, "mlp_input", p->shape.activation, [&]<credence_activation A>() {
      return launch(backend, "mlp_input", &activate_rows<T, A>,
                    blocks_of(static_cast<int64_t>(p->capacity) * p->shape.intermediate, kThreads), dim3(kThreads), 0,
                    *p, space.y, space.ldy);
    });
  });
}

size_t mlp_input_backward_workspace(const credence_mlp_input_backward* p) {
  return BackwardSpace(p, nullptr).pieces.used();
}

int mlp_input_backward(Backend& backend, const credence_mlp_input_backward* p, void* workspace) {
  constexpr Operator op = Operator::mlp_input_backward;
  const Weights& w = *of(p->weights);
  const bool input = p->dx || p->dnorm_weight || p->dnorm_bias;
  if (int error =
          check_linear(backend, op, w, of(p->lora), outputs_of(p->shape), p->shape.hidden, p->dtype, p->dropout, input))
    return error;
  const BackwardSpace space(p, workspace);
  int error = with_type(p->dtype, [&]<class T>() {
    return with_activation(backend, "mlp_input_backward", p->shape.activation, [&]<credence_activation A>() {
      return launch(backend, "mlp_input_backward", &activation_gradient<T, A>,
                    blocks_of(p->capacity * space.linear.lddy, kThreads), dim3(kThreads), 0, *p,
                    static_cast<T*>(space.linear.dy), space.linear.lddy, backend.fault);
    });
  });
  if (!error)
    error = linear_backward(backend, op, p->rows, p->capacity, w, of(p->lora), p->dropout, space.linear, p->h, p->s,
                            p->gradients, p->dweights, p->dbias, input);
  if (error || !input) return error;
  const NormGradient norm = {p->rows, p->capacity, p->shape.hidden, p->shape.norm, p->shape.norm_eps, nullptr,
                             p->x,    p->ldx,      p->norm_weight,  p->inv_rms,    space.linear.dx,   space.linear.lddx,
                             p->dx,   p->lddx,     p->dnorm_weight, p->dnorm_bias};
  return norm_gradient(backend, op, norm, space.norm);
}

}  // namespace credence::cuda
