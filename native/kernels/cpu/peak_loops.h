// The loops of peak.cpp that need an instruction set.
#pragma once

#include <cstdint>

namespace credence::cpu {

inline constexpr int kAccumulators =
    12;  // enough in flight to hide the latency of two units, few enough for 16 registers
float avx2_loop(int64_t rounds);
float avx512_loop(int64_t rounds);
float avx512bf16_loop(int64_t rounds);

}  // namespace credence::cpu
