// The PPO advantage step (kernels.h, credence_advantage). A segment is read once, from its end, a vector of tokens at a time: within
// a vector A_t = delta_t + c A_{t+1} is a scan in log2 W steps, and what it hands on to the vector before it is one multiply-add
// in double, the only chain there is. Segments are shared out; their moments are put together in order (Chan et al. 1979).
#pragma once

#include <math.h>

#include "../ppo_terms.h"
#include "arena.h"
#include "backend.h"
#include "linear.h"

namespace credence::cpu {

/// Vectors of a segment that are done in one go: so many are summed in float.
constexpr int64_t kRun = 32;

struct AdvantageMoments {
  double n, mean, squares;
};

/// Sums of the numbers less a number near them, in float for a while and then in double.
template <class Isa>
struct AdvantageSums {
  typename Isa::F sum = Isa::zero(), squares = Isa::zero(), near = Isa::zero();
  double whole = 0, whole_squares = 0;
  int64_t n = 0;

  /// The lanes in `in`. flush() is to follow after some kRun vectors.
  [[gnu::always_inline]] void add(typename Isa::F x, typename Isa::M in) {
    const int64_t count = __builtin_popcount(Isa::bits(in));
    if (n == 0 && count > 0)
      near = Isa::set(Isa::reduce_add(Isa::select(in, x, Isa::zero())) / static_cast<float>(count));
    add_lanes(Isa::select(in, Isa::sub(x, near), Isa::zero()));
    n += count;
  }
  /// Every lane, once there is a number near them; the caller counts them.
  void add_all(typename Isa::F x) { add_lanes(Isa::sub(x, near)); }
  void flush() {
    whole += Isa::reduce_add(sum);
    whole_squares += Isa::reduce_add(squares);
    sum = squares = Isa::zero();
  }
  AdvantageMoments moments() {
    flush();
    if (n == 0) return {0, 0, 0};
    const double mean = whole / static_cast<double>(n);
    return {static_cast<double>(n), Isa::lowest(near) + mean, whole_squares - mean * whole};
  }

 private:
  void add_lanes(typename Isa::F d) {
    sum = Isa::add(sum, d);
    squares = Isa::fma(d, d, squares);
  }
};

/// How rewards come about: from no divergence, by an estimator of it, or whitened from those that are there.
enum class RewardFrom { kScore = 0, kK1 = 1, kK2 = 2, kK3 = 3, kWhitening = 4 };

/// x -> (x - mean) scale + shift.
struct Whiten {
  float mean, scale, shift;
};

template <class Isa, RewardFrom From, bool Masked>
struct AdvantageSegment {
  using F = typename Isa::F;
  using M = typename Isa::M;
  static constexpr int W = Isa::W;

  const credence_advantage* p;
  int64_t begin, first, end, score_at = -1;
  float score = 0, bootstrap = 0;

  AdvantageSegment(const credence_advantage* parameters, int64_t b) : p(parameters) {
    begin = p->cu_seqlens[b];
    first = begin + p->completion_start[b];
    end = p->cu_seqlens[b + 1];
    if (p->bootstrap) bootstrap = p->bootstrap[b];
    score = (p->score[b] - p->score_shift) * p->score_scale;
    if (p->score_clamp > 0) score = fminf(fmaxf(score, -p->score_clamp), p->score_clamp);
    if (p->score_at) {
      if (p->score_at[b] >= 0) score_at = begin + p->score_at[b];
    } else {
      score_at = end - 1;
      if constexpr (Masked)
        while (score_at >= first && !p->mask[score_at]) --score_at;
    }
  }

  void clear(float* to, int64_t from, int64_t until) const {
    for (int64_t t = from; t < until; ++t) to[t] = 0;
  }

