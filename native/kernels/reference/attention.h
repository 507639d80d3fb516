// What attention means, in double, over plain arrays. One letter per axis: T tokens, a heads, g kv heads, d head size.
#pragma once

#include <cstdint>
#include <vector>

#include "norm.h"

namespace credence::reference {

/// The part of a batch that says who sees whom; empty vectors stand for null. All keys are rows of this batch.
struct Segments {
  std::vector<int32_t> cu_seqlens;  // [B + 1]
  std::vector<int32_t> key_start;   // [B]: how many keys of prefix_of[b] come first
  std::vector<int32_t> prefix_of;   // [B], -1: none
  std::vector<uint8_t> query_only;  // [T]
};

struct Attention {
  Segments segments;
  int heads = 1, kv_heads = 1, head_dim = 1, window = 0;
  double scale = 1;
  std::vector<double> q;     // [T, a, d]
  std::vector<double> k, v;  // [T, g, d]
  Round round = exact;       // of scores, probabilities and what is put out, and of their gradients
};

struct AttentionResult {
  std::vector<double> o;    // [T, a, d]
  std::vector<double> lse;  // [T, a]
};

struct AttentionGradients {
  std::vector<double> dq, dk, dv;
};

AttentionResult attention(const Attention& p);
AttentionGradients attention_backward(const Attention& p, const std::vector<double>& d_o);

}  // namespace credence::reference
