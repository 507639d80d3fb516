// Products by their definition, instead of cuBLASLt: sums over k in order, one multiply and one addition at a time.
#include "../blas.h"

#include <vector>

namespace credence::cuda {

struct Blas {};

Blas* blas_open(Backend&) { return new Blas; }
void blas_close(Blas* blas) { delete blas; }
size_t blas_workspace_bytes() { return 0; }
int blas_choose(Backend&, int64_t, int64_t, int64_t, credence_dtype) { return 0; }

namespace {

float element(const void* data, credence_dtype dtype, int64_t at) {
  return dtype == CREDENCE_BF16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at])
                                : static_cast<const float*>(data)[at];
}

/// [rows, columns] in float32, turned if it is given so.
std::vector<float> matrix(const void* data, credence_dtype dtype, int64_t ld, bool transposed, int64_t rows,
                          int64_t columns) {
  std::vector<float> out(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      out[r * columns + c] = element(data, dtype, transposed ? c * ld + r : r * ld + c);
  return out;
}

}  // namespace

int product(Backend&, const Product& p) {
  const std::vector<float> x = matrix(p.x, p.dtype, p.ldx, p.x_transposed, p.rows, p.inputs);
  const std::vector<float> w = matrix(p.w, p.dtype, p.ldw, !p.w_transposed, p.inputs, p.outputs);  // [K, N]
  std::vector<float> sums(static_cast<size_t>(p.outputs));
  for (int64_t m = 0; m < p.rows; ++m) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t k = 0; k < p.inputs; ++k) {
      const float factor = x[m * p.inputs + k];
      const float* row = &w[k * p.outputs];
      for (int64_t n = 0; n < p.outputs; ++n) sums[n] += factor * row[n];
    }
    for (int64_t n = 0; n < p.outputs; ++n) {
      const int64_t at = m * p.ldy + n;
      const float sum = p.alpha * sums[n] + (p.add ? element(p.y, p.y_dtype, at) : 0.0f);
      if (p.y_dtype == CREDENCE_BF16) static_cast<__nv_bfloat16*>(p.y)[at] = __float2bfloat16(sum);
      else static_cast<float*>(p.y)[at] = sum;
    }
  }
  return 0;
}

}  // namespace credence::cuda
