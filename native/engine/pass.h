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
#include "ppo.h"

namespace credence {

/// Raised to stop a long call at its next safe point.
using AbortFlag = std::atomic<bool>;
void check_abort(const AbortFlag* abort);

/// Heads and pooled hidden states read at spans of a batch.
struct HeadRead {
  std::string head;
  std::vector<ReadSpan> spans;
  /// false: for a loss that stays on the device (Upstream::targets), nothing is read back.
  bool values = true;
};

/// Log-probabilities over a few tokens alone, at rows of the flat batch.
struct ClosedSetRead {
  std::vector<int32_t> candidates, rows;
  /// false: only what backward() needs.
  bool values = true;
};

/// How far p, the adapter on, is from q, the adapter off: sum p log(p/q), sum q log(q/p), or the mean of both's distance
/// from (p + q) / 2. The order is that of kernels.h.
enum class Divergence { kKl, kReverseKl, kJsd };

/// Read where `mask` [T], token-aligned, is not 0.
struct DivergenceRead {
  Divergence kind = Divergence::kKl;
  std::vector<uint8_t> mask;
  /// false: only what backward() needs.
  bool values = true;
};

/// A head's output at the row before each token whose `mask` [T], token-aligned, is not 0: what a critic says a token is worth
/// before it is seen. The head has one output.
struct ValueRead {
  std::string head;
  std::vector<uint8_t> mask;
  /// false: only what backward() needs.
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
  /// Log-probabilities, entropy and logits, and losses of them, are those of the logits divided by it. What else is read is not.
  double temperature = 1;
  /// [T] token-aligned: log-probabilities, and entropy of the row before, are read where it is not 0; empty: everywhere.
  std::vector<uint8_t> mask;
  /// Drops the adapter's inputs out as its config says; absent: not at all.
  std::optional<DropoutKeys> dropout;
  std::vector<HeadRead> heads;
  std::optional<ClosedSetRead> closed_set;
  std::optional<DivergenceRead> divergence;
  std::optional<ValueRead> values;
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
  std::vector<float> values;                        // [T] token-aligned; 0 outside the mask
};

/// The losses of ppo.h over what a pass reads; their sums are added to, on the device.
struct PpoUpstream {
  const PpoLoss* loss = nullptr;
  credence_policy_sums* policy = nullptr;
  credence_value_sums* value = nullptr;
};

/// d(loss) / d(read-out), in the read-out's own layout; empty: none. It may be left to the device: of a head with one output, `targets`
/// [spans] stand for the gradients of sum (sigmoid(head) - target)^2; `ppo` for those of log-probabilities, entropies and values.
struct Upstream {
  std::vector<float> logprobs;  // [T] token-aligned
  std::vector<float> entropy;   // [T] row-aligned
  std::map<std::string, std::vector<float>> heads, targets;
  std::vector<float> closed_set;  // [rows, candidates]
  std::vector<float> divergence;  // [T] token-aligned
  std::vector<float> values;      // [T] token-aligned
  std::optional<PpoUpstream> ppo;
};

class Pass {
 public:
  explicit Pass(std::shared_ptr<Policy> policy);

  PassResult forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort = nullptr);
  /// Adds to the policy's flat gradient buffer, and to `loss` (float64 on the device, or null) the inner products of read-outs
  /// and their upstream gradients, entropy's and heads' apart, the squared errors of `targets`, and the losses of `ppo`: a loss that
  /// is one of the five fused ones. Waits for nothing.
  void backward(const Upstream& upstream, float* gradients, double* loss = nullptr, const AbortFlag* abort = nullptr);

  /// Goes on in the memory of another pass of this base, which then holds nothing open.
  void take_room(Pass& other);

