#include "peak.h"

#include "peak_loops.h"

namespace credence::cpu {

namespace {
constexpr int kLanes = 32;

float scalar_loop(int64_t rounds) {
  float sum[kLanes] = {};
  float factor[kLanes];
  for (int i = 0; i < kLanes; ++i) factor[i] = 1.0f + static_cast<float>(i) * 1e-6f;
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kLanes; ++i) sum[i] = sum[i] * factor[i] + 1.0f;
  }
  float total = 0;
  for (float value : sum) total += value;
  return total;
}

}  // namespace

PeakLoop peak_f32() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {avx512_f32_loop, kAccumulators * 16 * 2.0};
#endif
  return {scalar_loop, kLanes * 2.0};
}

PeakLoop peak_bf16() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16")) {
    return {avx512_bf16_loop, kAccumulators * 32 * 2.0};
  }
#endif
  return {nullptr, 0};
}

}  // namespace credence::cpu
