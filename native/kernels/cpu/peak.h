// What one thread of this machine can do at best: the yardstick beside which a kernel's rate is quoted.
#pragma once

#include <cstdint>

namespace credence::cpu {

/// Multiply-adds (two operations each) of one thread in `rounds` rounds; the return value keeps the work from being elided.
/// A round is `operations` operations.
struct PeakLoop {
  float (*run)(int64_t rounds);
  double operations;  // a round
};
/// The widest float32 multiply-add and bf16 dot product that this machine has; run is null where there is none.
PeakLoop peak_f32();
PeakLoop peak_bf16();

}  // namespace credence::cpu
