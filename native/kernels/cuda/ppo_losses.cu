// The clipped losses of policy and value (kernels.h, credence_policy_loss and credence_value_loss). Rows are those of one pass, a
// thousand or so: one block, so that the sums have one order.
#include "../ppo_terms.h"
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

struct LargerOrNan {
  __device__ double operator()(double a, double b) const { return larger_or_nan(a, b); }
};

__device__ double block_sum(double x, double* shared) { return block_reduce(x, Sum(), 0.0, shared); }

// One block: the compiler need not save registers for others, and without saying so it spills.
__global__ void __launch_bounds__(kThreads, 1) policy_loss_kernel(credence_policy_loss p, Fault* faults) {
  __shared__ double shared[kWarp];
  const int32_t count = rows_of(p.rows, p.capacity, faults, Operator::policy_loss);
  credence_policy_sums sums = {};
  for (int32_t row = static_cast<int32_t>(threadIdx.x); row < count; row += kThreads) {
    const PolicyTerm term = policy_term(p, row);
    p.d_logprob[row] = term.d_logprob;
    if (p.d_entropy) p.d_entropy[row] = term.d_entropy;
    add(sums, term.sums);
  }
  sums.weight = block_sum(sums.weight, shared);
  sums.policy = block_sum(sums.policy, shared);
  sums.ratio = block_sum(sums.ratio, shared);
  sums.clipped = block_sum(sums.clipped, shared);
  sums.outside = block_sum(sums.outside, shared);
  sums.old_kl1 = block_sum(sums.old_kl1, shared);
  sums.old_kl2 = block_sum(sums.old_kl2, shared);
  sums.reference_kl = block_sum(sums.reference_kl, shared);
  sums.entropy = block_sum(sums.entropy, shared);
  sums.ratio_change = block_reduce(sums.ratio_change, LargerOrNan(), 0.0, shared);
  if (threadIdx.x != 0) return;
  add(*p.sums, sums);
  if (p.loss) *p.loss += loss_of(p, sums);
}

__global__ void __launch_bounds__(kThreads) value_loss_kernel(credence_value_loss p, Fault* faults) {
  __shared__ double shared[kWarp];
  const int32_t count = rows_of(p.rows, p.capacity, faults, Operator::value_loss);
  credence_value_sums sums = {};
  for (int32_t row = static_cast<int32_t>(threadIdx.x); row < count; row += kThreads) {
    const ValueTerm term = value_term(p, row);
    p.d_value[row] = term.d_value;
    add(sums, term.sums);
  }
  sums.weight = block_sum(sums.weight, shared);
  sums.loss = block_sum(sums.loss, shared);
  sums.error = block_sum(sums.error, shared);
  sums.clipped = block_sum(sums.clipped, shared);
  if (threadIdx.x != 0) return;
  add(*p.sums, sums);
  if (p.loss) *p.loss += loss_of(p, sums);
}

}  // namespace

size_t policy_loss_workspace(const credence_policy_loss*) { return 0; }

int policy_loss(Backend& backend, const credence_policy_loss* p, void*) {
  if (const char* wrong = wrong_with(*p)) return fail(backend, "policy_loss: %s", wrong);
  return launch(backend, "policy_loss", &policy_loss_kernel, dim3(1), dim3(kThreads), 0, *p, backend.fault);
}

size_t value_loss_workspace(const credence_value_loss*) { return 0; }

int value_loss(Backend& backend, const credence_value_loss* p, void*) {
  if (const char* wrong = wrong_with(*p)) return fail(backend, "value_loss: %s", wrong);
  return launch(backend, "value_loss", &value_loss_kernel, dim3(1), dim3(kThreads), 0, *p, backend.fault);
}

}  // namespace credence::cuda
