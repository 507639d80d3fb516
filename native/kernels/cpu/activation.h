// The MLP's activations and their derivatives, lane by lane.
#pragma once

#include <math.h>

#include "backend.h"

namespace credence::cpu {

/// 1 / (1 + exp(-x))
template <class Isa>
static inline typename Isa::F sigmoid(typename Isa::F x) {
  return Isa::div(Isa::set(1.0f), Isa::add(Isa::set(1.0f), Isa::exp(Isa::sub(Isa::zero(), x))));
}

/// The normal distribution's integral to x. The library's erfc a lane at a time: only older families use it.
template <class Isa>
static inline typename Isa::F normal_cdf(typename Isa::F x) {
  float lane[Isa::W];
  Isa::store(lane, x);
  for (int i = 0; i < Isa::W; ++i) lane[i] = 0.5f * erfcf(-lane[i] * 0.707106781f);
  return Isa::load(lane);
}

/// 2 sqrt(2 / pi) (x + 0.044715 x^3): gelu_tanh(x) = x sigmoid(of this).
template <class Isa>
static inline typename Isa::F tanh_argument(typename Isa::F x) {
  return Isa::mul(Isa::set(1.59576912f), Isa::mul(x, Isa::fma(Isa::mul(x, x), Isa::set(0.044715f), Isa::set(1.0f))));
}

template <class Isa, credence_activation A>
static inline typename Isa::F activate(typename Isa::F x) {
  if constexpr (A == CREDENCE_SILU) return Isa::mul(x, sigmoid<Isa>(x));
  else if constexpr (A == CREDENCE_GELU) return Isa::mul(x, normal_cdf<Isa>(x));
  else if constexpr (A == CREDENCE_GELU_TANH) return Isa::mul(x, sigmoid<Isa>(tanh_argument<Isa>(x)));
  else if constexpr (A == CREDENCE_RELU) return Isa::max(x, Isa::zero());
  else return x;
}

/// d activation / dx; the activation itself into *value.
template <class Isa, credence_activation A>
static inline typename Isa::F derivative(typename Isa::F x, typename Isa::F* value) {
  using F = typename Isa::F;
  const F one = Isa::set(1.0f);
  if constexpr (A == CREDENCE_SILU) {  // s (1 + x (1 - s))
    const F s = sigmoid<Isa>(x);
    *value = Isa::mul(x, s);
    return Isa::mul(s, Isa::fma(x, Isa::sub(one, s), one));
  } else if constexpr (A == CREDENCE_GELU) {  // Phi + x phi
    const F cdf = normal_cdf<Isa>(x);
    *value = Isa::mul(x, cdf);
    const F density = Isa::mul(Isa::set(0.398942280f), Isa::exp(Isa::mul(Isa::set(-0.5f), Isa::mul(x, x))));
    return Isa::fma(x, density, cdf);
  } else if constexpr (A == CREDENCE_GELU_TANH) {  // s + x s (1 - s) z',  z' = 2 sqrt(2 / pi) (1 + 3 0.044715 x^2)
    const F s = sigmoid<Isa>(tanh_argument<Isa>(x));
    *value = Isa::mul(x, s);
    const F slope = Isa::mul(Isa::set(1.59576912f), Isa::fma(Isa::mul(x, x), Isa::set(0.134145f), one));
    return Isa::mul(s, Isa::fma(Isa::mul(x, Isa::sub(one, s)), slope, one));
  } else if constexpr (A == CREDENCE_RELU) {
    *value = Isa::max(x, Isa::zero());
    return Isa::select(Isa::less(Isa::zero(), x), one, Isa::zero());
  } else {
    *value = x;
    return one;
  }
}

/// body.template operator()<A>() for the activation chosen at run time.
template <class Body>
static inline void with_activation(credence_activation activation, const Body& body) {
  switch (activation) {
    case CREDENCE_SILU:
      body.template operator()<CREDENCE_SILU>();
      break;
    case CREDENCE_GELU:
      body.template operator()<CREDENCE_GELU>();
      break;
    case CREDENCE_GELU_TANH:
      body.template operator()<CREDENCE_GELU_TANH>();
      break;
    case CREDENCE_RELU:
      body.template operator()<CREDENCE_RELU>();
      break;
    case CREDENCE_IDENTITY:
      body.template operator()<CREDENCE_IDENTITY>();
      break;
  }
}

}  // namespace credence::cpu
