// One pass over a batch: forward, what it is asked to read out, and backward from upstream gradients.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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

/// Log-probabilities over a few tokens alone, at rows of the flat batch.
struct ClosedSetRead {
  std::vector<int32_t> candidates, rows;
};

/// How far p, the adapter on, is from q, the adapter off: sum p log(p/q), sum q log(q/p), or the mean of both's distance
/// from (p + q) / 2. The order is that of kernels.h.
enum class Divergence { kKl, kReverseKl, kJsd };

/// Read where `mask` [T], token-aligned, is not 0.
struct DivergenceRead {
  Divergence kind = Divergence::kKl;
  std::vector<uint8_t> mask;
  /// false: only what backward() needs, which gives the values too.
  bool values = true;
};

/// Which masks an adapter with dropout has: `key` for this step, and each segment's number in it.
struct DropoutKeys {
  uint64_t key = 0;
  std::vector<uint64_t> sequences;  // [B]
};

struct PassRequest {
  bool adapter = true;
  /// Keeps what backward() needs: all that the blocks computed, or with `recompute` their inputs alone, from which
  /// backward() computes the rest again, with the same bits.
  bool keep = false, recompute = false;
  bool logprobs = false, entropy = false, logits = false;
  /// Drops the adapter's inputs out as its config says; absent: not at all.
  std::optional<DropoutKeys> dropout;
  std::vector<HeadRead> heads;
  std::optional<ClosedSetRead> closed_set;
  std::optional<DivergenceRead> divergence;
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
  std::vector<float> closed_set;                    // [rows, candidates]
  std::vector<float> divergence;                    // [T] token-aligned, nats; 0 outside the mask
};

/// d(loss) / d(read-out), in the read-out's own layout; empty: none.
struct Upstream {
  std::vector<float> logprobs;  // [T] token-aligned
  std::vector<float> entropy;   // [T] row-aligned
  std::map<std::string, std::vector<float>> heads;
  std::vector<float> closed_set;  // [rows, candidates]
  std::vector<float> divergence;  // [T] token-aligned
};

class Pass {
 public:
  explicit Pass(std::shared_ptr<Policy> policy);

  PassResult forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort = nullptr);
  /// Adds to the policy's flat gradient buffer. Returns what it read again on the way, log-probabilities and divergence of
  /// the tokens that had an upstream gradient: a fused loss needs no second pass over the vocabulary.
  PassResult backward(const Upstream& upstream, float* gradients, const AbortFlag* abort = nullptr);

  /// A head's outputs for hidden states [n, H] that were collected before, and the gradients of its parameters.
  std::vector<float> read_head(const std::string& head, const std::vector<float>& hidden);
  void backward_head(const std::string& head, const std::vector<float>& upstream, float* gradients);

  /// Some rows of the last residual, normed, and where the gradient of those goes that the read-out leaves in dh.
  struct NormedRows {
    size_t begin;  // of the rows asked for
    int count;
    const Buffer& counted;  // [1] count
    const Buffer& h;        // [count, H] act
    float* dh;              // [count, H], null without gradients
  };

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

  /// The blocks from here on have a backward pass: nothing of those below is kept.
  int lowest() const;
  bool keeps(int layer) const { return request_.keep && !request_.recompute && layer >= lowest(); }
  Activations& at(int layer) { return keeps(layer) ? kept_[layer] : shared_; }
  /// [T, H] the residual before block `layer`; layers: after the last.
  float* residual(int layer);
  /// body for kRowsAtOnce of these rows at a time; with `gradients` what it leaves in dh goes on into dx_.
  void over_rows(const std::vector<int32_t>& rows, bool gradients, const std::function<void(const NormedRows&)>& body);
  void run_blocks(const std::function<void(int)>& read_depth, const AbortFlag* abort);
  void read_hidden(PassResult& result);
  void run(int layer, bool keep);
  void read_vocabulary(PassResult& result);
  void check_closed_set() const;
  void read_closed_set(PassResult& result);
  void keep_reference(const AbortFlag* abort);
  void read_divergence(PassResult& result, const std::vector<float>* upstream);
  void read_head(HeadState& state, PassResult& result);
  void pool(const std::vector<ReadSpan>& spans, int depth, const float* x, HeadState& state);
  void backward_vocabulary(const Upstream& upstream, PassResult& result);
  void backward_closed_set(const std::vector<float>& upstream);
  void backward_block(int layer, float* gradients, bool below);
  void backward_head(HeadState& state, const std::vector<float>& upstream, float* gradients, bool into_residual);
  const Policy* adapter() const;
  credence_dropout dropout() const;

  std::shared_ptr<Policy> policy_;
  std::shared_ptr<Base> base_;
  std::shared_ptr<Device> device_;
  DeviceBatch batch_;
  HostBatch host_;
  int longest_ = 0;
  PassRequest request_;
  std::vector<Activations> kept_;  // of blocks that keep all they compute
  Activations shared_;             // of the others, one after the other
  std::vector<Buffer> kept_x_;     // [layers + 1] residuals that backward reads
  Buffer x_;                       // the residual where it is not kept
  Buffer pages_;
  std::map<std::string, HeadState> heads_;
  HeadState given_;  // of the head that read hidden states it was given
  // Of a divergence: the tokens in the mask, the rows over them, and those rows [.., H] act normed with the adapter off.
  std::vector<int32_t> divergence_tokens_, divergence_rows_;
  Buffer reference_;
  Buffer row_keys_;                     // [T] of dropout
  Buffer dx_, da_, do_, dq_, dk_, dv_;  // gradients of the residual and inside a block
};

}  // namespace credence
