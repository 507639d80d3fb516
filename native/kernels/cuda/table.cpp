// The table: what opens, closes, remembers and moves bytes, and the operators behind one wrapper each.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <new>

#include "../cuda_library.h"
#include "backend.h"
#include "blas.h"
#include "graph.h"
#include "linear.h"
#include "machine.h"
#include "memory.h"
#include "pack.h"
#include "page.h"

namespace credence::cuda {

int fail(Backend& backend, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(backend.error, sizeof backend.error, format, arguments);
  va_end(arguments);
  return 1;
}

int check(Backend& backend, cudaError_t status, const char* what) {
  return status == cudaSuccess ? 0 : fail(backend, "%s: %s", what, cudaGetErrorString(status));
}

int wait_for_stream(Backend& backend, const char* what) {
  ++backend.host_synchronisations;
  return check(backend, cudaStreamSynchronize(backend.stream), what);
}

int refuse_recording(Backend& backend, const char* what) {
  return backend.recording ? fail(backend, "%s: launches are being recorded, and this needs the host", what) : 0;
}

namespace {

/// Waits for the device, and says what its kernels have seen.
int wait_for_device(Backend& backend, const char* what) {
  if (int error = refuse_recording(backend, what)) return error;
  if (int error = wait_for_stream(backend, what)) return error;
  const Fault seen = *backend.fault;
  if (seen.kind == FaultKind::none) return 0;
  backend.fault->kind = FaultKind::none;
  return fail(backend, "%s: %s", name_of(seen.op), words_of({seen.kind, seen.a, seen.b, seen.c, seen.d}).text);
}

void close_backend(Backend* backend) {
  if (backend->stream) cudaStreamSynchronize(backend->stream);
  if (backend->blas) blas_close(backend->blas);
  delete_ledger(*backend);
  delete backend;
}

int start(Backend& backend, int32_t device) {
  backend.device = device;
  if (int error = check(backend, cudaSetDevice(device), "device")) return error;
  if (int error = check(backend, cudaStreamCreateWithFlags(backend.stream.out(), cudaStreamNonBlocking), "stream"))
    return error;
  const auto status = cudaHostAlloc(backend.fault_room.out(), sizeof(Fault), cudaHostAllocMapped);
  if (int error = check(backend, status, "fault")) return error;
  backend.fault = new (backend.fault_room) Fault{};
  backend.blas_workspace = allocate(backend, blas_workspace_bytes());
  if (!backend.blas_workspace) return 1;
  backend.blas = blas_open(backend);
  return backend.blas ? 0 : 1;
}

credence_backend* open_backend(int32_t device, bool dry, char* error, size_t error_bytes) {
  auto* backend = new (std::nothrow) Backend;
  if (!backend) {
    snprintf(error, error_bytes, "not enough memory to start");
    return nullptr;
  }
  backend->dry = dry;
  backend->ledger = new_ledger();
  if (dry) backend->blas_workspace = allocate(*backend, blas_workspace_bytes());
  else if (start(*backend, device)) {
    snprintf(error, error_bytes, "%s", backend->error);
    close_backend(backend);
    return nullptr;
  }
  return reinterpret_cast<credence_backend*>(backend);
}

credence_backend* open_device(int32_t device, int32_t, char* error, size_t error_bytes) {
  return open_backend(device, false, error, error_bytes);
}
credence_backend* open_dry(char* error, size_t error_bytes) { return open_backend(0, true, error, error_bytes); }
void close_device(credence_backend* backend) { close_backend(&of(backend)); }
const char* last_error(credence_backend* backend) { return of(backend).error; }

void* alloc(credence_backend* backend, size_t bytes) {
  return refuse_recording(of(backend), "alloc") ? nullptr : allocate(of(backend), bytes);
}
void give_back(credence_backend* backend, void* memory) { release(of(backend), memory); }
credence_memory memory(credence_backend* backend, int32_t restart_peak) {
  return memory_of(of(backend), restart_peak != 0);
}
void limit(credence_backend* backend, size_t bytes) { limit_memory(of(backend), bytes); }

int move(credence_backend* handle, void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* what) {
  Backend& backend = of(handle);
  if (!bytes || backend.dry) return 0;
  if (int error = check(backend, cudaSetDevice(backend.device), what)) return error;
  return check(backend, cudaMemcpyAsync(to, from, bytes, kind, backend.stream), what);
}

int copy(credence_backend* backend, void* to, const void* from, size_t bytes) {
  return move(backend, to, from, bytes, cudaMemcpyDeviceToDevice, "copy");
}
// From memory that is not pinned the call returns when the bytes have been taken, so the caller may reuse them.
int write(credence_backend* backend, void* device, const void* host, size_t bytes) {
  if (int error = refuse_recording(of(backend), "write")) return error;
  return move(backend, device, host, bytes, cudaMemcpyHostToDevice, "write");
}
int read(credence_backend* handle, void* host, const void* device, size_t bytes) {
  if (of(handle).dry) {
    if (bytes) memset(host, 0, bytes);
    return 0;
  }
  if (int error = refuse_recording(of(handle), "read")) return error;
  if (int error = move(handle, host, device, bytes, cudaMemcpyDeviceToHost, "read")) return error;
  return wait_for_device(of(handle), "read");
}
int fill(credence_backend* handle, void* device, int32_t byte, size_t bytes) {
  Backend& backend = of(handle);
  if (!bytes || backend.dry) return 0;
  if (int error = check(backend, cudaSetDevice(backend.device), "fill")) return error;
  return check(backend, cudaMemsetAsync(device, byte, bytes, backend.stream), "fill");
}
int synchronise(credence_backend* backend) { return of(backend).dry ? 0 : wait_for_device(of(backend), "synchronise"); }

credence_event* event(credence_backend* handle) {
  Backend& backend = of(handle);
  if (refuse_recording(backend, "event")) return nullptr;
  std::unique_ptr<Event> made(new (std::nothrow) Event);
  if (!made) fail(backend, "not enough memory for an event");
  if (!made || backend.dry) return reinterpret_cast<credence_event*>(made.release());
  if (check(backend, cudaSetDevice(backend.device), "event") ||
      check(backend, cudaEventCreate(made->event.out()), "event") ||
      check(backend, cudaEventRecord(made->event, backend.stream), "event"))
    return nullptr;
  return reinterpret_cast<credence_event*>(made.release());
}
int wait(credence_backend* handle, credence_event* event) {
  Backend& backend = of(handle);
  if (backend.dry) return 0;
  ++backend.host_synchronisations;
  return check(backend, cudaEventSynchronize(reinterpret_cast<Event*>(event)->event), "wait");
}
double elapsed_ms(credence_backend* handle, credence_event* from, credence_event* to) {
  Backend& backend = of(handle);
  float milliseconds = 0;
  if (backend.dry || wait(handle, to)) return 0;
  check(backend,
        cudaEventElapsedTime(&milliseconds, reinterpret_cast<Event*>(from)->event, reinterpret_cast<Event*>(to)->event),
        "elapsed_ms");
  return static_cast<double>(milliseconds);
}
void free_event(credence_backend*, credence_event* event) { delete reinterpret_cast<Event*>(event); }
int64_t waits(credence_backend* backend) { return of(backend).host_synchronisations; }
const char* rows_differ(credence_backend* backend) { return *of(backend).differ ? of(backend).differ : nullptr; }
int bare_product(credence_backend* handle, int64_t m, int64_t n, int64_t k, credence_dtype dtype, const void* x,
                 const void* w, float* y) {
  Backend& backend = of(handle);
  if (int error = check(backend, cudaSetDevice(backend.device), "bare_product")) return error;
  Product p{m, n, k, dtype, x, k};
  p.w = w;
  p.ldw = k;
  p.y = y;
  p.ldy = n;
  return product(backend, p);
}

credence_weights* pack_weights(credence_backend* backend, const credence_weights_source* source) {
  if (refuse_recording(of(backend), "pack")) return nullptr;
  return reinterpret_cast<credence_weights*>(pack(of(backend), *source));
}
int repack_weights(credence_backend* backend, credence_weights* weights, const float* master) {
  return repack(of(backend), *of(weights), master);
}
void give_back_weights(credence_backend* backend, credence_weights* weights) { free_weights(of(backend), of(weights)); }
credence_lora* pack_adapter(credence_backend* backend, const credence_lora_layout* layout, const float* parameters) {
  if (refuse_recording(of(backend), "pack_lora")) return nullptr;
  return reinterpret_cast<credence_lora*>(pack_lora(of(backend), *layout, parameters));
}
int repack_adapter(credence_backend* backend, credence_lora* lora, const float* parameters) {
  return repack_lora(of(backend), *of(lora), parameters);
}
void give_back_adapter(credence_backend* backend, credence_lora* lora) { free_lora(of(backend), of(lora)); }

size_t page_bytes(const credence_shape* shape, credence_dtype dtype) {
  return static_cast<size_t>(page_elements(*shape)) * element_bytes(dtype);
}
int copy_page(credence_backend* backend, const credence_shape* shape, credence_dtype dtype, void* pages, int32_t to,
              int32_t from) {
  const size_t bytes = page_bytes(shape, dtype);
  char* base = static_cast<char*>(pages);
  return to == from ? 0 : copy(backend, base + to * bytes, base + from * bytes, bytes);
}

template <auto Run, class P>
int run(credence_backend* backend, const P* p, void* workspace) {
  return Run(of(backend), p, workspace);
}

credence_table make_table() {
  credence_table t = {};
  t.version = CREDENCE_TABLE_VERSION;
  t.name = device_name();
  t.isa = device_isa();
  t.unavailable = &unavailable;
  t.open = &open_device;
  t.open_dry = &open_dry;
  t.close = &close_device;
  t.last_error = &last_error;
  t.alloc = &alloc;
  t.free = &give_back;
  t.memory = &memory;
  t.limit = &limit;
  t.copy = &copy;
  t.write = &write;
  t.read = &read;
  t.fill = &fill;
  t.synchronise = &synchronise;
  t.event = &event;
  t.wait = &wait;
  t.elapsed_ms = &elapsed_ms;
  t.free_event = &free_event;
  t.waits = &waits;
  t.record = &record;
  t.recorded = &recorded;
  t.replay = &replay;
  t.free_graph = &free_graph;
  t.rows_differ = &rows_differ;
  t.bare_product = &bare_product;
  t.pack = &pack_weights;
  t.repack = &repack_weights;
  t.free_weights = &give_back_weights;
  t.pack_lora = &pack_adapter;
  t.repack_lora = &repack_adapter;
  t.free_lora = &give_back_adapter;
  t.page_bytes = &page_bytes;
  t.copy_page = &copy_page;
#define CREDENCE_ENTRY(name)              \
  t.name##_workspace = &name##_workspace; \
  t.name = &run<&name, credence_##name>;
  CREDENCE_OPERATORS(CREDENCE_ENTRY)
#undef CREDENCE_ENTRY
  return t;
}

}  // namespace
}  // namespace credence::cuda

extern "C" __attribute__((visibility("default"))) const credence_table* credence_backend_v4(int32_t version,
                                                                                            const char** reason) {
  static_assert(CREDENCE_TABLE_VERSION == 4, "the function's name says which table it gives");
  if (version != CREDENCE_TABLE_VERSION) {
    static thread_local char text[128];
    snprintf(text, sizeof text,
             "the library has kernels of version %d, the engine asks for %d; build both from one source",
             CREDENCE_TABLE_VERSION, version);
    *reason = text;
    return nullptr;
  }
  static const credence_table table = credence::cuda::make_table();
  return &table;
}
