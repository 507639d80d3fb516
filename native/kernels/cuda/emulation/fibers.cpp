#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the registers that a call keeps, and goes on where the other stack pointer was saved.
extern "C" void credence_emulation_switch(void** save, void* load);
asm(R"(
.text
.globl credence_emulation_switch
.hidden credence_emulation_switch
credence_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace credence::emulation {

Thread* current = nullptr;

namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kWarp = 32, kMostThreads = 1024;
constexpr size_t kMostShared = 227 << 10;  // what a block of an H100 can have

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
  Thread thread;
  State state;
  uint32_t mask;  // of the warp barrier it waits at
  void* stack_pointer;
  char* stack;
  void* fake_stack;
};

struct Block {
  const char* kernel;
  void (*body)(void*);
  void* context;
  unsigned threads, warps;
  Fiber fibers[kMostThreads];
  uint64_t slots[kMostThreads];  // what lanes exchange
  void* scheduler;               // its stack pointer
  void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  char* shared;
};

std::mutex running;  // one kernel at a time
Order order = Order::kForward;
Block* block = nullptr;

Fiber& fiber() { return *reinterpret_cast<Fiber*>(current); }  // a fiber begins with its thread

void leave(State state) {
  Fiber& me = fiber();
  me.state = state;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(state == State::kDone ? nullptr : &me.fake_stack, block->scheduler_stack,
                                 block->scheduler_stack_bytes);
#endif
  credence_emulation_switch(&me.stack_pointer, block->scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me.fake_stack, nullptr, nullptr);
#endif
}

void begin() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &block->scheduler_stack_bytes);
  block->scheduler_stack = const_cast<void*>(bottom);
#endif
  block->body(block->context);
  leave(State::kDone);
  abort();
}

void enter(Fiber& f) {
  current = &f.thread;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, f.stack, kStack);
#endif
  credence_emulation_switch(&block->scheduler, f.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

char* stack_of(unsigned i) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= i) stacks.emplace_back(new char[kStack]);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks[i].get(), kStack);  // frames of a fiber that ended never returned
#endif
  return stacks[i].get();
}

void prepare(Size3 at, Size3 size, Size3 grid) {
  for (unsigned i = 0; i < block->threads; ++i) {
    Fiber& f = block->fibers[i];
    f.thread.index = Size3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    f.thread.block = at;
    f.thread.block_size = size;
    f.thread.grid_size = grid;
    f.thread.lane = static_cast<int>(i % kWarp);
    f.state = State::kReady;
    f.mask = 0;
    f.stack = stack_of(i);
    f.fake_stack = nullptr;
    auto top = reinterpret_cast<uintptr_t>(f.stack + kStack) / 16 * 16;
    void** sp = reinterpret_cast<void**>(top);
    *--sp = nullptr;  // where `begin` would return to
    *--sp = reinterpret_cast<void*>(&begin);
    sp -= 6;
    memset(sp, 0, 6 * sizeof(void*));
    f.stack_pointer = sp;
  }
}

class Sequence {
 public:
  explicit Sequence(uint64_t seed) : random_(seed) {}
  /// 0 .. count - 1 in the current order.
  const unsigned* of(unsigned count) {
    for (unsigned i = 0; i < count; ++i) places_[i] = order == Order::kBackward ? count - 1 - i : i;
    for (unsigned i = count; order == Order::kShuffled && i > 1; --i) {
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      std::swap(places_[i - 1], places_[(random_ >> 33) % i]);
    }
    return places_;
  }

 private:
  uint64_t random_;
  unsigned places_[kMostThreads];
};

// Lanes that wait for each other go on when all their mask names are there. True if some do.
bool release_warp(unsigned first, unsigned count) {
  bool released = false;
  const uint32_t present = count == kWarp ? ~0u : (1u << count) - 1;
  uint32_t waiting = 0;
  for (unsigned i = 0; i < count; ++i) waiting |= (block->fibers[first + i].state == State::kAtWarp ? 1u : 0u) << i;
  for (unsigned i = 0; i < count; ++i) {
    Fiber& f = block->fibers[first + i];
    if (f.state != State::kAtWarp) continue;
    const uint32_t need = f.mask & present;
    bool all = true;
    for (unsigned j = 0; j < count; ++j) {
      if (!(need >> j & 1)) continue;
      const Fiber& other = block->fibers[first + j];
      current = &f.thread;
      if (other.state == State::kDone) die("a lane that the mask names has left the kernel");
      if (other.state == State::kAtWarp && other.mask != f.mask)
        die("lanes that wait for each other have different masks");
      all = all && (waiting >> j & 1);
    }
    if (!all) continue;
    for (unsigned j = 0; j < count; ++j)
      if (need >> j & 1) block->fibers[first + j].state = State::kReady, waiting &= ~(1u << j);
    released = true;
  }
  return released;
}

