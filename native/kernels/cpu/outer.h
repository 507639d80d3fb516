// Gradients of parameters:  C[r, n] += sum over t of P[t, r] X[t, n].  One letter per axis: T tokens, R rows, N columns.
//
// Tokens run in order in the sums of one tile of C, threads share out the columns: the same bits for any number of threads. A
// block of X becomes a panel in L1 (tokens are its inputs), P is transposed once, and the tile is the product's.
#pragma once

#include "linear.h"

namespace credence::cpu {

/// P [T, R] (leading dimension ldp) as [R][T].
template <class Isa, class T>
void transpose(credence_backend* backend, const T* p, int64_t ldp, int64_t tokens, int64_t rows, T* out) {
  constexpr int64_t kTokens = 64;
  backend->pool.parallel(ceil_div(tokens, kTokens), [&](int64_t i, int) {
    const int64_t begin = i * kTokens, end = least(begin + kTokens, tokens);
    for (int64_t r = 0; r < rows; r += 16)  // squares: both sides stay in L1
      for (int64_t t = begin; t < end; ++t)
        for (int64_t j = r; j < least(r + 16, rows); ++j) out[j * tokens + t] = p[t * ldp + j];
  });
}

constexpr int64_t kFetch =
    2 * kPanel;  // columns ahead: rows are far apart, the machine's own prefetch does not see them

/// Tokens [t0, t0 + count) of 32 columns of X as a panel.
template <class Isa>
static inline void token_panel(const bf16* x, int64_t ldx, int64_t count, int64_t columns, bf16* panel) {
  for (int64_t t = 0; t < count; t += 2)
    for (int v = 0; v < kPanel; v += Isa::W) {
      Isa::will_read(x + t * ldx + v + kFetch);
      Isa::will_read(x + (t + 1) * ldx + v + kFetch);
      const auto both =
          Isa::zip(x + t * ldx + v, t + 1 < count ? x + (t + 1) * ldx + v : nullptr, Isa::first(columns - v));
      Isa::store_pairs(panel + t * kPanel + 2 * v, both);
    }
}

template <class Isa>
static inline void token_panel(const float* x, int64_t ldx, int64_t count, int64_t columns, float* panel) {
  for (int64_t t = 0; t < count; ++t)
    for (int v = 0; v < kPanel; v += Isa::W)
      Isa::store(panel + t * kPanel + v, Isa::load(x + t * ldx + v, Isa::first(columns - v)));
}

/// transposed: P as [rows][tokens].
template <class Isa, class T>
void add_outer(credence_backend* backend, const T* transposed, int64_t rows, const T* x, int64_t ldx, int64_t tokens,
               int64_t columns, float* c, int64_t ldc) {
  constexpr int64_t kTokens = 128;  // even: pairs are the same wherever a block ends
  constexpr int64_t kPanels = 6;    // neighbours in one item, so that what is fetched ahead is used
  const int64_t panels = ceil_div(columns, kPanel);
  backend->pool.parallel(ceil_div(panels, kPanels), [&](int64_t item, int) {
    alignas(64) T panel[kTokens * kPanel];
    const int64_t first = item * kPanels, here = least(kPanels, panels - first);
    for (int64_t i = 0; i < ceil_div(tokens, kTokens) * here; ++i) {
      const int64_t t = i / here * kTokens, column = (first + i % here) * kPanel;
      const int64_t count = least(kTokens, tokens - t);
      token_panel<Isa>(x + t * ldx + column, ldx, count, columns - column, panel);
      for_tiles<Isa>(0, rows, [&](int64_t row, int64_t height) {
        const T* a = transposed + row * tokens + t;
        float* out = c + row * ldc + column;
        switch (height) {
#define CREDENCE_TILE(R)                                                                                         \
  case R:                                                                                                        \
    if constexpr (R <= Isa::kTileRows) add_tile<Isa, T, R>(a, tokens, count, panel, out, ldc, columns - column); \
    break;
          CREDENCE_TILE(1)
          CREDENCE_TILE(2)
          CREDENCE_TILE(3)
          CREDENCE_TILE(4)
          CREDENCE_TILE(5)
          CREDENCE_TILE(6)
          CREDENCE_TILE(7)
          CREDENCE_TILE(8)
          CREDENCE_TILE(9)
          CREDENCE_TILE(10)
          CREDENCE_TILE(11)
          CREDENCE_TILE(12)
#undef CREDENCE_TILE
          default:
            break;
        }
      });
    }
  });
}

/// dbias[n] += sum over t of dY[t, n], tokens in order.
template <class Isa, class T>
void add_column_sums(credence_backend* backend, const T* dy, int64_t lddy, int64_t tokens, int64_t columns,
                     float* sums) {
  backend->pool.parallel(ceil_div(columns, Isa::W), [&](int64_t i, int) {
    const auto lanes = Isa::first(columns - i * Isa::W);
    auto sum = Isa::load(sums + i * Isa::W, lanes);
    for (int64_t t = 0; t < tokens; ++t) sum = Isa::add(sum, Isa::load(dy + t * lddy + i * Isa::W, lanes));
    Isa::store(sums + i * Isa::W, sum, lanes);
  });
}

}  // namespace credence::cpu
