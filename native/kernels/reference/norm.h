// Norms and the embedding, in double: the definition. One letter per axis: T rows, H width.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <vector>

namespace credence::reference {

/// What a stored activation becomes. `exact` keeps it; a test that asks how far plain bf16 is off passes its rounding.
using Round = double (*)(double);
inline double exact(double x) { return x; }

/// h = round(norm(x)).
struct Norm {
  int rows = 0, width = 0;
  bool layer = false;  // layer norm; else RMS
  double eps = 1e-5;
  std::vector<double> x;             // [T, H]
  std::vector<double> weight, bias;  // [H]; bias may be empty
  Round round = exact;
};

struct NormGradients {
  std::vector<double> dx;              // [T, H]
  std::vector<double> dweight, dbias;  // [H]
};

std::vector<double> norm(const Norm& p);
NormGradients norm_backward(const Norm& p, const std::vector<double>& dy);

/// [T, H]: row tokens[t] of the table [V, H], times scale.
std::vector<double> embed(const std::vector<double>& table, int width, const std::vector<int32_t>& tokens,
                          double scale);
/// Added to dtable [V, H].
void embed_backward(const std::vector<double>& dx, int width, const std::vector<int32_t>& tokens, double scale,
                    std::vector<double>* dtable);

}  // namespace credence::reference
