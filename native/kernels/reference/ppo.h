// Proximal policy optimisation in double: rewards, advantages and returns; the clipped losses of policy and value.
#pragma once

#include <cstdint>
#include <vector>

namespace credence::reference {

enum class Whitening { kNone, kBiased, kUnbiased };

struct Moments {
  double n = 0, mean = 0, squares = 0;  // squares: sum of squared deviations

  /// What a number is divided by to whiten it: the root of the variance, which is 0 of fewer than two numbers, and eps.
  double deviation(Whitening kind, double eps) const;
};

struct Advantage {
  std::vector<int32_t> cu_seqlens, completion_start;
  std::vector<uint8_t> mask;                        // [T], empty: every token of a completion counts
  std::vector<double> logprob, ref_logprob, value;  // [T]; ref_logprob may be empty: no divergence
  std::vector<double> token_reward;                 // [T]; empty: 0
  std::vector<double> score, bootstrap;             // [B]; bootstrap may be empty
  std::vector<int32_t> score_at;                    // [B]; empty: the last token that counts
  double kl_coefficient = 0;
  int kl_estimator = 1;
  bool kl_clamp = false;
  double score_shift = 0, score_scale = 1, score_clamp = 0;
  double gamma = 1, lambda = 1;
  Whitening whiten_rewards = Whitening::kNone, whiten_advantages = Whitening::kNone;
  bool keep_mean = false;
  double whiten_eps = 1e-8;
};

struct AdvantageResult {
  std::vector<double> reward, advantage, returns, whitened;  // [T], 0 outside completions
  Moments moments, reward_moments;                           // reward_moments before whitening, zeros without
};

AdvantageResult advantage(const Advantage& p);

/// Rows with weight 0 count for nothing.
struct PolicyLoss {
  std::vector<double> logprob, old_logprob, advantage, weight;
  std::vector<double> ref_logprob;  // empty: no divergence
  double clip_low = 0.2, clip_high = 0.2, kl_coefficient = 0;
  int kl_estimator = 1;
  std::vector<double> entropy;  // empty: none
  double entropy_coefficient = 0;
};

struct PolicyLossResult {
  double loss = 0;  // policy + kl_coefficient reference_kl - entropy_coefficient entropy
  double weight = 0, policy = 0, ratio = 0, clipped = 0, outside = 0, old_kl1 = 0, old_kl2 = 0, reference_kl = 0,
         entropy = 0, ratio_change = 0;
  std::vector<double> d_logprob, d_entropy;
};

PolicyLossResult policy_loss(const PolicyLoss& p);

struct ValueLoss {
  std::vector<double> value, old_value, returns, weight;
  double clip = 0, coefficient = 1;  // clip 0: none
};

struct ValueLossResult {
  double weight = 0, loss = 0, error = 0, clipped = 0;
  std::vector<double> d_value;  // of coefficient loss
};

ValueLossResult value_loss(const ValueLoss& p);

}  // namespace credence::reference
