// The table "avx512bf16". Only operators live here: nothing in this file runs before the feature bits were asked (table.cpp).
#include "backend.h"
#include "isa_avx512bf16.h"
#include "operators.h"

namespace credence::cpu {

void fill_avx512bf16_operators(credence_table* table) { fill_operators<Avx512Bf16>(table); }

}  // namespace credence::cpu
