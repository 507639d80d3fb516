#include "attention_input.h"

namespace credence::reference {

namespace {

enum Part { kQuery, kKey, kValue };

// Where head `head` of a part begins in a row of the product.
size_t place(const AttentionInput& p, Part part, int head) {
  if (p.per_head) return static_cast<size_t>(3 * head + part) * p.head_dim;
  const int before = part == kQuery ? 0 : part == kKey ? p.heads : p.heads + p.kv_heads;
  return static_cast<size_t>(before + head) * p.head_dim;
}

Linear with_input(const AttentionInput& p, const std::vector<double>& h) {
  Linear linear = p.linear;
  linear.x = h;
  return linear;
}

// Su et al. 2021, eq. 34, on pairs (i, i + rotary_dim / 2). direction -1 turns back.
std::vector<double> turn(const AttentionInput& p, int t, std::vector<double> x, double direction) {
  const int half = p.rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    const double* pair = &p.rotary[(static_cast<size_t>(p.positions[t]) * half + i) * 2];
    const double c = pair[0], s = direction * pair[1], a = x[i], b = x[half + i];
    x[i] = a * c - b * s;
    x[half + i] = b * c + a * s;
  }
  return x;
}

Norm head_norm(const AttentionInput& p, const std::vector<double>& head, const std::vector<double>& weight) {
  Norm norm;
  norm.rows = 1;
  norm.width = p.head_dim;
  norm.eps = p.norm.eps;
  norm.x = head;
  norm.weight = weight;
  return norm;
}

}  // namespace

AttentionInputResult attention_input(const AttentionInput& p) {
  AttentionInputResult result;
  result.h = norm(p.norm);
  const std::vector<double> y = linear(with_input(p, result.h));
  for (int t = 0; t < p.linear.rows; ++t)
    for (Part part : {kQuery, kKey, kValue})
      for (int head = 0; head < (part == kQuery ? p.heads : p.kv_heads); ++head) {
        const double* from = &y[static_cast<size_t>(t) * p.linear.outputs + place(p, part, head)];
        std::vector<double> x(from, from + p.head_dim);
        const std::vector<double>& weight = part == kQuery ? p.q_norm : p.k_norm;
        if (part != kValue && !weight.empty()) x = norm(head_norm(p, x, weight));
        if (part != kValue) x = turn(p, t, x, 1);
        std::vector<double>& out = part == kQuery ? result.q : part == kKey ? result.k : result.v;
        for (double value : x) out.push_back(p.round(value));
      }
  return result;
}

AttentionInputGradients attention_input_backward(const AttentionInput& p, const std::vector<double>& dq,
                                                 const std::vector<double>& dk, const std::vector<double>& dv) {
  AttentionInputGradients d;
  d.dq_norm.resize(p.head_dim);
  d.dk_norm.resize(p.head_dim);
  const Linear layer = with_input(p, norm(p.norm));
  const std::vector<double> y = linear(layer);
  std::vector<double> dy(y.size());
  for (int t = 0; t < p.linear.rows; ++t)
    for (Part part : {kQuery, kKey, kValue})
      for (int head = 0, heads = part == kQuery ? p.heads : p.kv_heads; head < heads; ++head) {
        const std::vector<double>& upstream = part == kQuery ? dq : part == kKey ? dk : dv;
        const size_t row = static_cast<size_t>(t * heads + head) * p.head_dim;
        std::vector<double> x(&upstream[row], &upstream[row] + p.head_dim);
        const size_t at = static_cast<size_t>(t) * p.linear.outputs + place(p, part, head);
        if (part != kValue) {
          x = turn(p, t, x, -1);
          for (double& value : x) value = p.round(value);
        }
        const std::vector<double>& weight = part == kQuery ? p.q_norm : p.k_norm;
        if (part != kValue && !weight.empty()) {
          std::vector<double> raw(&y[at], &y[at] + p.head_dim);
          for (double& value : raw) value = p.round(value);
          const NormGradients gradients = norm_backward(head_norm(p, raw, weight), x);
          x = gradients.dx;
          for (int i = 0; i < p.head_dim; ++i) (part == kQuery ? d.dq_norm : d.dk_norm)[i] += gradients.dweight[i];
        }
        for (int i = 0; i < p.head_dim; ++i) dy[at + i] = x[i];
      }
  d.linear = linear_backward(layer, dy);
  d.norm = norm_backward(p.norm, d.linear.dx);
  return d;
}

}  // namespace credence::reference
