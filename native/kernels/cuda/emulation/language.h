// CUDA's language as the kernels here use it, in C++: qualifiers, indices, barriers, warp exchanges, atomics, vectors, bf16.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time, one kernel at a time

using dim3 = credence::emulation::Size3;

#define threadIdx (::credence::emulation::current->index)
#define blockIdx (::credence::emulation::current->block)
#define blockDim (::credence::emulation::current->block_size)
#define gridDim (::credence::emulation::current->grid_size)

inline void __syncthreads() { credence::emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { credence::emulation::warp_barrier(mask); }

namespace credence::emulation {

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  const uint64_t* all = exchange(mask, bits);
  if (!(mask >> source & 1)) die("a shuffle reads a lane that its mask does not name");
  T out;
  memcpy(&out, all + source, sizeof out);
  exchanged(mask);
  return out;
}

}  // namespace credence::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return credence::emulation::shuffle(mask, value, source & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return credence::emulation::shuffle(mask, value, (credence::emulation::current->lane ^ lanes) & 31);
}
/// Lane l reads lane l - lanes; the first ones keep their own.
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lanes) {
  const int lane = credence::emulation::current->lane;
  return credence::emulation::shuffle(mask, value, lane >= lanes ? lane - lanes : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int lanes) {
  const int lane = credence::emulation::current->lane;
  return credence::emulation::shuffle(mask, value, lane + lanes < 32 ? lane + lanes : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = credence::emulation::exchange(mask, predicate != 0);
  unsigned out = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) out |= static_cast<unsigned>(all[i]) << i;
  credence::emulation::exchanged(mask);
  return out;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// One thread runs at a time and is not interrupted: a plain operation is atomic.
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  const T old = *at;
  *at += value;
  return old;
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  const T old = *at;
  *at |= value;
  return old;
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
using std::max;
using std::min;

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
/// Nearest, ties to even; NaN stays NaN.
inline __nv_bfloat16 __float2bfloat16(float x) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
