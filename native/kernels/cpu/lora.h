// An adapter's share of a linear operator (Hu et al. 2021, eq. 3):  Y += scale S B^T, S = X A^T.  T tokens, R all ranks.
//   forward    S is a product of its own; scale S B^T is the second segment of Y's product
//   backward   G = scale dY B;  dA += G^T X;  dB += scale dY^T S;  and G A is the second segment of dX = dY W
#pragma once

#include "arena.h"
#include "linear.h"
#include "outer.h"

namespace credence::cpu {

/// A tile of a product into act rows [.., outputs].
template <class Isa, class T>
static inline void store_tile(const float* tile, int64_t ld, int64_t rows, int64_t panel, int64_t outputs, T* out,
                              int64_t ldo) {
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < kPanel; v += Isa::W) {
      const int64_t column = panel * kPanel + v;
      Isa::store(out + r * ldo + column, Isa::load(tile + r * ld + v), Isa::first(outputs - column));
    }
}

/// The lines of a tile's 32 columns that are about to be written, or read.
template <class Isa, class T>
static inline void will_write_tile(T* out, int64_t ldo, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < kPanel; v += 64 / static_cast<int64_t>(sizeof(T))) Isa::will_write(out + r * ldo + v);
}

template <class Isa, class T>
static inline void will_read_tile(const T* in, int64_t ld, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < kPanel; v += 64 / static_cast<int64_t>(sizeof(T))) Isa::will_read(in + r * ld + v);
}

/// Rows [row0, row1) of S [T, R].
template <class Isa, class T>
void lora_rows(const credence_lora* lora, const T* x, int64_t ldx, int64_t row0, int64_t row1, T* s) {
  Product<T> p;
  p.x = x;
  p.ldx = ldx;
  p.k = lora->layout.columns;
  p.panels = static_cast<const T*>(lora->a);
  product_block<Isa, T>(p, row0, row1, 0, panels_of(lora->ranks),
                        [&](int64_t row, int64_t rows, int64_t panel, const float* tile, int64_t ld) {
                          store_tile<Isa>(tile, ld, rows, panel, lora->ranks, s + row * lora->ranks, lora->ranks);
                        });
}

/// The second segment of Y's product.
template <class T>
static inline void add_tail(Product<T>* p, const credence_lora* lora, const T* s) {
  if (!lora) return;
  p->s = s;
  p->lds = lora->ranks;
  p->tail = &lora->b;
}

/// What the backward of a linear operator needs beside its own: G, and transposes for the gradients of parameters.
template <class Isa, class T>
struct LinearBackwardSpace {
  T *g = nullptr, *transposed = nullptr;
  float* sums = nullptr;

  LinearBackwardSpace(Arena<Isa>* arena, int64_t capacity, const credence_weights* weights, const credence_lora* lora,
                      bool dweights) {
    int64_t most_rows = dweights ? weights->rows : 0;
    if (lora) {
      g = arena->template take<T>(capacity * lora->ranks);
      most_rows = most(most_rows, lora->ranks);
      int64_t most_sums = 0;
      for (int s = 0; s < lora->layout.slices; ++s) {
        const credence_lora_slice& slice = lora->layout.slice[s];
        most_sums = most(most_sums, static_cast<int64_t>(slice.rank) * (slice.row_end - slice.row_begin));
      }
      sums = arena->template take<float>(most_sums);
    }
    if (most_rows) transposed = arena->template take<T>(capacity * most_rows);
  }
};

/// Gradients of an adapter and of the weights under it, given dY [tokens, N]; leaves G for the product with the transpose.
template <class Isa, class T>
void linear_gradients(credence_backend* backend, const credence_weights* weights, const credence_lora* lora,
                      const LinearBackwardSpace<Isa, T>& space, const T* x, const T* s, const T* dy, int64_t tokens,
                      float* gradients, float* dweights, float* dbias) {
  const int64_t outputs = weights->rows, columns = weights->columns;
  if (dbias) add_column_sums<Isa>(backend, dy, outputs, tokens, outputs, dbias);
  if (dweights) {
    transpose<Isa>(backend, dy, outputs, tokens, outputs, space.transposed);
    add_outer<Isa>(backend, space.transposed, outputs, x, columns, tokens, columns, dweights, columns);
  }
  if (!lora) return;
  const int64_t ranks = lora->ranks;
  Product<T> product;  // nothing but a second segment: a panel of ranks reads the outputs of its slices only
  product.s = dy;
  product.lds = outputs;
  product.tail = &lora->b_transposed;
  product_all<Isa>(backend, product, tokens, panels_of(ranks),
                   [&](int64_t row, int64_t rows, int64_t panel, const float* tile, int64_t ld) {
                     store_tile<Isa>(tile, ld, rows, panel, ranks, space.g + row * ranks, ranks);
                   });
  if (!gradients) return;
  transpose<Isa>(backend, space.g, ranks, tokens, ranks, space.transposed);
  for (int i = 0; i < lora->layout.slices; ++i) {
    const credence_lora_slice& slice = lora->layout.slice[i];
    add_outer<Isa>(backend, space.transposed + lora->first_rank[i] * tokens, slice.rank, x, columns, tokens, columns,
                   gradients + slice.a, columns);
  }
  transpose<Isa>(backend, s, ranks, tokens, ranks, space.transposed);
  for (int i = 0; i < lora->layout.slices; ++i) {
    const credence_lora_slice& slice = lora->layout.slice[i];
    const int64_t rows = slice.row_end - slice.row_begin, rank = slice.rank;
    float* sums = space.sums;  // [rank][rows], then turned into B's [rows][rank]
    for (int64_t j = 0; j < rank * rows; ++j) sums[j] = 0;
    add_outer<Isa>(backend, space.transposed + lora->first_rank[i] * tokens, rank, dy + slice.row_begin, outputs,
                   tokens, rows, sums, rows);
    float* db = gradients + slice.b;
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t r = 0; r < rank; ++r) db[n * rank + r] += slice.scale * sums[r * rows + n];
  }
}

/// dX = dY W + G A.
template <class Isa, class T>
static inline Product<T> input_gradient(const credence_weights* weights, const credence_lora* lora,
                                        const LinearBackwardSpace<Isa, T>& space, const T* dy) {
  Product<T> p = product_of_transpose(dy, weights->rows, weights);
  if (lora) {
    p.s = space.g;
    p.lds = lora->ranks;
    p.whole_tail = static_cast<const T*>(lora->a_transposed);
    p.ranks = lora->ranks;
  }
  return p;
}

}  // namespace credence::cpu
