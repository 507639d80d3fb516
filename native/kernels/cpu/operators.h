// The operators of this back end, one header each, and the function that puts them into an instruction set's table.
#pragma once

#include "advantage.h"
#include "attention.h"
#include "attention_backward.h"
#include "attention_input.h"
#include "closed_set.h"
#include "dense.h"
#include "divergence.h"
#include "embed.h"
#include "mlp_input.h"
#include "norm.h"
#include "optimizer.h"
#include "pool.h"
#include "project.h"
#include "sample.h"
#include "token_logprobs.h"

// CREDENCE_CPU_OPERATORS(X): those that exist. In a table the others are null.
#define CREDENCE_CPU_LINEAR_OPERATORS(X)                                                                              \
  X(embed)                                                                                                            \
  X(embed_backward)                                                                                                   \
  X(norm) X(norm_backward) X(attention_input) X(attention_input_backward) X(project) X(project_backward) X(mlp_input) \
      X(mlp_input_backward)
#define CREDENCE_CPU_OTHER_OPERATORS(X)                                                                       \
  X(attention)                                                                                                \
  X(attention_backward)                                                                                       \
  X(token_logprobs) X(closed_set) X(divergence) X(pool) X(pool_backward) X(dense) X(dense_backward) X(sample) \
      X(gradient_norm) X(adamw) X(advantage)

#define CREDENCE_CPU_OPERATORS(X) CREDENCE_CPU_LINEAR_OPERATORS(X) CREDENCE_CPU_OTHER_OPERATORS(X)

namespace credence::cpu {

template <class Isa>
void fill_operators(credence_table* table) {
#define CREDENCE_CPU_FILL(name)                     \
  table->name##_workspace = &name##_workspace<Isa>; \
  table->name = &name<Isa>;
  CREDENCE_CPU_OPERATORS(CREDENCE_CPU_FILL)
#undef CREDENCE_CPU_FILL
}

}  // namespace credence::cpu
