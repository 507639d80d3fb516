// The instruction set "avx512bf16": AVX-512 with the bf16 dot product and rounding. The same names as in isa_scalar.h, where
// they are explained; included only by files compiled for it.
#pragma once

#include "isa_avx512.h"

namespace credence::cpu {

/// Rounding to bf16 by the instruction, which also takes what is below the normal range for zero.
struct RoundByInstruction {
  static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    if ((bits & 0x7f800000u) == 0) return {static_cast<uint16_t>(bits >> 16 & 0x8000u)};  // as vcvtneps2bf16 does
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
  static inline __m256i narrow(__m512 x) {
    const __m256bh y = _mm512_cvtneps_pbh(x);
    __m256i bits;
    memcpy(&bits, &y, sizeof bits);
    return bits;
  }
  static inline __m512i narrow(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
};

struct Avx512Bf16 : Avx512Lanes<RoundByInstruction> {
  static constexpr bool kPairDot = true;
  using Pairs = __m512bh;
  static inline Pairs as_pairs(__m512i x) { return (__m512bh)x; }
  static inline Pairs pairs(const bf16* p) { return as_pairs(_mm512_loadu_si512(p)); }
  static inline Pairs pairs(const bf16* p, M m) { return as_pairs(_mm512_maskz_loadu_epi32(m, p)); }
  static inline Pairs pair(const bf16* p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return as_pairs(_mm512_set1_epi32(both));
  }
  static inline Pairs half_pair(const bf16* p) { return as_pairs(_mm512_set1_epi32(p->bits)); }
  static inline F dot(F c, Pairs a, Pairs b) { return _mm512_dpbf16_ps(c, a, b); }
  static inline Pairs zip(const bf16* a, const bf16* b, M m) { return as_pairs(zip_pairs(a, b, m)); }
  static inline void store_pairs(bf16* p, Pairs x) { _mm512_storeu_si512(p, (__m512i)x); }
};

}  // namespace credence::cpu
