// Learning: micro-batches add up in one flat gradient, an update divides once and takes one AdamW step.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fit.h"
#include "losses.h"
#include "native/comm/communicator.h"
#include "pass.h"
#include "ppo.h"

namespace credence {

struct OptimizerSpec {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double max_gradient_norm = 0;  // 0: no clipping
  uint64_t seed = 0;             // of the adapter's dropout
  double average_decay = 0;      // of the running average of what is learnt; 0: none is kept
};

/// What a group of parameters has of its own in a step.
struct GroupSettings {
  std::optional<double> learning_rate, weight_decay;
};

struct StepResult {
  double loss = 0;           // over the step's count; 0 where it was the caller's own
  double gradient_norm = 0;  // before clipping
  PpoSums ppo;               // of the step, where its loss was PPO's
};

class Trainer : public std::enable_shared_from_this<Trainer> {
 public:
  /// Ranks of `communicator` begin with equal policies and call update() together; then they stay equal.
  Trainer(std::shared_ptr<Policy> policy, const OptimizerSpec& optimizer,
          std::shared_ptr<Communicator> communicator = alone());

  /// Forward and backward: adds to the gradients, and to the step's loss, which stay on the device. The batch is cut into passes,
  /// which bounds memory and changes no sum; a prefix stays with its readers. Under a limit of memory they are as large as fits.
  void accumulate(const HostBatch& batch, const Loss& loss, const AbortFlag* abort = nullptr);
  /// Of a head alone, on hidden states [n, H] that were collected before: the loss of accumulate(), without the blocks.
  void accumulate(const std::string& head, const std::vector<float>& hidden, const std::vector<float>& targets,
                  const AbortFlag* abort = nullptr);
  /// The losses of what was sampled; their sums too stay on the device.
  void accumulate(const HostBatch& batch, const PpoLoss& loss, const AbortFlag* abort = nullptr);
  /// What they have come to since the last update, for whoever judges a step before it is taken; waits for the device. Throws
  /// "NOT_FINITE" as update() does.
  PpoSums ppo_sums();
  /// A forward held open for a loss of the caller's own, until update().
  PassResult forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort = nullptr);
  void backward(const Upstream& upstream, const AbortFlag* abort = nullptr);
  /// The loss accumulated since the last update, summed and not divided; waits for the device.
  double loss() const { return told_.download<Told>(1)[0].sums.loss; }
  /// Sums gradients, losses and counts over the ranks, divides once, clips, steps, clears. Waits for the device once, to read
  /// the loss and the norm; where one is not finite it throws "NOT_FINITE", nothing has been learnt, and the step is forgotten.
  /// Groups have the learning rate given and the optimiser's weight decay where they have none of their own.
  StepResult update(double learning_rate, double count, const std::map<Group, GroupSettings>& groups = {});

  std::vector<float> gradients() const { return gradients_.download<float>(policy_->count()); }
  /// What was accumulated is as if it had never been.
  void clear_gradients();
  int64_t step() const { return step_; }
  uint64_t seed() const { return optimizer_.seed; }
  std::vector<float> first_moment() const { return m_.download<float>(policy_->count()); }
  std::vector<float> second_moment() const { return v_.download<float>(policy_->count()); }
  void restore(int64_t step, uint64_t seed, const std::vector<float>& m, const std::vector<float>& v);
  /// The running average, which begins as what the policy is when its trainer is made; empty where none is kept.
  std::vector<float> average() const {
    return average_ ? average_.download<float>(policy_->count()) : std::vector<float>();
  }
  void restore_average(const std::vector<float>& average);
  const std::shared_ptr<Policy>& policy() const { return policy_; }
  /// How the latest batch was cut, and whether its blocks were recomputed.
  const PassSize& pass_size() const { return size_; }

 private:
  /// What a step tells, as it lies on the device.
  struct Told {
    PpoSums sums;  // loss: of all that was accumulated
    float norm = 0;
  };
  template <class T>
  T* told(size_t offset) const {
    return reinterpret_cast<T*>(told_.as<char>() + offset);
  }
  double* told_loss() const { return told<double>(offsetof(Told, sums.loss)); }
  float* told_norm() const { return told<float>(offsetof(Told, norm)); }
  /// Of a step whose numbers are not finite nothing is learnt, and it is forgotten.
  void check_finite(double number, const char* what);
  void sum_over_ranks(double* count);

  /// Takes over the activations' memory from the trainer that stepped before, unless that one holds a forward open.
  void take_room();
  void accumulate_in(const HostBatch& batch, const Loss& loss, const PassSize& size, const AbortFlag* abort);
  PassResult forward_in(const HostBatch& batch, const PassRequest& request, const PassSize& size,
                        const AbortFlag* abort);
  /// Packs what backward reads of the base.
  void prepare(bool head);
  /// The first of the sizes whose `call` keeps to the device's limit; leftovers of earlier calls are given back where they
  /// are in the way. What is chosen depends on the call alone, so that a resumed run chooses the same.
  PassSize fit(const std::vector<PassSize>& sizes, bool head,
               const std::function<void(Trainer&, const PassSize&)>& call);
  /// Runs the call at the size that fits. What fails half-way is forgotten, the step's earlier calls with it; where the device is full
  /// though no limit was set, the error says what the step takes.
  void run_fitted(bool head, const std::function<void(Trainer&, const PassSize&)>& call);

  /// Masks follow from the seed, the step, and each sequence's number in the step: rank r's i-th is number i size + r, so
  /// that rows dealt in turn keep their masks whatever the number of ranks.
  std::optional<DropoutKeys> dropout(const std::vector<int>& segments) const;
  void accumulate_part(const HostBatch& batch, const Loss& loss, const PassSize& size,
                       const std::optional<DropoutKeys>& dropout, const AbortFlag* abort);
  void accumulate_in(const HostBatch& batch, const PpoLoss& loss, const PassSize& size, const AbortFlag* abort);
  void accumulate_part(const HostBatch& batch, const PpoLoss& loss, const PassSize& size,
                       const std::optional<DropoutKeys>& dropout, const AbortFlag* abort);

  std::shared_ptr<Policy> policy_;
  std::shared_ptr<Device> device_;
  OptimizerSpec optimizer_;
  std::shared_ptr<Communicator> communicator_;
  Pass pass_;
  Buffer gradients_, m_, v_, average_, told_;
  int64_t step_ = 0;
  int64_t sequences_ = 0;  // seen in this step
  bool held_ = false;      // a forward is open
  PassSize size_;
  // Under a limit of memory: what calls would take.
  std::optional<Rehearsal> rehearsal_;
  std::unique_ptr<Trainer> twin_;
};

}  // namespace credence
