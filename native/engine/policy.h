// A policy: a base, an adapter or none, what it owns of the base, and heads. Its trainable numbers lie in one flat float32 buffer on
// the device: what it owns first, then the adapter, then the heads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter_files.h"
#include "owned.h"

namespace credence {

struct HeadSpec {
  std::string name;
  int layer = -1;           // 0: embedding, k: after block k, layers: after the last norm; -1: layers
  std::vector<int> widths;  // hidden widths, ReLU between; empty: linear
  int outputs = 1;
  std::optional<uint64_t> seed;  // PyTorch's Linear initialisation; absent: zeros
  bool bias = true;
};

struct AdapterSpec {
  AdapterConfig config;
  uint64_t seed = 0;  // A: Kaiming-uniform (a = sqrt 5), as PEFT; B: zero
};

/// A head's dense layers, in order: weight [out, in] at `weight`, bias [out] at `bias` (offsets into the flat buffer); -1:
/// no bias.
struct HeadLayer {
  int in = 0, out = 0;
  int64_t weight = 0, bias = 0;
};

struct Head {
  HeadSpec spec;
  std::vector<HeadLayer> layers;
};

class Lora {
 public:
  Lora() = default;
  ~Lora() { release(); }
  Lora(Lora&& other) noexcept { *this = std::move(other); }
  Lora& operator=(Lora&& other) noexcept;
  void pack(std::shared_ptr<Device> device, const credence_lora_layout& layout, const float* parameters);
  void repack(const float* parameters);
  const credence_lora* handle() const { return handle_; }
  /// Columns of S: the sum of the slices' ranks.
  int ranks = 0;

 private:
  void release();
  std::shared_ptr<Device> device_;
  credence_lora* handle_ = nullptr;
};

class Policy {
 public:
  Policy(std::shared_ptr<Base> base, const std::optional<AdapterSpec>& adapter, const std::vector<HeadSpec>& heads,
         const OwnedSpec& owned = {});
  /// An adapter from a PEFT folder.
  Policy(std::shared_ptr<Base> base, const std::string& adapter_directory, const std::vector<HeadSpec>& heads,
         const OwnedSpec& owned = {});

  /// A policy of the same shapes on another base, usually this one's twin, packed for what this one is packed for.
  std::shared_ptr<Policy> twin(std::shared_ptr<Base> base) const;

  const std::shared_ptr<Base>& base() const { return base_; }
  bool has_adapter() const { return adapter_.has_value(); }
  const AdapterConfig& adapter_config() const { return *adapter_; }
  const std::vector<Head>& heads() const { return heads_; }
  const Head& head(const std::string& name) const;

  /// Null where the product carries no adapter.
  const Lora* lora(int layer, Product product) const;
  const Owned& owned() const { return owned_; }
  /// Whether it computes anything else than its base: something can be switched off.
  bool differs_from_base() const { return has_adapter() || owned_.spec().any(); }
  /// The first block that has something to train; layers() where there is none.
  int lowest_trained() const { return lowest_; }
  /// Packs once what the way back through its blocks reads, or through the vocabulary's matrix.
  void prepare_backward();
  void prepare_head_backward();

  int64_t count() const { return count_; }
  float* parameters() const { return parameters_.f32(); }
  /// Null where the layer has none.
  const float* bias_of(const HeadLayer& layer) const { return layer.bias < 0 ? nullptr : parameters() + layer.bias; }
  const std::vector<Parameter>& owned_parameters() const { return owned_.parameters(); }
  const std::vector<Parameter>& adapter_parameters() const { return adapter_parameters_; }
  const std::vector<Parameter>& head_parameters() const { return head_parameters_; }
  /// All of them, in the order of the flat buffer.
  std::vector<Parameter> all_parameters() const;
  /// What of the flat buffer is which group, in order.
  std::vector<GroupRange> groups() const;
  std::vector<float> read_parameters() const { return parameters_.download<float>(count_); }
  /// Replaces the named tensors; an unknown name, another shape or a number that is not finite throws.
  void set_parameters(const std::vector<NamedTensor>& tensors);
  /// What it owns, from a file that has all of it and nothing else (F32, F16, BF16); else throws Error "WRONG_MODEL".
  void load_owned(const TensorFile& file);
  /// After the flat buffer changed.
  void repack();
  Adapter adapter() const;

 private:
  void lay_out(const std::vector<HeadSpec>& heads, const OwnedSpec& owned);
  void initialise(std::optional<uint64_t> adapter_seed, std::vector<float>& values) const;
  void finish(const std::vector<float>& values);

  std::shared_ptr<Base> base_;
  std::optional<AdapterConfig> adapter_;
  std::vector<Head> heads_;
  Owned owned_;
  std::vector<Parameter> adapter_parameters_, head_parameters_;
  std::vector<Lora> loras_;  // [layers * kProducts]
  int lowest_ = 0;
  int64_t count_ = 0;
  Buffer parameters_;
};

/// What a pass reads of the weights: the base's numbers, and in their place those that a policy owns; null: the base alone.
class WeightsOf {
 public:
  WeightsOf(const Base& base, const Policy* policy) : base_(base), policy_(policy) {}

  const credence_weights* product(int layer, Product product) const;
  const credence_weights* embedding() const;
  const credence_weights* head() const;
  const float* attention_norm(int layer) const;
  const float* mlp_norm(int layer) const;
  /// Null where the family has none.
  const float* q_norm(int layer) const;
  const float* k_norm(int layer) const;
  const float* bias(int layer, Product product) const;
  const float* final_norm() const;

 private:
  /// -1 without a policy too.
  int64_t own(int64_t Owned::Block::* offset, int layer) const {
    return policy_ ? policy_->owned().block(layer).*offset : -1;
  }
  const float* vector(int64_t offset, const float* base) const {
    return offset < 0 ? base : policy_->parameters() + offset;
  }

  const Base& base_;
  const Policy* policy_;
};

}  // namespace credence
