// What stands behind credence_backend on the CPU. Included by files of every instruction set, so it holds data and
// declarations only: an inline function here could be kept by the linker from the file with the newest instructions.
#pragma once

#include <stddef.h>

#include "../kernels.h"
#include "thread_pool.h"

namespace credence::cpu {
struct Ledger;  // memory.cpp
}

struct credence_backend {
  credence_backend(int threads, bool dry);
  ~credence_backend();

  credence::cpu::ThreadPool pool;
  credence::cpu::Ledger* ledger;
  const bool dry;  // counts memory and has none
  char error[512];
};

namespace credence::cpu {

/// bf16: the upper half of a float32.
struct bf16 {
  uint16_t bits;
};

/// Leaves a sentence in last_error and returns 1: `return fail(backend, "...", ...)`.
[[gnu::format(printf, 2, 3)]] int fail(credence_backend* backend, const char* format, ...);

// tables.<isa>.cpp: the operators of one instruction set, and nothing else of a table.
extern const credence_table scalar_operators;
extern const credence_table avx2_operators;
extern const credence_table avx512_operators;
extern const credence_table avx512bf16_operators;

}  // namespace credence::cpu
