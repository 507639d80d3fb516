// The table "scalar": every machine has it.
#include "backend.h"
#include "isa_scalar.h"
#include "operators.h"

namespace credence::cpu {

constinit const credence_table scalar_operators = operators_of<Scalar>();

}  // namespace credence::cpu
