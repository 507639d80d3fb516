// What the kernels of this folder are written against: CUDA's own headers, or the emulation that runs the same sources as C++ on
// the CPU (emulation/). Sources keep to what both have: launches through launch() in launch.h, dynamic shared memory through
// the macro below, PTX in the named functions of ptx.h, `alignas(16) __shared__` in that order.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef CREDENCE_EMULATE
#include "emulation/language.h"
#include "emulation/runtime.h"
#define CREDENCE_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::credence::emulation::dynamic_shared())
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define CREDENCE_DYNAMIC_SHARED(T, name)                           \
  extern __shared__ __align__(16) unsigned char credence_shared[]; \
  T* const name = reinterpret_cast<T*>(credence_shared)
#endif
