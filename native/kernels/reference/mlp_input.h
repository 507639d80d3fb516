// Norm, the fused gate|up product and the activation, in double.
#pragma once

#include <vector>

#include "linear.h"

namespace credence::reference {

enum class Activation { silu, gelu, gelu_tanh, relu, identity };

double activate(Activation activation, double x);
double derivative(Activation activation, double x);

/// h = norm(x);  u = linear(h);  a = activation(gate) up, or activation(u). linear.x is not read.
struct MlpInput {
  Norm norm;
  Linear linear;
  Activation activation = Activation::silu;
  bool gated = true;  // u [T, 2 I] is gate then up
  Round round = exact;
};

struct MlpInputResult {
  std::vector<double> h, u, a;
};

struct MlpInputGradients {
  NormGradients norm;
  LinearGradients linear;
};

MlpInputResult mlp_input(const MlpInput& p);
MlpInputGradients mlp_input_backward(const MlpInput& p, const std::vector<double>& da);

}  // namespace credence::reference
