#include "kernels/reference/readouts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace credence::reference {
namespace {

std::vector<double> logits_of(const Readout& p, int r) {
  std::vector<double> z(p.vocabulary);
  for (int v = 0; v < p.vocabulary; ++v)
    for (int i = 0; i < p.width; ++i)
      z[v] += p.h[static_cast<size_t>(r) * p.width + i] * p.weights[static_cast<size_t>(v) * p.width + i];
  return z;
}

double log_sum_exp(const std::vector<double>& z) {
  const double most = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double x : z) sum += std::exp(x - most);
  return most + std::log(sum);
}

std::vector<double> log_softmax(std::vector<double> z) {
  const double lse = log_sum_exp(z);
  for (double& x : z) x -= lse;
  return z;
}

// dh[r] = dz W, dW += dz^T h[r].
void add_product(const Readout& p, int r, const std::vector<double>& dz, ReadoutGradients* g) {
  for (int v = 0; v < p.vocabulary; ++v) {
    const double d = p.round(dz[v]);
    for (int i = 0; i < p.width; ++i) {
      g->dh[static_cast<size_t>(r) * p.width + i] += d * p.weights[static_cast<size_t>(v) * p.width + i];
      g->dweights[static_cast<size_t>(v) * p.width + i] += d * p.h[static_cast<size_t>(r) * p.width + i];
    }
  }
}

ReadoutGradients zeros(const Readout& p) {
  return {std::vector<double>(p.h.size()), std::vector<double>(p.weights.size())};
}

// Indices in order of falling value, ties in order of rising index.
std::vector<int> falling(const std::vector<double>& x) {
  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  return order;
}

}  // namespace

TokenLogprobs token_logprobs(const Readout& p, const std::vector<int32_t>& targets) {
  TokenLogprobs out;
  for (int r = 0; r < p.rows; ++r) {
    const auto z = logits_of(p, r);
    const double lse = log_sum_exp(z);
    double mean = 0;
    for (double x : z) mean += std::exp(x - lse) * x;
    out.logits.insert(out.logits.end(), z.begin(), z.end());
    out.lse.push_back(lse);
    out.entropy.push_back(lse - mean);
    out.logprob.push_back(targets[r] < 0 ? 0 : z[targets[r]] - lse);
  }
  return out;
}

// dz = d_logprob (onehot - p) + d_entropy (-p (log p + entropy)).
ReadoutGradients token_logprobs_backward(const Readout& p, const std::vector<int32_t>& targets,
                                         const std::vector<double>& d_logprob, const std::vector<double>& d_entropy) {
  ReadoutGradients g = zeros(p);
  for (int r = 0; r < p.rows; ++r) {
    const auto log_p = log_softmax(logits_of(p, r));
    const double dl = d_logprob.empty() || targets[r] < 0 ? 0 : d_logprob[r];
    const double de = d_entropy.empty() ? 0 : d_entropy[r];
    double entropy = 0;
    for (double l : log_p) entropy -= std::exp(l) * l;
    std::vector<double> dz(p.vocabulary);
    for (int v = 0; v < p.vocabulary; ++v)
      dz[v] = -std::exp(log_p[v]) * (dl + de * (log_p[v] + entropy)) + (v == targets[r] ? dl : 0);
    add_product(p, r, dz, &g);
  }
  return g;
}

std::vector<double> closed_set(const Readout& p, const std::vector<int32_t>& candidates) {
  std::vector<double> out;
  for (int r = 0; r < p.rows; ++r) {
    const auto all = logits_of(p, r);
    std::vector<double> z;
    for (int32_t c : candidates) z.push_back(all[c]);
    z = log_softmax(z);
    out.insert(out.end(), z.begin(), z.end());
  }
  return out;
}

