// What the vocabulary's read-outs mean, in double. One letter per axis: R rows, H width, V vocabulary, C candidates.
#pragma once

#include <cstdint>
#include <vector>

#include "norm.h"

namespace credence::reference {

/// Hidden states against a vocabulary: logits z = h W^T. `round` is applied, backward, to dz: what is stored on the way.
struct Readout {
  int rows = 0, width = 0, vocabulary = 0;
  std::vector<double> h;        // [R, H]
  std::vector<double> weights;  // [V, H]
  Round round = exact;
};

struct TokenLogprobs {
  std::vector<double> logits;                 // [R, V]
  std::vector<double> logprob, entropy, lse;  // [R]
};

struct ReadoutGradients {
  std::vector<double> dh, dweights;
};

TokenLogprobs token_logprobs(const Readout& p, const std::vector<int32_t>& targets);
/// Upstream gradients per row; an empty vector is zeros.
ReadoutGradients token_logprobs_backward(const Readout& p, const std::vector<int32_t>& targets,
                                         const std::vector<double>& d_logprob, const std::vector<double>& d_entropy);

/// [R, C]: log softmax over the candidates alone.
std::vector<double> closed_set(const Readout& p, const std::vector<int32_t>& candidates);
ReadoutGradients closed_set_backward(const Readout& p, const std::vector<int32_t>& candidates,
                                     const std::vector<double>& d_logprob);

/// [R] nats between p and a constant q; kind 0: sum p log(p/q), 1: sum q log(q/p), 2: Jensen-Shannon.
std::vector<double> divergence(const Readout& p, const Readout& q, int kind);
ReadoutGradients divergence_backward(const Readout& p, const Readout& q, int kind, const std::vector<double>& upstream);

/// How one row is sampled.
struct Cut {
  double temperature = 1, top_p = 1, repetition = 1;
  int top_k = 0;
  std::vector<int32_t> seen;
};

/// [V] the distribution a token is drawn from; temperature 0 puts everything on the largest.
std::vector<double> sampling_distribution(std::vector<double> logits, const Cut& cut);
/// The token where the cumulative sum, in order of falling probability and then rising id, passes uniform.
int pick(const std::vector<double>& distribution, double uniform);

}  // namespace credence::reference
