#include "linear.h"

#include <cmath>

#include "kernels/philox.h"

namespace credence::reference {

double Dropout::keeps(int t, int slice, int column) const {
  if (p == 0) return 1;
  const uint64_t row = row_key[t];
  const auto words = philox({static_cast<uint32_t>(column / 32 * 8 + column % 8), static_cast<uint32_t>(slice),
                             static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32)},
                            key);
  return words[column / 8 % 4] < std::floor(p * 0x1p32) ? 0 : 1;
}

std::vector<double> lora_s(const Linear& p) {
  std::vector<double> s;
  for (int t = 0; t < p.rows; ++t)
    for (size_t i = 0; i < p.slices.size(); ++i)
      for (int r = 0; r < p.slices[i].rank; ++r) {
        double sum = 0;
        for (int k = 0; k < p.columns; ++k)
          sum += p.dropout.keeps(t, static_cast<int>(i), k) * p.x[static_cast<size_t>(t) * p.columns + k] *
                 p.round(p.slices[i].a[static_cast<size_t>(r) * p.columns + k]);
        s.push_back(p.round(sum * p.dropout.scale()));
      }
  return s;
}

std::vector<double> linear(const Linear& p) {
  std::vector<double> y(static_cast<size_t>(p.rows) * p.outputs);
  const std::vector<double> s = lora_s(p);
  size_t ranks = 0;
  for (const LoraSlice& slice : p.slices) ranks += slice.rank;
  for (int t = 0; t < p.rows; ++t) {
    for (int n = 0; n < p.outputs; ++n) {
      double sum = p.bias.empty() ? 0 : p.bias[n];
      for (int k = 0; k < p.columns; ++k)
        sum += p.x[static_cast<size_t>(t) * p.columns + k] * p.weights[static_cast<size_t>(n) * p.columns + k];
      size_t first = t * ranks;
      for (const LoraSlice& slice : p.slices) {
        if (n >= slice.row_begin && n < slice.row_end)
          for (int r = 0; r < slice.rank; ++r)
            sum += s[first + r] *
                   p.round(slice.scale * slice.b[static_cast<size_t>(n - slice.row_begin) * slice.rank + r]);
        first += slice.rank;
      }
      y[static_cast<size_t>(t) * p.outputs + n] = sum;
    }
  }
  return y;
}

// With G = scale dY B / (1 - p) and mask the 0 and 1 of dropout:  dX = dY W + mask (G A);  dA = G^T (mask X);
// dB = scale dY^T S.
LinearGradients linear_backward(const Linear& p, const std::vector<double>& dy_exact) {
  const size_t rows = p.rows, outputs = p.outputs, columns = p.columns;
  LinearGradients d{std::vector<double>(rows * columns),
                    std::vector<double>(outputs * columns),
                    std::vector<double>(outputs),
                    {},
                    {}};
  std::vector<double> dy;
  for (double value : dy_exact) dy.push_back(p.round(value));
  for (size_t t = 0; t < rows; ++t)
    for (size_t n = 0; n < outputs; ++n) {
      d.dbias[n] += dy[t * outputs + n];
      for (size_t k = 0; k < columns; ++k) {
        d.dx[t * columns + k] += dy[t * outputs + n] * p.weights[n * columns + k];
        d.dweights[n * columns + k] += dy[t * outputs + n] * p.x[t * columns + k];
      }
    }
  const std::vector<double> s = lora_s(p);
  size_t first = 0, ranks = 0;
  for (const LoraSlice& slice : p.slices) ranks += slice.rank;
  for (const LoraSlice& slice : p.slices) {
    std::vector<double> da(slice.a.size()), db(slice.b.size());
    const size_t rank = slice.rank, width = slice.row_end - slice.row_begin;
    const int index = static_cast<int>(&slice - p.slices.data());
    for (size_t t = 0; t < rows; ++t)
      for (size_t r = 0; r < rank; ++r) {
        double g = 0;
        for (size_t n = 0; n < width; ++n) {
          const double upstream = dy[t * outputs + slice.row_begin + n];
          g += upstream * p.round(slice.scale * slice.b[n * rank + r]);
          db[n * rank + r] += slice.scale * upstream * s[t * ranks + first + r];
        }
        g = p.round(g * p.dropout.scale());
        for (size_t k = 0; k < columns; ++k) {
          const double kept = g * p.dropout.keeps(static_cast<int>(t), index, static_cast<int>(k));
          da[r * columns + k] += kept * p.x[t * columns + k];
          d.dx[t * columns + k] += kept * p.round(slice.a[r * columns + k]);
        }
      }
    first += rank;
    d.da.push_back(da);
    d.db.push_back(db);
  }
  return d;
}

std::vector<double> project(const Linear& p, const std::vector<double>& x) {
  std::vector<double> y = linear(p);
  for (size_t i = 0; i < y.size(); ++i) y[i] += x[i];
  return y;
}

}  // namespace credence::reference