// dz[c] = d_logprob[c] - p[c] sum(d_logprob).
ReadoutGradients closed_set_backward(const Readout& p, const std::vector<int32_t>& candidates,
                                     const std::vector<double>& d_logprob) {
  ReadoutGradients g = zeros(p);
  const auto log_p = closed_set(p, candidates);
  const size_t count = candidates.size();
  for (int r = 0; r < p.rows; ++r) {
    double sum = 0;
    for (size_t c = 0; c < count; ++c) sum += d_logprob[r * count + c];
    std::vector<double> dz(p.vocabulary);
    for (size_t c = 0; c < count; ++c)
      dz[candidates[c]] += d_logprob[r * count + c] - std::exp(log_p[r * count + c]) * sum;
    add_product(p, r, dz, &g);
  }
  return g;
}

namespace {

// The divergence of a row and its derivative with respect to each p_v (up to a constant, which softmax's own drops).
double divergence_row(const std::vector<double>& log_p, const std::vector<double>& log_q, int kind,
                      std::vector<double>* slope) {
  double sum = 0;
  slope->resize(log_p.size());
  for (size_t v = 0; v < log_p.size(); ++v) {
    const double p = std::exp(log_p[v]), q = std::exp(log_q[v]), log_m = std::log((p + q) / 2);
    if (kind == 0) sum += p * (log_p[v] - log_q[v]), (*slope)[v] = log_p[v] - log_q[v];
    if (kind == 1) sum += q * (log_q[v] - log_p[v]), (*slope)[v] = -q / p;
    if (kind == 2) sum += (p * (log_p[v] - log_m) + q * (log_q[v] - log_m)) / 2, (*slope)[v] = (log_p[v] - log_m) / 2;
  }
  return sum;
}

}  // namespace

std::vector<double> divergence(const Readout& p, const Readout& q, int kind) {
  std::vector<double> out, slope;
  for (int r = 0; r < p.rows; ++r)
    out.push_back(divergence_row(log_softmax(logits_of(p, r)), log_softmax(logits_of(q, r)), kind, &slope));
  return out;
}

// dz = p (slope - sum p slope).
ReadoutGradients divergence_backward(const Readout& p, const Readout& q, int kind,
                                     const std::vector<double>& upstream) {
  ReadoutGradients g = zeros(p);
  for (int r = 0; r < p.rows; ++r) {
    const auto log_p = log_softmax(logits_of(p, r));
    std::vector<double> slope, dz(p.vocabulary);
    divergence_row(log_p, log_softmax(logits_of(q, r)), kind, &slope);
    double mean = 0;
    for (int v = 0; v < p.vocabulary; ++v) mean += std::exp(log_p[v]) * slope[v];
    for (int v = 0; v < p.vocabulary; ++v) dz[v] = upstream[r] * std::exp(log_p[v]) * (slope[v] - mean);
    add_product(p, r, dz, &g);
  }
  return g;
}

// Keskar et al. 2019, sec. 4.1 (the penalty divides what is positive and multiplies what is negative); Fan et al. 2018
// (top-k); Holtzman et al. 2020 (top-p: the shortest head of the falling order whose mass reaches p, at least one).
std::vector<double> sampling_distribution(std::vector<double> z, const Cut& cut) {
  for (int32_t id : cut.seen) z[id] = z[id] > 0 ? z[id] / cut.repetition : z[id] * cut.repetition;
  const std::vector<int> order = falling(z);
  std::vector<double> p(z.size());
  if (cut.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  size_t kept = cut.top_k > 0 ? std::min<size_t>(cut.top_k, z.size()) : z.size();
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += p[order[i]] = std::exp((z[order[i]] - z[order[0]]) / cut.temperature);
  if (cut.top_p < 1) {
    double mass = 0;
    for (size_t i = 0; i < kept; ++i)
      if ((mass += p[order[i]]) >= cut.top_p * sum) {
        for (size_t j = i + 1; j < kept; ++j) p[order[j]] = 0;
        sum = mass;
        break;
      }
  }
  for (double& x : p) x /= sum;
  return p;
}

int pick(const std::vector<double>& distribution, double uniform) {
  const std::vector<int> order = falling(distribution);
  double sum = 0;
  int last = order[0];
  for (int id : order) {
    if (distribution[id] == 0) break;
    last = id;
    if ((sum += distribution[id]) > uniform) break;
  }
  return last;
}

}  // namespace credence::reference
