// config.json, as transformers 4 and 5 write it, to a Family.
#include <cmath>
#include <iterator>

#include "error.h"
#include "family.h"
#include "json.h"

namespace credence {

namespace {

/// Reads fields of one JSON object; a null is as good as an absence.
class Fields {
 public:
  Fields(const Json& object, std::string file, std::string prefix = "")
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  const Json* find(const char* key) const {
    const Json* value = object_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }

  double number(const char* key, double absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_number()) wrong(key, *value, "a number");
    return value->as_number();
  }

  double required_number(const char* key) const {
    if (!find(key)) missing(key);
    return number(key, 0);
  }

  /// A size: a whole number from 1.
  int size(const char* key, int absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_number() || value->as_number() != std::floor(value->as_number()) || value->as_number() < 1 ||
        value->as_number() > kMaxFamilySize)
      wrong(key, *value, "a whole number from 1");
    return static_cast<int>(value->as_integer());
  }

  int required_size(const char* key) const {
    if (!find(key)) missing(key);
    return size(key, 0);
  }

  bool flag(const char* key, bool absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_bool()) wrong(key, *value, "true or false");
    return value->as_bool();
  }

  std::string string(const char* key, const char* absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_string()) wrong(key, *value, "a string");
    return value->as_string();
  }

  [[noreturn]] void wrong(const char* key, const Json& value, const char* expected) const {
    const std::string text = value.text().substr(0, 80);
    fail("BAD_FILE", "%s: \"%s%s\" is %s; expected %s", file_.c_str(), prefix_.c_str(), key, text.c_str(), expected);
  }

  [[noreturn]] void missing(const char* key) const {
    fail("BAD_FILE", "%s: \"%s%s\" is missing", file_.c_str(), prefix_.c_str(), key);
  }

  [[noreturn]] void unsupported(const char* key, const char* instead) const {
    const Json* value = find(key);
    const std::string text = value ? value->text().substr(0, 80) : "absent";
    fail("UNSUPPORTED", "%s: \"%s%s\" is %s, which is not supported (%s)", file_.c_str(), prefix_.c_str(), key,
         text.c_str(), instead);
  }

  /// Whether the key is there at all, if only as null.
  bool has(const char* key) const { return object_.has(key); }
  const std::string& file() const { return file_; }

 private:
  const Json& object_;
  std::string file_, prefix_;
};

/// Which layers see a window of keys only: none; all of them; or those that layer_types or max_window_layers names, and
/// only if use_sliding_window is set.
enum class Windows { kNone, kAll, kSwitched };

/// What an architecture's blocks have, and what its configuration class in transformers fills in for absent keys.
struct Architecture {
  const char* name;
  Windows windows;
  bool qkv_bias, qk_norm;
  /// Whether the keys attention_bias (q, k, v and o) and mlp_bias mean something to it.
  bool reads_attention_bias, reads_mlp_bias;
  int kv_heads;  // 0: as many as heads
  int head_dim;  // 0: hidden_size / num_attention_heads
  int context;
  int bos, eos;  // -1: none
};

constexpr Architecture kArchitectures[] = {
    {"llama", Windows::kNone, false, false, true, true, 0, 0, 2048, 1, 2},
    {"mistral", Windows::kAll, false, false, false, false, 8, 0, 4096 * 32, 1, 2},
    {"qwen2", Windows::kSwitched, true, false, false, false, 32, 0, 32768, -1, -1},
    {"qwen3", Windows::kSwitched, false, true, true, false, 32, 128, 32768, -1, -1},
};
constexpr int kDefaultWindow = 4096, kDefaultMaxWindowLayers = 28;  // of every architecture that has them

const Architecture& architecture_of(const Fields& config) {
  if (!config.find("model_type")) config.missing("model_type");
  const std::string name = config.string("model_type", "");
  for (const Architecture& architecture : kArchitectures)
    if (name == architecture.name) return architecture;
  fail("UNSUPPORTED",
       "%s: the architecture \"%s\" is not supported; llama (Llama 2 and 3, SmolLM2), mistral, qwen2 and qwen3 are",
       config.file().c_str(), name.c_str());
}