void run_block(Sequence* warp_order, Sequence* lane_order) {
  for (unsigned live = block->threads; live;) {
    bool ran = false;
    const unsigned* warps = warp_order->of(block->warps);
    for (unsigned w = 0; w < block->warps; ++w) {
      const unsigned first = warps[w] * kWarp, count = std::min(kWarp, block->threads - first);
      do {
        const unsigned* lanes = lane_order->of(count);
        for (unsigned i = 0; i < count; ++i) {
          Fiber& f = block->fibers[first + lanes[i]];
          if (f.state != State::kReady) continue;
          enter(f);
          ran = true;
        }
      } while (release_warp(first, count));
    }
    unsigned at_block = 0, done = 0;
    for (unsigned i = 0; i < block->threads; ++i) {
      at_block += block->fibers[i].state == State::kAtBlock;
      done += block->fibers[i].state == State::kDone;
    }
    live = block->threads - done;
    if (at_block && at_block == live) {
      for (unsigned i = 0; i < block->threads; ++i)
        if (block->fibers[i].state == State::kAtBlock) block->fibers[i].state = State::kReady;
    } else if (live && !ran) {
      die("no thread can go on: some wait for the block, others for lanes that do not come");
    }
  }
}

}  // namespace

void set_order(Order next) { order = next; }
void* dynamic_shared() { return block->shared; }
void block_barrier() { leave(State::kAtBlock); }

void warp_barrier(uint32_t mask) {
  Fiber& me = fiber();
  if (!(mask >> me.thread.lane & 1)) die("a lane waits with a mask that does not name it");
  me.mask = mask;
  leave(State::kAtWarp);
}

const uint64_t* exchange(uint32_t mask, uint64_t value) {
  const unsigned at = static_cast<unsigned>(&fiber() - block->fibers);
  block->slots[at] = value;
  warp_barrier(mask);
  return block->slots + at / kWarp * kWarp;
}

void exchanged(uint32_t mask) { warp_barrier(mask); }

void die(const char* what) {
  const Thread& t = *current;
  fprintf(stderr, "emulated kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", block->kernel, t.block.x,
          t.block.y, t.block.z, t.index.x, t.index.y, t.index.z, what);
  abort();
}

void run_grid(const char* kernel, Size3 grid, Size3 size, size_t shared_bytes, void (*body)(void*), void* context) {
  const std::lock_guard lock(running);
  static Block the_block;
  block = &the_block;
  block->kernel = kernel;
  block->body = body;
  block->context = context;
  block->threads = size.x * size.y * size.z;
  block->warps = (block->threads + kWarp - 1) / kWarp;
  if (block->threads == 0 || block->threads > kMostThreads || shared_bytes > kMostShared) {
    fprintf(stderr, "emulated kernel %s: a block of %u threads and %zu bytes of shared memory cannot be launched\n",
            kernel, block->threads, shared_bytes);
    abort();
  }
  const size_t padded = (shared_bytes + 127) / 128 * 128 + 128;
  const std::unique_ptr<char, void (*)(void*)> shared(static_cast<char*>(aligned_alloc(128, padded)), &free);
  // Ends where the launch said: what lies behind belongs to nobody.
  block->shared = shared.get();
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(block->shared + shared_bytes, padded - shared_bytes);
#endif
  Sequence warps(1), lanes(2);
  // Blocks one after another, the last first unless warps go forward: what two blocks add to in turn has other bits then.
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t at = order == Order::kForward ? i : blocks - 1 - i;
    memset(block->shared, 0xff, shared_bytes);
    prepare(Size3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                  static_cast<unsigned>(at / grid.x / grid.y)),
            size, grid);
    run_block(&warps, &lanes);
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(block->shared, padded);
#endif
}

}  // namespace credence::emulation
