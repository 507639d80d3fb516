// What one thread of this machine can do at best.
#include <string.h>

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

double credence_cpu_peak(const char* isa, credence_dtype dtype, int64_t rounds) {
  using namespace credence::cpu;
  const auto done = [&](int lanes) { return 2.0 * lanes * static_cast<double>(rounds); };
#if defined(__x86_64__)
  const bool dots = strcmp(isa, "avx512bf16") == 0;
  if (dots && dtype == CREDENCE_BF16) {
    sink = avx512bf16_loop(rounds);
    return done(kAccumulators * 32);
  }
  if (dots || strcmp(isa, "avx512") == 0) {
    sink = avx512_loop(rounds);
    return done(kAccumulators * 16);
  }
  if (strcmp(isa, "avx2") == 0) {
    sink = avx2_loop(rounds);
    return done(kAccumulators * 8);
  }
#endif
  if (strcmp(isa, "scalar") != 0) return 0;
  sink = scalar_loop(rounds);
  return done(kLanes);
}
