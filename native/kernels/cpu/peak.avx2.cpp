// Multiply-adds of 8 float32.
#include <immintrin.h>

#include "peak_loops.h"

namespace credence::cpu {

float avx2_loop(int64_t rounds) {
  __m256 sum[kAccumulators];
  for (__m256& s : sum) s = _mm256_set1_ps(1.0f);
  const __m256 factor = _mm256_set1_ps(1.0f), one = _mm256_set1_ps(1e-7f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (__m256& s : sum) s = _mm256_fmadd_ps(s, factor, one);
  }
  __m256 total = _mm256_setzero_ps();
  for (const __m256& s : sum) total = _mm256_add_ps(total, s);
  return _mm256_cvtss_f32(total);
}

}  // namespace credence::cpu
