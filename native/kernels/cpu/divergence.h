// Divergence of two policies' distributions over the vocabulary (kernels.h, credence_divergence), with the gradient for the
// first. Rows go in chunks whose logits are kept in float32, twice: p's become dz in place.
#pragma once

#include <math.h>
#include <string.h>

#include "backend.h"
#include "linear.h"
#include "row_step.h"
#include "token_logprobs.h"
#include "vocabulary.h"

namespace credence::cpu {

static constexpr int kDivergenceRows = 48;

struct DivergencePlan {
  int64_t blocks, chunk, row;  // row: elements between rows of logits
  size_t sums, sums_other, logits, logits_other, dz, bytes;
};

static inline DivergencePlan divergence_plan(const credence_divergence* p) {
  DivergencePlan plan;
  size_t at = 0;
  const auto place = [&](size_t bytes) {
    const size_t begin = at;
    at += (bytes + 63) / 64 * 64;
    return begin;
  };
  plan.blocks = vocabulary_blocks(p->vocabulary);
  plan.chunk = least(p->capacity, kDivergenceRows);
  plan.row = plan.blocks * kVocabularyBlock;
  plan.sums = place(plan.chunk * plan.blocks * sizeof(BlockSums));
  plan.sums_other = place(plan.chunk * plan.blocks * sizeof(BlockSums));
  plan.logits = place(plan.chunk * plan.row * sizeof(float));
  plan.logits_other = place(plan.chunk * plan.row * sizeof(float));
  plan.dz = place(p->upstream ? plan.chunk * plan.row * (p->dtype == CREDENCE_BF16 ? 2 : 4) : 0);
  plan.bytes = at;
  return plan;
}

template <class Isa, class T>
struct DivergencePass {
  credence_backend* backend;
  const credence_divergence* p;
  const DivergencePlan& plan;
  char* workspace;

  void read(const void* h, int64_t ldh, const credence_weights* weights, int64_t first, int64_t count, size_t sums,
            size_t logits) const {
    const Product<T> product = product_of<T>(static_cast<const T*>(h) + first * ldh, ldh, weights);
    backend->pool.parallel(plan.blocks, [&](int64_t block, int) {
      visit_blocks<Isa, T>(
          product, 0, count, block, block + 1, p->vocabulary, [&](int64_t r, int64_t, const float* z, int n) {
            reinterpret_cast<BlockSums*>(workspace + sums)[r * plan.blocks + block] = block_sums<Isa>(z, n, false);
            memcpy(reinterpret_cast<float*>(workspace + logits) + r * plan.row + block * kVocabularyBlock, z,
                   n * sizeof(float));
          });
    });
  }

  float lse(size_t sums, int64_t r) const {
    return combine_blocks<Isa>(reinterpret_cast<const BlockSums*>(workspace + sums) + r * plan.blocks, plan.blocks).lse;
  }

  // The row's divergence, and dz = upstream p (slope - sum p slope), where slope is the derivative for each p but for a constant.
  void row(int64_t first, int64_t r) const {
    const float* z = reinterpret_cast<const float*>(workspace + plan.logits) + r * plan.row;
    const float* other = reinterpret_cast<const float*>(workspace + plan.logits_other) + r * plan.row;
    const double lse_p = lse(plan.sums, r), lse_q = lse(plan.sums_other, r);
    double sum = 0, mean = 0;
    const auto each = [&](auto&& body) {
      for (int64_t v = 0; v < p->vocabulary; ++v) {
        const double log_p = z[v] - lse_p, log_q = other[v] - lse_q, a = exp(log_p), b = exp(log_q);
        const double log_m = p->kind == 2 ? log((a + b) / 2) : 0;
        // p slope: q / p times p is q, also where p is too small to divide by
        const double weighted = p->kind == 0   ? a * (log_p - log_q)
                                : p->kind == 1 ? -b
                                : a > 0        ? a * (log_p - log_m) / 2
                                               : 0;
        body(v, a, b, log_p, log_q, log_m, weighted);
      }
    };
    each([&](int64_t, double a, double b, double log_p, double log_q, double log_m, double weighted) {
      mean += weighted;
      if (p->kind == 0) sum += a * (log_p - log_q);
      if (p->kind == 1) sum += b * (log_q - log_p);
      if (p->kind == 2) sum += weighted + (b > 0 ? b * (log_q - log_m) / 2 : 0);
    });
    p->divergence[first + r] = static_cast<float>(sum);
    if (!p->upstream) return;
    T* dz = reinterpret_cast<T*>(workspace + plan.dz) + r * plan.row;
    each([&](int64_t v, double a, double, double, double, double, double weighted) {
      Isa::put(dz + v, static_cast<float>(p->upstream[first + r] * (weighted - a * mean)));
    });
  }

