// An adapter's share of a linear operator (Hu et al. 2021, eq. 3):  Y += scale S B^T, S = X A^T.  T tokens, R all ranks.
//   forward    S is a product of its own; scale S B^T is the second segment of Y's product
//   backward   G = scale dY B;  dA += G^T X;  dB += scale dY^T S;  and G A is the second segment of dX = dY W
// With dropout each slice reads a masked X of its own, so its S, its dA and its share of dX are products of their own.
#pragma once

#include "dropout.h"
#include "norm.h"
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

/// Where a forward operator puts S, and X as a slice keeps it under dropout.
template <class Isa, class T>
struct LoraSpace {
  T *s = nullptr, *kept = nullptr;  // [T, R], [T, K]

  LoraSpace(Arena<Isa>* arena, int64_t capacity, const credence_lora* lora, const credence_dropout& dropout,
            void* s_out)
      : s(static_cast<T*>(s_out)) {
    if (!lora) return;
    if (!s) s = arena->template take<T>(capacity * lora->ranks);
    if (dropout.p > 0) kept = arena->template take<T>(capacity * lora->layout.columns);
  }
};

/// Rows [row0, row1) of S [T, R].
template <class Isa, class T>
void lora_rows(const credence_lora* lora, const credence_dropout& dropout, const T* x, int64_t ldx, int64_t row0,
               int64_t row1, const LoraSpace<Isa, T>& space) {
  T* s = space.s;
  Product<T> p;
  p.x = x;
  p.ldx = ldx;
  p.k = lora->layout.columns;
  p.panels = static_cast<const T*>(lora->a);
  if (dropout.p > 0) {
    const DropoutMask<Isa> mask(dropout);
    p.x = space.kept;
    p.ldx = p.k;
    for (int i = 0; i < lora->layout.slices; ++i) {
      mask.keep(i, x, ldx, p.k, row0, row1, space.kept);
      const int64_t first = lora->first_rank[i], end = first + lora->layout.slice[i].rank;
      product_block<Isa, T>(p, row0, row1, first / kPanel, panels_of(end),
                            [&](int64_t row, int64_t rows, int64_t panel, const float* tile, int64_t ld) {
                              const int64_t column = panel * kPanel;
                              for (int64_t r = 0; r < rows; ++r)
                                for (int64_t c = most(first, column); c < least(end, column + kPanel); ++c)
                                  Isa::put(s + (row + r) * lora->ranks + c, tile[r * ld + c - column] * mask.scale);
                            });
    }
    return;
  }
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
  T *kept = nullptr, *tail_g[CREDENCE_MAX_SLICES];  // dropout: [T, K] X as a slice keeps it; [T, rank or one more] G
  PanelRange* ranges[CREDENCE_MAX_SLICES];
  RangedPanels tail[CREDENCE_MAX_SLICES];

  LinearBackwardSpace(Arena<Isa>* arena, int64_t capacity, const credence_weights* weights, const credence_lora* lora,
                      const credence_dropout& dropout, bool dweights) {
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
      if (dropout.p > 0) {
        kept = arena->template take<T>(capacity * weights->columns);
        for (int s = 0; s < lora->layout.slices; ++s) {
          tail_g[s] = arena->template take<T>(capacity * (lora->layout.slice[s].rank + 1));
          ranges[s] = arena->template take<PanelRange>(panels_of(weights->columns));
        }
      }
    }
    if (most_rows) transposed = arena->template take<T>(capacity * most_rows);
  }
};

