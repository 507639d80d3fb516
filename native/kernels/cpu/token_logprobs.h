// Log-probabilities of the tokens that came, with entropy, and on the same pass the way back (kernels.h,
// credence_token_logprobs). Forward only, nothing is kept but each block's sums. With a gradient, rows go in chunks: exp(z - m_b)
// of a chunk is kept in the activation type (the error that rounding dz to it would make anyway), and becomes dz a block at a
// time, right before its product with W. Where the entropy has a gradient the logits themselves are kept, in float32.
#pragma once

#include <math.h>

#include "backend.h"
#include "checks.h"
#include "linear.h"
#include "row_step.h"
#include "vocabulary.h"

namespace credence::cpu {

// Rows of a chunk are as many as fit here: W streams by twice a chunk.
static constexpr int64_t kKeptBytes = int64_t{64} << 20;
// Rows that pass backward together: their dz of one block and their dh stay in L2.
static constexpr int kBackwardRows = 96;

struct LogprobsPlan {
  bool backward, entropy_backward;
  int64_t blocks, chunk;
  size_t sums, rows, targets, kept, bytes;  // offsets of what lies in the workspace
};

static inline LogprobsPlan logprobs_plan(const credence_token_logprobs* p) {
  const auto aligned = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  LogprobsPlan plan;
  plan.backward = (p->d_logprob || p->d_entropy) && (p->dh || p->dweights);
  plan.entropy_backward = plan.backward && p->d_entropy;
  plan.blocks = vocabulary_blocks(p->vocabulary);
  const int64_t kept_row =
      plan.blocks * kVocabularyBlock * (p->dtype == CREDENCE_BF16 && !plan.entropy_backward ? 2 : 4);
  plan.chunk = plan.backward ? least(p->capacity, most(48, kKeptBytes / kept_row)) : least(p->capacity, 1024);
  plan.sums = 0;
  plan.rows = plan.sums + aligned(plan.chunk * plan.blocks * sizeof(BlockSums));
  plan.targets = plan.rows + aligned(plan.chunk * sizeof(RowSums));
  plan.kept = plan.targets + aligned(plan.chunk * sizeof(float));
  plan.bytes = plan.kept + (plan.backward ? aligned(plan.chunk * kept_row) : 0);
  return plan;
}

// What dz needs of a row: its upstream gradients and its sums.
struct UpstreamRow {
  float d_logprob, d_entropy, lse, entropy, target_z;
  int32_t target;
};

// dz[i] = -p (d_logprob + d_entropy (log p + entropy)) + [i = target] d_logprob, for `count` logits of a block, rounded to D.
template <class Isa, class K, class D>
void block_dz(const UpstreamRow& u, const K* kept, float block_most, int64_t first, int count, bool logits_kept,
              D* dz) {
  constexpr int W = Isa::W;
  const auto slope = Isa::set(-u.d_logprob), lse = Isa::set(u.lse);
  const float scale = exp_of<Isa>(block_most - u.lse) * -u.d_logprob;
  for (int i = 0; i < count; i += W) {
    const auto lanes = Isa::first(count - i);
    typename Isa::F x = Isa::load(kept + i, lanes);
    if (logits_kept) {
      const auto log_p = Isa::sub(x, lse);
      const auto bonus =
          Isa::mul(Isa::set(-u.d_entropy), Isa::add(Isa::max(log_p, Isa::set(-200.0f)), Isa::set(u.entropy)));
      x = Isa::mul(Isa::exp(log_p), Isa::add(slope, bonus));
    } else {
      x = Isa::mul(x, Isa::set(scale));
    }
    Isa::store(dz + i, x, lanes);
  }
  if (u.target >= first && u.target < first + count) {
    const float log_p = u.target_z - u.lse, p = exp_of<Isa>(log_p);
    Isa::put(dz + (u.target - first), u.d_logprob * (1 - p) - u.d_entropy * p * (log_p + u.entropy));
  }
}

template <class Isa, class T>
struct LogprobsPass {
  credence_backend* backend;
  const credence_token_logprobs* p;
  const LogprobsPlan& plan;
  BlockSums* sums;
  RowSums* rows;
  float* target_z;
  void* kept;

