// A decoder's family as data: everything a forward pass must know besides the weights.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace credence {

/// No dimension of a decoder comes near, and a product of two still fits an int64.
inline constexpr int64_t kMaxFamilySize = 1 << 28;

class Json;
class GgufFile;

enum class NormKind { kRms, kLayer };
enum class Activation { kSilu, kGelu, kGeluTanh };
/// kFactors: each inverse frequency is divided by its own number (a GGUF's rope_freqs tensor).
enum class RopeScalingKind { kNone, kLinear, kLlama3, kFactors };

/// The matrices of a block that an adapter may touch, in the order of the forward pass.
enum class Projection { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr std::array<Projection, 7> kProjections = {Projection::kQ,   Projection::kK,    Projection::kV,
                                                           Projection::kO,   Projection::kGate, Projection::kUp,
                                                           Projection::kDown};

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1;
  /// llama3 only: bounds of the blend, in turns over the original context.
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  int original_context = 0;
  /// kFactors only: rotary_dims / 2 divisors.
  std::vector<float> factors;
};

struct Family {
  /// "llama", "mistral", "qwen2" or "qwen3": the model_type of config.json, general.architecture of a GGUF.
  std::string architecture;
  int layers = 0;
  int hidden = 0;
  int intermediate = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocabulary = 0;
  /// Longest sequence the model was made for.
  int context = 0;

  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  Activation activation = Activation::kSilu;
  bool gated_mlp = true;
  bool parallel_residual = false;
  bool qkv_bias = false;
  bool o_bias = false;
  /// Of gate, up and down together.
  bool mlp_bias = false;
  /// RMS norm of each head of q and k before the rotation.
  bool qk_norm = false;
  /// The output matrix is the embedding.
  bool tied_head = false;

  /// The first rotary_dims of each head are rotated, dimension j with j + rotary_dims / 2.
  int rotary_dims = 0;
  double rope_theta = 10000;
  RopeScaling rope_scaling;

  /// [layers] How many keys a query sees, itself included; 0: all before it.
  std::vector<int> windows;

  /// -1: none.
  int bos = -1;
  /// Tokens that end an answer; the first is the main one.
  std::vector<int> eos;

  int query_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
};

/// [rotary_dims / 2] inverse frequencies in radians a position, scaling applied.
std::vector<double> rope_frequencies(const Family& family);

/// The rules that a family meets wherever it was read; `file` is for messages.
void check_family(const Family& family, const std::string& file);

/// config.json as transformers 4 or 5 writes it. `file` is for messages. An architecture, or a field that changes the
/// arithmetic and is not honoured, throws Error "UNSUPPORTED" by name.
Family family_from_config(const Json& config, const std::string& file);

/// The metadata of a GGUF, with the same rules.
Family family_from_gguf(const GgufFile& file);

/// "q", "k", "v", "o", "gate", "up", "down".
const char* projection_name(Projection projection);
/// "q_proj", ..., "down_proj": how adapters and Hugging Face files call it.
const char* projection_module(Projection projection);
/// "self_attn.q_proj", ..., "mlp.down_proj".
std::string projection_path(Projection projection);
/// By either name ("q" or "q_proj"); anything else throws Error "UNSUPPORTED".
Projection projection_from_name(const std::string& name);
int projection_in(const Family& family, Projection projection);
int projection_out(const Family& family, Projection projection);
bool projection_has_bias(const Family& family, Projection projection);

/// Parameters of the model, a tied head counted once.
int64_t parameter_count(const Family& family);

/// The weights a family has: Hugging Face names and shapes, in the order of the forward pass.
struct WeightSpec {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<WeightSpec> weight_specs(const Family& family);

}  // namespace credence
