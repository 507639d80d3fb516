// The loops of peak.cpp that need an instruction set.
#pragma once

#include <cstdint>

namespace credence::cpu {

inline constexpr int kAccumulators = 16;  // enough in flight to hide the latency of two units
float avx512_f32_loop(int64_t rounds);
float avx512_bf16_loop(int64_t rounds);

}  // namespace credence::cpu
