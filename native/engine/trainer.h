// Learning: micro-batches add up in one flat gradient, an update divides once and takes one AdamW step.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fit.h"
#include "native/comm/communicator.h"
#include "pass.h"

namespace credence {

struct OptimizerSpec {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double max_gradient_norm = 0;  // 0: no clipping
  uint64_t seed = 0;             // of the adapter's dropout
};

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

class Trainer {
 public:
  /// Ranks of `communicator` begin with equal policies and call update() together; then they stay equal.
  Trainer(std::shared_ptr<Policy> policy, const OptimizerSpec& optimizer,
          std::shared_ptr<Communicator> communicator = alone());

  /// Forward and backward; returns the loss, summed and not divided. The batch is cut into passes, which bounds memory and
  /// changes no sum; a prefix stays with its readers. Under a limit of memory they are as large as fits.
  double accumulate(const HostBatch& batch, const Loss& loss, const AbortFlag* abort = nullptr);
  /// Of a head alone, on hidden states [n, H] that were collected before: the loss of accumulate(), without the blocks.
  double accumulate(const std::string& head, const std::vector<float>& hidden, const std::vector<float>& targets,
                    const AbortFlag* abort = nullptr);
  /// A forward held open for a loss of the caller's own.
  PassResult forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort = nullptr);
  void backward(const Upstream& upstream, const AbortFlag* abort = nullptr);
  /// Sums gradients and counts over the ranks, divides once, clips, steps, clears. Returns the gradient's norm before
  /// clipping.
  double update(double learning_rate, double count);

  std::vector<float> gradients() const { return gradients_.download<float>(policy_->count()); }
  void clear_gradients() { gradients_.zero(); }
  int64_t step() const { return step_; }
  uint64_t seed() const { return optimizer_.seed; }
  std::vector<float> first_moment() const { return m_.download<float>(policy_->count()); }
  std::vector<float> second_moment() const { return v_.download<float>(policy_->count()); }
  void restore(int64_t step, uint64_t seed, const std::vector<float>& m, const std::vector<float>& v);
  const std::shared_ptr<Policy>& policy() const { return policy_; }
  /// How the latest batch was cut, and whether its blocks were recomputed.
  const PassSize& pass_size() const { return size_; }

 private:
  double accumulate_in(const HostBatch& batch, const Loss& loss, const PassSize& size, const AbortFlag* abort);
  PassResult forward_in(const HostBatch& batch, const PassRequest& request, const PassSize& size,
                        const AbortFlag* abort);
  /// Packs what backward reads of the base.
  void prepare(bool head);
  /// The first of the sizes whose `call` keeps to the device's limit; leftovers of earlier calls are given back where they
  /// are in the way. What is chosen depends on the call alone, so that a resumed run chooses the same.
  PassSize fit(const std::vector<PassSize>& sizes, bool head,
               const std::function<void(Trainer&, const PassSize&)>& call);

  /// Masks follow from the seed, the step, and each sequence's number in the step: rank r's i-th is number i size + r, so
  /// that rows dealt in turn keep their masks whatever the number of ranks.
  std::optional<DropoutKeys> dropout(const std::vector<int>& segments) const;
  double accumulate_part(const HostBatch& batch, const Loss& loss, const PassSize& size,
                         const std::optional<DropoutKeys>& dropout, const AbortFlag* abort);

  std::shared_ptr<Policy> policy_;
  std::shared_ptr<Device> device_;
  OptimizerSpec optimizer_;
  std::shared_ptr<Communicator> communicator_;
  Pass pass_;
  Buffer gradients_, m_, v_, norm_;
  int64_t step_ = 0;
  int64_t sequences_ = 0;  // seen in this step
  PassSize size_;
  // Under a limit of memory: what calls would take.
  std::optional<Rehearsal> rehearsal_;
  std::unique_ptr<Trainer> twin_;
};

}  // namespace credence
