// What one token adds to the losses of proximal policy optimisation (kernels.h, credence_policy_loss and credence_value_loss), and
// what the advantage step has in common with them, for the host and for the device. In double: float32 log-probabilities that
// are equal give a ratio of exactly 1.
#pragma once

#include <math.h>

#include "faults.h"

namespace credence {

/// Schulman 2020, "Approximating KL Divergence", with r = log p - log p_ref: k1 = r, k2 = r^2 / 2, k3 = e^-r - 1 + r.
CREDENCE_BOTH static inline double kl_estimate(int32_t estimator, double r) {
  return estimator == 1 ? r : estimator == 2 ? r * r / 2 : expm1(-r) + r;
}

CREDENCE_BOTH static inline double kl_slope(int32_t estimator, double r) {
  return estimator == 1 ? 1 : estimator == 2 ? r : -expm1(-r);
}

/// The larger, and NaN where there is one.
CREDENCE_BOTH static inline double larger_or_nan(double a, double b) {
  return b <= a ? b != b ? b : a : a != a ? a : b;
}

CREDENCE_BOTH static inline void add(credence_policy_sums& to, const credence_policy_sums& more) {
  to.weight += more.weight;
  to.policy += more.policy;
  to.ratio += more.ratio;
  to.clipped += more.clipped;
  to.outside += more.outside;
  to.old_kl1 += more.old_kl1;
  to.old_kl2 += more.old_kl2;
  to.reference_kl += more.reference_kl;
  to.entropy += more.entropy;
  to.ratio_change = larger_or_nan(to.ratio_change, more.ratio_change);
}

CREDENCE_BOTH static inline void add(credence_value_sums& to, const credence_value_sums& more) {
  to.weight += more.weight;
  to.loss += more.loss;
  to.error += more.error;
  to.clipped += more.clipped;
}

/// The loss that the sums of its rows come to.
CREDENCE_BOTH static inline double loss_of(const credence_policy_loss& p, const credence_policy_sums& sums) {
  return sums.policy + static_cast<double>(p.kl_coefficient) * sums.reference_kl -
         static_cast<double>(p.entropy_coefficient) * sums.entropy;
}

CREDENCE_BOTH static inline double loss_of(const credence_value_loss& p, const credence_value_sums& sums) {
  return static_cast<double>(p.coefficient) * sums.loss;
}

/// One row's share of the sums, and its gradients.
struct PolicyTerm {
  credence_policy_sums sums;
  float d_logprob, d_entropy;
};

CREDENCE_BOTH static inline PolicyTerm policy_term(const credence_policy_loss& p, int64_t row) {
  PolicyTerm term = {};
  const double weight = static_cast<double>(p.weight[row]);
  if (weight == 0) return term;
  const double low = 1 - static_cast<double>(p.clip_low), high = 1 + static_cast<double>(p.clip_high);
  const double gain = -static_cast<double>(p.advantage[row]), logprob = static_cast<double>(p.logprob[row]);
  const double r = logprob - static_cast<double>(p.old_logprob[row]), ratio = exp(r);
  const double clipped = ratio < low ? low : ratio > high ? high : ratio;
  const bool binds = gain * clipped > gain * ratio;
  double slope = binds ? 0 : gain * ratio;
  credence_policy_sums& sums = term.sums;
  sums.weight = weight;
  sums.policy = weight * gain * (binds ? clipped : ratio);
  sums.ratio = weight * ratio;
  sums.clipped = binds ? weight : 0;
  sums.outside = ratio < low || ratio > high ? weight : 0;
  sums.old_kl1 = -weight * r;
  sums.old_kl2 = weight * r * r / 2;
  sums.ratio_change = fabs(ratio - 1);
  if (p.ref_logprob) {
    const double s = logprob - static_cast<double>(p.ref_logprob[row]);
    sums.reference_kl = weight * kl_estimate(p.kl_estimator, s);
    slope += static_cast<double>(p.kl_coefficient) * kl_slope(p.kl_estimator, s);
  }
  term.d_logprob = static_cast<float>(weight * slope);
  if (p.entropy) {
    sums.entropy = weight * static_cast<double>(p.entropy[row]);
    term.d_entropy = static_cast<float>(-weight * static_cast<double>(p.entropy_coefficient));
  }
  return term;
}

struct ValueTerm {
  credence_value_sums sums;
  float d_value;
};

CREDENCE_BOTH static inline ValueTerm value_term(const credence_value_loss& p, int64_t row) {
  ValueTerm term = {};
  const double weight = static_cast<double>(p.weight[row]);
  if (weight == 0) return term;
  const double value = static_cast<double>(p.value[row]), returns = static_cast<double>(p.returns[row]);
  const double error = value - returns, clip = static_cast<double>(p.clip);
  double moved = error;
  if (clip > 0) {
    const double old = static_cast<double>(p.old_value[row]), step = value - old;
    moved = old + (step < -clip ? -clip : step > clip ? clip : step) - returns;
  }
  const bool outside = clip > 0 && moved * moved > error * error;
  term.sums.weight = weight;
  term.sums.loss = weight * (outside ? moved * moved : error * error) / 2;
  term.sums.error = weight * error * error;
  term.sums.clipped = outside ? weight : 0;
  term.d_value = outside ? 0.0f : static_cast<float>(static_cast<double>(p.coefficient) * weight * error);
  return term;
}

/// One over what a number is divided by to whiten it; the variance of fewer than two numbers is 0.
CREDENCE_BOTH static inline double whitening_scale(double n, double squares, credence_whitening kind, float eps) {
  const double variance = n < 2 ? 0 : squares / (kind == CREDENCE_UNBIASED ? n - 1 : n);
  return 1 / sqrt(variance + static_cast<double>(eps));
}

/// What has to be right before a launch; null: nothing is wrong.
static inline const char* wrong_with(const credence_advantage& p) {
  if (p.ref_logprob && (p.kl_estimator < 1 || p.kl_estimator > 3)) return "kl_estimator is none of 1, 2 and 3";
  if (!(p.score_clamp >= 0)) return "score_clamp is not a number from 0";
  if (!(p.whiten_eps >= 0)) return "whiten_eps is not a number from 0";
  return nullptr;
}

static inline const char* wrong_with(const credence_policy_loss& p) {
  if (p.ref_logprob && (p.kl_estimator < 1 || p.kl_estimator > 3)) return "kl_estimator is none of 1, 2 and 3";
  if (!(p.clip_low >= 0 && p.clip_high >= 0)) return "the range of the ratio is not around 1";
  return nullptr;
}

static inline const char* wrong_with(const credence_value_loss& p) {
  return p.clip >= 0 ? nullptr : "the clip is not a number from 0";
}

}  // namespace credence
