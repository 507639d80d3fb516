// The tables of the CPU: memory, events and pages, which no instruction set changes, and the choice of what runs here.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <chrono>
#include <exception>
#include <new>

#include "backend.h"
#include "memory.h"
#include "pack.h"
#include "page.h"

credence_backend::credence_backend(int threads, bool only_counts)
    : pool(threads), ledger(credence::cpu::new_ledger()), dry(only_counts), error{} {}

credence_backend::~credence_backend() { credence::cpu::delete_ledger(ledger); }

struct credence_event {
  std::chrono::steady_clock::time_point time;
};

namespace credence::cpu {

int fail(credence_backend* backend, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(backend->error, sizeof backend->error, format, arguments);
  va_end(arguments);
  return 1;
}

namespace {

credence_backend* open(int32_t device, int32_t threads, char* error, size_t error_bytes) {
  try {
    if (device == 0) return new credence_backend(threads, false);
    snprintf(error, error_bytes, "the CPU is one device, number 0; there is no number %d", device);
  } catch (const std::exception& reason) {  // no memory, or the system refuses another thread
    snprintf(error, error_bytes, "the CPU back end could not start %d threads: %s", threads, reason.what());
  }
  return nullptr;
}

credence_backend* open_dry(char* error, size_t error_bytes) {
  try {
    return new credence_backend(1, true);
  } catch (const std::exception& reason) {
    snprintf(error, error_bytes, "the CPU back end could not start: %s", reason.what());
  }
  return nullptr;
}

void close(credence_backend* backend) { delete backend; }
const char* last_error(credence_backend* backend) { return backend->error; }

void* allocate_buffer(credence_backend* backend, size_t bytes) { return allocate(backend, bytes); }

int copy(credence_backend* backend, void* to, const void* from, size_t bytes) {
  if (bytes && !backend->dry) memcpy(to, from, bytes);  // nothing may come with a null pointer
  return 0;
}

int read(credence_backend* backend, void* host, const void* device, size_t bytes) {
  if (!backend->dry) return copy(backend, host, device, bytes);
  if (bytes) memset(host, 0, bytes);
  return 0;
}

int fill(credence_backend* backend, void* device, int32_t byte, size_t bytes) {
  if (bytes && !backend->dry) memset(device, byte, bytes);
  return 0;
}

int synchronise(credence_backend*) { return 0; }

credence_event* event(credence_backend* backend) {
  auto* now = new (std::nothrow) credence_event{std::chrono::steady_clock::now()};
  if (!now) fail(backend, "not enough memory for an event");
  return now;
}

int wait(credence_backend*, credence_event*) { return 0; }

double elapsed_ms(credence_backend*, credence_event* from, credence_event* to) {
  return std::chrono::duration<double, std::milli>(to->time - from->time).count();
}

void free_event(credence_backend*, credence_event* event) { delete event; }

int64_t waits(credence_backend*) { return 0; }
const char* rows_differ(credence_backend*) { return nullptr; }

size_t element_bytes(credence_dtype dtype) { return dtype == CREDENCE_BF16 ? 2 : 4; }

size_t page_bytes(const credence_shape* shape, credence_dtype dtype) {
  return static_cast<size_t>(page_layout(*shape, dtype).page_stride) * element_bytes(dtype);
}

int copy_page(credence_backend* backend, const credence_shape* shape, credence_dtype dtype, void* pages, int32_t to,
              int32_t from) {
  const size_t bytes = page_bytes(shape, dtype);
  char* base = static_cast<char*>(pages);
  if (to != from && !backend->dry)
    memcpy(base + static_cast<size_t>(to) * bytes, base + static_cast<size_t>(from) * bytes, bytes);
  return 0;
}

const char* scalar_unavailable() { return nullptr; }

#if defined(__x86_64__)
bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

const char* avx2_unavailable() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return nullptr;
  return "this CPU has no AVX2 with fused multiply-add (avx2, fma)";
}

const char* avx512_unavailable() { return has_avx512() ? nullptr : "this CPU has no AVX-512 (avx512f, bw, vl, dq)"; }

const char* avx512bf16_unavailable() {
  if (has_avx512() && __builtin_cpu_supports("avx512bf16")) return nullptr;
  return "this CPU has no AVX-512 with bf16 dot products (avx512f, bw, vl, dq, bf16)";
}
#endif

credence_table table(const char* isa, const char* (*unavailable)(void), const credence_table& operators) {
  credence_table t = operators;
  t.version = CREDENCE_TABLE_VERSION;
  t.name = "cpu";
  t.isa = isa;
  t.unavailable = unavailable;
  t.open = &open;
  t.open_dry = &open_dry;
  t.close = &close;
  t.last_error = &last_error;
  t.alloc = &allocate_buffer;
  t.free = &release;
  t.memory = &memory_of;
  t.limit = &limit_memory;
  t.copy = &copy;
  t.write = &copy;
  t.read = &read;
  t.fill = &fill;
  t.synchronise = &synchronise;
  t.event = &event;
  t.wait = &wait;
  t.elapsed_ms = &elapsed_ms;
  t.free_event = &free_event;
  t.waits = &waits;
  t.rows_differ = &rows_differ;
  t.pack = &pack;
  t.repack = &repack;
  t.free_weights = &free_weights;
  t.pack_lora = &pack_lora;
  t.repack_lora = &repack_lora;
  t.free_lora = &free_lora;
  t.page_bytes = &page_bytes;
  t.copy_page = &copy_page;
  return t;
}

}  // namespace
}  // namespace credence::cpu

const credence_table* const* credence_cpu_tables(int32_t* count) {
  using namespace credence::cpu;
#if defined(__x86_64__)
  static const credence_table avx2 = table("avx2", &avx2_unavailable, avx2_operators);
  static const credence_table avx512 = table("avx512", &avx512_unavailable, avx512_operators);
  static const credence_table avx512bf16 = table("avx512bf16", &avx512bf16_unavailable, avx512bf16_operators);
#endif
  static const credence_table scalar = table("scalar", &scalar_unavailable, scalar_operators);
  static const credence_table* const tables[] = {
#if defined(__x86_64__)
      &avx512bf16,
      &avx512,
      &avx2,
#endif
      &scalar,
  };
  *count = static_cast<int32_t>(sizeof tables / sizeof tables[0]);
  return tables;
}
