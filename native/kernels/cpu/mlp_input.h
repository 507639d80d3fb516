// Norm, the fused gate|up product and the activation:  h = norm(x);  u = h W^T + scale S B^T + bias;
//   a = activation(gate) up  (gated: u = gate|up)   or   a = activation(u).
// T tokens, I intermediate. Gate and up of the same columns are computed side by side, so `a` is made from float32 sums.
#pragma once

#include "activation.h"
#include "lora.h"
#include "norm.h"

namespace credence::cpu {

/// h = norm(x) and S for rows of an operator that begins with both.
template <class Isa, class T>
struct NormedInput {
  int64_t rows;
  int32_t width;
  credence_norm_kind kind;
  float eps;
  const float* x;
  int64_t ldx;
  const float *weight, *bias;
  T* h;
  float* inv_rms;  // or null
  const credence_lora* lora;
  const credence_dropout& dropout;
  const LoraSpace<Isa, T>& space;

  void range(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      const NormRow n = norm_row<Isa>(x + r * ldx, width, kind, eps, weight, bias, h + r * width, nullptr);
      if (inv_rms) inv_rms[r] = n.inv;
    }
    if (lora) lora_rows<Isa>(lora, dropout, h, width, begin, end, space);
  }
  void all(credence_backend* backend) const {
    const int64_t chunk = (rows > 16 * Isa::kTileRows ? 4 : 1) * Isa::kTileRows;
    backend->pool.parallel(ceil_div(rows, chunk),
                           [&](int64_t i, int) { range(i * chunk, least(i * chunk + chunk, rows)); });
  }
};

template <class Isa, class T>
struct MlpInputSpace {
  Arena<Isa> arena;
  LoraSpace<Isa, T> lora;

  MlpInputSpace(const credence_mlp_input* p, void* base)
      : arena(base), lora(&arena, p->capacity, p->lora, p->dropout, p->s) {}
};

template <class Isa>
size_t mlp_input_workspace(const credence_mlp_input* p) {
  return p->dtype == CREDENCE_BF16 ? MlpInputSpace<Isa, bf16>(p, nullptr).arena.used()
                                   : MlpInputSpace<Isa, float>(p, nullptr).arena.used();
}

/// A tile of gate and of up (or of u alone: up null), finished: bias, u kept, a written. Columns [column, column + 32) of a.
// u is read again only by the backward, long after: whole lines of it go past the caches.
template <class Isa, class T, credence_activation A>
static inline void finish_mlp_tile(const credence_mlp_input* p, int64_t row, int64_t rows, int64_t column,
                                   const float* gate, int64_t ld_gate, const float* up, int64_t ld_up) {
  const int64_t width = p->shape.intermediate, ldu = up ? 2 * width : width;
  const bool whole = column + kPanel <= width && p->u && !p->bias;
  if (whole)
    for (int64_t r = 0; r < rows; ++r)
      for (int v = 0; v < kPanel; v += 2 * Isa::W) {
        T* u = static_cast<T*>(p->u) + (row + r) * ldu + column + v;
        Isa::stream(u, Isa::load(gate + r * ld_gate + v), Isa::load(gate + r * ld_gate + v + Isa::W));
        if (up) Isa::stream(u + width, Isa::load(up + r * ld_up + v), Isa::load(up + r * ld_up + v + Isa::W));
      }
  for (int v = 0; v < kPanel; v += Isa::W) {
    const int64_t i = column + v;
    const auto lanes = Isa::first(width - i);
    const auto gate_bias = p->bias ? Isa::load(p->bias + i, lanes) : Isa::zero();
    const auto up_bias = p->bias && up ? Isa::load(p->bias + width + i, lanes) : Isa::zero();
    for (int64_t r = 0; r < rows; ++r) {
      T* u = p->u && !whole ? static_cast<T*>(p->u) + (row + r) * ldu + i : nullptr;
      const auto g = Isa::add(Isa::load(gate + r * ld_gate + v), gate_bias);
      if (u) Isa::store(u, g, lanes);
      auto a = activate<Isa, A>(g);
      if (up) {
        const auto x = Isa::add(Isa::load(up + r * ld_up + v), up_bias);
        if (u) Isa::store(u + width, x, lanes);
        a = Isa::mul(a, x);
      }
      Isa::store(static_cast<T*>(p->a) + (row + r) * width + i, a, lanes);
    }
  }
}

