// Small pieces that the operators outside the linear family share: one step of a product in either type, a run over rows in
// groups of constant size, masks between two lanes.
#pragma once

#include <type_traits>

#include "backend.h"

namespace credence::cpu {

/// A product's step: bf16 takes two neighbouring k at once (kDepth), float32 one.
template <class Isa, class T>
struct RowStep;

template <class Isa>
struct RowStep<Isa, bf16> {
  static constexpr int kDepth = 2;
  using P = typename Isa::Pairs;
  static inline P load(const bf16* p) { return Isa::pairs(p); }
  static inline P load(const bf16* p, typename Isa::M m) { return Isa::pairs(p, m); }
  static inline P spread(const bf16* p) { return Isa::pair(p); }
  static inline P spread_half(const bf16* p) { return Isa::half_pair(p); }
  static inline typename Isa::F dot(typename Isa::F c, P a, P b) { return Isa::dot(c, a, b); }
};

template <class Isa>
struct RowStep<Isa, float> {
  static constexpr int kDepth = 1;
  using P = typename Isa::F;
  static inline P load(const float* p) { return Isa::load(p); }
  static inline P load(const float* p, typename Isa::M m) { return Isa::load(p, m); }
  static inline P spread(const float* p) { return Isa::set(*p); }
  static inline P spread_half(const float* p) { return Isa::set(*p); }
  static inline typename Isa::F dot(typename Isa::F c, P a, P b) { return Isa::fma(a, b, c); }
};

/// body(first row, integral_constant<rows>) over [0, count) in groups of N and one smaller group.
template <int N, class Body>
inline void in_groups(int count, Body&& body) {
  int r = 0;
  for (; r + N <= count; r += N) body(r, std::integral_constant<int, N>());
  if constexpr (N > 1) {
    const auto rest = [&]<int... I>(std::integer_sequence<int, I...>) {
      ((count - r == I + 1 ? body(r, std::integral_constant<int, I + 1>()) : void()), ...);
    };
    rest(std::make_integer_sequence<int, N - 1>());
  }
}

/// Lanes i with begin <= i < end.
template <class Isa>
inline typename Isa::M lanes_between(int begin, int end) {
  return Isa::without(Isa::first(end), Isa::first(begin));
}

/// exp of one number, with the vector's bits.
template <class Isa>
inline float exp_of(float x) {
  float lanes[Isa::W];
  Isa::store(lanes, Isa::exp(Isa::set(x)));
  return lanes[0];
}

}  // namespace credence::cpu
