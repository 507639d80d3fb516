// The losses that the engine computes itself: each is a read-out of a pass and an upstream gradient for it, which never leave the
// device.
#pragma once

#include <optional>
#include <vector>

#include "pass.h"

namespace credence {

/// A sum of the terms that are there:
///   nll         sum over tokens of weight * nll, weights [T] token-aligned
///   read        sum over spans of (sigmoid(head) - target)^2
///   closed_set  sum over rows of -weight * log-probability of candidates[label]
///   divergence  sum over tokens of weight * divergence from the base, weights [T] token-aligned
struct Loss {
  std::vector<float> nll_weights;
  HeadRead read;
  std::vector<float> targets;
  struct ClosedSet {
    ClosedSetRead read;
    std::vector<int32_t> labels;
    std::vector<float> weights;
  };
  std::optional<ClosedSet> closed_set;
  Divergence divergence = Divergence::kKl;
  std::vector<float> divergence_weights;
};

/// Throws Error "BAD_BATCH" unless each number of the loss belongs to something in the batch.
void check(const HostBatch& batch, const Loss& loss);
/// Of `part`, which is these segments of the batch.
Loss part_of(const HostBatch& batch, const Loss& loss, const HostBatch& part, const std::vector<int>& segments);
/// Whether the loss reads the whole vocabulary.
bool reads_vocabulary(const Loss& loss);
/// What a pass has to read for the loss; empty: every weight is 0, and there is nothing to learn.
std::optional<PassRequest> request_of(const Loss& loss);
/// The gradients that follow from the loss alone. A term is the inner product of its read-out and its upstream gradient, but for
/// `read`, whose gradient follows from what is read.
Upstream upstream_of(const Loss& loss);

}  // namespace credence
