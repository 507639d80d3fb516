// The table "avx512". Only operators live here: nothing in this file runs before the feature bits were asked (table.cpp).
#include "backend.h"
#include "isa_avx512.h"
#include "operators.h"

namespace credence::cpu {

constinit const credence_table avx512_operators = operators_of<Avx512>();

}  // namespace credence::cpu
