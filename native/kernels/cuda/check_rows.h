// Whether products give a row the same bits in any batch: run once for each size, before its first use.
#pragma once

#include "backend.h"

namespace credence::cuda {

/// Runs X W^T on check rows for M = 1, 7, 64 and 4096, with `sizes.tail` columns more and without them, and compares every row with
/// the one that was alone. Where ranges of M differ, one algorithm runs them all from then on; where that differs from itself,
/// backend.differ says which product it was. `w` [outputs, ldw] is scratch. An error is a product that fails, or no memory.
int check_rows(Backend& backend, const CheckedSizes& sizes, void* w, int64_t ldw);

}  // namespace credence::cuda