  /// Which of the lanes from token t on count. Vectors lie at multiples of W, so the first and the last may be partly inside.
  M counted(int64_t t, M lanes) const {
    if constexpr (!Masked) {
      return lanes;
    } else {
      if (t + W <= end) return Isa::both(lanes, Isa::nonzero(p->mask + t));
      uint8_t bytes[W] = {};
      for (int64_t i = 0; t + i < end; ++i) bytes[i] = p->mask[t + i];
      return Isa::both(lanes, Isa::nonzero(bytes));
    }
  }
  /// k3 = e^-r - 1 + r; near 0 by its series, in which nothing cancels.
  static F third_estimate(F r) {
    const F x = Isa::sub(Isa::zero(), r);
    F series = Isa::set(1.0f / 39916800);
    for (float factor :
         {1.0f / 3628800, 1.0f / 362880, 1.0f / 40320, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f})
      series = Isa::fma(series, x, Isa::set(factor));
    const F exact = Isa::add(Isa::sub(Isa::exp(x), Isa::set(1)), r), square = Isa::mul(x, x);
    return Isa::select(Isa::less(square, Isa::set(1)), Isa::mul(series, square), exact);
  }

  /// Whole: every lane counts as far as the completion goes, and is loaded without asking.
  template <bool Whole>
  static F load(const float* from, M lanes) {
    if constexpr (Whole) return Isa::load(from);
    else return Isa::load(from, lanes);
  }
  template <bool Whole>
  static F only(M in, F x) {
    if constexpr (Whole && !Masked) return x;
    else return Isa::select(in, x, Isa::zero());
  }

  /// What rewards are made of, copied from p: a vector that is stored may be anything to the compiler, and what p points at would
  /// be read again after each.
  struct Shaping {
    const float *logprob, *ref_logprob, *reward, *token_reward;
    F coefficient, score;  // of the estimate, of the completion
    int64_t score_at;
    bool clamp;
    F mean, scale, shift;
  };
  Shaping shaping(const Whiten& whiten) const {
    return {p->logprob,
            p->ref_logprob,
            p->reward,
            p->token_reward,
            Isa::set(-p->kl_coefficient),
            Isa::set(score),
            score_at,
            p->kl_clamp != 0,
            Isa::set(whiten.mean),
            Isa::set(whiten.scale),
            Isa::set(whiten.shift)};
  }

  template <bool Whole>
  static F reward(const Shaping& s, int64_t t, M lanes, M in) {
    F out = Isa::zero();
    if constexpr (From == RewardFrom::kWhitening) {
      const F x = Isa::sub(load<Whole>(s.reward + t, lanes), s.mean);
      return only<Whole>(in, Isa::fma(x, s.scale, s.shift));
    } else if constexpr (From != RewardFrom::kScore) {
      F kl = Isa::sub(load<Whole>(s.logprob + t, lanes), load<Whole>(s.ref_logprob + t, lanes));
      if constexpr (From == RewardFrom::kK2) kl = Isa::mul(Isa::mul(kl, kl), Isa::set(0.5f));
      if constexpr (From == RewardFrom::kK3) kl = third_estimate(kl);
      if (s.clamp) kl = Isa::select(Isa::less(kl, Isa::zero()), Isa::zero(), kl);
      out = only<Whole>(in, Isa::mul(kl, s.coefficient));
    }
    if (s.token_reward) out = Isa::add(out, only<Whole>(in, load<Whole>(s.token_reward + t, lanes)));
    const int64_t place = s.score_at - t;
    if (place < 0 || place >= W) return out;
    const M there = Isa::both(in, Isa::without(Isa::first(place + 1), Isa::first(place)));
    return Isa::add(out, Isa::select(there, s.score, Isa::zero()));
  }

  /// The completion's vectors from the last to the first: partly(t, lanes) where it or the token after it is not all inside (the
  /// last, and perhaps the first), run(t, until) for those between, kRun at most from t down to until.
  template <class Partly, class Run>
  [[gnu::always_inline]] void backwards(const Partly& partly, const Run& run) const {
    const auto lanes = [this](int64_t t) { return Isa::without(Isa::first(end - t), Isa::first(first - t)); };
    int64_t t = (end - 1) / W * W;
    partly(t, lanes(t));
    for (t -= W; t >= first;) {
      const int64_t until = t - least((t - first) / W, kRun - 1) * W;
      run(t, until);
      t = until - W;
    }
    if (t + W > first) partly(t, lanes(t));
  }

