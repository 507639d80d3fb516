#include "kernels/reference/attention.h"

#include <cmath>
#include <limits>

namespace credence::reference {
namespace {

// Rows of the batch that are the keys of segment b, in order: those it shares, then those its own tokens write.
std::vector<int> keys_of(const Segments& s, int b) {
  std::vector<int> keys;
  if (!s.prefix_of.empty() && s.prefix_of[b] >= 0) {
    keys = keys_of(s, s.prefix_of[b]);
    keys.resize(s.key_start[b]);
  }
  for (int t = s.cu_seqlens[b]; t < s.cu_seqlens[b + 1]; ++t)
    if (s.query_only.empty() || !s.query_only[t]) keys.push_back(t);
  return keys;
}

// body(t, visible): the rows that token t sees, in order.
template <typename Body>
void for_each_query(const Attention& p, Body body) {
  const Segments& s = p.segments;
  for (int b = 0; b + 1 < static_cast<int>(s.cu_seqlens.size()); ++b) {
    const std::vector<int> keys = keys_of(s, b);
    const bool shares = !s.prefix_of.empty() && s.prefix_of[b] >= 0;
    int position = shares ? s.key_start[b] : 0;  // keys before this token
    for (int t = s.cu_seqlens[b]; t < s.cu_seqlens[b + 1]; ++t) {
      const bool writes = s.query_only.empty() || !s.query_only[t];
      const int end = position + (writes ? 1 : 0);
      const int begin = p.window > 0 ? std::max(0, position - p.window + 1) : 0;
      body(t, begin < end ? std::vector<int>(keys.begin() + begin, keys.begin() + end) : std::vector<int>());
      position = end;
    }
  }
}

double dot(const double* a, const double* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// softmax(scale q k^T) over the visible rows, and its log-sum-exp.
std::vector<double> probabilities(const Attention& p, int t, int head, const std::vector<int>& visible, double* lse) {
  const int d = p.head_dim, kv = head / (p.heads / p.kv_heads);
  const double* q = &p.q[(static_cast<size_t>(t) * p.heads + head) * d];
  std::vector<double> s;
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int j : visible) {
    s.push_back(p.round(p.scale * dot(q, &p.k[(static_cast<size_t>(j) * p.kv_heads + kv) * d], d)));
    most = std::max(most, s.back());
  }
  for (double& x : s) sum += x = std::exp(x - most);
  for (double& x : s) x = p.round(x / sum);
  *lse = visible.empty() ? most : most + std::log(sum);
  return s;
}

}  // namespace

AttentionResult attention(const Attention& p) {
  const int d = p.head_dim;
  AttentionResult r{std::vector<double>(p.q.size()), std::vector<double>(p.q.size() / d)};
  for_each_query(p, [&](int t, const std::vector<int>& visible) {
    for (int head = 0; head < p.heads; ++head) {
      const size_t row = static_cast<size_t>(t) * p.heads + head;
      const int kv = head / (p.heads / p.kv_heads);
      const auto weights = probabilities(p, t, head, visible, &r.lse[row]);
      for (size_t j = 0; j < visible.size(); ++j)
        for (int i = 0; i < d; ++i)
          r.o[row * d + i] += weights[j] * p.v[(static_cast<size_t>(visible[j]) * p.kv_heads + kv) * d + i];
    }
  });
  for (double& x : r.o) x = p.round(x);
  return r;
}

// With P = softmax(S): dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K, dK = scale dS^T Q.
AttentionGradients attention_backward(const Attention& p, const std::vector<double>& d_o) {
  const int d = p.head_dim;
  AttentionGradients r{std::vector<double>(p.q.size()), std::vector<double>(p.k.size()),
                       std::vector<double>(p.v.size())};
  for_each_query(p, [&](int t, const std::vector<int>& visible) {
    for (int head = 0; head < p.heads; ++head) {
      const size_t row = (static_cast<size_t>(t) * p.heads + head) * d;
      const int kv = head / (p.heads / p.kv_heads);
      double lse;
      const auto weights = probabilities(p, t, head, visible, &lse);
      std::vector<double> dp;
      double mean = 0;
      for (size_t j = 0; j < visible.size(); ++j) {
        dp.push_back(p.round(dot(&d_o[row], &p.v[(static_cast<size_t>(visible[j]) * p.kv_heads + kv) * d], d)));
        mean += weights[j] * dp[j];
      }
      for (size_t j = 0; j < visible.size(); ++j) {
        const size_t key = (static_cast<size_t>(visible[j]) * p.kv_heads + kv) * d;
        const double ds = p.round(p.scale * weights[j] * (dp[j] - mean));
        for (int i = 0; i < d; ++i) {
          r.dv[key + i] += weights[j] * d_o[row + i];
          r.dq[row + i] += ds * p.k[key + i];
          r.dk[key + i] += ds * p.q[row + i];
        }
      }
    }
  });
  for (auto* gradient : {&r.dq, &r.dk, &r.dv})
    for (double& x : *gradient) x = p.round(x);
  return r;
}

}  // namespace credence::reference
