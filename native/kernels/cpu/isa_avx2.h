// The instruction set "avx2": AVX2 with fused multiply-add, bf16 by widening. The same names as in isa_scalar.h, where they are
// explained; included only by files compiled for it.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backend.h"

namespace credence::cpu {

struct Avx2 {
  static constexpr int W = 8;
  static constexpr int kTileRows = 6;
  // 12 of 16 registers for sums; what is left holds weights and a row's broadcast, or two of them and one vector of weights.
  static constexpr int tile_vectors(int rows) { return rows > 3 ? 2 : rows > 1 ? 4 : 8; }
  static constexpr bool kSpreadFetch = true;  // from memory: 50 % of peak without, 88 % with it at 16 rows
  static constexpr int64_t kDeepSteps = 1024;
  static constexpr int kRowsAtOnce = 6, kVectorsAtOnce = 2;
  using F = __m256;
  using M = __m256i;  // all bits of a lane that counts

  static inline M first(int64_t n) {
    alignas(64) static constexpr int32_t kLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const int64_t m = n < 0 ? 0 : n > W ? W : n;
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLanes + W - m));
  }
  static inline M all() { return _mm256_set1_epi32(-1); }

  static inline F zero() { return _mm256_setzero_ps(); }
  static inline F set(float x) { return _mm256_set1_ps(x); }

  static inline float widen(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
  static inline float get(const float* p) { return *p; }
  static inline float get(const bf16* p) { return widen(*p); }
  static inline void put(float* p, float x) { *p = x; }
  static inline void put(bf16* p, float x) { *p = narrow(x); }

  static inline F widen(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
  static inline __m128i narrow(F x) {
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), none);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  // 16-bit lanes have no masked load or store here: the whole vector where all of them count, else one by one.
  static inline __m128i load_words(const bf16* p, M m) {
    const uint32_t lanes = bits(m);
    if (lanes == 0xff) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    alignas(16) uint16_t words[W] = {};
    for (int i = 0; i < W; ++i)
      if (lanes >> i & 1) words[i] = p[i].bits;
    return _mm_load_si128(reinterpret_cast<const __m128i*>(words));
  }
  static inline F load(const float* p) { return _mm256_loadu_ps(p); }
  static inline F load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static inline F load(const float* p, M m) { return _mm256_maskload_ps(p, m); }
  static inline F load(const bf16* p, M m) { return widen(load_words(p, m)); }
  static inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static inline void store(bf16* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
  static inline void store(float* p, F x, M m) {
    if (bits(m) == 0xff) store(p, x);  // a masked store takes some processors many times as long
    else _mm256_maskstore_ps(p, m, x);
  }
  static inline void store(bf16* p, F x, M m) {
    const uint32_t lanes = bits(m);
    if (lanes == 0xff) return store(p, x);
    alignas(16) uint16_t words[W];
    _mm_store_si128(reinterpret_cast<__m128i*>(words), narrow(x));
    for (int i = 0; i < W; ++i)
      if (lanes >> i & 1) p[i].bits = words[i];
  }

  static inline void will_read(const void* p) { asm volatile("prefetcht0 (%0)" : : "r"(p)); }
  // Assembly: g++ may take a function of a prefetch alone for one that does nothing, and drop its calls.
  static inline void will_need(const void* p) { asm volatile("prefetcht1 (%0)" : : "r"(p)); }
  static inline void will_write(const void* p) { will_read(p); }
  static inline void stream(float* p, F a, F b) {
    if (reinterpret_cast<uintptr_t>(p) % 32) {
      store(p, a);
      store(p + W, b);
      return;
    }
    _mm256_stream_ps(p, a);
    _mm256_stream_ps(p + W, b);
  }
  static inline void stream(bf16* p, F a, F b) {
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(narrow(a)), narrow(b), 1);
    if (reinterpret_cast<uintptr_t>(p) % 32) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), both);
    else _mm256_stream_si256(reinterpret_cast<__m256i*>(p), both);
  }
  static inline void fence() { _mm_sfence(); }

  static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
  static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
  static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
  static inline F sqrt(F a) { return _mm256_sqrt_ps(a); }

  static inline M less(F a, F b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static inline M equal(F a, F b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
  static inline M both(M a, M b) { return _mm256_and_si256(a, b); }
  static inline M without(M a, M b) { return _mm256_andnot_si256(b, a); }
  static inline F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m)); }
  static inline uint32_t bits(M m) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m))); }

  struct Fading {
    F one, two, rest;  // c, c^2; c^4 .. c in the lower half, 0 above
  };
  static inline Fading fading(double c) {
    const double two = c * c;
    const auto f = [](double x) { return static_cast<float>(x); };
    return {set(f(c)), set(f(two)), _mm256_setr_ps(f(two * two), f(two * c), f(two), f(c), 0, 0, 0, 0)};
  }
  // Each half by itself, where shifting is one cheap step that brings zeros in; then the lower one gets what the upper begins with.
  static inline F faded(F a, const Fading& f) {
    a = fma(f.one, _mm256_castsi256_ps(_mm256_srli_si256(_mm256_castps_si256(a), 4)), a);
    a = fma(f.two, _mm256_castsi256_ps(_mm256_srli_si256(_mm256_castps_si256(a), 8)), a);
    return fma(f.rest, _mm256_permute_ps(_mm256_permute2f128_ps(a, a, 0x81), 0), a);
  }
  static inline float lowest(F a) { return _mm256_cvtss_f32(a); }
  static inline M nonzero(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_setzero_si256());
  }
  static inline float reduce_add(F a) {
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  static inline float reduce_max(F a) {
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }

  static inline F exp(F x) {
    // 2^n in two factors of about half its exponent: both are normal numbers where the result is below the normal range or
    // above the largest number, and the product rounds once there. min and max return their second operand when one is a
    // NaN, so it passes.
    const F y = _mm256_max_ps(set(-105.0f), _mm256_min_ps(set(90.0f), x));
    const F n = _mm256_round_ps(mul(y, set(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F r = _mm256_fnmadd_ps(n, set(-2.12194440e-4f), _mm256_fnmadd_ps(n, set(0.693359375f), y));
    F p = set(1.0f / 5040);
    p = fma(p, r, set(1.0f / 720));
    p = fma(p, r, set(1.0f / 120));
    p = fma(p, r, set(1.0f / 24));
    p = fma(p, r, set(1.0f / 6));
    p = fma(p, r, set(0.5f));
    const __m256i exponent = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(exponent, 1);
    const F scaled = mul(fma(mul(p, r), r, add(r, set(1.0f))), power_of_two(half));
    return mul(scaled, power_of_two(_mm256_sub_epi32(exponent, half)));
  }
  static inline F power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }

  static constexpr bool kPairDot = false;
  using Pairs = __m256i;
  static inline Pairs pairs(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static inline Pairs pairs(const bf16* p, M m) {
    return _mm256_maskload_epi32(reinterpret_cast<const int32_t*>(p), m);
  }
  static inline Pairs pair(const bf16* p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return _mm256_set1_epi32(both);
  }
  static inline Pairs half_pair(const bf16* p) { return _mm256_set1_epi32(p->bits); }
  static inline F first_of(Pairs x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static inline F second_of(Pairs x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u))));
  }
  static inline F dot(F c, Pairs a, Pairs b) {
    return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), c));
  }
  static inline Pairs zip(const bf16* a, const bf16* b, M m) {
    const __m256i low = _mm256_cvtepu16_epi32(load_words(a, m));
    if (!b) return low;
    return _mm256_or_si256(low, _mm256_slli_epi32(_mm256_cvtepu16_epi32(load_words(b, m)), 16));
  }
  static inline void store_pairs(bf16* p, Pairs x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static inline void store_half(bf16* p, F x, M m) {
    const uint32_t lanes = bits(m);
    alignas(16) uint16_t words[W];
    _mm_store_si128(reinterpret_cast<__m128i*>(words), narrow(x));
    for (int i = 0; i < W; ++i)
      if (lanes >> i & 1) p[2 * i].bits = words[i];
  }
};

}  // namespace credence::cpu
