// The table "avx512". Only operators live here: nothing in this file runs before the feature bits were asked (table.cpp).
#include "backend.h"
#include "isa_avx512.h"
#include "operators.h"

namespace credence::cpu {

void fill_avx512_operators(credence_table* table) { fill_operators<Avx512>(table); }

}  // namespace credence::cpu
