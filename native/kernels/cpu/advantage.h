// The PPO advantage step (kernels.h, credence_advantage): a reverse scan in each segment, in double.
#pragma once

#include <math.h>

#include "backend.h"
#include "linear.h"

namespace credence::cpu {

template <class Isa>
size_t advantage_workspace(const credence_advantage*) {
  return 0;
}

template <class Isa>
void advantage_of_segment(const credence_advantage* p, int64_t b) {
  const int32_t begin = p->cu_seqlens[b], first = begin + p->completion_start[b], last = p->cu_seqlens[b + 1] - 1;
  for (int32_t t = begin; t < first && t <= last; ++t) p->reward[t] = p->advantage[t] = p->returns[t] = 0;
  double next_value = p->bootstrap ? p->bootstrap[b] : 0, running = 0;
  for (int32_t t = last; t >= first; --t) {
    const double r = static_cast<double>(p->logprob[t]) - p->ref_logprob[t];
    const double kl = p->kl_estimator == 1 ? r : p->kl_estimator == 2 ? r * r / 2 : expm1(-r) + r;
    const double reward = -p->kl_coefficient * kl + (t == last ? p->score[b] : 0);
    running = reward + p->gamma * next_value - p->value[t] + static_cast<double>(p->gamma) * p->lambda * running;
    p->reward[t] = static_cast<float>(reward);
    p->advantage[t] = static_cast<float>(running);
    p->returns[t] = static_cast<float>(running + p->value[t]);
    next_value = p->value[t];
  }
}

template <class Isa>
int advantage(credence_backend* backend, const credence_advantage* p, void*) {
  if (p->kl_estimator < 1 || p->kl_estimator > 3)
    return fail(backend, "advantage: kl_estimator is %d; 1, 2 and 3 exist", p->kl_estimator);
  const int64_t segments = p->counts[1];
  backend->pool.parallel(segments, [&](int64_t b, int) { advantage_of_segment<Isa>(p, b); });
  double n = 0, sum = 0, squares = 0;
  const auto each = [&](auto&& body) {
    for (int64_t b = 0; b < segments; ++b)
      for (int32_t t = p->cu_seqlens[b] + p->completion_start[b]; t < p->cu_seqlens[b + 1]; ++t) body(p->advantage[t]);
  };
  each([&](double a) { n += 1, sum += a; });
  const double mean = n > 0 ? sum / n : 0;
  each([&](double a) { squares += (a - mean) * (a - mean); });
  p->moments[0] = n, p->moments[1] = mean, p->moments[2] = squares;
  return 0;
}

}  // namespace credence::cpu
