// Device memory of the CPU, every byte of it counted. A dry back end only counts: its addresses lead nowhere.
#include "memory.h"

#include <stdlib.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace credence::cpu {

struct Ledger {
  struct Entry {
    size_t bytes;
    MemoryUse use;
  };
  std::mutex mutex;  // what a program asks for while another thread computes
  std::unordered_map<void*, Entry> entries;
  credence_memory counted{};
  size_t limit = 0;       // 0: none
  uintptr_t next = 4096;  // of a dry back end's addresses
};

namespace {

constexpr size_t kHuge = size_t{2} << 20;

size_t alignment_of(size_t bytes) { return bytes >= 2 * kHuge ? kHuge : 64; }

/// What an allocation of `bytes` occupies; 0 where that is beyond the address space.
size_t occupied(size_t bytes) {
  const size_t alignment = alignment_of(bytes), whole = (bytes + alignment - 1) / alignment * alignment;
  return bytes == 0 ? alignment : whole >= bytes ? whole : 0;
}

size_t* counter(credence_memory* memory, MemoryUse use) {
  return use == MemoryUse::kWeights ? &memory->weights : use == MemoryUse::kAdapters ? &memory->adapters : nullptr;
}

}  // namespace

Ledger* new_ledger() { return new Ledger; }
void delete_ledger(Ledger* ledger) { delete ledger; }

void* allocate(credence_backend* backend, size_t bytes, MemoryUse use) {
  Ledger& ledger = *backend->ledger;
  const std::lock_guard lock(ledger.mutex);
  credence_memory& counted = ledger.counted;
  const size_t whole = occupied(bytes);
  if (ledger.limit && whole && counted.current + whole > ledger.limit) {
    fail(backend, "%zu bytes more than the %zu in use go beyond the limit of %zu", whole, counted.current,
         ledger.limit);
    return nullptr;
  }
  void* memory = nullptr;
  if (backend->dry) {
    memory = reinterpret_cast<void*>(ledger.next);
    ledger.next += (whole + 63) / 64 * 64;
  } else if (whole) {
    memory = aligned_alloc(alignment_of(bytes), whole);
  }
  if (!memory || !whole) {
    fail(backend, "not enough memory for %zu bytes. Use a smaller batch, a shorter context or a smaller model", bytes);
    return nullptr;
  }
#if defined(__linux__)
  // Fewer address translations while weights stream by.
  if (!backend->dry && alignment_of(bytes) == kHuge) madvise(memory, whole, MADV_HUGEPAGE);
#endif
  ledger.entries[memory] = {whole, use};
  counted.current += whole;
  counted.peak = std::max(counted.peak, counted.current);
  if (size_t* part = counter(&counted, use)) *part += whole;
  return memory;
}

void release(credence_backend* backend, void* memory) {
  if (!memory) return;
  Ledger& ledger = *backend->ledger;
  {
    const std::lock_guard lock(ledger.mutex);
    const auto found = ledger.entries.find(memory);
    const auto [whole, use] = found->second;
    ledger.entries.erase(found);
    ledger.counted.current -= whole;
    if (size_t* part = counter(&ledger.counted, use)) *part -= whole;
  }
  if (!backend->dry) free(memory);
}

credence_memory memory_of(credence_backend* backend, int32_t restart_peak) {
  const std::lock_guard lock(backend->ledger->mutex);
  const credence_memory counted = backend->ledger->counted;
  if (restart_peak) backend->ledger->counted.peak = counted.current;
  return counted;
}

void limit_memory(credence_backend* backend, size_t bytes) {
  const std::lock_guard lock(backend->ledger->mutex);
  backend->ledger->limit = bytes;
}

}  // namespace credence::cpu
