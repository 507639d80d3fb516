#include "kernels/reference/heads.h"

#include <algorithm>
#include <cmath>

namespace credence::reference {

std::vector<double> pool(const std::vector<double>& x, int width, const std::vector<int32_t>& from,
                         const std::vector<int32_t>& to) {
  std::vector<double> y(from.size() * width);
  for (size_t s = 0; s < from.size(); ++s)
    for (int r = from[s]; r < to[s]; ++r)
      for (int i = 0; i < width; ++i) y[s * width + i] += x[static_cast<size_t>(r) * width + i] / (to[s] - from[s]);
  return y;
}

std::vector<double> pool_backward(const std::vector<double>& dy, int width, int x_rows,
                                  const std::vector<int32_t>& from, const std::vector<int32_t>& to) {
  std::vector<double> dx(static_cast<size_t>(x_rows) * width);
  for (size_t s = 0; s < from.size(); ++s)
    for (int r = from[s]; r < to[s]; ++r)
      for (int i = 0; i < width; ++i) dx[static_cast<size_t>(r) * width + i] += dy[s * width + i] / (to[s] - from[s]);
  return dx;
}

std::vector<double> dense(const Dense& p) {
  std::vector<double> y(static_cast<size_t>(p.rows) * p.out);
  for (int r = 0; r < p.rows; ++r)
    for (int o = 0; o < p.out; ++o) {
      double sum = p.bias.empty() ? 0 : p.bias[o];
      for (int i = 0; i < p.in; ++i)
        sum += p.x[static_cast<size_t>(r) * p.in + i] * p.weight[static_cast<size_t>(o) * p.in + i];
      y[static_cast<size_t>(r) * p.out + o] = p.relu ? std::max(0.0, sum) : sum;
    }
  return y;
}

DenseGradients dense_backward(const Dense& p, const std::vector<double>& dy) {
  const auto y = dense(p);
  DenseGradients g{std::vector<double>(p.x.size()), std::vector<double>(p.weight.size()), std::vector<double>(p.out)};
  for (int r = 0; r < p.rows; ++r)
    for (int o = 0; o < p.out; ++o) {
      const size_t at = static_cast<size_t>(r) * p.out + o;
      const double d = p.relu && y[at] <= 0 ? 0 : dy[at];
      g.dbias[o] += d;
      for (int i = 0; i < p.in; ++i) {
        g.dx[static_cast<size_t>(r) * p.in + i] += d * p.weight[static_cast<size_t>(o) * p.in + i];
        g.dweight[static_cast<size_t>(o) * p.in + i] += d * p.x[static_cast<size_t>(r) * p.in + i];
      }
    }
  return g;
}

double weighted_sum(const std::vector<double>& weight, const std::vector<double>& value) {
  double sum = 0;
  for (size_t i = 0; i < weight.size(); ++i)
    if (weight[i] != 0) sum += weight[i] * value[i];
  return sum;
}

SquaredError squared_error(const std::vector<double>& z, const std::vector<double>& target) {
  SquaredError out;
  for (size_t r = 0; r < z.size(); ++r) {
    const double s = 1 / (1 + std::exp(-z[r])), error = s - target[r];
    out.sum += error * error;
    out.dz.push_back(2 * error * s * (1 - s));
  }
  return out;
}

double gradient_norm(const std::vector<double>& g) {
  double sum = 0;
  for (double x : g) sum += x * x;
  return std::sqrt(sum);
}

// Loshchilov & Hutter 2019, algorithm 2, with the decay before the step as PyTorch does it.
void adamw(const AdamW& o, double norm, const std::vector<double>& g, std::vector<double>* p, std::vector<double>* m,
           std::vector<double>* v, std::vector<double>* average) {
  if (!std::isfinite(norm)) return;
  const double clip = o.max_norm > 0 ? std::min(1.0, o.max_norm / (norm * o.gradient_scale + 1e-6)) : 1;
  const double c1 = 1 - std::pow(o.beta1, o.step), c2 = 1 - std::pow(o.beta2, o.step);
  for (size_t i = 0; i < g.size(); ++i) {
    const double d = g[i] * o.gradient_scale * clip;
    (*m)[i] = o.beta1 * (*m)[i] + (1 - o.beta1) * d;
    (*v)[i] = o.beta2 * (*v)[i] + (1 - o.beta2) * d * d;
    (*p)[i] = (*p)[i] * (1 - o.lr * o.weight_decay) - o.lr * ((*m)[i] / c1) / (std::sqrt((*v)[i] / c2) + o.eps);
    if (average) (*average)[i] = o.average_decay * (*average)[i] + (1 - o.average_decay) * (*p)[i];
  }
}

}  // namespace credence::reference
