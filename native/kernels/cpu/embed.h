// Rows of the embedding table, gathered from the panels the head reads too: nothing is kept twice.
#pragma once

#include "checks.h"
#include "norm.h"

namespace credence::cpu {

template <class Isa>
size_t embed_workspace(const credence_embed*) {
  return 0;
}

template <class Isa, class T>
static inline void embed_row(const credence_weights* table, int32_t token, float scale, float* x) {
  constexpr credence_dtype dtype = DtypeOf<T>::value;
  if (table->transposed) {
    // In the transpose a token is one input of every panel: 32 numbers within two cache lines.
    const T* base = static_cast<const T*>(table->transposed) + panel_element(dtype, 0, token);
    const int64_t stride = panel_elements(dtype, table->rows), step = panel_element(dtype, 1, 0);
    for (int32_t k = 0; k < table->columns; ++k)
      x[k] = Isa::get(base + k / kPanel * stride + k % kPanel * step) * scale;
    return;
  }
  const T* base = static_cast<const T*>(table->panels) + token / kPanel * panel_elements(dtype, table->columns);
  for (int32_t k = 0; k < table->columns; ++k) x[k] = Isa::get(base + panel_element(dtype, token % kPanel, k)) * scale;
}

template <class Isa>
int embed(credence_backend* backend, const credence_embed* p, void*) {
  if (int error = check_rows(backend, "embed", p->batch.counts, p->batch.token_capacity)) return error;
  const int32_t tokens = p->batch.counts[0];
  for (int32_t t = 0; t < tokens; ++t)
    if (int error = check(backend, "embed", fault_of_token(p->batch.tokens[t], t, p->table->rows))) return error;
  for_rows<Isa>(backend, tokens, 4 * p->table->columns, [&](int64_t t) {
    float* x = p->x + t * p->ldx;
    if (p->table->dtype == CREDENCE_BF16) embed_row<Isa, bf16>(p->table, p->batch.tokens[t], p->scale, x);
    else embed_row<Isa, float>(p->table, p->batch.tokens[t], p->scale, x);
  });
  return 0;
}

template <class Isa>
size_t embed_backward_workspace(const credence_embed_backward*) {
  return 0;
}

// Columns are shared out, tokens run in order: a token that comes twice is added in order.
template <class Isa>
int embed_backward(credence_backend* backend, const credence_embed_backward* p, void*) {
  if (int error = check_rows(backend, "embed_backward", p->batch.counts, p->batch.token_capacity)) return error;
  const int32_t tokens = p->batch.counts[0];
  constexpr int64_t kColumns = 64;
  backend->pool.parallel(ceil_div(p->width, kColumns), [&](int64_t c, int) {
    const int64_t begin = c * kColumns, end = least(begin + kColumns, p->width);
    for (int32_t t = 0; t < tokens; ++t) {
      const float* dx = p->dx + t * p->lddx;
      float* row = p->dtable + static_cast<int64_t>(p->batch.tokens[t]) * p->width;
      for (int64_t i = begin; i < end; i += Isa::W) {
        const auto lanes = Isa::first(end - i);
        Isa::store(row + i, Isa::fma(Isa::load(dx + i, lanes), Isa::set(p->scale), Isa::load(row + i, lanes)), lanes);
      }
    }
  });
  return 0;
}

}  // namespace credence::cpu
