#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <chrono>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
  }
  return "unknown error";
}

// A device for each order in which warps can be taken.
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device > 2) return cudaErrorInvalidDevice;
  credence::emulation::set_order(static_cast<credence::emulation::Order>(device));
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = bytes > size_t{1} << 40 ? nullptr : aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void* memory) {
  free(memory);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *free_bytes = *total = size_t{1} << 40;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes) memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t) {
  if (bytes) memset(memory, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}

namespace credence::emulation {

namespace {
constexpr unsigned char kNobody = 0xa5;
}

void guard(void* memory, size_t bytes, size_t whole) {
  memset(static_cast<char*>(memory) + bytes, kNobody, whole - bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(static_cast<char*>(memory) + bytes, whole - bytes);
#endif
}

void unguard(void* memory, size_t bytes, size_t whole) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory, whole);
#endif
  const auto* all = static_cast<const unsigned char*>(memory);
  for (size_t i = bytes; i < whole; ++i)
    if (all[i] != kNobody) {
      fprintf(stderr, "emulated device: byte %zu of a piece of %zu bytes was written\n", i, bytes);
      abort();
    }
}

}  // namespace credence::emulation
