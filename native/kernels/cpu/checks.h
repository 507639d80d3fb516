// Checks at an operator's door. Each says what it expected; 0 or the result of fail().
#pragma once

#include "../faults.h"
#include "backend.h"
#include "pack.h"

namespace credence::cpu {

/// What was seen, if it was something, as the operator's error.
int check(credence_backend* backend, const char* name, const Seen& seen);

/// The number of rows read from device memory fits the capacity.
int check_rows(credence_backend* backend, const char* name, const int32_t* rows, int32_t capacity);

/// weights are [rows, columns] of dtype, and so is the adapter's product, if there is one; dropout can be done. backward: the
/// transpose is packed.
int check_linear(credence_backend* backend, const char* name, const credence_weights* weights,
                 const credence_lora* lora, int32_t rows, int32_t columns, credence_dtype dtype,
                 const credence_dropout& dropout, bool backward);

/// Token and segment counts fit; segments are in order and end at the last token.
int check_batch(credence_backend* backend, const char* name, const credence_batch& batch);

}  // namespace credence::cpu
