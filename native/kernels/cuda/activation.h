// The MLP's activations and their derivatives.
#pragma once

#include "../kernels.h"
#include "device.h"
#include "launch.h"

namespace credence::cuda {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
/// The normal distribution's integral to x.
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(-x * 0.707106781f); }
/// 2 sqrt(2 / pi) (x + 0.044715 x^3): gelu_tanh(x) = x sigmoid(of this).
__device__ __forceinline__ float tanh_argument(float x) { return 1.59576912f * x * (1.0f + 0.044715f * x * x); }

template <credence_activation A>
__device__ __forceinline__ float activate(float x) {
  if constexpr (A == CREDENCE_SILU) return x * sigmoid(x);
  else if constexpr (A == CREDENCE_GELU) return x * normal_cdf(x);
  else if constexpr (A == CREDENCE_GELU_TANH) return x * sigmoid(tanh_argument(x));
  else if constexpr (A == CREDENCE_RELU) return x > 0.0f ? x : 0.0f;
  else return x;
}

/// d activation / dx.
template <credence_activation A>
__device__ __forceinline__ float derivative(float x) {
  if constexpr (A == CREDENCE_SILU) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  } else if constexpr (A == CREDENCE_GELU) {  // Phi + x phi
    return normal_cdf(x) + x * 0.398942280f * expf(-0.5f * x * x);
  } else if constexpr (A == CREDENCE_GELU_TANH) {  // s + x s (1 - s) z',  z' = 2 sqrt(2 / pi) (1 + 3 0.044715 x^2)
    const float s = sigmoid(tanh_argument(x));
    return s * (1.0f + x * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * x * x));
  } else if constexpr (A == CREDENCE_RELU) {
    return x > 0.0f ? 1.0f : 0.0f;
  } else {
    return 1.0f;
  }
}

/// body.template operator()<A>() with the activation that is named at run time.
template <class Body>
int with_activation(Backend& backend, const char* name, credence_activation activation, const Body& body) {
  switch (activation) {
    case CREDENCE_SILU:
      return body.template operator()<CREDENCE_SILU>();
    case CREDENCE_GELU:
      return body.template operator()<CREDENCE_GELU>();
    case CREDENCE_GELU_TANH:
      return body.template operator()<CREDENCE_GELU_TANH>();
    case CREDENCE_RELU:
      return body.template operator()<CREDENCE_RELU>();
    case CREDENCE_IDENTITY:
      return body.template operator()<CREDENCE_IDENTITY>();
  }
  return fail(backend, "%s: there is no activation %d", name, static_cast<int>(activation));
}

}  // namespace credence::cuda
