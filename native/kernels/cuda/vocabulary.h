// The vocabulary's logits, rows in chunks, and what remains of each row: one code for scoring and sampling, so that a token's
// log-probability has the same bits in both. One letter per axis: R rows, H width, V vocabulary, V8 padded to 8.
#pragma once

#include "backend.h"
#include "launch.h"

namespace credence::cuda {

/// Of one row over the vocabulary.
struct RowSums {
  float most, lse, entropy;
};

/// Rows of hidden states laid out for a product, and their logits. A chunk is as many rows as fit kLogitBytes.
struct LogitSpace {
  int32_t chunk;  // rows
  void* h;        // [chunk, H8] act, rows beyond the count zero
  int64_t ldh;
  float* z;  // [chunk, V8]
  int64_t ldz;
  RowSums* sums;  // [chunk]

  LogitSpace(Workspace* space, int32_t capacity, int32_t width, int32_t vocabulary, credence_dtype dtype);
};

/// Rows of a launch that goes through the capacity a chunk at a time.
struct Chunk {
  int32_t first, size;  // rows [first, first + size) of the capacity
};

/// body(chunk) for all of them; the first error ends it.
template <class Body>
int for_chunks(int32_t capacity, int32_t size, const Body& body) {
  for (int32_t first = 0; first < capacity; first += size)
    if (int error = body(Chunk{first, capacity - first < size ? capacity - first : size})) return error;
  return 0;
}

/// z = h W^T for a chunk, and with `sums` each row's sums.
int logits(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, Chunk chunk, const Weights& weights,
           const void* h, int64_t ldh, const LogitSpace& space, bool sums);

/// Gradients through the logits: dh [R, lddh] = dz W and dW [V, H] += dz^T h, either null. dz [chunk, V8] act, rows beyond
/// the count zero.
struct LogitGradientSpace {
  void* dz = nullptr;   // [chunk, V8] act
  float* dh = nullptr;  // [chunk, H8]

  LogitGradientSpace() = default;
  LogitGradientSpace(Workspace* space, const LogitSpace& logits, credence_dtype dtype);
};

int logit_gradients(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, Chunk chunk,
                    const Weights& weights, const LogitSpace& space, const LogitGradientSpace& gradients, float* dh,
                    int64_t lddh, float* dweights);

}  // namespace credence::cuda
