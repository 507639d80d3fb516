#include "norm.h"

#include <cmath>

namespace credence::reference {

namespace {

struct Statistics {
  double mean, inv;
};

Statistics statistics(const Norm& p, int r) {
  const double* x = &p.x[static_cast<size_t>(r) * p.width];
  double mean = 0, squares = 0;
  if (p.layer) {
    for (int i = 0; i < p.width; ++i) mean += x[i] / p.width;
  }
  for (int i = 0; i < p.width; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1 / std::sqrt(squares / p.width + p.eps)};
}

}  // namespace

// Zhang & Sennrich 2019, eq. 4; Ba et al. 2016, eq. 3.
std::vector<double> norm(const Norm& p) {
  std::vector<double> y(p.x.size());
  for (int r = 0; r < p.rows; ++r) {
    const Statistics s = statistics(p, r);
    for (int i = 0; i < p.width; ++i) {
      const size_t at = static_cast<size_t>(r) * p.width + i;
      y[at] = p.round((p.x[at] - s.mean) * s.inv * p.weight[i] + (p.bias.empty() ? 0 : p.bias[i]));
    }
  }
  return y;
}

// With xhat = (x - mean) inv and g = weight dy:  dx = inv (g - mean(g) - xhat mean(g xhat)), mean(g) for layer norm only.
NormGradients norm_backward(const Norm& p, const std::vector<double>& dy) {
  NormGradients d{std::vector<double>(p.x.size()), std::vector<double>(p.width), std::vector<double>(p.width)};
  for (int r = 0; r < p.rows; ++r) {
    const Statistics s = statistics(p, r);
    const size_t row = static_cast<size_t>(r) * p.width;
    const auto xhat = [&](int i) { return (p.x[row + i] - s.mean) * s.inv; };
    double level = 0, along = 0;
    for (int i = 0; i < p.width; ++i) {
      const double g = p.weight[i] * dy[row + i];
      if (p.layer) level += g / p.width;
      along += g * xhat(i) / p.width;
      d.dweight[i] += dy[row + i] * xhat(i);
      d.dbias[i] += dy[row + i];
    }
    for (int i = 0; i < p.width; ++i) d.dx[row + i] = s.inv * (p.weight[i] * dy[row + i] - level - xhat(i) * along);
  }
  return d;
}

std::vector<double> embed(const std::vector<double>& table, int width, const std::vector<int32_t>& tokens,
                          double scale) {
  std::vector<double> x;
  for (int32_t token : tokens)
    for (int i = 0; i < width; ++i) x.push_back(scale * table[static_cast<size_t>(token) * width + i]);
  return x;
}

void embed_backward(const std::vector<double>& dx, int width, const std::vector<int32_t>& tokens, double scale,
                    std::vector<double>* dtable) {
  for (size_t t = 0; t < tokens.size(); ++t)
    for (int i = 0; i < width; ++i) (*dtable)[static_cast<size_t>(tokens[t]) * width + i] += scale * dx[t * width + i];
}

}  // namespace credence::reference
