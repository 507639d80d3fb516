// A linear layer with an adapter, and the two operators that add one to the residual stream, in double.
// One letter per axis: T rows, N outputs, K columns, R rank.
#pragma once

#include <vector>

#include "norm.h"

namespace credence::reference {

/// Y[:, row_begin .. row_end) += scale S B^T, S = X A^T. (Hu et al. 2021, eq. 3.)
struct LoraSlice {
  int row_begin = 0, row_end = 0, rank = 0;
  double scale = 1;
  std::vector<double> a, b;  // [R, K], [row_end - row_begin, R]
};

/// Which elements of an adapter's input are dropped (kernels.h, credence_dropout).
struct Dropout {
  double p = 0;
  uint64_t key = 0;
  std::vector<uint64_t> row_key;  // [T]

  /// 1 where a slice keeps element `column` of row t, 0 where it is dropped.
  double keeps(int t, int slice, int column) const;
  double scale() const { return 1 / (1 - p); }
};

/// Y = X W^T + adapter + bias. `round` is applied to S, scale B and, backward, to dY and G, both with the
/// scale of dropout: what is stored on the way.
struct Linear {
  int rows = 0, outputs = 0, columns = 0;
  std::vector<double> x;        // [T, K]
  std::vector<double> weights;  // [N, K]
  std::vector<double> bias;     // [N] or empty
  std::vector<LoraSlice> slices;
  Dropout dropout;
  Round round = exact;
};

struct LinearGradients {
  std::vector<double> dx;               // [T, K]
  std::vector<double> dweights, dbias;  // [N, K], [N]
  std::vector<std::vector<double>> da, db;
};

std::vector<double> linear(const Linear& p);
/// [T, sum of ranks]
std::vector<double> lora_s(const Linear& p);
LinearGradients linear_backward(const Linear& p, const std::vector<double>& dy);

/// x + linear.
std::vector<double> project(const Linear& p, const std::vector<double>& x);

}  // namespace credence::reference
