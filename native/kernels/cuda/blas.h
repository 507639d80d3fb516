// Dense products, behind five functions: cuBLASLt on a GPU (blas_cublaslt.cpp), plain sums in the emulation
// (emulation/blas.cpp). Everything else of this back end is written by hand. check_rows.h asks them for equal bits.
#pragma once

#include "backend.h"

namespace credence::cuda {

/// Y[m, n] = alpha sum over k of X[m, k] W[n, k]  (+ Y[m, n] if `add`), sums in float32 and in order for every M.
struct Product {
  int64_t rows, outputs, inputs;  // M, N, K
  credence_dtype dtype;           // of X and W
  const void* x;                  // [M, K], or [K, M] if x_transposed
  int64_t ldx;
  const void* w = nullptr;  // [N, K], or [K, N] if w_transposed
  int64_t ldw = 0;
  void* y = nullptr;  // [M, N]
  int64_t ldy = 0;
  bool x_transposed = false, w_transposed = false;
  credence_dtype y_dtype = CREDENCE_F32;
  float alpha = 1;
  bool add = false;
  int64_t tail = 0;  // of K, at its end: an adapter's. With it and without it one algorithm runs.
};

/// Null, with the reason in last_error, where there is no library for products.
Blas* blas_open(Backend& backend);
void blas_close(Blas* blas);
/// Scratch that products share; part of the back end's memory.
size_t blas_workspace_bytes();
/// From now on one algorithm, that of the largest M, runs products of this one's N and K whatever their M.
void blas_use_one(Backend& backend, const Product& p);
int product(Backend& backend, const Product& p);

}  // namespace credence::cuda
