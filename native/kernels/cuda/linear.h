// The product every linear operator is made of, with an adapter's share of it (Hu et al. 2021, eq. 3), forward and backward.
// T tokens, N outputs, K inputs, R ranks of all slices; K8, N8 padded to 8, R16 to 16.
//   forward    S = X A^T;  Y = [X | S] [W | scale B]^T
//   backward   G = scale dY B;  dX = [dY | G] [W ; A];  dA += G^T X;  dB += scale dY^T S
// An operator lays its input out with room behind it for S (or G), rows beyond the count zero: products are over the capacity.
// An adapter of more ranks than the slot takes a second product. With dropout each slice reads a masked X of its own.
#pragma once

#include "backend.h"

namespace credence::cuda {

/// Of a forward operator: its input laid out, and the product.
struct LinearSpace {
  void* x;  // [T, ldx] act: X, zeros up to K8, S
  int64_t ldx;
  void* kept;  // [T, K8] act: X as a slice keeps it, under dropout
  float* y;    // [T, ldy] what the product gives
  int64_t ldy;

  LinearSpace(Workspace* space, int64_t capacity, const Weights& weights, const Lora* lora,
              const credence_dropout& dropout);
};

/// Y of space.x, whose first K columns the operator has filled and whose others are zero. s: [T, R] act, or null.
int linear_forward(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, const Weights& weights,
                   const Lora* lora, const credence_dropout& dropout, const LinearSpace& space, void* s);

/// Of a backward operator.
struct LinearGradientSpace {
  void* dy;  // [T, lddy] act: dY, zeros up to N8, G
  int64_t lddy;
  void *x, *s;  // [T, K8], [T, R16] act: rows beyond the count zero
  void* kept;   // [T, K8] act
  float* dx;    // [T, ldx] d of the input
  int64_t lddx;
  float* part;  // [T, ldx] a slice's share of it, under dropout
  float* sums;  // column sums in parts

  LinearGradientSpace(Workspace* space, int64_t capacity, const Weights& weights, const Lora* lora,
                      const credence_dropout& dropout);
};

/// Gradients, given space.dy as space.x above. x [T, K], s [T, R] as forward left them. space.dx is written if `input` is set.
int linear_backward(Backend& backend, Operator op, const int32_t* rows, int32_t capacity, const Weights& weights,
                    const Lora* lora, const credence_dropout& dropout, const LinearGradientSpace& space, const void* x,
                    const void* s, float* gradients, float* dweights, float* dbias, bool input);

/// to [T, ld_to] = from [T, width], zeros behind it and in rows beyond the count.
int lay_out(Backend& backend, Operator op, credence_dtype dtype, const int32_t* rows, int32_t capacity,
            const void* from, int64_t ld_from, int32_t width, void* to, int64_t ld_to);

/// As cpu/checks.h: weights are [rows, columns] of dtype, and so is the adapter's product; dropout can be done.
int check_linear(Backend& backend, Operator op, const Weights& weights, const Lora* lora, int32_t rows, int32_t columns,
                 credence_dtype dtype, const credence_dropout& dropout, bool backward);

const char* name_of(Operator op);

}  // namespace credence::cuda
