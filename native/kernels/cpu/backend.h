// What stands behind credence_backend on the CPU. Included by files of every instruction set, so it holds data and
// declarations only: an inline function here could be kept by the linker from the file with the newest instructions.
#pragma once

#include <stddef.h>

#include "../kernels.h"
#include "thread_pool.h"

struct credence_backend {
  explicit credence_backend(int threads);

  credence::cpu::ThreadPool pool;
  char error[512];
};

namespace credence::cpu {

/// bf16: the upper half of a float32.
struct bf16 {
  uint16_t bits;
};

/// Leaves a sentence in last_error and returns 1: `return fail(backend, "...", ...)`.
[[gnu::format(printf, 2, 3)]] int fail(credence_backend* backend, const char* format, ...);

/// 64-byte aligned, or null with last_error set.
void* allocate(credence_backend* backend, size_t bytes);
void release(void* memory);

// tables.<isa>.cpp: the operators of one instruction set; those this build has not got stay null.
void fill_scalar_operators(credence_table* table);
void fill_avx512bf16_operators(credence_table* table);

}  // namespace credence::cpu
