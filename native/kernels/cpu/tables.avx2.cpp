// The table "avx2". Only operators live here: nothing in this file runs before the feature bits were asked (table.cpp).
#include "backend.h"
#include "isa_avx2.h"
#include "operators.h"

namespace credence::cpu {

void fill_avx2_operators(credence_table* table) { fill_operators<Avx2>(table); }

}  // namespace credence::cpu