  int32_t target_of(int64_t row) const { return p->targets ? p->targets[row] : -1; }

  UpstreamRow upstream(int64_t first, int64_t r) const {
    const int32_t target = target_of(first + r);
    const float dl = p->d_logprob && target >= 0 ? p->d_logprob[first + r] : 0,
                de = p->d_entropy ? p->d_entropy[first + r] : 0;
    return {dl, de, rows[r].lse, rows[r].entropy, target_z[r], target};
  }

  template <class D>
  void dz_of(int64_t first, int64_t r, int64_t block, D* dz) const {
    const int64_t at = block * kVocabularyBlock, row = plan.blocks * kVocabularyBlock;
    const int count = static_cast<int>(least(kVocabularyBlock, p->vocabulary - at));
    const float block_most = sums[r * plan.blocks + block].most;
    const UpstreamRow u = upstream(first, r);
    if (plan.entropy_backward)
      block_dz<Isa>(u, static_cast<const float*>(kept) + r * row + at, block_most, at, count, true, dz);
    else block_dz<Isa>(u, static_cast<const T*>(kept) + r * row + at, block_most, at, count, false, dz);
  }

  void forward(int64_t first, int64_t count) const {
    const Product<T> product = product_of<T>(static_cast<const T*>(p->h) + first * p->ldh, p->ldh, p->weights);
    const bool entropy = p->entropy || plan.entropy_backward;
    const int64_t row = plan.blocks * kVocabularyBlock;
    backend->pool.parallel(plan.blocks, [&](int64_t block, int) {
      visit_blocks<Isa, T>(
          product, 0, count, block, block + 1, p->vocabulary, [&](int64_t r, int64_t, const float* z, int n) {
            const BlockSums s = block_sums<Isa>(z, n, entropy);
            sums[r * plan.blocks + block] = s;
            const int64_t at = block * kVocabularyBlock, target = target_of(first + r) - at;
            if (target >= 0 && target < n) target_z[r] = z[target];
            if (p->logits) memcpy(p->logits + (first + r) * p->vocabulary + at, z, n * sizeof(float));
            if (plan.entropy_backward) {
              memcpy(static_cast<float*>(kept) + r * row + at, z, n * sizeof(float));
            } else if (plan.backward) {
              T* to = static_cast<T*>(kept) + r * row + at;
              for (int i = 0; i < n; i += Isa::W) {
                const auto lanes = Isa::first(n - i);
                Isa::store(to + i, Isa::exp(Isa::sub(Isa::load(z + i, lanes), Isa::set(s.most))), lanes);
              }
            }
          });
    });
    backend->pool.parallel(ceil_div(count, 16), [&](int64_t task, int) {
      for (int64_t r = task * 16; r < least(count, task * 16 + 16); ++r) {
        rows[r] = combine_blocks<Isa>(sums + r * plan.blocks, plan.blocks);
        if (p->lse) p->lse[first + r] = rows[r].lse;
        if (p->entropy) p->entropy[first + r] = rows[r].entropy;
        if (p->logprob) p->logprob[first + r] = target_of(first + r) < 0 ? 0.0f : target_z[r] - rows[r].lse;
      }
    });
  }

