// What one thread of this machine can do at best.
#include "../kernels.h"
#include "peak_loops.h"

namespace credence::cpu {

namespace {
constexpr int kLanes = 32;
volatile float sink;  // keeps the work from being elided

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

}  // namespace credence::cpu

double credence_cpu_peak(credence_dtype dtype, int64_t rounds) {
  using namespace credence::cpu;
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f");
  if (dtype == CREDENCE_BF16) {
    if (!wide || !__builtin_cpu_supports("avx512bf16")) return 0;
    sink = avx512_bf16_loop(rounds);
    return kAccumulators * 32 * 2.0 * static_cast<double>(rounds);
  }
  if (wide) {
    sink = avx512_f32_loop(rounds);
    return kAccumulators * 16 * 2.0 * static_cast<double>(rounds);
  }
#endif
  if (dtype == CREDENCE_BF16) return 0;
  sink = scalar_loop(rounds);
  return kLanes * 2.0 * static_cast<double>(rounds);
}
