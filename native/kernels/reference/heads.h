// Pooling, a head's dense layer, sums of losses and the optimiser, in double.
#pragma once

#include <cstdint>
#include <vector>

namespace credence::reference {

/// y[s] = mean of rows [from[s], to[s]) of x [.., width].
std::vector<double> pool(const std::vector<double>& x, int width, const std::vector<int32_t>& from,
                         const std::vector<int32_t>& to);
/// Gradient of pool for x of x_rows rows.
std::vector<double> pool_backward(const std::vector<double>& dy, int width, int x_rows,
                                  const std::vector<int32_t>& from, const std::vector<int32_t>& to);

struct Dense {
  int rows = 0, in = 0, out = 0;
  bool relu = false;
  std::vector<double> x, weight, bias;  // [rows, in], [out, in], [out] or empty
};

struct DenseGradients {
  std::vector<double> dx, dweight, dbias;
};

std::vector<double> dense(const Dense& p);
DenseGradients dense_backward(const Dense& p, const std::vector<double>& dy);

double weighted_sum(const std::vector<double>& weight, const std::vector<double>& value);

/// The sum of (sigmoid(z) - target)^2, and its gradient.
struct SquaredError {
  double sum = 0;
  std::vector<double> dz;
};
SquaredError squared_error(const std::vector<double>& z, const std::vector<double>& target);

double gradient_norm(const std::vector<double>& g);

struct AdamW {
  double gradient_scale = 1, max_norm = 0, lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;
  double average_decay = 0;
};

/// One step in place, or none where the norm is not finite; norm is of the whole gradient before gradient_scale.
void adamw(const AdamW& o, double norm, const std::vector<double>& g, std::vector<double>* p, std::vector<double>* m,
           std::vector<double>* v, std::vector<double>* average = nullptr);

}  // namespace credence::reference
