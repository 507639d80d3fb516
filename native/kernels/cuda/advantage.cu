// The PPO advantage step (kernels.h, credence_advantage): a reverse scan in each segment, in double. A warp a segment, 32
// tokens at a time: A_t = delta_t + c A_{t+1} composes as pairs (a, b) o (a', b') = (a a', b + a b'), so five steps scan a warp's
// tokens. Then one block sums the moments, whose order is therefore fixed.
#include "../ppo_terms.h"
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ bool counts(const credence_advantage& p, int32_t t) { return !p.mask || p.mask[t] != 0; }

/// What whitening makes of x by its moments (n, mean, sum of squared deviations).
__device__ double whiten(double x, const double* moments, credence_whitening kind, float eps, bool keep_mean) {
  if (kind == CREDENCE_NOT_WHITENED) return x;
  return (x - moments[1]) * whitening_scale(moments[0], moments[2], kind, eps) + (keep_mean ? moments[1] : 0);
}

/// A warp: rewards of segment b before they are whitened.
__global__ void __launch_bounds__(kWarp) reward_segments(credence_advantage p) {
  const auto b = static_cast<int32_t>(blockIdx.x), lane = static_cast<int32_t>(threadIdx.x);
  if (b >= min(p.counts[1], p.segment_capacity)) return;
  const int32_t begin = p.cu_seqlens[b], first = begin + p.completion_start[b], end = p.cu_seqlens[b + 1];
  int32_t at = -1;  // where the score goes
  if (p.score_at) {
    if (p.score_at[b] >= 0) at = begin + p.score_at[b];
  } else {
    for (int32_t t = first + lane; t < end; t += kWarp)
      if (counts(p, t)) at = t;
    at = warp_reduce(at, [](int32_t x, int32_t y) { return max(x, y); });
  }
  double score =
      (static_cast<double>(p.score[b]) - static_cast<double>(p.score_shift)) * static_cast<double>(p.score_scale);
  const auto limit = static_cast<double>(p.score_clamp);
  if (limit > 0) score = fmin(fmax(score, -limit), limit);
  for (int32_t t = begin + lane; t < end; t += kWarp) {
    double reward = t == at && counts(p, t) ? score : 0;
    if (t >= first && counts(p, t) && p.token_reward) reward += static_cast<double>(p.token_reward[t]);
    if (t >= first && counts(p, t) && p.ref_logprob) {
      const double kl =
          kl_estimate(p.kl_estimator, static_cast<double>(p.logprob[t]) - static_cast<double>(p.ref_logprob[t]));
      reward -= static_cast<double>(p.kl_coefficient) * (p.kl_clamp && kl < 0 ? 0 : kl);
    }
    p.reward[t] = static_cast<float>(reward);
  }
}

__global__ void __launch_bounds__(kWarp) scan_segments(credence_advantage p) {
  const auto b = static_cast<int32_t>(blockIdx.x), lane = static_cast<int32_t>(threadIdx.x);
  if (b >= min(p.counts[1], p.segment_capacity)) return;
  const int32_t begin = p.cu_seqlens[b], first = begin + p.completion_start[b], end = p.cu_seqlens[b + 1];
  for (int32_t t = begin + lane; t < first && t < end; t += kWarp) p.advantage[t] = p.returns[t] = 0;
  const double gamma = static_cast<double>(p.gamma), decay = gamma * static_cast<double>(p.lambda);
  const auto value_of = [&](int32_t t) { return p.value && counts(p, t) ? static_cast<double>(p.value[t]) : 0; };
  double carried = 0;  // the advantage of the token after the ones in hand
  for (int32_t last = end - 1; last >= first; last -= kWarp) {
    const int32_t t = last - lane;
    const bool in = t >= first;
    double sum = 0, factor = 1, value = 0;
    if (in) {
      double reward = static_cast<double>(p.reward[t]);
      if (p.whiten_rewards != CREDENCE_NOT_WHITENED && counts(p, t)) {
        reward = whiten(reward, p.moments + 3, p.whiten_rewards, p.whiten_eps, true);
        p.reward[t] = static_cast<float>(reward);
      }
      value = value_of(t);
      const double next = t + 1 < end ? value_of(t + 1) : p.bootstrap ? static_cast<double>(p.bootstrap[b]) : 0;
      sum = reward + gamma * next - value;
      factor = decay;
    }
    for (int step = 1; step < kWarp; step *= 2) {
      const double later = __shfl_up_sync(kAllLanes, sum, step), later_factor = __shfl_up_sync(kAllLanes, factor, step);
      if (lane >= step) {
        sum += factor * later;
        factor *= later_factor;
      }
    }
    sum += factor * carried;
    carried = __shfl_sync(kAllLanes, sum, kWarp - 1);
    if (!in) continue;
    p.advantage[t] = static_cast<float>(sum);
    p.returns[t] = static_cast<float>(sum + value);
  }
}