  /// Rewards alone, before they are whitened.
  AdvantageMoments rewards() const {
    if (first >= end) return {0, 0, 0};
    AdvantageSums<Isa> sums;
    const Shaping shape = shaping({});
    float* const rewards = p->reward;
    const auto some = [&](int64_t t, M lanes) {
      const M in = counted(t, lanes);
      const F r = reward<false>(shape, t, lanes, in);
      Isa::store(rewards + t, r, lanes);
      sums.add(r, in);
    };
    backwards(some, [&](int64_t t, int64_t until) {
      for (; t >= until; t -= W) some(t, Isa::all());
      sums.flush();
    });
    return sums.moments();
  }

  /// The values after those of the lanes from token t on, where not all of them are inside.
  F values_after(int64_t t) const {
    alignas(64) float next[W] = {};
    for (int64_t i = 0; i < W; ++i) {
      const int64_t after = t + i + 1;
      if (after == end) next[i] = bootstrap;
      else if (after > first && after < end && p->value && (!Masked || p->mask[after])) next[i] = p->value[after];
    }
    return Isa::load(next);
  }

  AdvantageMoments scan(const Whiten& whiten) const {
    for (float* out : {p->reward, p->advantage, p->returns}) clear(out, begin, least(first, end));
    if (first >= end) return {0, 0, 0};
    const double gamma = p->gamma, decay = gamma * p->lambda;
    alignas(64) float fading[W];  // what the advantage after the vector counts for in each lane
    double whole = 1;
    for (int i = W; i-- > 0;) fading[i] = static_cast<float>(whole *= decay);
    const F fade = Isa::load(fading), g = Isa::set(p->gamma);
    const auto within = Isa::fading(decay);
    double carried = 0;
    AdvantageSums<Isa> sums;
    const Shaping shape = shaping(whiten);
    const float* const values = p->value;
    const uint8_t* const mask = p->mask;
    float *const rewards = p->reward, *const advantages = p->advantage, *const returns = p->returns;
    const auto advantage = [&](F r, F value, F next) __attribute__((always_inline)) {
      const F a = Isa::faded(Isa::fma(g, next, Isa::sub(r, value)), within);
      const auto behind = Isa::set(static_cast<float>(carried));
      // Lanes behind the end hold nothing, so the last vector hands on no more than its own.
      carried = Isa::lowest(a) + whole * carried;
      return Isa::fma(fade, behind, a);
    };
    backwards(
        [&](int64_t t, M lanes) __attribute__((always_inline)) {
          const M in = counted(t, lanes);
          const F value = values ? Isa::load(values + t, in) : Isa::zero(), r = reward<false>(shape, t, lanes, in);
          const F a = advantage(r, value, values_after(t));
          Isa::store(rewards + t, r, lanes);
          Isa::store(advantages + t, a, lanes);
          Isa::store(returns + t, Isa::add(a, value), lanes);
          sums.add(a, in);
        },
        [&](int64_t t, int64_t until) __attribute__((always_inline)) {
          for (; t >= until; t -= W) {
            const M in = counted(t, Isa::all());
            F value = Isa::zero(), next = Isa::zero();
            if (values) {
              value = only<true>(in, Isa::load(values + t)), next = Isa::load(values + t + 1);
              if constexpr (Masked) next = Isa::select(Isa::nonzero(mask + t + 1), next, Isa::zero());
            }
            const F r = reward<true>(shape, t, Isa::all(), in), a = advantage(r, value, next);
            Isa::store(rewards + t, r);
            Isa::store(advantages + t, a);
            Isa::store(returns + t, Isa::add(a, value));
            if constexpr (Masked) sums.add(a, in);
            else sums.add_all(a);
          }
          sums.flush();
        });
    if constexpr (!Masked) sums.n = end - first;
    return sums.moments();
  }

