// The mean over spans of rows, and its way back (kernels.h, credence_pool).
#pragma once

#include "backend.h"
#include "checks.h"
#include "linear.h"

namespace credence::cpu {

static inline int check_spans(credence_backend* backend, const char* name, const credence_pool* p) {
  for (int32_t s = 0; s < *p->rows; ++s)
    if (int error = check(backend, name, fault_of_span(s, p->from[s], p->to[s]))) return error;
  return 0;
}

template <class Isa>
size_t pool_workspace(const credence_pool*) {
  return 0;
}

template <class Isa>
int pool(credence_backend* backend, const credence_pool* p, void*) {
  if (int error = check_spans(backend, "pool", p)) return error;
  backend->pool.parallel(*p->rows, [&](int64_t s, int) {
    const auto share = Isa::set(1.0f / static_cast<float>(p->to[s] - p->from[s]));
    for (int64_t i = 0; i < p->width; i += Isa::W) {
      const auto lanes = Isa::first(p->width - i);
      typename Isa::F sum = Isa::zero();
      for (int64_t r = p->from[s]; r < p->to[s]; ++r) sum = Isa::add(sum, Isa::load(p->x + r * p->ldx + i, lanes));
      Isa::store(p->y + s * p->width + i, Isa::mul(sum, share), lanes);
    }
  });
  return 0;
}

template <class Isa>
size_t pool_backward_workspace(const credence_pool*) {
  return 0;
}

// Spans may share rows: a work item is some columns of all spans, in order.
template <class Isa>
int pool_backward(credence_backend* backend, const credence_pool* p, void*) {
  if (int error = check_spans(backend, "pool_backward", p)) return error;
  constexpr int64_t kColumns = 64;
  backend->pool.parallel(ceil_div(p->width, kColumns), [&](int64_t block, int) {
    const int64_t end = least(p->width, (block + 1) * kColumns);
    for (int32_t s = 0; s < *p->rows; ++s) {
      const auto share = Isa::set(1.0f / static_cast<float>(p->to[s] - p->from[s]));
      for (int64_t i = block * kColumns; i < end; i += Isa::W) {
        const auto lanes = Isa::first(end - i);
        const auto dy = Isa::mul(Isa::load(p->dy + static_cast<int64_t>(s) * p->width + i, lanes), share);
        for (int64_t r = p->from[s]; r < p->to[s]; ++r) {
          float* dx = p->dx + r * p->lddx + i;
          Isa::store(dx, Isa::add(Isa::load(dx, lanes), dy), lanes);
        }
      }
    }
  });
  return 0;
}

}  // namespace credence::cpu
