// The few instructions that have no name in the language, each with a twin for the emulation (emulation/ptx.h).
#pragma once

#include "cuda.h"

#ifdef CREDENCE_EMULATE
#include "emulation/ptx.h"
#else

namespace credence::cuda::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// c [16, 8] float32 += a [16, 16] b [16, 8] in bf16, shared out over a warp (PTX ISA, "mma.m16n8k16"): with g = lane / 4 and
/// i = lane % 4, c holds (g, 2i), (g, 2i + 1) and the same of row g + 8; a pairs of columns 2i of rows g and g + 8, then the
/// same of columns 2i + 8; b pairs of rows 2i, then 2i + 8, of column g.
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 matrices of 16-bit numbers out of shared memory; lane l names row l % 8 of matrix l / 8 (16 bytes, aligned).
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

/// The same, each matrix transposed: lane l gets rows 2i and 2i + 1 of column g, as the right factor of a product has them.
__device__ __forceinline__ void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

/// Two numbers rounded to bf16, the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

/// 16 bytes from global to shared memory behind the thread's back; there after cp_async_wait and a barrier.
__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(shared)), "l"(global));
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n"); }
/// Until at most `Pending` of the groups committed last are still on their way.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending));
}

}  // namespace credence::cuda::ptx
#endif