  // dh = dz W: a work item is some rows over the whole vocabulary in order, a block of dz at a time.
  void backward(int64_t first, int64_t count) const {
    const int64_t threads = backend->pool.threads(),
                  items = ceil_div(ceil_div(count, kBackwardRows), threads) * threads;
    const int64_t group = ceil_div(ceil_div(count, items), Isa::kTileRows) * Isa::kTileRows,
                  panels = panels_of(p->width);
    const int64_t stride = panel_elements(p->dtype, p->vocabulary);
    const T* transposed = static_cast<const T*>(p->weights->transposed);
    backend->pool.parallel(ceil_div(count, group), [&](int64_t task, int) {
      alignas(64) T dz[kBackwardRows * kVocabularyBlock];
      const int64_t row0 = task * group, rows_now = least(group, count - row0);
      for (int64_t r = 0; r < rows_now; ++r) memset(p->dh + (first + row0 + r) * p->lddh, 0, p->width * sizeof(float));
      for (int64_t block = 0; block < plan.blocks; ++block) {
        const int64_t at = block * kVocabularyBlock, depth = least(kVocabularyBlock, p->vocabulary - at);
        for (int64_t r = 0; r < rows_now; ++r) dz_of(first, row0 + r, block, dz + r * kVocabularyBlock);
        for (int64_t panel = 0; panel < panels; ++panel) {
          in_groups<Isa::kTileRows>(static_cast<int>(rows_now), [&](int r, auto height) {
            add_tile<Isa, T, decltype(height)::value>(
                dz + r * kVocabularyBlock, kVocabularyBlock, depth, transposed + panel * stride + at * kPanel,
                p->dh + (first + row0 + r) * p->lddh + panel * kPanel, p->lddh, p->width - panel * kPanel);
          });
        }
      }
    });
  }

  // dW += dz^T h, rows in order; a work item is one block of the vocabulary.
  void backward_weights(int64_t first, int64_t count) const {
    backend->pool.parallel(plan.blocks, [&](int64_t block, int) {
      alignas(64) float dz[kVocabularyBlock];
      const int64_t at = block * kVocabularyBlock, depth = least(kVocabularyBlock, p->vocabulary - at);
      for (int64_t r = 0; r < count; ++r) {
        dz_of(first, r, block, dz);
        const T* h = static_cast<const T*>(p->h) + (first + r) * p->ldh;
        for (int64_t v = 0; v < depth; ++v) {
          float* to = p->dweights + (at + v) * p->width;
          for (int64_t i = 0; i < p->width; i += Isa::W) {
            const auto lanes = Isa::first(p->width - i);
            Isa::store(to + i, Isa::fma(Isa::set(dz[v]), Isa::load(h + i, lanes), Isa::load(to + i, lanes)), lanes);
          }
        }
      }
    });
  }
};

template <class Isa, class T>
void token_logprobs_of(credence_backend* backend, const credence_token_logprobs* p, const LogprobsPlan& plan,
                       char* workspace) {
  const LogprobsPass<Isa, T> pass{backend,
                                  p,
                                  plan,
                                  reinterpret_cast<BlockSums*>(workspace + plan.sums),
                                  reinterpret_cast<RowSums*>(workspace + plan.rows),
                                  reinterpret_cast<float*>(workspace + plan.targets),
                                  workspace + plan.kept};
  for (int64_t first = 0; first < *p->rows; first += plan.chunk) {
    const int64_t count = least(plan.chunk, *p->rows - first);
    pass.forward(first, count);
    if (plan.backward && p->dh) pass.backward(first, count);
    if (plan.backward && p->dweights) pass.backward_weights(first, count);
  }
}

template <class Isa>
size_t token_logprobs_workspace(const credence_token_logprobs* p) {
  return logprobs_plan(p).bytes;
}

template <class Isa>
int token_logprobs(credence_backend* backend, const credence_token_logprobs* p, void* workspace) {
  const LogprobsPlan plan = logprobs_plan(p);
  if (plan.backward && p->dh && !p->weights->transposed)
    return fail(backend,
                "token_logprobs: dh was asked for, but the vocabulary's weights were packed without backward = 1");
  for (int32_t r = 0; p->targets && r < *p->rows; ++r)
    if (int error = check(backend, "token_logprobs", fault_of_target(r, p->targets[r], p->vocabulary))) return error;
  if (p->dtype == CREDENCE_BF16) token_logprobs_of<Isa, bf16>(backend, p, plan, static_cast<char*>(workspace));
  else token_logprobs_of<Isa, float>(backend, p, plan, static_cast<char*>(workspace));
  return 0;
}

}  // namespace credence::cpu