/// Fields that a folder of these architectures may carry and that are honoured nowhere here, so only their neutral
/// value passes.
void refuse_what_is_not_honoured(const Fields& config, const Architecture& architecture) {
  if (!architecture.reads_attention_bias && !architecture.qkv_bias && config.flag("attention_bias", false))
    config.unsupported("attention_bias", "projections of this architecture have no bias");
  if (!architecture.reads_mlp_bias && config.flag("mlp_bias", false))
    config.unsupported("mlp_bias", "projections of this architecture's MLP have no bias");
  if (config.string("hidden_act", "silu") != "silu") config.unsupported("hidden_act", "silu is");
  if (config.number("pretraining_tp", 1) > 1)
    config.unsupported("pretraining_tp", "set it to 1: the result is the same but for rounding");
  for (const char* key : {"quantization_config", "compression_config"})
    if (config.find(key)) config.unsupported(key, "use the model's F32, F16 or BF16 files, or a GGUF");
  for (const char* key : {"rope_interleaved", "use_qk_norm", "qk_norm", "qk_layernorm", "parallel_attn",
                          "use_parallel_residual", "add_cross_attention", "is_encoder_decoder", "alibi"})
    if (config.flag(key, false)) config.unsupported(key, "only false is");
  for (const char* key :
       {"embedding_multiplier", "logits_scaling", "residual_multiplier", "logit_scale", "partial_rotary_factor"})
    if (config.number(key, 1) != 1) config.unsupported(key, "only 1 is");
  for (const char* key : {"attention_multiplier", "final_logit_softcapping", "attn_logit_softcapping",
                          "logit_softcapping", "clip_qkv", "no_rope_layers", "layer_scale"})
    if (config.find(key)) config.unsupported(key, "only null is");
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"})
    if (config.number(key, 0) > 1) config.unsupported(key, "mixtures of experts are not");
  if (const Json* heads = config.find("pruned_heads"); heads && heads->size() > 0)
    config.unsupported("pruned_heads", "only {} is");
}

/// [layers] whether layer_types (transformers 5) calls the layer sliding_attention; empty where there is no such key.
std::vector<bool> sliding_layers(const Fields& config, int layers) {
  const Json* types = config.find("layer_types");
  if (!types) return {};
  if (!types->is_array() || static_cast<int>(types->size()) != layers)
    config.wrong("layer_types", *types, "one name for each of num_hidden_layers");
  std::vector<bool> sliding;
  for (const Json& type : types->as_array()) {
    sliding.push_back(type.is_string() && type.as_string() == "sliding_attention");
    if (!sliding.back() && !(type.is_string() && type.as_string() == "full_attention"))
      config.unsupported("layer_types", "full_attention and sliding_attention are");
  }
  return sliding;
}

void read_windows(const Fields& config, const Architecture& architecture, Family& family) {
  family.windows.assign(static_cast<size_t>(family.layers), 0);
  // A null is no window; an absent key is the architecture's default.
  int window = config.has("sliding_window") ? config.size("sliding_window", 0) : kDefaultWindow;
  std::vector<bool> sliding = sliding_layers(config, family.layers);
  switch (architecture.windows) {
    case Windows::kNone:
      if (config.find("sliding_window") && config.flag("use_sliding_window", true) && window < family.context)
        config.unsupported("sliding_window", "this architecture has none: null, or use_sliding_window false, is");
      window = 0;
      if (sliding.empty()) sliding.assign(family.windows.size(), false);
      break;
    case Windows::kAll:
      if (sliding.empty()) sliding.assign(family.windows.size(), window > 0);
      for (const bool layer : sliding)
        if (layer != (window > 0))
          config.unsupported("layer_types", "this architecture has its sliding_window in every layer or in none");
      break;
    case Windows::kSwitched:
      if (!config.flag("use_sliding_window", false)) window = 0;
      if (sliding.empty()) {
        const double first = config.number("max_window_layers", kDefaultMaxWindowLayers);
        for (int layer = 0; layer < family.layers; ++layer) sliding.push_back(window > 0 && layer >= first);
      }
      break;
  }
  for (size_t layer = 0; layer < sliding.size(); ++layer) {
    if (!sliding[layer]) continue;
    if (!window)
      config.unsupported("layer_types", "sliding_attention without a sliding_window that is switched on is no model");
    family.windows[layer] = window;
  }
}

