// Executes a grid on the CPU: one block at a time, one fiber a thread. A warp runs as far as its barriers allow before the next
// one starts, so the distance between warps is the largest that the source allows: what a missing barrier would let happen on
// a GPU happens here, in one order or another. What CUDA leaves undefined ends the process with a sentence.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace credence::emulation {

struct Size3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Size3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

/// In which order warps, and lanes within one, are taken.
enum class Order { kForward, kBackward, kShuffled };

/// The order of launches from now on.
void set_order(Order order);

/// What a thread of the running kernel is.
struct Thread {
  Size3 index, block, block_size, grid_size;
  int lane;
};
extern Thread* current;

void run_grid(const char* kernel, Size3 grid, Size3 block, size_t shared_bytes, void (*body)(void*), void* context);

void* dynamic_shared();  // of the running block; starts as 0xff bytes, which float32 and bf16 read as NaN
void block_barrier();
void warp_barrier(uint32_t mask);
/// All lanes' values as each wrote its own, between two barriers of the mask. What lanes outside the mask hold is undefined.
const uint64_t* exchange(uint32_t mask, uint64_t value);
/// After reading them.
void exchanged(uint32_t mask);
[[noreturn]] void die(const char* what);

}  // namespace credence::emulation
