// What stands behind the opaque types of kernels.h on this back end, and what its host code shares.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "../kernels.h"
#include "cuda.h"
#include "faults.h"

namespace credence::cuda {

struct Ledger;  // memory.cpp
struct Blas;    // blas.h

/// What CUDA made, given back with its owner.
template <class T, auto Destroy>
class Owned {
 public:
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (made_) Destroy(made_);
  }
  T* out() { return &made_; }
  operator T() const { return made_; }

 private:
  T made_ = nullptr;
};

/// Sizes of products whose rows have been compared (check_rows.h).
struct CheckedSizes {
  int64_t outputs, inputs, tail;
  credence_dtype dtype, y_dtype;
  bool operator==(const CheckedSizes&) const = default;
};

struct Backend {
  int device = 0;
  bool dry = false;  // counts memory and has none
  Owned<cudaStream_t, &cudaStreamDestroy> stream;
  Ledger* ledger = nullptr;
  Blas* blas = nullptr;
  void* blas_workspace = nullptr;          // blas_workspace_bytes() that products may use
  Owned<void*, &cudaFreeHost> fault_room;  // host memory that the device can write
  Fault* fault = nullptr;                  // in it
  int64_t host_synchronisations = 0;       // how often the host waited for the device
  bool recording = false;                  // launches go into a graph
  int64_t replays = 0;  // of any graph: each may have filled slots with an adapter that the host does not know
  std::vector<CheckedSizes> checked;
  char differ[256] = "";  // the first product that gave a row other bits in another batch
  char error[512] = "";
};

/// Leaves a sentence in last_error and returns 1: `return fail(backend, "...", ...)`.
[[gnu::format(printf, 2, 3)]] int fail(Backend& backend, const char* format, ...);
/// 0, or 1 with "what: CUDA's words".
int check(Backend& backend, cudaError_t status, const char* what);
/// Waits for the device; counted.
int wait_for_stream(Backend& backend, const char* what);
/// 0, or 1 while launches are recorded: `what` needs the host.
int refuse_recording(Backend& backend, const char* what);

/// A matrix [rows, columns] row by row, both padded to 8 with zeros, and behind them the slots of an adapter:
///   [rows_padded + kSlot][columns_padded + kSlot]
/// scale B in the columns behind the matrix, A in the rows behind it, so that X W^T + scale S B^T is the one product
/// [X | S] [W | scale B]^T, and dY W + G A is [dY | G] [W ; A].
struct Weights {
  int32_t rows, columns;
  credence_dtype dtype;
  bool backward;
  int64_t ld;  // elements between rows
  void* data;
  mutable int64_t filled;        // the version of the adapter whose numbers the slots hold; 0: none yet
  mutable int64_t filled_after;  // as many replays of graphs: one more, and the slots hold what that filled in
};

constexpr int kSlot = 64;  // ranks that a slot has room for; an adapter of more takes a second product

struct Lora {
  credence_lora_layout layout;
  int32_t ranks, ranks_padded;              // of all slices: the width of S; padded to 16 with zeros
  int32_t first_rank[CREDENCE_MAX_SLICES];  // where a slice's columns of S begin
  int64_t lda, ldb;
  void* a;          // [ranks_padded, columns padded to 8]
  void* b;          // [rows padded to 8, ranks_padded] scale B, zero where a slice has no rows
  int64_t version;  // a number of its own for each packing
};

struct Event {
  Owned<cudaEvent_t, &cudaEventDestroy> event;
};

inline Backend& of(credence_backend* backend) { return *reinterpret_cast<Backend*>(backend); }
inline Weights* of(credence_weights* weights) { return reinterpret_cast<Weights*>(weights); }
inline const Weights* of(const credence_weights* weights) { return reinterpret_cast<const Weights*>(weights); }
inline Lora* of(credence_lora* lora) { return reinterpret_cast<Lora*>(lora); }
inline const Lora* of(const credence_lora* lora) { return reinterpret_cast<const Lora*>(lora); }

inline size_t element_bytes(credence_dtype dtype) { return dtype == CREDENCE_BF16 ? 2 : 4; }
inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// An operator's workspace, handed out piece by piece: the same lines measure it (no base) and use it, so they cannot differ.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  /// Of the activation type.
  void* take(int64_t count, credence_dtype dtype) {
    return take_bytes(static_cast<size_t>(count) * element_bytes(dtype));
  }
  size_t used() const { return used_; }

 private:
  void* take_bytes(size_t bytes) {
    char* piece = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + 255) / 256 * 256;
    return piece;
  }
  char* base_;
  size_t used_ = 0;
};

// A .cu each subject.
#define CREDENCE_DECLARE(name)                       \
  size_t name##_workspace(const credence_##name* p); \
  int name(Backend& backend, const credence_##name* p, void* workspace);
CREDENCE_OPERATORS(CREDENCE_DECLARE)
#undef CREDENCE_DECLARE

}  // namespace credence::cuda
