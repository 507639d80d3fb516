// The CPU's device memory: allocation and its ledger.
#pragma once

#include <stddef.h>

#include "backend.h"

namespace credence::cpu {

enum class MemoryUse { kBuffers, kWeights, kAdapters };

Ledger* new_ledger();
void delete_ledger(Ledger* ledger);

/// 64-byte aligned, or null with last_error set. An address of a dry back end may not be followed.
void* allocate(credence_backend* backend, size_t bytes, MemoryUse use = MemoryUse::kBuffers);
void release(credence_backend* backend, void* memory);

/// As the table's memory() and limit().
credence_memory memory_of(credence_backend* backend, int32_t restart_peak);
void limit_memory(credence_backend* backend, size_t bytes);

}  // namespace credence::cpu