/// Adds body(number) over all that count.
template <class Body>
__device__ double over_completions(const credence_advantage& p, const float* numbers, double* shared,
                                   const Body& body) {
  double sum = 0;
  for (int32_t b = 0; b < min(p.counts[1], p.segment_capacity); ++b)
    for (int32_t t = p.cu_seqlens[b] + p.completion_start[b] + static_cast<int32_t>(threadIdx.x);
         t < p.cu_seqlens[b + 1]; t += kThreads)
      if (counts(p, t)) sum += body(static_cast<double>(numbers[t]));
  return block_reduce(sum, Sum(), 0.0, shared);
}

__global__ void __launch_bounds__(kThreads) moments_of(credence_advantage p, const float* numbers, double* moments) {
  __shared__ double shared[kWarp];
  const double n = over_completions(p, numbers, shared, [](double) { return 1.0; });
  const double sum = over_completions(p, numbers, shared, [](double a) { return a; });
  const double mean = n > 0 ? sum / n : 0;
  const double squares = over_completions(p, numbers, shared, [mean](double a) { return (a - mean) * (a - mean); });
  if (threadIdx.x != 0) return;
  moments[0] = n;
  moments[1] = mean;
  moments[2] = squares;
}

__global__ void __launch_bounds__(kWarp) whiten_segments(credence_advantage p) {
  const auto b = static_cast<int32_t>(blockIdx.x), lane = static_cast<int32_t>(threadIdx.x);
  if (b >= min(p.counts[1], p.segment_capacity)) return;
  const int32_t first = p.cu_seqlens[b] + p.completion_start[b];
  for (int32_t t = p.cu_seqlens[b] + lane; t < p.cu_seqlens[b + 1]; t += kWarp)
    p.whitened[t] = t >= first && counts(p, t)
                        ? static_cast<float>(whiten(static_cast<double>(p.advantage[t]), p.moments, p.whiten_advantages,
                                                    p.whiten_eps, p.keep_mean != 0))
                        : 0;
}

}  // namespace

size_t advantage_workspace(const credence_advantage*) { return 0; }

int advantage(Backend& backend, const credence_advantage* p, void*) {
  if (const char* wrong = wrong_with(*p)) return fail(backend, "advantage: %s", wrong);
  const dim3 segments(static_cast<unsigned>(p->segment_capacity));
  const auto segment_kernel = [&](void (*kernel)(credence_advantage)) {
    return launch(backend, "advantage", kernel, segments, dim3(kWarp), 0, *p);
  };
  const auto moments = [&](const float* numbers, double* to) {
    return launch(backend, "advantage", &moments_of, dim3(1), dim3(kThreads), 0, *p, numbers, to);
  };
  if (int error = segment_kernel(&reward_segments)) return error;
  if (p->whiten_rewards == CREDENCE_NOT_WHITENED) {
    const auto status = cudaMemsetAsync(p->moments + 3, 0, 3 * sizeof(double), backend.stream);
    if (int error = check(backend, status, "advantage")) return error;
  } else if (int error = moments(p->reward, p->moments + 3)) {
    return error;
  }
  if (int error = segment_kernel(&scan_segments)) return error;
  if (int error = moments(p->advantage, p->moments)) return error;
  return p->whitened ? segment_kernel(&whiten_segments) : 0;
}

}  // namespace credence::cuda
