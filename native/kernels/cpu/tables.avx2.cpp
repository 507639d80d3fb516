// The table "avx2". Only operators live here: nothing in this file runs before the feature bits were asked (table.cpp).
#include "backend.h"
#include "isa_avx2.h"
#include "operators.h"

namespace credence::cpu {

constinit const credence_table avx2_operators = operators_of<Avx2>();

}  // namespace credence::cpu
