// The arena takes memory from the driver in regions and never gives one back while it lives, so that an optimiser step, once it
// has run, allocates nothing. Under a limit, which is what a plan says, the first region is the limit whole. Pieces are cut
// best-fit and neighbours that are free grow together.
#include "memory.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace credence::cuda {

namespace {

constexpr size_t kAlignment = 256, kRegion = size_t{256} << 20;
#ifdef CREDENCE_EMULATE
constexpr size_t kGap = 256;  // between pieces, so that what runs over an end is seen
constexpr size_t kEmulatedRegion = size_t{1} << 20;
#else
constexpr size_t kGap = 0;
#endif

size_t region_bytes(size_t wanted, size_t limit, bool first) {
  if (limit && first) return std::max(wanted, (limit + kAlignment - 1) / kAlignment * kAlignment);
#ifdef CREDENCE_EMULATE
  return std::max(wanted, kEmulatedRegion);
#else
  return (wanted + kRegion - 1) / kRegion * kRegion;
#endif
}

}  // namespace

struct Ledger {
  struct Piece {
    size_t bytes, whole, occupied;  // asked for, counted, cut out of the arena
    MemoryUse use;
  };
  struct Region {
    char* base;
    size_t bytes;
  };
  std::mutex mutex;  // what a program asks for while another thread computes
  std::unordered_map<void*, Piece> pieces;
  std::map<char*, size_t> free;  // by address; pieces of two regions never touch as one
  std::vector<Region> regions;
  credence_memory counted{};
  size_t limit = 0;             // 0: none
  uintptr_t next = kAlignment;  // of a dry back end's addresses
};

namespace {

size_t* counter(credence_memory* memory, MemoryUse use) {
  return use == MemoryUse::kWeights ? &memory->weights : use == MemoryUse::kAdapters ? &memory->adapters : nullptr;
}

bool begins_region(const Ledger& ledger, const char* at) {
  return std::any_of(ledger.regions.begin(), ledger.regions.end(),
                     [&](const Ledger::Region& region) { return region.base == at; });
}

char* cut(Backend& backend, Ledger& ledger, size_t bytes) {
  auto best = ledger.free.end();
  for (auto piece = ledger.free.begin(); piece != ledger.free.end(); ++piece)
    if (piece->second >= bytes && (best == ledger.free.end() || piece->second < best->second)) best = piece;
  if (best == ledger.free.end()) {
    void* base = nullptr;
    size_t region = region_bytes(bytes, ledger.limit, ledger.regions.empty());
    cudaError_t status = cudaSetDevice(backend.device);
    if (status == cudaSuccess) status = cudaMalloc(&base, region);
    if (status != cudaSuccess && region > bytes) {  // no room for as much as one would like
      region = bytes;
      status = cudaMalloc(&base, region);
    }
    if (status != cudaSuccess) {
      size_t left = 0, total = 0;
      cudaMemGetInfo(&left, &total);
      fail(backend,
           "%zu bytes of device memory: %s; %zu of %zu are free, and %zu are in use here, %zu of them weights. Use a "
           "smaller batch, a shorter context or a smaller model",
           bytes, cudaGetErrorString(status), left, total, ledger.counted.current, ledger.counted.weights);
      return nullptr;
    }
    ledger.regions.push_back({static_cast<char*>(base), region});
    best = ledger.free.emplace(static_cast<char*>(base), region).first;
  }
  char* const piece = best->first;
  const size_t rest = best->second - bytes;
  ledger.free.erase(best);
  if (rest) ledger.free.emplace(piece + bytes, rest);
  return piece;
}

void give_back(Ledger& ledger, char* piece, size_t bytes) {
  auto at = ledger.free.emplace(piece, bytes).first;
  const auto after = std::next(at);
  if (after != ledger.free.end() && at->first + at->second == after->first && !begins_region(ledger, after->first)) {
    at->second += after->second;
    ledger.free.erase(after);
  }
  if (at == ledger.free.begin() || begins_region(ledger, at->first)) return;
  const auto before = std::prev(at);
  if (before->first + before->second != at->first) return;
  before->second += at->second;
  ledger.free.erase(at);
}

}  // namespace

Ledger* new_ledger() { return new Ledger; }

void delete_ledger(Backend& backend) {
  if (!backend.ledger) return;
  for (const Ledger::Region& region : backend.ledger->regions) {
#ifdef CREDENCE_EMULATE
    for (const auto& [piece, sizes] : backend.ledger->pieces) emulation::unguard(piece, sizes.bytes, sizes.occupied);
    backend.ledger->pieces.clear();
#endif
    cudaFree(region.base);
  }
  delete backend.ledger;
}

void* allocate(Backend& backend, size_t bytes, MemoryUse use) {
  Ledger& ledger = *backend.ledger;
  const std::lock_guard lock(ledger.mutex);
  const size_t whole = std::max<size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  if (whole < bytes) {
    fail(backend, "%zu bytes are more than there are addresses", bytes);
    return nullptr;
  }
  if (ledger.limit && ledger.counted.current + whole > ledger.limit) {
    fail(backend, "%zu bytes more than the %zu in use go beyond the limit of %zu", whole, ledger.counted.current,
         ledger.limit);
    return nullptr;
  }
  char* piece;
  if (backend.dry) {
    piece = reinterpret_cast<char*>(ledger.next);
    ledger.next += whole;
  } else if (!(piece = cut(backend, ledger, whole + kGap))) {
    return nullptr;
  }
#ifdef CREDENCE_EMULATE
  if (!backend.dry) emulation::guard(piece, bytes, whole + kGap);
#endif
  ledger.pieces[piece] = {bytes, whole, whole + kGap, use};
  ledger.counted.current += whole;
  ledger.counted.peak = std::max(ledger.counted.peak, ledger.counted.current);
  if (size_t* part = counter(&ledger.counted, use)) *part += whole;
  return piece;
}

void release(Backend& backend, void* memory) {
  if (!memory) return;
  Ledger& ledger = *backend.ledger;
  const std::lock_guard lock(ledger.mutex);
  const auto found = ledger.pieces.find(memory);
  const Ledger::Piece piece = found->second;
  ledger.pieces.erase(found);
  ledger.counted.current -= piece.whole;
  if (size_t* part = counter(&ledger.counted, piece.use)) *part -= piece.whole;
  if (backend.dry) return;
#ifdef CREDENCE_EMULATE
  emulation::unguard(memory, piece.bytes, piece.occupied);
#endif
  // Work in flight may still read it; whoever cuts the next piece writes it on the same stream, so after that.
  give_back(ledger, static_cast<char*>(memory), piece.occupied);
}

credence_memory memory_of(Backend& backend, bool restart_peak) {
  const std::lock_guard lock(backend.ledger->mutex);
  const credence_memory counted = backend.ledger->counted;
  if (restart_peak) backend.ledger->counted.peak = counted.current;
  return counted;
}

void limit_memory(Backend& backend, size_t bytes) {
  const std::lock_guard lock(backend.ledger->mutex);
  backend.ledger->limit = bytes;
}

}  // namespace credence::cuda
