// What kernels share on the device: the activation type, sums over warps and blocks in a fixed tree, faults.
#pragma once

#include "../keys.h"
#include "cuda.h"
#include "faults.h"

namespace credence::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T to_act(float x);
template <>
__device__ __forceinline__ float to_act<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 to_act<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || b != b ? a : b;  // a number rather than NaN
  }
};

/// All lanes get the same bits: the tree is symmetric.
template <class T, class Combine>
__device__ __forceinline__ T warp_reduce(T x, Combine combine) {
  for (int step = kWarp / 2; step; step /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

/// Over all threads of a block of whole warps; every thread gets it. `shared` has room for 32, and may be used again at once.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T x, Combine combine, T none, T* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  x = warp_reduce(x, combine);
  __syncthreads();  // what the last use left has been read
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  return warp_reduce(lane < warps ? shared[lane] : none, combine);
}

/// Leaves what was seen, unless something is there that nobody has read. True: it was something.
__device__ __forceinline__ bool fault(Fault* to, Operator op, const Seen& seen) {
  if (seen.kind == FaultKind::none) return false;
  if (atomicCAS(reinterpret_cast<int32_t*>(&to->kind), 0, static_cast<int32_t>(seen.kind)) != 0) return true;
  to->op = op;
  to->a = seen.a;
  to->b = seen.b;
  to->c = seen.c;
  to->d = seen.d;
  return true;
}

/// The number of rows, which fits the capacity from here on; a wrong one is a fault.
__device__ __forceinline__ int32_t rows_of(const int32_t* rows, int32_t capacity, Fault* to, Operator op) {
  const Seen seen = fault_of_rows(*rows, capacity);
  return fault(to, op, seen) ? 0 : seen.a;
}

}  // namespace credence::cuda
