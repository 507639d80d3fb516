// Kernels at the sizes of two models, SmolLM2-135M and Llama-3-8B: the four fused products of a layer bare and adapted, attention
// over lengths, head sizes and short segments.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench_operators.h"

namespace credence {

/// "products": a layer's fused products without an adapter at 2,048 and 256 rows (the small model also at 16 and 1), each in the operator that runs it (norm and
/// rotary, norm and activation, residual included in the time and not in the FLOP); "lora": the same four with an adapter of
/// rank 16 beside without, forward and backward, SmolLM2-135M; "attention"; "operators": bench_operators.h.
const std::vector<std::string>& kernel_groups();

/// The lines of "products" or "attention". `tokens`: the larger number of rows and the middle length; 2,048 where a number is
/// to be quoted.
std::vector<OperatorLine> bench_products(const std::shared_ptr<Device>& device, int tokens, double seconds);
std::vector<OperatorLine> bench_attention(const std::shared_ptr<Device>& device, int tokens, double seconds);

/// Seconds of the four products of a layer, best times summed.
struct AdapterLine {
  const char* pass;  // "forward", "backward"
  int rows = 0;
  double bare = 0, adapted = 0;
};
std::vector<AdapterLine> bench_adapter(const std::shared_ptr<Device>& device, int tokens, double seconds);

/// One of the products of "products", to be run beside another library's: y [rows, outputs] = x [rows, columns] W^T.
struct ProductCase {
  std::string model, product;
  int rows = 0, outputs = 0, columns = 0;
};
std::vector<ProductCase> product_cases(int tokens);
class ProductRun {
 public:
  virtual ~ProductRun() = default;
  virtual void run() = 0;
};
std::unique_ptr<ProductRun> open_product(const std::shared_ptr<Device>& device, const ProductCase& which);

}  // namespace credence