  /// Of a head with one output, on hidden states [n, H] that were collected before: adds the squared errors of its sigmoid to `loss`
  /// and their gradients to those of its parameters.
  void learn_head(const std::string& head, const std::vector<float>& hidden, const std::vector<float>& targets,
                  float* gradients, double* loss);

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
  void over_rows(const std::vector<int32_t>& rows, bool gradients, const std::function<void(const NormedRows&)>& body) {
    over_rows(rows, gradients, 1, body);
  }
  /// The same, of rows whose logits are divided by a temperature.
  void over_rows(const std::vector<int32_t>& rows, bool gradients, double temperature,
                 const std::function<void(const NormedRows&)>& body);
  void run_blocks(const std::function<void(int)>& read_depth, const AbortFlag* abort);
  void read_hidden(PassResult& result);
  void run(int layer, bool keep);
  void read_vocabulary(PassResult& result);
  void check_closed_set() const;
  void read_closed_set(PassResult& result);
  void keep_reference(const AbortFlag* abort);
  void read_divergence(PassResult& result);
  void backward_divergence(const std::vector<float>& upstream, double* loss);
  /// body(op, some) for the masked rows; `gradients` as in over_rows.
  void over_divergence(bool gradients, const std::function<void(credence_divergence&, const NormedRows&)>& body);
  /// Tokens, and the rows whose distribution is over them.
  struct TokenRows {
    std::vector<int32_t> tokens, rows;
  };
  /// Of the tokens in a mask; `name` is what an error calls it.
  TokenRows rows_before(const std::vector<uint8_t>& mask, const char* name) const;
  /// Flat rows [first, last).
  struct RowRange {
    int first, last;
  };
  std::vector<RowRange> ranges_of(const std::vector<ReadSpan>& spans) const;
  void pool(const std::vector<RowRange>& ranges, int depth, const float* x, HeadState& state);
  void read_head(HeadState& state);
  std::vector<float> outputs_of(const HeadState& state) const;
  void read_values(PassResult& result);
  void backward_values(const std::vector<float>& upstream, float* gradients, bool into_residual);
  void backward_vocabulary(const Upstream& upstream, double* loss);
  void backward_policy(const PpoUpstream& ppo, double* loss);
  void backward_closed_set(const std::vector<float>& upstream, double* loss);
  void add_loss(const NormedRows& some, int width, const Buffer& weight, const Buffer& value, double* loss);
  void backward_block(int layer, float* gradients, bool below);
  /// d(loss) / d(outputs) as the caller has it, or of the squared errors to the targets.
  Buffer given_upstream(const HeadState& state, const std::vector<float>& upstream) const;
  Buffer squared_errors(const HeadState& state, const std::vector<float>& targets, double* loss);
  Buffer value_errors(const PpoUpstream& ppo, double* loss);
  void backward_head(HeadState& state, Buffer dy, float* gradients, bool into_residual);
  /// Null: the base alone.
  const Policy* adapter() const;
  WeightsOf weights() const { return {*base_, adapter()}; }
  /// Where the gradient of what stands there in the flat buffer is added up; null for what is the base's own (-1).
  float* owned_gradient(int64_t offset) const { return gradients_ && offset >= 0 ? gradients_ + offset : nullptr; }
  /// Of the last norm, and of the vocabulary's matrix.
  float* final_norm_gradient() const;
  float* head_gradient() const;
  void prepare_head_backward();
  credence_dropout dropout() const;

  std::shared_ptr<Policy> policy_;
  std::shared_ptr<Base> base_;
  std::shared_ptr<Device> device_;
  DeviceBatch batch_;
  HostBatch host_;
  int longest_ = 0;
  PassRequest request_;
  float* gradients_ = nullptr;     // of what the policy owns, while a backward pass runs with it on
  std::vector<Activations> kept_;  // of blocks that keep all they compute
  Activations shared_;             // of the others, one after the other
  std::vector<Buffer> kept_x_;     // [layers + 1] residuals that backward reads
  Buffer x_;                       // the residual where it is not kept
  Buffer pages_;
  std::map<std::string, HeadState> heads_;
  HeadState values_;
  std::vector<int32_t> value_tokens_;
  // Of a divergence: the tokens in the mask, the rows over them, and those rows [.., H] act normed with the adapter off.
  std::vector<int32_t> divergence_tokens_, divergence_rows_;
  Buffer reference_;
  Buffer row_keys_;                     // [T] of dropout
  Buffer dx_, da_, do_, dq_, dk_, dv_;  // gradients of the residual and inside a block
};

}  // namespace credence
