// Dot products of 32 bf16.
#include <immintrin.h>

#include "peak_loops.h"

namespace credence::cpu {

float avx512bf16_loop(int64_t rounds) {
  __m512 sum[kAccumulators];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, one, one);
  }
  __m512 total = _mm512_setzero_ps();
  for (const __m512& s : sum) total = _mm512_add_ps(total, s);
  return _mm512_reduce_add_ps(total);
}

}  // namespace credence::cpu