/// gated_block where the hidden size is long: see deep_rows.
template <class Isa, class T, credence_activation A>
void deep_gated_block(const credence_mlp_input* p, const Product<T>& product, int64_t row0, int64_t row1,
                      int64_t panel0, int64_t panel1) {
  constexpr int64_t kRows = kDeepRows<Isa>, kWide = 2 * kPanel;
  alignas(64) float gate[kRows * kPanel], up[kRows * kWide];
  const int64_t width = p->shape.intermediate;
  const auto nothing = [](int64_t, int64_t, bool) {};
  for (int64_t begin = row0; begin < row1; begin += kRows) {
    const int64_t end = least(begin + kRows, row1);
    for (int64_t panel = panel0; panel < panel1; ++panel) {
      const int64_t up_column = width + panel * kPanel, first = up_column / kPanel, shift = up_column % kPanel;
      const int64_t up_panels = least(shift ? 2 : 1, panels_of(2 * width) - first);
      deep_rows<Isa>(product, begin, end, panel, gate, kPanel, nothing);
      for (int64_t i = 0; i < up_panels; ++i)
        deep_rows<Isa>(product, begin, end, first + i, up + i * kPanel, kWide, nothing);
      for_tiles<Isa>(begin, end, [&](int64_t row, int64_t rows) {
        finish_mlp_tile<Isa, T, A>(p, row, rows, panel * kPanel, gate + (row - begin) * kPanel, kPanel,
                                   up + shift + (row - begin) * kWide, kWide);
      });
    }
  }
}

/// Rows x gate panels of a gated MLP. When the intermediate size is no multiple of 32, up's columns straddle two panels.
template <class Isa, class T, credence_activation A>
void gated_block(const credence_mlp_input* p, const Product<T>& product, int64_t row0, int64_t row1, int64_t panel0,
                 int64_t panel1) {
  if constexpr (Isa::kDeepSteps > 0) {
    if (is_deep<Isa>(product.k, row1 - row0))
      return deep_gated_block<Isa, T, A>(p, product, row0, row1, panel0, panel1);
  }
  alignas(64) float gate[12 * kPanel], up[12 * 2 * kPanel];  // 12 rows of 1 panel, 6 of 2 or 3 of 4; up: one panel more
  const int64_t width = p->shape.intermediate, all_panels = panels_of(2 * width);
  const int at_once = tile_panels<Isa>(least(row1 - row0, Isa::kTileRows));
  for (int64_t panel = panel0; panel < panel1; panel += at_once) {
    const int panels = static_cast<int>(least(at_once, panel1 - panel));
    const int64_t up_column = width + panel * kPanel, first = up_column / kPanel, shift = up_column % kPanel;
    const int up_panels = static_cast<int>(least(panels + (shift ? 1 : 0), all_panels - first));
    for_tiles<Isa>(row0, row1, [&](int64_t row, int64_t rows, Share share) {
      const int64_t ld_gate = panels * kPanel, ld_up = (panels + (shift ? 1 : 0)) * kPanel;
      for (int i = 0; i < panels; ++i)
        will_write_tile<Isa>(static_cast<T*>(p->a) + row * width + (panel + i) * kPanel, width, rows);
      tile_of<Isa>(product, row, rows, panel, panels, gate, ld_gate, share);
      tile_of<Isa>(product, row, rows, first, up_panels, up, ld_up, share);
      for (int i = 0; i < panels; ++i)
        finish_mlp_tile<Isa, T, A>(p, row, rows, (panel + i) * kPanel, gate + i * kPanel, ld_gate,
                                   up + shift + i * kPanel, ld_up);
    });
  }
}

