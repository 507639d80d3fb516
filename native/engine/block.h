// One block of the decoder, forward: the same code for training, scoring and generating.
#pragma once

#include "batch.h"
#include "policy.h"

namespace credence {

/// What a block computes between the residuals. Without `keep` every block may share one set; with it, it holds what the
/// backward pass needs.
struct Activations {
  Buffer mid;                                // [T, H] float32: the residual before the MLP, where it is kept apart
  Buffer h1, q, k, v, o, lse, inv1, s1, s2;  // the attention half
  Buffer qk_raw;                             // [T, (heads + kv_heads) head_dim] q and k before their norm
  Buffer h2, u, a, inv2, s3, s4;             // the MLP half

  /// `policy` with `layer` says how wide the adapter's S are; null: no adapter.
  void reserve(const Base& base, const Policy* policy, int layer, int rows, bool keep);
};

struct BlockRun {
  int layer = 0;
  const DeviceBatch* batch = nullptr;
  const Policy* adapter = nullptr;  // null: the base alone
  Activations* act = nullptr;
  // [T, H]: the residual before the block, before its MLP, and after it. All may be the same where x is not needed again.
  float *x = nullptr, *mid = nullptr, *x_out = nullptr;
  void* pages = nullptr;  // this layer's pool
  const float* rotary = nullptr;
  bool keep = false;
  credence_dropout dropout{};  // of the pass; product_dropout() makes each product's own
  bool split_keys = false;     // generation alone may ask for it: what is scored or learnt has the bits of prefilling
};

void run_block(const Base& base, const BlockRun& run);

/// Masks of one product of one layer: a key of its own.
credence_dropout product_dropout(const credence_dropout& pass, int layer, Product product);

inline const credence_lora* lora_handle(const Policy* policy, int layer, Product product) {
  const Lora* lora = policy ? policy->lora(layer, product) : nullptr;
  return lora ? lora->handle() : nullptr;
}

/// The norm before the read-outs, of rows `index` of the residual x [.., H]; outputs are the caller's to set.
/// [H] its weights divided by a temperature, which divides the logits behind it. Throws "UNSUPPORTED" at another than 1 where the
/// policy owns them.
const float* final_norm_at(Base& base, const Policy* policy, double temperature);
credence_norm final_norm(const Base& base, const Policy* policy, const float* x, const Buffer& count,
                         const Buffer& index, int rows);

/// The read-out of token log-probabilities from h [rows, H] act; what it gives is the caller's to set.
credence_token_logprobs token_logprobs(const Base& base, const Policy* policy, const Buffer& h, const Buffer& count,
                                       const Buffer& targets, int rows);

/// A head's logits [rows, outputs] for hidden states [rows, H] already pooled.
std::vector<float> apply_head(const Policy& policy, const Head& head, const std::vector<float>& hidden);

}  // namespace credence
