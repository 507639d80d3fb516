#include "kernels/reference/ppo.h"

#include <algorithm>
#include <cmath>

namespace credence::reference {

double Moments::deviation(Whitening kind, double eps) const {
  const double divisor = kind == Whitening::kUnbiased ? n - 1 : n;
  return std::sqrt((n < 2 ? 0 : squares / divisor) + eps);
}

namespace {

Moments moments_of(const std::vector<double>& values) {
  Moments m;
  m.n = static_cast<double>(values.size());
  for (double x : values) m.mean += x / m.n;
  for (double x : values) m.squares += (x - m.mean) * (x - m.mean);
  return m;
}

}  // namespace

// GAE: Schulman et al. 2016, eq. 16. Estimators of the divergence: Schulman 2020, with r = log p - log p_ref:
// k1 = r, k2 = r^2 / 2, k3 = exp(-r) - 1 + r. Masks: values and rewards are multiplied by them, as in TRL 0.7.
AdvantageResult advantage(const Advantage& p) {
  const size_t tokens = p.value.size(), segments = p.cu_seqlens.size() - 1;
  AdvantageResult out;
  for (auto* list : {&out.reward, &out.advantage, &out.returns, &out.whitened}) list->resize(tokens);
  const auto first_of = [&](size_t b) { return p.cu_seqlens[b] + p.completion_start[b]; };
  const auto counts = [&](int t) { return p.mask.empty() || p.mask[t]; };
  std::vector<int> counted;
  for (size_t b = 0; b < segments; ++b) {
    int score_at = -1;
    for (int t = first_of(b); t < p.cu_seqlens[b + 1]; ++t) {
      if (!counts(t)) continue;
      counted.push_back(t);
      score_at = t;
      if (!p.token_reward.empty()) out.reward[t] = p.token_reward[t];
      if (p.ref_logprob.empty()) continue;
      const double r = p.logprob[t] - p.ref_logprob[t];
      double kl = p.kl_estimator == 1 ? r : p.kl_estimator == 2 ? r * r / 2 : std::exp(-r) - 1 + r;
      if (p.kl_clamp) kl = std::max(kl, 0.0);
      out.reward[t] -= p.kl_coefficient * kl;
    }
    if (!p.score_at.empty()) score_at = p.score_at[b] < 0 ? -1 : p.cu_seqlens[b] + p.score_at[b];
    double score = (p.score[b] - p.score_shift) * p.score_scale;
    if (p.score_clamp > 0) score = std::clamp(score, -p.score_clamp, p.score_clamp);
    if (score_at >= 0 && counts(score_at)) out.reward[score_at] += score;
  }
  const auto at_counted = [&](const std::vector<double>& values) {
    std::vector<double> taken;
    for (int t : counted) taken.push_back(values[t]);
    return taken;
  };
  if (p.whiten_rewards != Whitening::kNone) {
    const Moments m = out.reward_moments = moments_of(at_counted(out.reward));
    for (int t : counted)
      out.reward[t] = (out.reward[t] - m.mean) / m.deviation(p.whiten_rewards, p.whiten_eps) + m.mean;
  }
  for (size_t b = 0; b < segments; ++b) {
    double next_value = p.bootstrap.empty() ? 0 : p.bootstrap[b], next_advantage = 0;
    for (int t = p.cu_seqlens[b + 1] - 1; t >= first_of(b); --t) {
      const double value = counts(t) ? p.value[t] : 0;
      const double delta = out.reward[t] + p.gamma * next_value - value;
      out.advantage[t] = next_advantage = delta + p.gamma * p.lambda * next_advantage;
      out.returns[t] = out.advantage[t] + value;
      next_value = value;
    }
  }
  const Moments m = out.moments = moments_of(at_counted(out.advantage));
  for (int t : counted) {
    out.whitened[t] = out.advantage[t];
    if (p.whiten_advantages != Whitening::kNone)
      out.whitened[t] =
          (out.advantage[t] - m.mean) / m.deviation(p.whiten_advantages, p.whiten_eps) + (p.keep_mean ? m.mean : 0);
  }
  return out;
}

// Schulman et al. 2017, eq. 7, as a loss. The larger of two terms: where both are equal the ratio is inside its range, and they
// are one.
PolicyLossResult policy_loss(const PolicyLoss& p) {
  PolicyLossResult out;
  out.d_logprob.resize(p.logprob.size());
  out.d_entropy.resize(p.entropy.size());
  for (size_t t = 0; t < p.logprob.size(); ++t) {
    const double w = p.weight[t], a = p.advantage[t];
    if (w == 0) continue;
    const double r = p.logprob[t] - p.old_logprob[t], ratio = std::exp(r);
    const double plain = -a * ratio, clipped = -a * std::clamp(ratio, 1 - p.clip_low, 1 + p.clip_high);
    out.weight += w;
    out.policy += w * std::max(plain, clipped);
    out.ratio += w * ratio;
    if (clipped > plain) out.clipped += w;
    else out.d_logprob[t] = w * plain;
    if (ratio < 1 - p.clip_low || ratio > 1 + p.clip_high) out.outside += w;
    out.old_kl1 += w * -r;
    out.old_kl2 += w * r * r / 2;
    out.ratio_change = std::max(out.ratio_change, std::fabs(ratio - 1));
    if (!p.entropy.empty()) {
      out.entropy += w * p.entropy[t];
      out.d_entropy[t] = -w * p.entropy_coefficient;
    }
    if (p.ref_logprob.empty()) continue;
    const double s = p.logprob[t] - p.ref_logprob[t];
    const double k[] = {s, s * s / 2, std::exp(-s) - 1 + s}, dk[] = {1, s, 1 - std::exp(-s)};
    out.reference_kl += w * k[p.kl_estimator - 1];
    out.d_logprob[t] += w * p.kl_coefficient * dk[p.kl_estimator - 1];
  }
  out.loss = out.policy + p.kl_coefficient * out.reference_kl - p.entropy_coefficient * out.entropy;
  return out;
}

ValueLossResult value_loss(const ValueLoss& p) {
  ValueLossResult out;
  out.d_value.resize(p.value.size());
  for (size_t t = 0; t < p.value.size(); ++t) {
    const double w = p.weight[t], error = p.value[t] - p.returns[t];
    if (w == 0) continue;
    double moved = error;
    if (p.clip > 0) moved = p.old_value[t] + std::clamp(p.value[t] - p.old_value[t], -p.clip, p.clip) - p.returns[t];
    out.weight += w;
    out.loss += w * 0.5 * std::max(error * error, moved * moved);
    out.error += w * error * error;
    if (moved * moved > error * error) out.clipped += w;
    else out.d_value[t] = p.coefficient * w * error;
  }
  return out;
}

}  // namespace credence::reference