template <class Isa, class T>
static inline void mlp_input_of(credence_backend* backend, const credence_mlp_input* p, void* workspace) {
  const MlpInputSpace<Isa, T> space(p, workspace);
  const int64_t rows = *p->rows;
  const int32_t hidden = p->shape.hidden;
  T* h = static_cast<T*>(p->h);
  const NormedInput<Isa, T> input = {
      rows,         hidden, p->shape.norm, p->shape.norm_eps, p->x,       p->ldx,    p->norm_weight,
      p->norm_bias, h,      p->inv_rms,    p->lora,           p->dropout, space.lora};
  input.all(backend);
  if (rows == 0) return;
  Product<T> product = product_of(static_cast<const T*>(h), hidden, p->weights);
  add_tail(&product, p->lora, static_cast<const T*>(space.lora.s));
  with_activation(p->shape.activation, [&]<credence_activation A>() {
    if (!p->shape.gated) {
      product_all<Isa>(backend, product, rows, panels_of(p->shape.intermediate),
                       [&](int64_t row, int64_t count, int64_t panel, const float* tile, int64_t ld) {
                         finish_mlp_tile<Isa, T, A>(p, row, count, panel * kPanel, tile, ld, nullptr, 0);
                         Isa::fence();
                       });
      return;
    }
    const Split s = split_of<Isa>(rows, panels_of(p->shape.intermediate), hidden, sizeof(T), backend->pool.threads());
    backend->pool.parallel(s.row_blocks * s.panel_blocks, [&](int64_t i, int) {
      const int64_t row = i / s.panel_blocks * s.block_rows, panel = i % s.panel_blocks * s.block_panels;
      gated_block<Isa, T, A>(p, product, row, least(row + s.block_rows, rows), panel,
                             least(panel + s.block_panels, s.panels));
      Isa::fence();
    });
  });
}

template <class Isa>
int mlp_input(credence_backend* backend, const credence_mlp_input* p, void* workspace) {
  if (int error = check_rows(backend, "mlp_input", p->rows, p->capacity)) return error;
  if (int error =
          check_linear(backend, "mlp_input", p->weights, p->lora, p->shape.intermediate * (p->shape.gated ? 2 : 1),
                       p->shape.hidden, p->dtype, p->dropout, false))
    return error;
  if (p->dtype == CREDENCE_BF16) mlp_input_of<Isa, bf16>(backend, p, workspace);
  else mlp_input_of<Isa, float>(backend, p, workspace);
  return 0;
}

// --------------------------------------------------------------------------------------------------------------- backward

template <class Isa, class T>
struct MlpInputBackwardSpace {
  Arena<Isa> arena;
  T* du;                // [T, 2 I or I]
  float* dh;            // [T, hidden]
  NormRow* statistics;  // [T]
  LinearBackwardSpace<Isa, T> linear;

  MlpInputBackwardSpace(const credence_mlp_input_backward* p, void* base)
      : arena(base),
        du(arena.template take<T>(static_cast<int64_t>(p->capacity) * p->weights->rows)),
        dh(arena.template take<float>(static_cast<int64_t>(p->capacity) * p->shape.hidden)),
        statistics(arena.template take<NormRow>(p->capacity)),
        linear(&arena, p->capacity, p->weights, p->lora, p->dropout, p->dweights != nullptr) {}
};

template <class Isa>
size_t mlp_input_backward_workspace(const credence_mlp_input_backward* p) {
  return p->dtype == CREDENCE_BF16 ? MlpInputBackwardSpace<Isa, bf16>(p, nullptr).arena.used()
                                   : MlpInputBackwardSpace<Isa, float>(p, nullptr).arena.used();
}

