// The device's memory: one arena, from which the engine's buffers, weights and adapters are cut, and the ledger of them.
#pragma once

#include "backend.h"

namespace credence::cuda {

enum class MemoryUse { kBuffers, kWeights, kAdapters };

Ledger* new_ledger();
void delete_ledger(Backend& backend);

/// 256-byte aligned, or null with last_error set. An address of a dry back end may not be followed.
void* allocate(Backend& backend, size_t bytes, MemoryUse use = MemoryUse::kBuffers);
void release(Backend& backend, void* memory);

/// As the table's memory() and limit().
credence_memory memory_of(Backend& backend, bool restart_peak);
void limit_memory(Backend& backend, size_t bytes);

}  // namespace credence::cuda
