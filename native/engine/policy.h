// A policy: a base, an adapter or none, and heads. Its trainable numbers lie in one flat float32 buffer on the device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter_files.h"
#include "base.h"

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

/// A tensor of the flat buffer.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t count() const;
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
  Policy(std::shared_ptr<Base> base, const std::optional<AdapterSpec>& adapter, const std::vector<HeadSpec>& heads);
  /// An adapter from a PEFT folder.
  Policy(std::shared_ptr<Base> base, const std::string& adapter_directory, const std::vector<HeadSpec>& heads);

  /// A policy of the same shapes on another base, usually this one's twin.
  std::shared_ptr<Policy> twin(std::shared_ptr<Base> base) const;

  const std::shared_ptr<Base>& base() const { return base_; }
  bool has_adapter() const { return adapter_.has_value(); }
  const AdapterConfig& adapter_config() const { return *adapter_; }
  const std::vector<Head>& heads() const { return heads_; }
  const Head& head(const std::string& name) const;

  /// Null where the product carries no adapter.
  const Lora* lora(int layer, Product product) const;
  /// The first block that carries an adapter; layers() where there is none.
  int lowest_adapted() const { return lowest_; }

  int64_t count() const { return count_; }
  float* parameters() const { return parameters_.f32(); }
  /// Null where the layer has none.
  const float* bias_of(const HeadLayer& layer) const { return layer.bias < 0 ? nullptr : parameters() + layer.bias; }
  const std::vector<Parameter>& adapter_parameters() const { return adapter_parameters_; }
  const std::vector<Parameter>& head_parameters() const { return head_parameters_; }
  std::vector<float> read_parameters() const { return parameters_.download<float>(count_); }
  /// Replaces the named tensors; an unknown name, another shape or a number that is not finite throws.
  void set_parameters(const std::vector<NamedTensor>& tensors);
  /// After the flat buffer changed.
  void repack();
  Adapter adapter() const;

 private:
  void lay_out(const std::vector<HeadSpec>& heads);
  void initialise(std::optional<uint64_t> adapter_seed, std::vector<float>& values) const;
  void finish(const std::vector<float>& values);

  std::shared_ptr<Base> base_;
  std::optional<AdapterConfig> adapter_;
  std::vector<Head> heads_;
  std::vector<Parameter> adapter_parameters_, head_parameters_;
  std::vector<Lora> loras_;  // [layers * kProducts]
  int lowest_ = 0;
  int64_t count_ = 0;
  Buffer parameters_;
};

}  // namespace credence