/// Gradient of the product's input and of the norm before it: dx += d norm (dY W + G A).
template <class Isa, class T>
void normed_input_gradient(credence_backend* backend, const InputGradient<Isa, T>& gradient, NormGradient norm,
                           float* dh, NormRow* statistics) {
  const int64_t width = norm.width;
  const int64_t block = 4 * Isa::kTileRows;
  const int threads = backend->pool.threads();
  const auto store = [&](float* out, int64_t first) {  // row `first` of the product is row 0 of out
    return [&, out, first](int64_t row, int64_t rows, int64_t panel, const float* tile, int64_t ld) {
      gradient.tail.with(row, rows, panel, tile, ld, [&](const float* sum, int64_t ld_sum) {
        store_tile<Isa>(sum, ld_sum, rows, panel, width, out + (row - first) * width, width);
      });
    };
  };
  if (!norm.dweight && !norm.dbias && norm.rows >= 2 * threads * block) {
    // A block of rows at a time, finished while it is in L2.
    backend->pool.parallel(ceil_div(norm.rows, block), [&](int64_t i, int thread) {
      const int64_t begin = i * block, end = least(begin + block, norm.rows);
      float* rows_of_dh = dh + thread * block * width;
      product_block<Isa, T>(gradient.product, begin, end, 0, panels_of(width), store(rows_of_dh, begin));
      for (int64_t r = begin; r < end; ++r) {
        const float* x = norm.x + r * norm.ldx;
        const bool kept = norm.inv_rms && norm.kind == CREDENCE_RMS_NORM;
        const NormRow n =
            kept ? NormRow{0.0f, norm.inv_rms[r]} : norm_statistics<Isa>(x, norm.width, norm.kind, norm.eps);
        norm_backward_row<Isa>(x, norm.width, norm.kind, n, norm.weight, rows_of_dh + (r - begin) * width,
                               norm.dx + r * norm.lddx);
      }
    });
    return;
  }
  product_all<Isa>(backend, gradient.product, norm.rows, panels_of(width), store(dh, 0));
  norm.dy = dh;
  norm.lddy = width;
  norm_gradient<Isa>(backend, norm, statistics);
}

template <class Isa, class T>
static inline void mlp_input_backward_of(credence_backend* backend, const credence_mlp_input_backward* p,
                                         void* workspace) {
  MlpInputBackwardSpace<Isa, T> space(p, workspace);
  const int64_t rows = *p->rows, width = p->shape.intermediate, ldu = p->weights->rows;
  with_activation(p->shape.activation, [&]<credence_activation A>() {
    for_rows<Isa>(backend, rows, 4 * width, [&](int64_t r) {
      const T* u = static_cast<const T*>(p->u) + r * ldu;
      const T* da = static_cast<const T*>(p->da) + r * width;
      T* du = space.du + r * ldu;
      for (int64_t i = 0; i < width; i += Isa::W) {
        const auto lanes = Isa::first(width - i);
        typename Isa::F value;
        const auto slope = derivative<Isa, A>(Isa::load(u + i, lanes), &value);
        const auto upstream = Isa::load(da + i, lanes);
        if (p->shape.gated) {
          Isa::store(du + i, Isa::mul(Isa::mul(upstream, Isa::load(u + width + i, lanes)), slope), lanes);
          Isa::store(du + width + i, Isa::mul(upstream, value), lanes);
        } else {
          Isa::store(du + i, Isa::mul(upstream, slope), lanes);
        }
      }
    });
  });
  linear_gradients<Isa, T>(backend, p->weights, p->lora, p->dropout, space.linear, static_cast<const T*>(p->h),
                           static_cast<const T*>(p->s), space.du, rows, p->gradients, p->dweights, p->dbias);
  if (!p->dx && !p->dnorm_weight && !p->dnorm_bias) return;
  const NormGradient norm = {rows, p->shape.hidden, p->shape.norm,  p->shape.norm_eps, nullptr,
                             p->x, p->ldx,          p->norm_weight, p->inv_rms,        nullptr,
                             0,    p->dx,           p->lddx,        p->dnorm_weight,   p->dnorm_bias};
  normed_input_gradient<Isa, T>(
      backend, input_gradient<Isa, T>(backend, p->weights, p->lora, p->dropout, &space.linear, space.du, rows), norm,
      space.dh, space.statistics);
}

template <class Isa>
int mlp_input_backward(credence_backend* backend, const credence_mlp_input_backward* p, void* workspace) {
  if (int error = check_rows(backend, "mlp_input_backward", p->rows, p->capacity)) return error;
  if (int error = check_linear(backend, "mlp_input_backward", p->weights, p->lora,
                               p->shape.intermediate * (p->shape.gated ? 2 : 1), p->shape.hidden, p->dtype, p->dropout,
                               p->dx || p->dnorm_weight || p->dnorm_bias))
    return error;
  if (p->dtype == CREDENCE_BF16) mlp_input_backward_of<Isa, bf16>(backend, p, workspace);
  else mlp_input_backward_of<Isa, float>(backend, p, workspace);
  return 0;
}

}  // namespace credence::cpu
