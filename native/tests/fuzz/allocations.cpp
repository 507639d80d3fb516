// What is allocated, counted, so that a target can hold it against the size of what is read. Under the address sanitizer
// its own hook counts (an operator new of ours would be taken for a mismatch by it); elsewhere operator new does.
#include <cstdlib>
#include <new>

#include "fuzz.h"

#if defined(CREDENCE_FUZZER) || defined(__SANITIZE_ADDRESS__)
#define CREDENCE_ALLOCATION_HOOK
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, size_t),
                                                         void (*on_free)(const volatile void*));
#endif

namespace {
thread_local size_t allocated = 0;
}

size_t credence::fuzz::bytes_allocated() { return allocated; }

#ifdef CREDENCE_ALLOCATION_HOOK
[[maybe_unused]] static const int hooked = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t size) { allocated += size; }, [](const volatile void*) {});
#else
void* operator new(size_t size) {
  allocated += size;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif
