// Multiply-adds of 16 float32.
#include <immintrin.h>

#include "peak_loops.h"

namespace credence::cpu {

float avx512_loop(int64_t rounds) {
  __m512 sum[kAccumulators];
  for (__m512& s : sum) s = _mm512_set1_ps(1.0f);
  const __m512 factor = _mm512_set1_ps(1.0f), one = _mm512_set1_ps(1e-7f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (__m512& s : sum) s = _mm512_fmadd_ps(s, factor, one);
  }
  __m512 total = _mm512_setzero_ps();
  for (const __m512& s : sum) total = _mm512_add_ps(total, s);
  return _mm512_reduce_add_ps(total);
}

}  // namespace credence::cpu