  void whitened(const Whiten& whiten) const {
    clear(p->whitened, begin, least(first, end));
    if (first >= end) return;
    const Shaping s = shaping(whiten);
    const float* const advantages = p->advantage;
    float* const out = p->whitened;
    const auto some = [&](int64_t t, M lanes) {
      const F y = Isa::fma(Isa::sub(Isa::load(advantages + t, lanes), s.mean), s.scale, s.shift);
      Isa::store(out + t, Masked ? Isa::select(counted(t, lanes), y, Isa::zero()) : y, lanes);
    };
    backwards(some, [&](int64_t t, int64_t until) {
      for (; t >= until; t -= W) some(t, Isa::all());
    });
  }
};

/// In order, so that it is the same for any number of threads.
template <class Isa>
AdvantageMoments combined(const AdvantageMoments* parts, int64_t count) {
  AdvantageMoments all = {0, 0, 0};
  for (int64_t b = 0; b < count; ++b) {
    const AdvantageMoments& part = parts[b];
    if (part.n == 0) continue;
    const double n = all.n + part.n, step = part.mean - all.mean;
    all.squares += part.squares + step * step * all.n * part.n / n;
    all.mean += step * part.n / n;
    all.n = n;
  }
  return all;
}

template <class Isa>
Whiten whitening(const AdvantageMoments& m, credence_whitening kind, float eps, bool keep_mean) {
  if (kind == CREDENCE_NOT_WHITENED) return {0, 1, 0};
  return {static_cast<float>(m.mean), static_cast<float>(whitening_scale(m.n, m.squares, kind, eps)),
          keep_mean ? static_cast<float>(m.mean) : 0};
}

template <class Isa, RewardFrom From, bool Masked>
int advantage_of(credence_backend* backend, const credence_advantage* p, AdvantageMoments* parts) {
  const int64_t segments = p->counts[1];
  const auto each = [&](auto&& body) {
    backend->pool.parallel(segments, [&](int64_t b, int) { body(b); });
    return combined<Isa>(parts, segments);
  };
  AdvantageMoments rewards = {0, 0, 0}, moments;
  if (p->whiten_rewards != CREDENCE_NOT_WHITENED) {
    rewards = each([&](int64_t b) { parts[b] = AdvantageSegment<Isa, From, Masked>(p, b).rewards(); });
    const Whiten whiten = whitening<Isa>(rewards, p->whiten_rewards, p->whiten_eps, true);
    moments =
        each([&](int64_t b) { parts[b] = AdvantageSegment<Isa, RewardFrom::kWhitening, Masked>(p, b).scan(whiten); });
  } else {
    moments = each([&](int64_t b) { parts[b] = AdvantageSegment<Isa, From, Masked>(p, b).scan({}); });
  }
  if (p->whitened) {
    const Whiten whiten = whitening<Isa>(moments, p->whiten_advantages, p->whiten_eps, p->keep_mean);
    backend->pool.parallel(
        segments, [&](int64_t b, int) { AdvantageSegment<Isa, RewardFrom::kScore, Masked>(p, b).whitened(whiten); });
  }
  p->moments[0] = moments.n, p->moments[1] = moments.mean, p->moments[2] = moments.squares;
  p->moments[3] = rewards.n, p->moments[4] = rewards.mean, p->moments[5] = rewards.squares;
  return 0;
}

template <class Isa>
size_t advantage_workspace(const credence_advantage* p) {
  return p->segment_capacity * sizeof(AdvantageMoments);
}

template <class Isa>
int advantage(credence_backend* backend, const credence_advantage* p, void* workspace) {
  if (const char* wrong = wrong_with(*p)) return fail(backend, "advantage: %s", wrong);
  auto* const parts = static_cast<AdvantageMoments*>(workspace);
  const auto by_mask = [&]<RewardFrom From>() {
    return p->mask ? advantage_of<Isa, From, true>(backend, p, parts)
                   : advantage_of<Isa, From, false>(backend, p, parts);
  };
  if (!p->ref_logprob) return by_mask.template operator()<RewardFrom::kScore>();
  if (p->kl_estimator == 1) return by_mask.template operator()<RewardFrom::kK1>();
  if (p->kl_estimator == 2) return by_mask.template operator()<RewardFrom::kK2>();
  return by_mask.template operator()<RewardFrom::kK3>();
}

}  // namespace credence::cpu