  // dh = dz W, the vocabulary in order.
  void backward(int64_t first, int64_t count) const {
    const T* dz = reinterpret_cast<const T*>(workspace + plan.dz);
    const T* transposed = static_cast<const T*>(p->weights->transposed);
    const int64_t stride = panel_elements(p->dtype, p->vocabulary);
    for (int64_t r = 0; r < count; ++r) memset(p->dh + (first + r) * p->lddh, 0, p->width * sizeof(float));
    backend->pool.parallel(panels_of(p->width), [&](int64_t panel, int) {
      in_groups<Isa::kTileRows>(static_cast<int>(count), [&](int r, auto height) {
        add_tile<Isa, T, decltype(height)::value>(
            dz + r * plan.row, plan.row, p->vocabulary, transposed + panel * stride,
            p->dh + (first + r) * p->lddh + panel * kPanel, p->lddh, p->width - panel * kPanel);
      });
    });
  }

  // dW += dz^T h, rows in order; a work item is one block of the vocabulary.
  void backward_weights(int64_t first, int64_t count) const {
    backend->pool.parallel(plan.blocks, [&](int64_t block, int) {
      const int64_t begin = block * kVocabularyBlock, end = least(begin + kVocabularyBlock, p->vocabulary);
      for (int64_t r = 0; r < count; ++r) {
        const T* dz = reinterpret_cast<const T*>(workspace + plan.dz) + r * plan.row;
        const T* row = static_cast<const T*>(p->h) + (first + r) * p->ldh;
        for (int64_t v = begin; v < end; ++v) {
          const auto slope = Isa::set(Isa::get(dz + v));
          float* to = p->dweights + v * p->width;
          for (int64_t i = 0; i < p->width; i += Isa::W) {
            const auto lanes = Isa::first(p->width - i);
            Isa::store(to + i, Isa::fma(slope, Isa::load(row + i, lanes), Isa::load(to + i, lanes)), lanes);
          }
        }
      }
    });
  }

  void run() const {
    for (int64_t first = 0; first < *p->rows; first += plan.chunk) {
      const int64_t count = least(plan.chunk, *p->rows - first);
      read(p->h, p->ldh, p->weights, first, count, plan.sums, plan.logits);
      read(p->h_other, p->ldh_other, p->weights_other, first, count, plan.sums_other, plan.logits_other);
      backend->pool.parallel(count, [&](int64_t r, int) { row(first, r); });
      if (p->upstream && p->dh) backward(first, count);
      if (p->upstream && p->dweights) backward_weights(first, count);
    }
  }
};

template <class Isa>
size_t divergence_workspace(const credence_divergence* p) {
  return divergence_plan(p).bytes;
}

template <class Isa>
int divergence(credence_backend* backend, const credence_divergence* p, void* workspace) {
  if (p->kind < 0 || p->kind > 2) return fail(backend, "divergence: kind is %d; 0, 1 and 2 exist", p->kind);
  if (p->upstream && p->dh && !p->weights->transposed)
    return fail(backend, "divergence: dh was asked for, but the vocabulary's weights were packed without backward = 1");
  const DivergencePlan plan = divergence_plan(p);
  if (p->dtype == CREDENCE_BF16) DivergencePass<Isa, bf16>{backend, p, plan, static_cast<char*>(workspace)}.run();
  else DivergencePass<Isa, float>{backend, p, plan, static_cast<char*>(workspace)}.run();
  return 0;
}

}  // namespace credence::cpu
