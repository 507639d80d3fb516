#include "mlp_input.h"

#include <cmath>
#include <numbers>

namespace credence::reference {

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double tanh_argument(double x) { return 2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x); }

Linear with_input(const MlpInput& p, const std::vector<double>& h) {
  Linear linear = p.linear;
  linear.x = h;
  return linear;
}

}  // namespace

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu:
      return x * normal_cdf(x);
    case Activation::gelu_tanh:
      return x * sigmoid(tanh_argument(x));
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::identity:
      return x;
  }
  return x;
}

double derivative(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    case Activation::gelu:
      return normal_cdf(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case Activation::gelu_tanh: {
      const double s = sigmoid(tanh_argument(x)),
                   slope = 2 * std::sqrt(2 / std::numbers::pi) * (1 + 3 * 0.044715 * x * x);
      return s + x * s * (1 - s) * slope;
    }
    case Activation::relu:
      return x > 0 ? 1 : 0;
    case Activation::identity:
      return 1;
  }
  return 1;
}

MlpInputResult mlp_input(const MlpInput& p) {
  MlpInputResult result;
  result.h = norm(p.norm);
  const std::vector<double> u = linear(with_input(p, result.h));
  const int outputs = p.linear.outputs, width = p.gated ? outputs / 2 : outputs;
  for (int t = 0; t < p.linear.rows; ++t)
    for (int i = 0; i < width; ++i) {
      const double* row = &u[static_cast<size_t>(t) * outputs];
      result.a.push_back(p.round(activate(p.activation, row[i]) * (p.gated ? row[width + i] : 1)));
    }
  for (double value : u) result.u.push_back(p.round(value));
  return result;
}

MlpInputGradients mlp_input_backward(const MlpInput& p, const std::vector<double>& da) {
  const MlpInputResult forward = mlp_input(p);
  const int outputs = p.linear.outputs, width = p.gated ? outputs / 2 : outputs;
  std::vector<double> du(forward.u.size());
  for (int t = 0; t < p.linear.rows; ++t)
    for (int i = 0; i < width; ++i) {
      const double* u = &forward.u[static_cast<size_t>(t) * outputs];
      double* d = &du[static_cast<size_t>(t) * outputs];
      const double upstream = da[static_cast<size_t>(t) * width + i];
      d[i] = upstream * derivative(p.activation, u[i]) * (p.gated ? u[width + i] : 1);
      if (p.gated) d[width + i] = upstream * activate(p.activation, u[i]);
    }
  MlpInputGradients d;
  d.linear = linear_backward(with_input(p, forward.h), du);
  d.norm = norm_backward(p.norm, d.linear.dx);
  return d;
}

}  // namespace credence::reference
