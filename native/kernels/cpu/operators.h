// The operators of this back end, one header each, and what makes an instruction set's table of them.
#pragma once

#include "advantage.h"
#include "attention.h"
#include "attention_backward.h"
#include "attention_input.h"
#include "closed_set.h"
#include "dense.h"
#include "divergence.h"
#include "embed.h"
#include "losses.h"
#include "mlp_input.h"
#include "norm.h"
#include "optimizer.h"
#include "pool.h"
#include "ppo_losses.h"
#include "project.h"
#include "sample.h"
#include "token_logprobs.h"

namespace credence::cpu {

// A constant, so that making a table runs no code of its instruction set: every table is made on every machine.
template <class Isa>
constexpr credence_table operators_of() {
  credence_table table = {};
#define CREDENCE_CPU_FILL(name)                    \
  table.name##_workspace = &name##_workspace<Isa>; \
  table.name = &name<Isa>;
  CREDENCE_OPERATORS(CREDENCE_CPU_FILL)
#undef CREDENCE_CPU_FILL
  return table;
}

}  // namespace credence::cpu
