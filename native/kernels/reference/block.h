// A decoder's block, in double: the operators in the order of a family, serial or parallel residual.
#pragma once

#include "attention.h"
#include "attention_input.h"
#include "mlp_input.h"

namespace credence::reference {

/// serial     m = x + output(attention(x));  y = m + down(mlp(m))
/// parallel   y = x + output(attention(x)) + down(mlp(x))  (Black et al. 2022, sec. 2.1: GPT-NeoX, each with a norm of its own)
/// Inputs of the parts (norm.x, linear.x, q, k, v) are filled in from x.
struct Block {
  bool parallel = false;
  std::vector<double> x;  // [T, H]
  AttentionInput input;
  Attention attention;
  Linear output;
  MlpInput mlp;
  Linear down;
};

struct BlockGradients {
  std::vector<double> dx;
  AttentionInputGradients input;
  LinearGradients output, down;
  MlpInputGradients mlp;
};

std::vector<double> block(const Block& p);
BlockGradients block_backward(const Block& p, const std::vector<double>& dy);

}  // namespace credence::reference
