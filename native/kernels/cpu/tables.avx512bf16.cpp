// The table "avx512bf16". Only operators live here: nothing in this file runs before the feature bits were asked (table.cpp).
#include "backend.h"
#include "isa_avx512bf16.h"
#include "operators.h"

namespace credence::cpu {

constinit const credence_table avx512bf16_operators = operators_of<Avx512Bf16>();

}  // namespace credence::cpu
