// The PPO advantage step (kernels.h, credence_advantage): a reverse scan in each segment, in double. A warp a segment, 32
// tokens at a time: A_t = delta_t + gamma lambda A_{t+1} composes as pairs (a, b) o (a', b') = (a a', b + a b'), so five steps
// scan a warp's tokens. Then one block sums the moments, whose order is therefore fixed.
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kWarp) scan_segments(credence_advantage p) {
  const auto b = static_cast<int32_t>(blockIdx.x), lane = static_cast<int32_t>(threadIdx.x);
  if (b >= min(p.counts[1], p.segment_capacity)) return;
  const int32_t begin = p.cu_seqlens[b], first = begin + p.completion_start[b], end = p.cu_seqlens[b + 1];
  for (int32_t t = begin + lane; t < first && t < end; t += kWarp) p.reward[t] = p.advantage[t] = p.returns[t] = 0;
  const double gamma = static_cast<double>(p.gamma), decay = gamma * static_cast<double>(p.lambda);
  double carried = 0;  // the advantage of the token after the ones in hand
  for (int32_t last = end - 1; last >= first; last -= kWarp) {
    const int32_t t = last - lane;
    const bool in = t >= first;
    double value = 0, factor = 1, reward = 0, v = 0;
    if (in) {
      const double r = static_cast<double>(p.logprob[t]) - static_cast<double>(p.ref_logprob[t]);
      const double kl = p.kl_estimator == 1 ? r : p.kl_estimator == 2 ? r * r / 2 : expm1(-r) + r;
      reward = -static_cast<double>(p.kl_coefficient) * kl + (t == end - 1 ? static_cast<double>(p.score[b]) : 0);
      const double next = t + 1 < end   ? static_cast<double>(p.value[t + 1])
                          : p.bootstrap ? static_cast<double>(p.bootstrap[b])
                                        : 0;
      v = static_cast<double>(p.value[t]);
      value = reward + gamma * next - v;
      factor = decay;
    }
    for (int step = 1; step < kWarp; step *= 2) {
      const double later = __shfl_up_sync(kAllLanes, value, step),
                   later_factor = __shfl_up_sync(kAllLanes, factor, step);
      if (lane >= step) {
        value += factor * later;
        factor *= later_factor;
      }
    }
    value += factor * carried;
    carried = __shfl_sync(kAllLanes, value, kWarp - 1);
    if (!in) continue;
    p.reward[t] = static_cast<float>(reward);
    p.advantage[t] = static_cast<float>(value);
    p.returns[t] = static_cast<float>(value + v);
  }
}

/// Adds body(advantage) over all completions.
template <class Body>
__device__ double over_completions(const credence_advantage& p, double* shared, const Body& body) {
  double sum = 0;
  for (int32_t b = 0; b < min(p.counts[1], p.segment_capacity); ++b)
    for (int32_t t = p.cu_seqlens[b] + p.completion_start[b] + static_cast<int32_t>(threadIdx.x);
         t < p.cu_seqlens[b + 1]; t += kThreads)
      sum += body(static_cast<double>(p.advantage[t]));
  return block_reduce(sum, Sum(), 0.0, shared);
}

__global__ void __launch_bounds__(kThreads) moments(credence_advantage p) {
  __shared__ double shared[kWarp];
  const double n = over_completions(p, shared, [](double) { return 1.0; });
  const double sum = over_completions(p, shared, [](double a) { return a; });
  const double mean = n > 0 ? sum / n : 0;
  const double squares = over_completions(p, shared, [mean](double a) { return (a - mean) * (a - mean); });
  if (threadIdx.x != 0) return;
  p.moments[0] = n;
  p.moments[1] = mean;
  p.moments[2] = squares;
}

}  // namespace

size_t advantage_workspace(const credence_advantage*) { return 0; }

int advantage(Backend& backend, const credence_advantage* p, void*) {
  if (p->kl_estimator < 1 || p->kl_estimator > 3)
    return fail(backend, "advantage: kl_estimator is %d; 1, 2 and 3 exist", p->kl_estimator);
  if (int error = launch(backend, "advantage", &scan_segments, dim3(static_cast<unsigned>(p->segment_capacity)),
                         dim3(kWarp), 0, *p))
    return error;
  return launch(backend, "advantage", &moments, dim3(1), dim3(kThreads), 0, *p);
}

}  // namespace credence::cuda
