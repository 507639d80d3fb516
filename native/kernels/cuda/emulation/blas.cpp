// Products by their definition, instead of cuBLASLt: sums over k in order, one multiply and one addition at a time.
#include "../blas.h"

#include <set>
#include <utility>
#include <vector>

#include "planted.h"

namespace credence::emulation {

namespace {
PlantedProducts planted = PlantedProducts::kNone;
}

void plant(PlantedProducts fault) { planted = fault; }
PlantedProducts planted_products() { return planted; }

}  // namespace credence::emulation

namespace credence::cuda {

struct Blas {
  std::set<std::pair<int64_t, int64_t>> one;  // N and K that one algorithm runs
};

Blas* blas_open(Backend&) { return new Blas; }
void blas_close(Blas* blas) { delete blas; }
size_t blas_workspace_bytes() { return 0; }
void blas_use_one(Backend& backend, const Product& p) { backend.blas->one.emplace(p.outputs, p.inputs - p.tail); }

namespace {

/// Whether a planted fault takes K from its end.
bool backwards(const Blas& blas, const Product& p) {
  using emulation::PlantedProducts;
  switch (emulation::planted_products()) {
    case PlantedProducts::kNone:
    case PlantedProducts::kChecked:
      return false;
    case PlantedProducts::kByRange:
      return p.rows > 1024 && !blas.one.contains({p.outputs, p.inputs - p.tail});
    case PlantedProducts::kBySeven:
      return p.rows == 7;
  }
  return false;
}

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

void multiply(const Product& p, bool from_the_end) {
  const std::vector<float> x = matrix(p.x, p.dtype, p.ldx, p.x_transposed, p.rows, p.inputs);
  const std::vector<float> w = matrix(p.w, p.dtype, p.ldw, !p.w_transposed, p.inputs, p.outputs);  // [K, N]
  std::vector<float> sums(static_cast<size_t>(p.outputs));
  for (int64_t m = 0; m < p.rows; ++m) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t i = 0; i < p.inputs; ++i) {
      const int64_t k = from_the_end ? p.inputs - 1 - i : i;
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
}

}  // namespace

int product(Backend& backend, const Product& p) {
  const bool from_the_end = backwards(*backend.blas, p);
  emulation::enqueue(backend.stream, [p, from_the_end] { multiply(p, from_the_end); });
  return 0;
}

}  // namespace credence::cuda
