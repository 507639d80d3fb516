#include "block.h"

namespace credence::reference {

namespace {

std::vector<double> sum(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// The block with the inputs of its parts in place.
Block filled(Block p) {
  p.input.norm.x = p.x;
  const AttentionInputResult heads = attention_input(p.input);
  p.attention.q = heads.q, p.attention.k = heads.k, p.attention.v = heads.v;
  p.output.x = attention(p.attention).o;
  p.mlp.norm.x = p.parallel ? p.x : project(p.output, p.x);
  p.down.x = mlp_input(p.mlp).a;
  return p;
}

}  // namespace

std::vector<double> block(const Block& p) {
  const Block all = filled(p);
  return project(all.down, all.parallel ? project(all.output, all.x) : all.mlp.norm.x);
}

BlockGradients block_backward(const Block& p, const std::vector<double>& dy) {
  const Block all = filled(p);
  BlockGradients d;
  d.down = linear_backward(all.down, dy);
  d.mlp = mlp_input_backward(all.mlp, d.down.dx);
  const std::vector<double> after_mlp = sum(dy, d.mlp.norm.dx);
  d.output = linear_backward(all.output, all.parallel ? dy : after_mlp);
  const AttentionGradients heads = attention_backward(all.attention, d.output.dx);
  d.input = attention_input_backward(all.input, heads.dq, heads.dk, heads.dv);
  d.dx = sum(after_mlp, d.input.norm.dx);
  return d;
}

}  // namespace credence::reference
