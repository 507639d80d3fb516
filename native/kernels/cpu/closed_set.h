// Log-probabilities over a few candidate tokens alone (kernels.h, credence_closed_set). A candidate's logit comes out of its
// panel of the vocabulary, with the bits it has among all of them.
#pragma once

#include <math.h>
#include <string.h>

#include "backend.h"
#include "checks.h"
#include "linear.h"
#include "row_step.h"

namespace credence::cpu {

template <class Isa>
size_t closed_set_workspace(const credence_closed_set*) {
  return 0;
}

// Rows [row, row + rows), at most a tile's: logits, then in place what they are relative to their sum.
template <class Isa, class T>
void closed_set_rows(const credence_closed_set* p, int64_t row, int64_t rows) {
  alignas(64) float out[Isa::kTileRows * kPanel];
  const Product<T> product = product_of<T>(static_cast<const T*>(p->h), p->ldh, p->weights);
  const int64_t count = p->candidates_count;
  for (int64_t c = 0; c < count; ++c) {
    tile_of<Isa, T>(product, row, rows, p->candidates[c] / kPanel, 1, out, kPanel);
    for (int64_t r = 0; r < rows; ++r) p->logprob[(row + r) * count + c] = out[r * kPanel + p->candidates[c] % kPanel];
  }
  for (int64_t r = row; r < row + rows; ++r) {
    float* z = p->logprob + r * count;
    float most = z[0];
    for (int64_t c = 1; c < count; ++c) most = z[c] > most ? z[c] : most;
    double sum = 0;
    for (int64_t c = 0; c < count; ++c) sum += exp_of<Isa>(z[c] - most);
    const float lse = static_cast<float>(most + log(sum));
    for (int64_t c = 0; c < count; ++c) z[c] -= lse;
  }
}

// dh = dz W with dz[c] = d[c] - p[c] sum(d), candidates in order.
template <class Isa, class T>
void closed_set_gradient(const credence_closed_set* p, int64_t r) {
  const T* panels = static_cast<const T*>(p->weights->panels);
  const int64_t count = p->candidates_count, stride = panel_elements(p->dtype, p->width);
  const float *logprob = p->logprob + r * count, *upstream = p->d_logprob + r * count;
  float* dh = p->dh + r * p->lddh;
  memset(dh, 0, p->width * sizeof(float));
  float sum = 0;
  for (int64_t c = 0; c < count; ++c) sum += upstream[c];
  for (int64_t c = 0; c < count; ++c) {
    const float dz = upstream[c] - exp_of<Isa>(logprob[c]) * sum;
    const T* panel = panels + p->candidates[c] / kPanel * stride;
    for (int64_t i = 0; i < p->width; ++i)
      dh[i] += dz * Isa::get(panel + panel_element(p->dtype, p->candidates[c] % kPanel, i));
  }
}

// dW[candidate] += dz h, rows in order and candidates in theirs (one may stand there twice): threads share out the columns.
template <class Isa, class T>
void closed_set_weight_gradient(credence_backend* backend, const credence_closed_set* p) {
  constexpr int64_t kColumns = 64;
  const int64_t count = p->candidates_count;
  backend->pool.parallel(ceil_div(p->width, kColumns), [&](int64_t block, int) {
    const int64_t end = least(p->width, (block + 1) * kColumns);
    for (int64_t r = 0; r < *p->rows; ++r) {
      const T* h = static_cast<const T*>(p->h) + r * p->ldh;
      const float *logprob = p->logprob + r * count, *upstream = p->d_logprob + r * count;
      float sum = 0;
      for (int64_t c = 0; c < count; ++c) sum += upstream[c];
      for (int64_t c = 0; c < count; ++c) {
        const auto dz = Isa::set(upstream[c] - exp_of<Isa>(logprob[c]) * sum);
        float* to = p->dweights + static_cast<int64_t>(p->candidates[c]) * p->width;
        for (int64_t i = block * kColumns; i < end; i += Isa::W) {
          const auto lanes = Isa::first(end - i);
          Isa::store(to + i, Isa::fma(dz, Isa::load(h + i, lanes), Isa::load(to + i, lanes)), lanes);
        }
      }
    }
  });
}

template <class Isa>
int closed_set(credence_backend* backend, const credence_closed_set* p, void*) {
  if (p->candidates_count < 1) return fail(backend, "closed_set: there is no candidate");
  for (int32_t c = 0; c < p->candidates_count; ++c)
    if (int error = check(backend, "closed_set", fault_of_candidate(c, p->candidates[c], p->weights->rows)))
      return error;
  const int64_t rows = *p->rows;
  backend->pool.parallel(ceil_div(rows, Isa::kTileRows), [&](int64_t tile, int) {
    const int64_t row = tile * Isa::kTileRows, count = least(Isa::kTileRows, rows - row);
    const bool gradient = p->d_logprob && p->dh;
    if (p->dtype == CREDENCE_BF16) closed_set_rows<Isa, bf16>(p, row, count);
    else closed_set_rows<Isa, float>(p, row, count);
    for (int64_t r = row; gradient && r < row + count; ++r) {
      if (p->dtype == CREDENCE_BF16) closed_set_gradient<Isa, bf16>(p, r);
      else closed_set_gradient<Isa, float>(p, r);
    }
  });
  if (p->d_logprob && p->dweights) {
    if (p->dtype == CREDENCE_BF16) closed_set_weight_gradient<Isa, bf16>(backend, p);
    else closed_set_weight_gradient<Isa, float>(backend, p);
  }
  return 0;
}

}  // namespace credence::cpu
