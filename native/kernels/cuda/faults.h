// What only the device can see wrong: a count beyond its room, a token beyond the table. A kernel leaves the first such thing in
// memory that the host reads after its next wait, and goes on with what is in range; read() and synchronise() then fail.
#pragma once

#include <stdint.h>

#include "../kernels.h"

namespace credence::cuda {

enum class Operator : int32_t {
#define CREDENCE_NAME(name) name,
  CREDENCE_OPERATORS(CREDENCE_NAME)
#undef CREDENCE_NAME
};

enum class FaultKind : int32_t {
  none,
  rows,          // a rows, room for b
  batch,         // a tokens in b segments, room for c in d
  segments,      // cu_seqlens goes from a to b at segment c
  segment_end,   // the segments hold a tokens, the batch b
  token,         // token id a at place b; the table has c rows
  target,        // row a has target b; the vocabulary has c tokens
  seen,          // row a has seen token b; the vocabulary has c tokens
  candidate,     // candidate a is token b; the vocabulary has c tokens
  span,          // span a covers no row (from b to c)
  not_numbers,   // every logit of row a is not a number
  no_page,       // segment a needs a key b; its c pages hold d
  prefix,        // segment a reads segment b, which must come before it
  earlier_keys,  // segment a reads b keys of an earlier call, whose gradients have nowhere to go
  prefix_keys,   // segment a reads b keys of segment c, which has d
};

struct Fault {
  FaultKind kind;
  Operator op;
  int32_t a, b, c, d;
};

}  // namespace credence::cuda
