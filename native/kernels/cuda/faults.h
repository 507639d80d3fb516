// What only the device can see wrong: a count beyond its room, a token beyond the table. A kernel leaves the first such thing in
// memory that the host reads after its next wait, and goes on with what is in range; read() and synchronise() then fail.
#pragma once

#include <stdint.h>

#include "../faults.h"

namespace credence::cuda {

enum class Operator : int32_t {
#define CREDENCE_NAME(name) name,
  CREDENCE_OPERATORS(CREDENCE_NAME)
#undef CREDENCE_NAME
};

struct Fault {
  FaultKind kind;
  Operator op;
  int32_t a, b, c, d;
};

}  // namespace credence::cuda
