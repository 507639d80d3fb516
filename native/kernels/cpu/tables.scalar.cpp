// The table "scalar": every machine has it.
#include "backend.h"
#include "isa_scalar.h"
#include "operators.h"

namespace credence::cpu {

void fill_scalar_operators(credence_table* table) { fill_operators<Scalar>(table); }

}  // namespace credence::cpu
