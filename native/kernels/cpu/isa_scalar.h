// The instruction set "scalar": one lane, plain C++. What a vector instruction set offers under the same names is what the
// operators are written in; masks say how many lanes of a vector count (0 or 1 here).
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backend.h"

namespace credence::cpu {

struct Scalar {
  static constexpr int W = 1;          // lanes
  static constexpr int kTileRows = 4;  // rows of the tallest product tile
  /// How many vectors of sums a row of a product tile has: as many as stay in registers, and enough to hide the latency of a step.
  static constexpr int tile_vectors(int) { return 32; }
  static constexpr bool kSpreadFetch = false;  // a tile fetches its share of what the next one reads
  static constexpr int64_t kDeepSteps = 0;     // K in blocks of so many steps (linear.h, deep_rows); 0: in one
  static constexpr int kRowsAtOnce = 6, kVectorsAtOnce = 4;  // the same for attention's products
  using F = float;                                           // a vector of floats
  using M = bool;                                            // which lanes count

  /// The first n lanes (n may be more than W or less than 0).
  static inline M first(int64_t n) { return n > 0; }
  static inline M all() { return true; }

  static inline F zero() { return 0.0f; }
  static inline F set(float x) { return x; }

  static inline float widen(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  /// Nearest, ties to even; a NaN stays one.
  static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
  /// One number, either type.
  static inline float get(const float* p) { return *p; }
  static inline float get(const bf16* p) { return widen(*p); }
  static inline void put(float* p, float x) { *p = x; }
  static inline void put(bf16* p, float x) { *p = narrow(x); }

  static inline F load(const float* p) { return *p; }
  static inline F load(const bf16* p) { return widen(*p); }
  /// Lanes that do not count are zero and not read.
  static inline F load(const float* p, M m) { return m ? *p : 0.0f; }
  static inline F load(const bf16* p, M m) { return m ? widen(*p) : 0.0f; }
  static inline void store(float* p, F x) { *p = x; }
  static inline void store(bf16* p, F x) { *p = narrow(x); }
  /// Lanes that do not count are not written.
  static inline void store(float* p, F x, M m) {
    if (m) *p = x;
  }
  static inline void store(bf16* p, F x, M m) {
    if (m) *p = narrow(x);
  }

  /// A hint that the line of p is about to be read, or written.
  static inline void will_read(const void*) {}
  static inline void will_need(const void*) {}  // later: not into L1 yet
  static inline void will_write(const void*) {}
  /// 2 W neighbours that nobody reads soon: past the caches where the address allows. fence() before another thread reads them.
  static inline void stream(float* p, F a, F b) {
    p[0] = a;
    p[1] = b;
  }
  static inline void stream(bf16* p, F a, F b) {
    p[0] = narrow(a);
    p[1] = narrow(b);
  }
  static inline void fence() {}

  static inline F add(F a, F b) { return a + b; }
  static inline F sub(F a, F b) { return a - b; }
  static inline F mul(F a, F b) { return a * b; }
  static inline F div(F a, F b) { return a / b; }
  /// a b + c
  static inline F fma(F a, F b, F c) { return a * b + c; }
  static inline F max(F a, F b) { return a > b ? a : b; }
  static inline F min(F a, F b) { return a < b ? a : b; }
  static inline F sqrt(F a) { return sqrtf(a); }

  static inline M less(F a, F b) { return a < b; }
  static inline M equal(F a, F b) { return a == b; }
  static inline M both(M a, M b) { return a && b; }
  /// a and not b
  static inline M without(M a, M b) { return a && !b; }
  /// m ? a : b
  static inline F select(M m, F a, F b) { return m ? a : b; }
  /// Bit i: lane i counts.
  static inline uint32_t bits(M m) { return m; }

  /// What faded() multiplies by, of c.
  struct Fading {};
  static inline Fading fading(double) { return {}; }
  /// Lane i becomes the sum over j >= i of c^(j - i) a_j.
  static inline F faded(F a, const Fading&) { return a; }
  static inline float lowest(F a) { return a; }  // lane 0
  /// Lanes whose byte, of W from p on, is not 0.
  static inline M nonzero(const uint8_t* p) { return *p != 0; }
  /// Over all lanes, in a fixed tree.
  static inline float reduce_add(F a) { return a; }
  static inline float reduce_max(F a) { return a; }

  /// Within 2 units in the last place; 0 below -104, infinity above 89, NaN for NaN. (Cody & Waite reduction, Taylor.)
  static inline F exp(F x) {
    if (x != x) return x;
    if (x > 89.0f) return INFINITY;
    if (x < -104.0f) return 0.0f;
    const float n = nearbyintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return ldexpf(p * r * r + r + 1.0f, static_cast<int>(n));
  }

  // A product's step: bf16 in pairs of two neighbouring k (a lane holds two products), float32 one k at a time with fma.

  /// Whether dot() is one instruction. Where it is not, an instruction set has first_of() and second_of(Pairs), floats, and
  /// dot(c, a, b) is fma(second, second, fma(first, first, c)).
  static constexpr bool kPairDot = true;
  struct Pairs {
    float first, second;
  };
  /// W pairs.
  static inline Pairs pairs(const bf16* p) { return {widen(p[0]), widen(p[1])}; }
  /// Pairs that do not count are zero and not read.
  static inline Pairs pairs(const bf16* p, M m) { return m ? pairs(p) : Pairs{0, 0}; }
  /// One pair on every lane.
  static inline Pairs pair(const bf16* p) { return {widen(p[0]), widen(p[1])}; }
  /// (p[0], 0) on every lane: the end of an odd run, where p[1] is somebody else's.
  static inline Pairs half_pair(const bf16* p) { return {widen(p[0]), 0.0f}; }
  /// c + a.first b.first + a.second b.second, lane by lane.
  static inline F dot(F c, Pairs a, Pairs b) { return (c + a.first * b.first) + a.second * b.second; }
  /// Pairs of lane i of a and lane i of b (two rows of a matrix as pairs along the rows): W pairs.
  static inline Pairs zip(const bf16* a, const bf16* b, M m) {
    return m ? Pairs{widen(*a), b ? widen(*b) : 0.0f} : Pairs{0, 0};
  }
  static inline void store_pairs(bf16* p, Pairs x) {
    p[0] = narrow(x.first);
    p[1] = narrow(x.second);
  }
  /// Lane i goes to p[2 i]: one half of W pairs in memory; the other half is not touched.
  static inline void store_half(bf16* p, F x, M m) {
    if (m) p[0] = narrow(x);
  }
};

}  // namespace credence::cpu
