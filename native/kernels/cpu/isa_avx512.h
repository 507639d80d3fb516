// The instruction set "avx512": AVX-512 F, BW, VL, DQ, bf16 by widening. The same names as in isa_scalar.h, where they are
// explained; included only by files compiled for it.
#pragma once

// GCC 12 warns of an operand that its own intrinsics leave undefined on purpose.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backend.h"

namespace credence::cpu {

/// What both have: everything but bf16's rounding (Narrow) and the step of a product. A template over Narrow, so that each
/// table's file makes code of its own.
template <class Narrow>
struct Avx512Lanes {
  static constexpr int W = 16;
  static constexpr int kTileRows = 12;
  // 12 x 32 sums fill 24 of 32 registers; 2 for weights, the rest for a row's broadcast.
  static constexpr int tile_vectors(int rows) { return rows > 6 ? 2 : rows > 3 ? 4 : 8; }
  static constexpr bool kSpreadFetch = false;
  static constexpr int64_t kDeepSteps = 0;
  static constexpr int kRowsAtOnce = 6, kVectorsAtOnce = 4;
  using F = __m512;
  using M = __mmask16;

  static inline M first(int64_t n) { return n >= 16 ? M{0xffff} : n <= 0 ? M{0} : static_cast<M>((1u << n) - 1u); }
  static inline M all() { return 0xffff; }

  static inline F zero() { return _mm512_setzero_ps(); }
  static inline F set(float x) { return _mm512_set1_ps(x); }

  static inline float widen(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  static inline float get(const float* p) { return *p; }
  static inline float get(const bf16* p) { return widen(*p); }
  static inline void put(float* p, float x) { *p = x; }
  static inline void put(bf16* p, float x) { *p = Narrow::narrow(x); }

  static inline F widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline F load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static inline F load(const float* p, M m) { return _mm512_maskz_loadu_ps(m, p); }
  static inline F load(const bf16* p, M m) { return widen(_mm256_maskz_loadu_epi16(m, p)); }
  static inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static inline void store(bf16* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Narrow::narrow(x)); }
  static inline void store(float* p, F x, M m) { _mm512_mask_storeu_ps(p, m, x); }
  static inline void store(bf16* p, F x, M m) { _mm256_mask_storeu_epi16(p, m, Narrow::narrow(x)); }

  static inline void will_read(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static inline void will_need(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
  static inline void will_write(const void* p) { __builtin_prefetch(p, 1); }
  static inline void stream(float* p, F a, F b) {
    if (reinterpret_cast<uintptr_t>(p) % 64) {
      store(p, a);
      store(p + W, b);
      return;
    }
    _mm512_stream_ps(p, a);
    _mm512_stream_ps(p + W, b);
  }
  static inline void stream(bf16* p, F a, F b) {
    const __m512i both = Narrow::narrow(a, b);
    if (reinterpret_cast<uintptr_t>(p) % 64) _mm512_storeu_si512(p, both);
    else _mm512_stream_si512(reinterpret_cast<__m512i*>(p), both);
  }
  static inline void fence() { _mm_sfence(); }

  static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
  static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
  static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
  static inline F sqrt(F a) { return _mm512_sqrt_ps(a); }

  static inline M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static inline M equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static inline M both(M a, M b) { return static_cast<M>(a & b); }
  static inline M without(M a, M b) { return static_cast<M>(a & ~b); }
  static inline F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  static inline uint32_t bits(M m) { return m; }

  struct Fading {
    F one, two, four, eight;  // c, c^2, ..
  };
  static inline Fading fading(double c) {
    const double two = c * c, four = two * two;
    const auto all = [](double x) { return set(static_cast<float>(x)); };
    return {all(c), all(two), all(four), all(four * four)};
  }
  static inline F faded(F a, const Fading& f) {
    a = fma(f.one, later<1>(a), a);
    a = fma(f.two, later<2>(a), a);
    a = fma(f.four, later<4>(a), a);
    return fma(f.eight, later<8>(a), a);
  }
  /// Lane i has what lane i + N had; the last N are zero.
  template <int N>
  static inline F later(F a) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_setzero_si512(), _mm512_castps_si512(a), N));
  }
  static inline float lowest(F a) { return _mm512_cvtss_f32(a); }
  static inline M nonzero(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm_test_epi8_mask(bytes, bytes);
  }
  static inline float reduce_add(F a) {
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  static inline float reduce_max(F a) {
    const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }

  static inline F exp(F x) {
    // scalef takes care of overflow and of results below the normal range; the clamp keeps r small there. min and max
    // return their second operand when one is a NaN, so it passes.
    const F y = _mm512_max_ps(set(-105.0f), _mm512_min_ps(set(90.0f), x));
    const F n = _mm512_roundscale_ps(mul(y, set(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F r = _mm512_fnmadd_ps(n, set(-2.12194440e-4f), _mm512_fnmadd_ps(n, set(0.693359375f), y));
    F p = set(1.0f / 5040);
    p = fma(p, r, set(1.0f / 720));
    p = fma(p, r, set(1.0f / 120));
    p = fma(p, r, set(1.0f / 24));
    p = fma(p, r, set(1.0f / 6));
    p = fma(p, r, set(0.5f));
    return _mm512_scalef_ps(fma(mul(p, r), r, add(r, set(1.0f))), n);
  }

  static inline __m512i zip_pairs(const bf16* a, const bf16* b, M m) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, a));
    if (!b) return low;
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, b)), 16);
    return _mm512_or_si512(low, high);
  }
  static inline void store_half(bf16* p, F x, M m) {
    // Every other 16-bit lane is written; a masked store leaves the rest of memory alone, also for other threads.
    const __mmask32 even = _mm512_movepi16_mask(_mm512_and_si512(_mm512_movm_epi32(m), _mm512_set1_epi32(0xffff)));
    _mm512_mask_storeu_epi16(p, even, _mm512_cvtepu16_epi32(Narrow::narrow(x)));
  }
};

/// Rounding to bf16 by integers: to nearest, ties to even; a NaN stays one.
struct RoundByIntegers {
  static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
  static inline __m256i narrow(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 none = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, none, upper, _mm512_set1_epi32(0x40)));
  }
  static inline __m512i narrow(__m512 a, __m512 b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(narrow(a)), narrow(b), 1);
  }
};

struct Avx512 : Avx512Lanes<RoundByIntegers> {
  static constexpr bool kPairDot = false;
  using Pairs = __m512i;
  static inline Pairs pairs(const bf16* p) { return _mm512_loadu_si512(p); }
  static inline Pairs pairs(const bf16* p, M m) { return _mm512_maskz_loadu_epi32(m, p); }
  static inline Pairs pair(const bf16* p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return _mm512_set1_epi32(both);
  }
  static inline Pairs half_pair(const bf16* p) { return _mm512_set1_epi32(p->bits); }
  static inline F first_of(Pairs x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static inline F second_of(Pairs x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
  }
  static inline F dot(F c, Pairs a, Pairs b) {
    return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), c));
  }
  static inline Pairs zip(const bf16* a, const bf16* b, M m) { return zip_pairs(a, b, m); }
  static inline void store_pairs(bf16* p, Pairs x) { _mm512_storeu_si512(p, x); }
};

}  // namespace credence::cpu
