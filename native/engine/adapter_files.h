// LoRA adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors, or
// the adapter_model.bin of older versions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "family.h"
#include "safetensors.h"

namespace credence {

struct AdapterConfig {
  int r = 8;
  double alpha = 8;
  /// Scale alpha / sqrt(r) instead of alpha / r.
  bool rslora = false;
  double dropout = 0;
  /// The projections adapted in some layer, in the order of kProjections.
  std::vector<Projection> targets;
  /// Ascending; absent: every layer.
  std::optional<std::vector<int>> layers;
  /// The names of target_modules where one of them says which layer it means ("layers.1.mlp.up_proj"): a matrix is adapted if
  /// its own name ends in one of them. Empty: every target in every one of `layers`.
  std::vector<std::string> names;
  /// target_modules where it is a regular expression; `names` then comes from the tensors that there are.
  std::string pattern;
  /// base_model_name_or_path; may be empty.
  std::string base_model;

  double scale() const;
  bool adapts(int layer, Projection projection) const;
};

/// One adapted matrix: W x + scale B A x.
struct AdapterPair {
  int layer = 0;
  Projection projection = Projection::kQ;
  std::vector<float> a;  // [r, in]
  std::vector<float> b;  // [out, r]
};

struct Adapter {
  AdapterConfig config;
  /// By layer, then in the order of kProjections.
  std::vector<AdapterPair> pairs;
};

/// "model.layers.3.self_attn.q_proj": how target_modules may name a matrix whole.
std::string module_name(int layer, Projection projection);

/// "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"; which is 'A' or 'B'.
std::string adapter_tensor_name(int layer, Projection projection, char which);

/// Reads adapter_config.json. Unknown keys pass unless they are switched on; what changes the arithmetic and is not
/// honoured (use_dora, bias, rank_pattern, modules_to_save, ...) throws Error "UNSUPPORTED" by name.
AdapterConfig load_adapter_config(const std::string& directory);

/// Reads a PEFT folder (F32, F16, BF16) for a base of this family, keys spelled for a causal model or a bare backbone.
/// An adapter for another model throws Error "WRONG_MODEL"; `base` is how messages call the base.
Adapter load_adapter(const std::string& directory, const Family& family, const std::string& base);

/// The bytes of adapter_model.safetensors: float32, keys and order as PEFT writes them.
std::vector<uint8_t> write_adapter(const Adapter& adapter, const Family& family);

/// The text of adapter_config.json: what PEFT needs to load the adapter.
std::string adapter_config_json(const AdapterConfig& config);

}  // namespace credence
