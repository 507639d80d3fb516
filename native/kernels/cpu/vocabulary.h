// The vocabulary's logits, a block of 256 at a time, and what remains of each block: its maximum and sums. One code for scoring
// and sampling, so that a token's log-probability has the same bits in both. One letter per axis: R rows, H width, V vocabulary.
//
// A work item is a block of the vocabulary against all rows: its weights (256 H) stay in L2 while rows pass by 60 at a time.
// A block's sums come from one row's own 256 logits and are combined in the order of blocks, whoever computed them.
#pragma once

#include <math.h>

#include "backend.h"
#include "linear.h"
#include "row_step.h"

namespace credence::cpu {

static constexpr int kVocabularyBlock = 256;
static constexpr int kBlockPanels = kVocabularyBlock / kPanel;
static constexpr int kBlockRows = 60;

static inline int64_t vocabulary_blocks(int64_t vocabulary) { return ceil_div(vocabulary, kVocabularyBlock); }

/// Of one row in one block: the largest logit m, sum exp(z - m), sum exp(z - m) (z - m).
struct BlockSums {
  float most, sum, weighted;
};

/// Of one row over the vocabulary.
struct RowSums {
  float most, lse, entropy;
};

template <class Isa>
BlockSums block_sums(const float* z, int count, bool entropy) {
  constexpr int W = Isa::W;
  typename Isa::F high = Isa::set(-INFINITY);
  for (int i = 0; i < count; i += W) {
    const auto lanes = Isa::first(count - i);
    high = Isa::max(high, Isa::select(lanes, Isa::load(z + i, lanes), Isa::set(-INFINITY)));
  }
  BlockSums out{Isa::reduce_max(high), 0, 0};
  typename Isa::F sum = Isa::zero(), weighted = Isa::zero();
  for (int i = 0; i < count; i += W) {
    const auto lanes = Isa::first(count - i);
    const auto below = Isa::sub(Isa::load(z + i, lanes), Isa::set(out.most));
    const auto e = Isa::select(lanes, Isa::exp(below), Isa::zero());
    sum = Isa::add(sum, e);
    if (entropy) weighted = Isa::fma(e, Isa::max(below, Isa::set(-200.0f)), weighted);  // 0 (-inf) would be NaN
  }
  out.sum = Isa::reduce_add(sum);
  out.weighted = Isa::reduce_add(weighted);
  return out;
}

/// lse = M + log S with S = sum_b s_b e^(m_b - M);  entropy = log S - sum_b e^(m_b - M) (w_b + s_b (m_b - M)) / S.
template <class Isa>
RowSums combine_blocks(const BlockSums* blocks, int64_t count) {
  float most = -INFINITY;
  for (int64_t b = 0; b < count; ++b) most = blocks[b].most > most ? blocks[b].most : most;
  double sum = 0, weighted = 0;
  for (int64_t b = 0; b < count; ++b) {
    const float below = blocks[b].most - most;
    if (below < -100.0f) continue;
    const double factor = exp_of<Isa>(below);
    sum += factor * blocks[b].sum;
    weighted += factor * (blocks[b].weighted + static_cast<double>(blocks[b].sum) * below);
  }
  const double log_sum = log(sum);
  return {most, static_cast<float>(most + log_sum), static_cast<float>(log_sum - weighted / sum)};
}

/// Logits of rows [row0, row1) in block b, kVocabularyBlock apart, into out.
template <class Isa, class T>
void block_logits(const Product<T>& p, int64_t row0, int64_t row1, int64_t block, int64_t vocabulary, float* out) {
  const int64_t first = block * kBlockPanels, last = least(first + kBlockPanels, panels_of(vocabulary));
  const int at_once = tile_panels<Isa>(least(row1 - row0, Isa::kTileRows));
  for (int64_t panel = first; panel < last; panel += at_once) {
    const int panels = static_cast<int>(least(at_once, last - panel));
    for_tiles<Isa>(row0, row1, [&](int64_t row, int64_t rows, Share share) {
      tile_of<Isa, T>(p, row, rows, panel, panels, out + (row - row0) * kVocabularyBlock + (panel - first) * kPanel,
                      kVocabularyBlock, Isa::kSpreadFetch ? share : Share{2, 3});
    });
  }
}

/// Blocks [block0, block1) against rows [row0, row1): visit(row, block, logits, count) for each row of each block. The logits are
/// the visitor's to change.
template <class Isa, class T, class Visit>
void visit_blocks(const Product<T>& p, int64_t row0, int64_t row1, int64_t block0, int64_t block1, int64_t vocabulary,
                  const Visit& visit) {
  alignas(64) float z[kBlockRows * kVocabularyBlock];
  for (int64_t block = block0; block < block1; ++block) {
    const int count = static_cast<int>(least(kVocabularyBlock, vocabulary - block * kVocabularyBlock));
    for (int64_t row = row0; row < row1; row += kBlockRows) {
      const int64_t end = least(row + kBlockRows, row1);
      block_logits<Isa, T>(p, row, end, block, vocabulary, z);
      for (int64_t r = row; r < end; ++r) visit(r, block, z + (r - row) * kVocabularyBlock, count);
    }
  }
}

}  // namespace credence::cpu
