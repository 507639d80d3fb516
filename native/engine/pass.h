// One pass over a batch: forward, what it is asked to read out, and backward from upstream gradients.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block.h"

namespace credence {

/// Raised to stop a long call at its next safe point.
using AbortFlag = std::atomic<bool>;
void check_abort(const AbortFlag* abort);

/// Heads and pooled hidden states read at spans of a batch.
struct HeadRead {
  std::string head;
  std::vector<ReadSpan> spans;
};

struct PassRequest {
  bool adapter = true;
  /// Keeps what backward() needs.
  bool keep = false;
  bool logprobs = false, entropy = false, logits = false;
  std::vector<HeadRead> heads;
  /// Hidden states pooled over `spans` at these depths (see HeadSpec::layer).
  std::vector<int> collect;
  std::vector<ReadSpan> spans;
  /// All rows after the last norm (fixtures).
  bool hidden = false;
};

struct PassResult {
  std::vector<float> logprobs;                      // [T] token-aligned
  std::vector<float> entropy;                       // [T] row-aligned, nats
  std::vector<float> logits;                        // [T, V]
  std::vector<float> hidden;                        // [T, H]
  std::vector<float> collected;                     // [spans, depths, H]
  std::map<std::string, std::vector<float>> heads;  // [spans, outputs] logits
};

/// d(loss) / d(read-out), in the read-out's own layout; empty: none.
struct Upstream {
  std::vector<float> logprobs;  // [T] token-aligned
  std::vector<float> entropy;   // [T] row-aligned
  std::map<std::string, std::vector<float>> heads;
};

class Pass {
 public:
  explicit Pass(std::shared_ptr<Policy> policy);

  PassResult forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort = nullptr);
  /// Adds to the policy's flat gradient buffer. Returns the log-probabilities [T] of the tokens that had an upstream
  /// gradient, 0 elsewhere: a fused loss needs no second pass over the vocabulary.
  std::vector<float> backward(const Upstream& upstream, float* gradients, const AbortFlag* abort = nullptr);

 private:
  struct HeadState {
    const Head* head = nullptr;
    int spans = 0;
    Buffer from, to, count, pooled;
    std::vector<Buffer> outputs;
    // After the last norm only: the rows the spans touch.
    Buffer index, rows, normed;
    int touched = 0;
  };

  Activations& at(int layer) { return request_.keep ? kept_[layer] : kept_[0]; }
  float* residual(int layer);
  void read_vocabulary(PassResult& result);
  void read_head(HeadState& state, PassResult& result);
  void pool(const std::vector<ReadSpan>& spans, int depth, const float* x, HeadState& state);
  std::vector<float> backward_vocabulary(const Upstream& upstream);
  void backward_block(int layer, float* gradients, bool below);
  void backward_head(HeadState& state, const std::vector<float>& upstream, float* gradients, bool into_residual);
  const Policy* adapter() const;

  std::shared_ptr<Policy> policy_;
  std::shared_ptr<Base> base_;
  std::shared_ptr<Device> device_;
  DeviceBatch batch_;
  HostBatch host_;
  int longest_ = 0;
  PassRequest request_;
  std::vector<Activations> kept_;
  Buffer pages_, final_x_;  // final_x_: [T, H] residual after the last block
  std::map<std::string, HeadState> heads_;
  Buffer dx_, da_, do_, dq_, dk_, dv_;  // gradients of the residual and inside a block
};

}  // namespace credence