/// rope_parameters (transformers 5), else rope_theta and rope_scaling (4).
void read_rope(const Fields& config, Family& family) {
  family.rope_theta = config.number("rope_theta", 10000);
  const char* key = config.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json* object = config.find(key);
  if (!object) return;
  if (!object->is_object()) config.wrong(key, *object, "an object");
  const Fields rope(*object, config.file(), std::string(key) + ".");
  for (const auto& [name, value] : object->as_object())
    if (value.is_object()) rope.unsupported(name.c_str(), "one set of rope parameters for all layers is");
  family.rope_theta = rope.number("rope_theta", family.rope_theta);
  if (rope.number("partial_rotary_factor", 1) != 1) rope.unsupported("partial_rotary_factor", "only 1 is");

  const char* kind_key = rope.find("rope_type") ? "rope_type" : "type";
  const std::string kind = rope.string(kind_key, "default");
  RopeScaling& scaling = family.rope_scaling;
  if (kind == "default") return;
  if (kind == "linear") {
    scaling.kind = RopeScalingKind::kLinear;
    scaling.factor = rope.required_number("factor");
  } else if (kind == "llama3") {
    scaling.kind = RopeScalingKind::kLlama3;
    scaling.factor = rope.required_number("factor");
    scaling.low_frequency_factor = rope.required_number("low_freq_factor");
    scaling.high_frequency_factor = rope.required_number("high_freq_factor");
    scaling.original_context = rope.size("original_max_position_embeddings", family.context);
  } else {
    rope.unsupported(kind_key, "default, linear and llama3 are");
  }
}

int token_id(const Fields& config, const char* key, const Json& value, int vocabulary) {
  if (!value.is_integer() || value.as_integer() < -1 || value.as_integer() >= vocabulary)
    config.wrong(key, value, "a token id below vocab_size");
  return static_cast<int>(value.as_integer());
}

void read_special_tokens(const Fields& config, const Architecture& architecture, Family& family) {
  // An explicit null means there is none.
  family.bos = config.has("bos_token_id") ? -1 : architecture.bos;
  if (const Json* bos = config.find("bos_token_id"))
    family.bos = token_id(config, "bos_token_id", *bos, family.vocabulary);
  if (!config.has("eos_token_id") && architecture.eos >= 0) family.eos = {architecture.eos};
  const Json* eos = config.find("eos_token_id");
  if (!eos) return;
  const Json::Array ids = eos->is_array() ? eos->as_array() : Json::Array{*eos};
  for (const Json& id : ids)
    if (const int token = token_id(config, "eos_token_id", id, family.vocabulary); token >= 0)
      family.eos.push_back(token);
}

}  // namespace

Family family_from_config(const Json& object, const std::string& file) {
  if (!object.is_object()) fail("BAD_FILE", "%s: expected an object, found %s", file.c_str(), object.kind());
  const Fields config(object, file);
  const Architecture& architecture = architecture_of(config);
  Family family;
  family.architecture = architecture.name;
  family.layers = config.required_size("num_hidden_layers");
  family.hidden = config.required_size("hidden_size");
  family.intermediate = config.required_size("intermediate_size");
  family.heads = config.required_size("num_attention_heads");
  const bool kv_default = architecture.kv_heads && !config.has("num_key_value_heads");
  family.kv_heads = kv_default ? architecture.kv_heads : config.size("num_key_value_heads", family.heads);
  if (!config.find("head_dim") && !architecture.head_dim && family.hidden % family.heads != 0)
    fail("BAD_FILE", "%s: hidden_size %d is not a multiple of num_attention_heads %d, and there is no head_dim",
         file.c_str(), family.hidden, family.heads);
  family.head_dim =
      config.size("head_dim", architecture.head_dim ? architecture.head_dim : family.hidden / family.heads);
  family.vocabulary = config.required_size("vocab_size");
  family.context = config.size("max_position_embeddings", architecture.context);
  family.norm_eps = config.number("rms_norm_eps", 1e-6);
  family.tied_head = config.flag("tie_word_embeddings", false);
  family.rotary_dims = family.head_dim;
  const bool attention_bias = architecture.reads_attention_bias && config.flag("attention_bias", false);
  family.qkv_bias = architecture.qkv_bias || attention_bias;
  family.o_bias = attention_bias;
  family.mlp_bias = architecture.reads_mlp_bias && config.flag("mlp_bias", false);
  family.qk_norm = architecture.qk_norm;

  refuse_what_is_not_honoured(config, architecture);
  read_rope(config, family);
  check_family(family, file);
  read_windows(config, architecture, family);
  read_special_tokens(config, architecture, family);
  return family;
}

}  // namespace credence
