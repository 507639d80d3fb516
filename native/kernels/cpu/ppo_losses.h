// The clipped losses of policy and value (kernels.h, credence_policy_loss and credence_value_loss). Rows are few: a double's
// exponential each, in order, on one thread.
#pragma once

#include "../ppo_terms.h"
#include "backend.h"
#include "checks.h"

namespace credence::cpu {

template <class Isa>
size_t policy_loss_workspace(const credence_policy_loss*) {
  return 0;
}

template <class Isa>
int policy_loss(credence_backend* backend, const credence_policy_loss* p, void*) {
  if (const char* wrong = wrong_with(*p)) return fail(backend, "policy_loss: %s", wrong);
  if (int error = check_rows(backend, "policy_loss", p->rows, p->capacity)) return error;
  credence_policy_sums sums = {};
  for (int64_t row = 0; row < *p->rows; ++row) {
    const PolicyTerm term = policy_term(*p, row);
    p->d_logprob[row] = term.d_logprob;
    if (p->d_entropy) p->d_entropy[row] = term.d_entropy;
    add(sums, term.sums);
  }
  add(*p->sums, sums);
  if (p->loss) *p->loss += loss_of(*p, sums);
  return 0;
}

template <class Isa>
size_t value_loss_workspace(const credence_value_loss*) {
  return 0;
}

template <class Isa>
int value_loss(credence_backend* backend, const credence_value_loss* p, void*) {
  if (const char* wrong = wrong_with(*p)) return fail(backend, "value_loss: %s", wrong);
  if (int error = check_rows(backend, "value_loss", p->rows, p->capacity)) return error;
  credence_value_sums sums = {};
  for (int64_t row = 0; row < *p->rows; ++row) {
    const ValueTerm term = value_term(*p, row);
    p->d_value[row] = term.d_value;
    add(sums, term.sums);
  }
  add(*p->sums, sums);
  if (p->loss) *p->loss += loss_of(*p, sums);
  return 0;
}

}  // namespace credence::cpu
