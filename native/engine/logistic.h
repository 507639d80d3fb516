// Ridge logistic regression with soft targets: the only fit a probe needs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace credence {

/// Which of two equal ways solves a Newton step: a system of [width + 1] unknowns, or one of [rows] (Woodbury's identity).
enum class LogisticPath { automatic, primal, dual };

/// Minimises over w [width] and b
///   mean_i( log(1 + exp(z_i)) - target_i z_i ) + penalty |w - t_w|^2 + 5e-10 (b - t_b)^2,   z_i = w . x_i + b,
/// by Newton's method from (t_w, t_b): at most 30 steps, halved while they raise the loss, until none moves a coordinate by 1e-6.
///   x        [rows, width] row-major, standardised
///   targets  [rows] in [0, 1]
///   towards  [width + 1], t_w then t_b; null: zeros
/// Returns [width + 1], the offset b last. The result has the same bits for every number of threads; `isa` is one of the CPU's tables, or "auto".
/// Throws Error "BAD_INPUT" for an empty or non-finite problem, or one on which Newton's method leaves the finite numbers.
std::vector<double> fit_logistic(const double* x, int64_t rows, int64_t width, const double* targets, double penalty,
                                 const double* towards, int threads, const std::string& isa = "auto",
                                 LogisticPath path = LogisticPath::automatic);

}  // namespace credence
