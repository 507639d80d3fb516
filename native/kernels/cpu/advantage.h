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

struct AdvantageMoments {
  double n, mean, squares;
};

/// Sums of the numbers less a number near them, in float for a while and then in double.
template <class Isa>
struct AdvantageSums {
  static constexpr int kFlush = 32;
  typename Isa::F sum = Isa::zero(), squares = Isa::zero(), near = Isa::zero();
  double whole = 0, whole_squares = 0;
  int64_t n = 0, vectors = 0;

  /// The lanes in `in`, or all.
  template <bool All>
  void add(typename Isa::F x, typename Isa::M in) {
    const int64_t count = All ? Isa::W : __builtin_popcount(Isa::bits(in));
    if (n == 0 && count > 0)
      near = Isa::set(Isa::reduce_add(Isa::select(in, x, Isa::zero())) / static_cast<float>(count));
    auto d = Isa::sub(x, near);
    if constexpr (!All) d = Isa::select(in, d, Isa::zero());
    sum = Isa::add(sum, d);
    squares = Isa::fma(d, d, squares);
    n += count;
    if (++vectors % kFlush == 0) flush();
  }
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

  template <bool Whole>
  F reward(int64_t t, M lanes, M in, const Whiten& whiten) const {
    F out = Isa::zero();
    if constexpr (From == RewardFrom::kWhitening) {
      const F x = Isa::sub(load<Whole>(p->reward + t, lanes), Isa::set(whiten.mean));
      return only<Whole>(in, Isa::fma(x, Isa::set(whiten.scale), Isa::set(whiten.shift)));
    } else if constexpr (From != RewardFrom::kScore) {
      F kl = Isa::sub(load<Whole>(p->logprob + t, lanes), load<Whole>(p->ref_logprob + t, lanes));
      if constexpr (From == RewardFrom::kK2) kl = Isa::mul(Isa::mul(kl, kl), Isa::set(0.5f));
      if constexpr (From == RewardFrom::kK3) kl = third_estimate(kl);
      if (p->kl_clamp) kl = Isa::select(Isa::less(kl, Isa::zero()), Isa::zero(), kl);
      out = only<Whole>(in, Isa::mul(kl, Isa::set(-p->kl_coefficient)));
    }
    if (p->token_reward) out = Isa::add(out, only<Whole>(in, load<Whole>(p->token_reward + t, lanes)));
    if (score_at < t || score_at >= t + W) return out;
    const M there = Isa::both(in, Isa::without(Isa::first(score_at - t + 1), Isa::first(score_at - t)));
    return Isa::add(out, Isa::select(there, Isa::set(score), Isa::zero()));
  }

  /// body(t, lanes, inside) over the completion's vectors from the last to the first; inside: it and the token after it are.
  template <class Body>
  void backwards(const Body& body) const {
    for (int64_t t = (end - 1) / W * W; t + W > first; t -= W) {
      const bool inside = t >= first && t + W < end;
      body(t, inside ? Isa::all() : Isa::without(Isa::first(end - t), Isa::first(first - t)), inside);
    }
  }

  /// Rewards alone, before they are whitened.
  AdvantageMoments rewards() const {
    if (first >= end) return {0, 0, 0};
    AdvantageSums<Isa> sums;
    backwards([&](int64_t t, M lanes, bool) {
      const M in = counted(t, lanes);
      const F r = reward<false>(t, lanes, in, {});
      Isa::store(p->reward + t, r, lanes);
      sums.template add<false>(r, in);
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
    const F c1 = Isa::set(static_cast<float>(decay)), c2 = Isa::set(static_cast<float>(decay * decay)),
            c4 = Isa::set(static_cast<float>(decay * decay * decay * decay)),
            c8 = Isa::set(static_cast<float>(pow(decay, 8)));
    double carried = 0;
    AdvantageSums<Isa> sums;
    // The pointers are kept here: nobody can then think that what is stored changes them.
    const float* const values = p->value;
    float *const rewards = p->reward, *const advantages = p->advantage, *const returns = p->returns;
    const auto block = [&]<bool Whole>(int64_t t, M lanes) {
      const M in = counted(t, lanes);
      F value = Isa::zero(), next = Isa::zero();
      if (values) value = load<Whole>(values + t, lanes);
      if constexpr (Masked) value = Isa::select(in, value, Isa::zero());
      if constexpr (!Whole) {
        next = values_after(t);
      } else if (values) {
        next = Isa::load(values + t + 1);
        if constexpr (Masked) next = Isa::select(Isa::nonzero(p->mask + t + 1), next, Isa::zero());
      }
      const F r = reward<Whole>(t, lanes, in, whiten);
      F a = Isa::fma(g, next, Isa::sub(r, value));
      if constexpr (!Whole) a = Isa::select(lanes, a, Isa::zero());
      if constexpr (W > 1) a = Isa::fma(c1, Isa::template later<1 % W>(a), a);
      if constexpr (W > 2) a = Isa::fma(c2, Isa::template later<2 % W>(a), a);
      if constexpr (W > 4) a = Isa::fma(c4, Isa::template later<4 % W>(a), a);
      if constexpr (W > 8) a = Isa::fma(c8, Isa::template later<8 % W>(a), a);
      const double alone = Isa::lowest(a);
      // Lanes behind the end hold nothing, so the last vector hands on no more than its own.
      a = Isa::fma(fade, Isa::set(static_cast<float>(carried)), a);
      carried = alone + whole * carried;
      if constexpr (Whole) {
        Isa::store(rewards + t, r);
        Isa::store(advantages + t, a);
        Isa::store(returns + t, Isa::add(a, value));
      } else {
        Isa::store(rewards + t, r, lanes);
        Isa::store(advantages + t, a, lanes);
        Isa::store(returns + t, Isa::add(a, value), lanes);
      }
      sums.template add<Whole && !Masked>(a, in);
    };
    backwards([&](int64_t t, M lanes, bool inside) {
      if (inside) block.template operator()<true>(t, lanes);
      else block.template operator()<false>(t, lanes);
    });
    return sums.moments();
  }

  void whitened(const Whiten& whiten) const {
    clear(p->whitened, begin, least(first, end));
    if (first >= end) return;
    backwards([&](int64_t t, M lanes, bool) {
      const F x = Isa::sub(Isa::load(p->advantage + t, lanes), Isa::set(whiten.mean));
      const F y = Isa::fma(x, Isa::set(whiten.scale), Isa::set(whiten.shift));
      Isa::store(p->whitened + t, Masked ? Isa::select(counted(t, lanes), y, Isa::zero()) : y, lanes);
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
