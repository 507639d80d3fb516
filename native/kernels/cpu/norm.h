// RMS norm (Zhang & Sennrich 2019, eq. 4) and layer norm (Ba et al. 2016), row by row, and their backward.
// Statistics in float32; the residual stream that is normed is float32 too.
#pragma once

#include <math.h>

#include "arena.h"
#include "checks.h"
#include "linear.h"

namespace credence::cpu {

/// What a row is normed with: (x - mean) inv. mean is 0 for RMS.
struct NormRow {
  float mean, inv;
};

template <class Isa>
NormRow norm_statistics(const float* x, int32_t width, credence_norm_kind kind, float eps) {
  typename Isa::F sum = Isa::zero();
  float mean = 0;
  if (kind == CREDENCE_LAYER_NORM) {
    for (int32_t i = 0; i < width; i += Isa::W) sum = Isa::add(sum, Isa::load(x + i, Isa::first(width - i)));
    mean = Isa::reduce_add(sum) / static_cast<float>(width);
    sum = Isa::zero();
  }
  for (int32_t i = 0; i < width; i += Isa::W) {
    const auto lanes = Isa::first(width - i);
    const auto d = Isa::select(lanes, Isa::sub(Isa::load(x + i, lanes), Isa::set(mean)), Isa::zero());
    sum = Isa::fma(d, d, sum);
  }
  return {mean, 1.0f / sqrtf(Isa::reduce_add(sum) / static_cast<float>(width) + eps)};
}

/// One row. y and y_f32 may be null; y_f32 may be x.
template <class Isa, class T>
NormRow norm_row(const float* x, int32_t width, credence_norm_kind kind, float eps, const float* weight,
                 const float* bias, T* y, float* y_f32) {
  const NormRow n = norm_statistics<Isa>(x, width, kind, eps);
  for (int32_t i = 0; i < width; i += Isa::W) {
    const auto lanes = Isa::first(width - i);
    auto value = Isa::mul(Isa::sub(Isa::load(x + i, lanes), Isa::set(n.mean)), Isa::set(n.inv));
    value = Isa::mul(value, Isa::load(weight + i, lanes));
    if (bias) value = Isa::add(value, Isa::load(bias + i, lanes));
    if (y) Isa::store(y + i, value, lanes);
    if (y_f32) Isa::store(y_f32 + i, value, lanes);
  }
  return n;
}

/// dx += d norm / dx dy for one row. With xhat = (x - mean) inv and g = weight dy:
///   dx = inv (g - [layer norm: mean(g)] - xhat mean(g xhat))
template <class Isa>
void norm_backward_row(const float* x, int32_t width, credence_norm_kind kind, NormRow n, const float* weight,
                       const float* dy, float* dx) {
  using F = typename Isa::F;
  F along = Isa::zero(), level = Isa::zero();
  for (int32_t i = 0; i < width; i += Isa::W) {
    const auto lanes = Isa::first(width - i);
    const F g = Isa::mul(Isa::load(dy + i, lanes), Isa::load(weight + i, lanes));
    const F xhat = Isa::mul(Isa::sub(Isa::load(x + i, lanes), Isa::set(n.mean)), Isa::set(n.inv));
    along = Isa::fma(g, xhat, along);
    level = Isa::add(level, g);
  }
  const float mean_along = Isa::reduce_add(along) / static_cast<float>(width);
  const float mean_level = kind == CREDENCE_LAYER_NORM ? Isa::reduce_add(level) / static_cast<float>(width) : 0.0f;
  for (int32_t i = 0; i < width; i += Isa::W) {
    const auto lanes = Isa::first(width - i);
    const F g = Isa::mul(Isa::load(dy + i, lanes), Isa::load(weight + i, lanes));
    const F xhat = Isa::mul(Isa::sub(Isa::load(x + i, lanes), Isa::set(n.mean)), Isa::set(n.inv));
    const F rest = Isa::sub(Isa::sub(g, Isa::set(mean_level)), Isa::mul(xhat, Isa::set(mean_along)));
    Isa::store(dx + i, Isa::fma(rest, Isa::set(n.inv), Isa::load(dx + i, lanes)), lanes);
  }
}

/// Rows of work for one item where a row costs `width` steps: launches stay worth their while.
static inline int64_t rows_at_once(int64_t width) { return most(1, least(64, 16384 / most(width, 1))); }

/// body(row) for every row, on all threads.
template <class Isa, class Body>
static inline void for_rows(credence_backend* backend, int64_t rows, int64_t width, const Body& body) {
  const int64_t chunk = rows_at_once(width);
  backend->pool.parallel(ceil_div(rows, chunk), [&](int64_t i, int) {
    for (int64_t row = i * chunk, end = least(row + chunk, rows); row < end; ++row) body(row);
  });
}

/// The backward of a norm as an operator asks for it. Row r of dy belongs to row index ? index[r] : r of x and dx.
struct NormGradient {
  int64_t rows;
  int32_t width;
  credence_norm_kind kind;
  float eps;
  const int32_t* index;
  const float* x;
  int64_t ldx;
  const float* weight;
  const float* inv_rms;  // or null
  const float* dy;
  int64_t lddy;
  float* dx;  // or null
  int64_t lddx;
  float *dweight, *dbias;  // or null
};

/// statistics: room for one NormRow a row.
template <class Isa>
void norm_gradient(credence_backend* backend, const NormGradient& g, NormRow* statistics) {
  for_rows<Isa>(backend, g.rows, 2 * g.width, [&](int64_t r) {
    const int64_t at = g.index ? g.index[r] : r;
    NormRow n;
    if (g.inv_rms && g.kind == CREDENCE_RMS_NORM) n = {0.0f, g.inv_rms[r]};
    else n = norm_statistics<Isa>(g.x + at * g.ldx, g.width, g.kind, g.eps);
    statistics[r] = n;
    if (g.dx && !g.index)
      norm_backward_row<Isa>(g.x + at * g.ldx, g.width, g.kind, n, g.weight, g.dy + r * g.lddy, g.dx + at * g.lddx);
  });
  if (g.dx && g.index)  // an index may stand there twice: its rows are added in order
    for (int64_t r = 0; r < g.rows; ++r) {
      const int64_t at = g.index[r];
      norm_backward_row<Isa>(g.x + at * g.ldx, g.width, g.kind, statistics[r], g.weight, g.dy + r * g.lddy,
                             g.dx + at * g.lddx);
    }
  if (!g.dweight && !g.dbias) return;
  // Rows in order, columns shared out: the same bits for any number of threads.
  backend->pool.parallel(ceil_div(g.width, Isa::W), [&](int64_t c, int) {
    const int64_t i = c * Isa::W;
    const auto lanes = Isa::first(g.width - i);
    auto dweight = Isa::zero(), dbias = Isa::zero();
    for (int64_t r = 0; r < g.rows; ++r) {
      const int64_t at = g.index ? g.index[r] : r;
      const auto dy = Isa::load(g.dy + r * g.lddy + i, lanes);
      const auto centred = Isa::sub(Isa::load(g.x + at * g.ldx + i, lanes), Isa::set(statistics[r].mean));
      dweight = Isa::fma(dy, Isa::mul(centred, Isa::set(statistics[r].inv)), dweight);
      dbias = Isa::add(dbias, dy);
    }
    if (g.dweight) Isa::store(g.dweight + i, Isa::add(Isa::load(g.dweight + i, lanes), dweight), lanes);
    if (g.dbias) Isa::store(g.dbias + i, Isa::add(Isa::load(g.dbias + i, lanes), dbias), lanes);
  });
}

template <class Isa>
size_t norm_workspace(const credence_norm*) {
  return 0;
}

template <class Isa, class T>
static inline void norm_of(credence_backend* backend, const credence_norm* p) {
  for_rows<Isa>(backend, *p->rows, p->width, [&](int64_t r) {
    const float* x = p->x + (p->index ? p->index[r] : r) * p->ldx;
    const NormRow n = norm_row<Isa>(x, p->width, p->kind, p->eps, p->weight, p->bias,
                                    p->y ? static_cast<T*>(p->y) + r * p->ldy : nullptr,
                                    p->y_f32 ? p->y_f32 + r * p->ldy_f32 : nullptr);
    if (p->inv_rms) p->inv_rms[r] = n.inv;
  });
}

template <class Isa>
int norm(credence_backend* backend, const credence_norm* p, void*) {
  if (int error = check_rows(backend, "norm", p->rows, p->capacity)) return error;
  if (p->dtype == CREDENCE_BF16) norm_of<Isa, bf16>(backend, p);
  else norm_of<Isa, float>(backend, p);
  return 0;
}

template <class Isa>
size_t norm_backward_workspace(const credence_norm_backward* p) {
  Arena<Isa> arena(nullptr);
  arena.template take<NormRow>(p->capacity);
  return arena.used();
}

template <class Isa>
int norm_backward(credence_backend* backend, const credence_norm_backward* p, void* workspace) {
  if (int error = check_rows(backend, "norm_backward", p->rows, p->capacity)) return error;
  Arena<Isa> arena(workspace);
  const NormGradient g = {*p->rows,   p->width, p->kind, p->eps, p->index, p->x,       p->ldx,  p->weight,
                          p->inv_rms, p->dy,    p->lddy, p->dx,  p->lddx,  p->dweight, p->dbias};
  norm_gradient<Isa>(backend, g, arena.template take<NormRow>(p->capacity));
  return 0;
}

}  // namespace credence::cpu
