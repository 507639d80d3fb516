// The output projection and the MLP's second product, onto the residual stream:  x_out = x + in W^T + scale S B^T + bias.
// T tokens, N hidden, K columns, R ranks.
#pragma once

#include "lora.h"
#include "norm.h"

namespace credence::cpu {

template <class Isa, class T>
struct ProjectSpace {
  Arena<Isa> arena;
  LoraSpace<Isa, T> lora;

  ProjectSpace(const credence_project* p, void* base)
      : arena(base), lora(&arena, p->capacity, p->lora, p->dropout, p->s) {}
};

template <class Isa>
size_t project_workspace(const credence_project* p) {
  return p->dtype == CREDENCE_BF16 ? ProjectSpace<Isa, bf16>(p, nullptr).arena.used()
                                   : ProjectSpace<Isa, float>(p, nullptr).arena.used();
}

template <class Isa, class T>
static inline void project_of(credence_backend* backend, const credence_project* p, void* workspace) {
  const ProjectSpace<Isa, T> space(p, workspace);
  const int64_t rows = *p->rows, columns = p->weights->columns, outputs = p->weights->rows;
  const T* in = static_cast<const T*>(p->in);
  if (p->lora) {
    const int64_t chunk = 4 * Isa::kTileRows;
    backend->pool.parallel(ceil_div(rows, chunk), [&](int64_t i, int) {
      lora_rows<Isa>(p->lora, p->dropout, in, columns, i * chunk, least(i * chunk + chunk, rows), space.lora);
    });
  }
  Product<T> product = product_of(in, columns, p->weights);
  add_tail(&product, p->lora, space.lora.s);
  product_all<Isa>(
      backend, product, rows, panels_of(outputs),
      [&](int64_t row, int64_t count, int64_t panel, const float* tile, int64_t ld) {
        for (int v = 0; v < kPanel; v += Isa::W) {
          const int64_t column = panel * kPanel + v;
          const auto lanes = Isa::first(outputs - column);
          const auto bias = p->bias ? Isa::load(p->bias + column, lanes) : Isa::zero();
          for (int64_t r = 0; r < count; ++r) {
            const int64_t at = (row + r) * p->ldx + column;
            const auto y = Isa::add(Isa::load(tile + r * ld + v), bias);
            Isa::store(p->x_out + at, Isa::add(Isa::load(p->x + at, lanes), y), lanes);
          }
        }
      },
      [&](int64_t row, int64_t count, int64_t panel) {
        const int64_t at = row * p->ldx + panel * kPanel;
        will_write_tile<Isa>(p->x_out + at, p->ldx, count);
        if (p->x != p->x_out) will_read_tile<Isa>(p->x + at, p->ldx, count);
      });
}

template <class Isa>
int project(credence_backend* backend, const credence_project* p, void* workspace) {
  if (int error = check_rows(backend, "project", p->rows, p->capacity)) return error;
  if (int error = check_linear(backend, "project", p->weights, p->lora, p->weights->rows, p->weights->columns, p->dtype,
                               p->dropout, false))
    return error;
  if (p->dtype == CREDENCE_BF16) project_of<Isa, bf16>(backend, p, workspace);
  else project_of<Isa, float>(backend, p, workspace);
  return 0;
}

// --------------------------------------------------------------------------------------------------------------- backward

template <class Isa, class T>
struct ProjectBackwardSpace {
  Arena<Isa> arena;
  T* dy;  // [T, N] d(x_out) as act
  LinearBackwardSpace<Isa, T> linear;

  ProjectBackwardSpace(const credence_project_backward* p, void* base)
      : arena(base),
        dy(arena.template take<T>(static_cast<int64_t>(p->capacity) * p->weights->rows)),
        linear(&arena, p->capacity, p->weights, p->lora, p->dropout, p->dweights != nullptr) {}
};

template <class Isa>
size_t project_backward_workspace(const credence_project_backward* p) {
  return p->dtype == CREDENCE_BF16 ? ProjectBackwardSpace<Isa, bf16>(p, nullptr).arena.used()
                                   : ProjectBackwardSpace<Isa, float>(p, nullptr).arena.used();
}

template <class Isa, class T>
static inline void project_backward_of(credence_backend* backend, const credence_project_backward* p, void* workspace) {
  ProjectBackwardSpace<Isa, T> space(p, workspace);
  const int64_t rows = *p->rows, columns = p->weights->columns, outputs = p->weights->rows;
  for_rows<Isa>(backend, rows, outputs, [&](int64_t r) {
    for (int64_t i = 0; i < outputs; i += Isa::W) {
      const auto lanes = Isa::first(outputs - i);
      Isa::store(space.dy + r * outputs + i, Isa::load(p->dx + r * p->lddx + i, lanes), lanes);
    }
  });
  linear_gradients<Isa, T>(backend, p->weights, p->lora, p->dropout, space.linear, static_cast<const T*>(p->in),
                           static_cast<const T*>(p->s), space.dy, rows, p->gradients, p->dweights, p->dbias);
  if (!p->din) return;
  T* din = static_cast<T*>(p->din);
  const auto gradient = input_gradient<Isa, T>(backend, p->weights, p->lora, p->dropout, &space.linear, space.dy, rows);
  product_all<Isa>(
      backend, gradient.product, rows, panels_of(columns),
      [&](int64_t row, int64_t count, int64_t panel, const float* tile, int64_t ld) {
        gradient.tail.with(row, count, panel, tile, ld, [&](const float* sum, int64_t ld_sum) {
          store_tile<Isa>(sum, ld_sum, count, panel, columns, din + row * columns, columns);
        });
      },
      [&](int64_t row, int64_t count, int64_t panel) {
        will_write_tile<Isa>(din + row * columns + panel * kPanel, columns, count);
      });
}

template <class Isa>
int project_backward(credence_backend* backend, const credence_project_backward* p, void* workspace) {
  if (int error = check_rows(backend, "project_backward", p->rows, p->capacity)) return error;
  if (int error = check_linear(backend, "project_backward", p->weights, p->lora, p->weights->rows, p->weights->columns,
                               p->dtype, p->dropout, p->din != nullptr))
    return error;
  if (p->dtype == CREDENCE_BF16) project_backward_of<Isa, bf16>(backend, p, workspace);
  else project_backward_of<Isa, float>(backend, p, workspace);
  return 0;
}

}  // namespace credence::cpu
