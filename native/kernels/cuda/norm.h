// Norms over rows, for the operators that begin with one, and their way back. One block a row, statistics in float32.
#pragma once

#include "device.h"
#include "launch.h"

namespace credence::cuda {

/// What a row is normed with: (x - mean) inv. mean is 0 for RMS.
struct NormRow {
  float mean, inv;
};

/// y = norm(x) for rows as kernels.h's credence_norm has them; T: the activation type.
struct NormRows {
  const int32_t* rows;
  int32_t capacity, width;
  credence_norm_kind kind;
  float eps;
  const int32_t* index;  // or null
  const float* x;
  int64_t ldx;
  const float *weight, *bias;  // bias or null
  void* y;                     // [rows, ldy] act, or null
  int64_t ldy;
  float* y_f32;  // or null; may be x
  int64_t ldy_f32;
  float* inv_rms;  // or null
  void* laid_out;  // [capacity, ld_laid_out] act: the same, zeros behind it and in rows beyond the count; or null
  int64_t ld_laid_out;
};

int norm_rows(Backend& backend, Operator op, credence_dtype dtype, const NormRows& p);

/// The backward of a norm. Row r of dy belongs to row index ? index[r] : r of x and dx.
struct NormGradient {
  const int32_t* rows;
  int32_t capacity, width;
  credence_norm_kind kind;
  float eps;
  const int32_t* index;
  const float* x;
  int64_t ldx;
  const float* weight;
  const float* inv_rms;  // or null: computed again
  const float* dy;
  int64_t lddy;
  float* dx;  // added to, or null
  int64_t lddx;
  float *dweight, *dbias;  // added to, or null
};

struct NormGradientSpace {
  NormRow* statistics;  // [capacity]
  float* sums;

  NormGradientSpace(Workspace* space, int64_t capacity, int64_t width);
};

int norm_gradient(Backend& backend, Operator op, const NormGradient& g, const NormGradientSpace& space);

/// Threads of a block that goes over a row of `width`.
inline int row_threads(int64_t width) {
  const int64_t threads = round_up(ceil_div(width, 4), 32);
  return static_cast<int>(threads > 256 ? 256 : threads);
}

/// Sums over a row's differences from `mean`, by a whole block.
__device__ __forceinline__ NormRow norm_statistics(const float* x, int32_t width, credence_norm_kind kind, float eps,
                                                   float* shared) {
  float mean = 0;
  if (kind == CREDENCE_LAYER_NORM) {
    float sum = 0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += static_cast<int32_t>(blockDim.x)) sum += x[i];
    mean = block_reduce(sum, Sum(), 0.0f, shared) / static_cast<float>(width);
  }
  float squares = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += static_cast<int32_t>(blockDim.x))
    squares += (x[i] - mean) * (x[i] - mean);
  squares = block_reduce(squares, Sum(), 0.0f, shared);
  return {mean, 1.0f / sqrtf(squares / static_cast<float>(width) + eps)};
}

}  // namespace credence::cuda
