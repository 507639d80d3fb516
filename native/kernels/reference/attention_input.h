// Norm, the fused QKV product, q/k norm and rotary, in double. One letter per axis: T tokens, d head size.
#pragma once

#include <vector>

#include "linear.h"

namespace credence::reference {

/// h = norm(x);  [q|k|v] = linear(h);  q, k normed head by head and turned. linear.x is not read.
struct AttentionInput {
  Norm norm;
  Linear linear;
  int heads = 1, kv_heads = 1, head_dim = 1, rotary_dim = 0;
  bool per_head = false;               // rows of the product are (q k v) head by head; else q then k then v
  std::vector<double> q_norm, k_norm;  // [d] or empty
  std::vector<int32_t> positions;      // [T]
  std::vector<double> rotary;          // [positions, rotary_dim / 2, 2] cos, sin
  Round round = exact;
};

struct AttentionInputResult {
  std::vector<double> h, q, k, v;  // q [T, heads, d], k and v [T, kv_heads, d]
};

struct AttentionInputGradients {
  NormGradients norm;
  LinearGradients linear;
  std::vector<double> dq_norm, dk_norm;
};

AttentionInputResult attention_input(const AttentionInput& p);
AttentionInputGradients attention_input_backward(const AttentionInput& p, const std::vector<double>& dq,
                                                 const std::vector<double>& dk, const std::vector<double>& dv);

}  // namespace credence::reference