/// Gradients of an adapter and of the weights under it, given dY [tokens, N]; leaves G for the product with the transpose.
template <class Isa, class T>
void linear_gradients(credence_backend* backend, const credence_weights* weights, const credence_lora* lora,
                      const credence_dropout& dropout, const LinearBackwardSpace<Isa, T>& space, const T* x, const T* s,
                      const T* dy, int64_t tokens, float* gradients, float* dweights, float* dbias) {
  const int64_t outputs = weights->rows, columns = weights->columns;
  if (dbias) add_column_sums<Isa>(backend, dy, outputs, tokens, outputs, dbias);
  if (dweights) {
    transpose<Isa>(backend, dy, outputs, tokens, outputs, space.transposed);
    add_outer<Isa>(backend, space.transposed, outputs, x, columns, tokens, columns, dweights, columns);
  }
  if (!lora) return;
  const int64_t ranks = lora->ranks;
  const bool drops = dropout.p > 0;
  const DropoutMask<Isa> mask(dropout);
  Product<T> product;  // nothing but a second segment: a panel of ranks reads the outputs of its slices only
  product.s = dy;
  product.lds = outputs;
  product.tail = &lora->b_transposed;
  product_all<Isa>(backend, product, tokens, panels_of(ranks),
                   [&](int64_t row, int64_t rows, int64_t panel, const float* tile, int64_t ld) {
                     if (!drops) return store_tile<Isa>(tile, ld, rows, panel, ranks, space.g + row * ranks, ranks);
                     float scaled[Isa::kTileRows * kPanel];
                     for (int64_t r = 0; r < rows; ++r)
                       for (int i = 0; i < kPanel; ++i) scaled[r * kPanel + i] = tile[r * ld + i] * mask.scale;
                     store_tile<Isa>(scaled, kPanel, rows, panel, ranks, space.g + row * ranks, ranks);
                   });
  if (!gradients) return;
  transpose<Isa>(backend, space.g, ranks, tokens, ranks, space.transposed);
  for (int i = 0; i < lora->layout.slices; ++i) {
    const credence_lora_slice& slice = lora->layout.slice[i];
    if (drops)
      for_rows<Isa>(backend, tokens, columns,
                    [&](int64_t t) { mask.keep(i, x, columns, columns, t, t + 1, space.kept); });
    add_outer<Isa>(backend, space.transposed + lora->first_rank[i] * tokens, slice.rank, drops ? space.kept : x,
                   columns, tokens, columns, gradients + slice.a, columns);
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

/// dX = dY W + G A, or with dropout dY W + sum over slices of mask (G A).
template <class Isa, class T>
struct InputGradient {
  Product<T> product;
  DroppedTail<Isa, T> tail;  // to be added to each tile of the product
};

template <class Isa, class T>
InputGradient<Isa, T> input_gradient(credence_backend* backend, const credence_weights* weights,
                                     const credence_lora* lora, const credence_dropout& dropout,
                                     LinearBackwardSpace<Isa, T>* space, const T* dy, int64_t tokens) {
  InputGradient<Isa, T> d;
  d.product = product_of_transpose(dy, weights->rows, weights);
  if (lora && !(dropout.p > 0)) {
    d.product.s = space->g;
    d.product.lds = lora->ranks;
    d.product.whole_tail = static_cast<const T*>(lora->a_transposed);
    d.product.ranks = lora->ranks;
  }
  if (!lora || !(dropout.p > 0)) return d;
  d.tail.slices = lora->layout.slices;
  d.tail.mask = DropoutMask<Isa>(dropout);
  const credence_dtype dtype = DtypeOf<T>::value;
  for (int i = 0; i < d.tail.slices; ++i) {
    // A slice's ranks of A^T's panels. In bf16 they come in pairs: one that begins in the middle of a pair has a zero first.
    const int32_t first = lora->first_rank[i], rank = lora->layout.slice[i].rank;
    const int32_t lead = dtype == CREDENCE_BF16 ? first % 2 : 0, width = lead + rank;
    const int64_t stride = panel_elements(dtype, lora->ranks), begin = panel_element(dtype, 0, first - lead);
    RangedPanels& panels = space->tail[i];
    panels.panels = panels_of(weights->columns);
    panels.ranges = space->ranges[i];
    panels.data = lora->a_transposed;
    for (int64_t p = 0; p < panels.panels; ++p) panels.ranges[p] = {0, width, p * stride + begin};
    T* g = space->tail_g[i];
    for_rows<Isa>(backend, tokens, width, [&](int64_t t) {
      if (lead) g[t * width] = T{};
      for (int32_t r = 0; r < rank; ++r) g[t * width + lead + r] = space->g[t * lora->ranks + first + r];
    });
    d.tail.product[i].s = g;
    d.tail.product[i].lds = width;
    d.tail.product[i].tail = &panels;
  }
  return d;
}

}  // namespace credence::cpu
