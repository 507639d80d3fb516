// From what a model's files say about it to a Family: config.json of transformers 4 and 5, and GGUF metadata.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "error.h"
#include "family.h"
#include "gguf.h"
#include "json.h"

namespace credence {

namespace {

constexpr int64_t kMaxSize = 1 << 28;  // no dimension of a decoder comes near; a product of two still fits an int64
constexpr int kMaxLayers = 4096;

/// The rules that both formats share; `file` is for messages.
void finish(Family& family, const std::string& file) {
  const char* name = file.c_str();
  if (family.layers > kMaxLayers) fail("BAD_FILE", "%s: %d layers are no model", name, family.layers);
  family.windows.assign(static_cast<size_t>(family.layers), 0);
  if (family.heads % family.kv_heads != 0)
    fail("BAD_FILE", "%s: %d heads cannot share %d key/value heads", name, family.heads, family.kv_heads);
  if (family.head_dim % 2 != 0)
    fail("UNSUPPORTED", "%s: the head size %d is odd; rotary positions need pairs", name, family.head_dim);
  if (family.query_width() > kMaxSize)
    fail("BAD_FILE", "%s: %d heads of size %d are no model", name, family.heads, family.head_dim);
  if (!(family.norm_eps > 0) || !(family.rope_theta > 0))
    fail("BAD_FILE", "%s: the norm's epsilon (%g) and rope theta (%g) must be above 0", name, family.norm_eps,
         family.rope_theta);
  const RopeScaling& scaling = family.rope_scaling;
  if (!(scaling.factor > 0)) fail("BAD_FILE", "%s: the rope scaling factor is %g", name, scaling.factor);
  if (scaling.kind == RopeScalingKind::kLlama3 &&
      (scaling.original_context <= 0 || !(scaling.high_frequency_factor > scaling.low_frequency_factor)))
    fail(
        "BAD_FILE",
        "%s: llama3 rope scaling needs original_max_position_embeddings above 0 and high_freq_factor above low_freq_factor",
        name);
}

// ------------------------------------------------------------------------------------------------------ config.json

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
        value->as_number() > kMaxSize)
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

  const std::string& file() const { return file_; }

 private:
  const Json& object_;
  std::string file_, prefix_;
};

/// Fields of other architectures that a Llama folder may carry: honoured by none here, so only their neutral value
/// passes.
void refuse_what_is_not_honoured(const Fields& config) {
  if (config.flag("attention_bias", false)) config.unsupported("attention_bias", "projections have no bias here");
  if (config.flag("mlp_bias", false)) config.unsupported("mlp_bias", "projections have no bias here");
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
  if (const Json* types = config.find("layer_types"); types && types->is_array())
    for (const Json& type : types->as_array())
      if (!type.is_string() || type.as_string() != "full_attention")
        config.unsupported("layer_types", "only full_attention is");
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
    scaling.original_context = rope.required_size("original_max_position_embeddings");
  } else {
    rope.unsupported(kind_key, "default, linear and llama3 are");
  }
}

int token_id(const Fields& config, const char* key, const Json& value, int vocabulary) {
  if (!value.is_integer() || value.as_integer() < -1 || value.as_integer() >= vocabulary)
    config.wrong(key, value, "a token id below vocab_size");
  return static_cast<int>(value.as_integer());
}

void read_special_tokens(const Json& object, const Fields& config, Family& family) {
  // LlamaConfig's own defaults; an explicit null means there is none.
  family.bos = object.has("bos_token_id") ? -1 : 1;
  if (const Json* bos = config.find("bos_token_id"))
    family.bos = token_id(config, "bos_token_id", *bos, family.vocabulary);
  if (!object.has("eos_token_id")) family.eos = {2};
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
  Family family;
  if (!config.find("model_type")) config.missing("model_type");
  family.architecture = config.string("model_type", "");
  if (family.architecture != "llama")
    fail("UNSUPPORTED", "%s: the architecture \"%s\" is not supported; \"llama\" is (Llama 2 and 3, SmolLM2)",
         file.c_str(), family.architecture.c_str());

  family.layers = config.required_size("num_hidden_layers");
  family.hidden = config.required_size("hidden_size");
  family.intermediate = config.required_size("intermediate_size");
  family.heads = config.required_size("num_attention_heads");
  family.kv_heads = config.size("num_key_value_heads", family.heads);
  if (!config.find("head_dim") && family.hidden % family.heads != 0)
    fail("BAD_FILE", "%s: hidden_size %d is not a multiple of num_attention_heads %d, and there is no head_dim",
         file.c_str(), family.hidden, family.heads);
  family.head_dim = config.size("head_dim", family.hidden / family.heads);
  family.vocabulary = config.required_size("vocab_size");
  family.context = config.size("max_position_embeddings", 2048);
  family.norm_eps = config.number("rms_norm_eps", 1e-6);
  family.tied_head = config.flag("tie_word_embeddings", false);
  family.rotary_dims = family.head_dim;

  refuse_what_is_not_honoured(config);
  if (const Json* window = config.find("sliding_window");
      window && config.flag("use_sliding_window", true) && config.size("sliding_window", 1) < family.context)
    config.unsupported("sliding_window", "null, or use_sliding_window false, is");
  read_rope(config, family);
  read_special_tokens(object, config, family);
  finish(family, file);
  return family;
}

// ------------------------------------------------------------------------------------------------------------- GGUF

namespace {

/// Metadata under "llama." that says nothing about the arithmetic, or that family_from_gguf reads.
constexpr std::string_view kKnown[] = {
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "tensor_data_layout",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
};

/// Off: false, 0, an empty string, or 1 for something that multiplies.
bool is_neutral(std::string_view key, const GgufValue& value) {
  const bool scales = key.ends_with("scale") || key.ends_with("factor");
  if (const bool* flag = std::get_if<bool>(&value)) return key == "attention.causal" ? *flag : !*flag;
  if (const int64_t* integer = std::get_if<int64_t>(&value)) return *integer == (scales ? 1 : 0);
  if (const double* number = std::get_if<double>(&value)) return *number == (scales ? 1 : 0);
  const std::string* text = std::get_if<std::string>(&value);
  return text && text->empty();
}

int gguf_size(const GgufFile& file, const std::string& key, std::optional<int64_t> absent = std::nullopt) {
  if (const GgufValue* value = file.find(key); value && std::holds_alternative<std::vector<int64_t>>(*value)) {
    const auto& sizes = std::get<std::vector<int64_t>>(*value);
    if (sizes.empty() || std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) != sizes.end())
      fail("UNSUPPORTED", "%s: %s differs between layers, which is not supported", file.path().c_str(), key.c_str());
    absent = sizes.front();
  } else if (value) {
    absent = file.integer(key);
  }
  if (!absent) fail("BAD_FILE", "%s: the metadata %s is missing", file.path().c_str(), key.c_str());
  if (*absent < 1 || *absent > kMaxSize)
    fail("BAD_FILE", "%s: the metadata %s is %lld; expected a whole number from 1", file.path().c_str(), key.c_str(),
         static_cast<long long>(*absent));
  return static_cast<int>(*absent);
}

void read_gguf_rope(const GgufFile& file, Family& family) {
  const char* name = file.path().c_str();
  family.rope_theta = file.number("llama.rope.freq_base").value_or(10000);
  RopeScaling& scaling = family.rope_scaling;
  const std::string kind = file.string("llama.rope.scaling.type").value_or("");
  const auto old_factor = file.number("llama.rope.scale_linear");
  if (kind == "linear" || (kind.empty() && old_factor.value_or(1) != 1)) {
    scaling.kind = RopeScalingKind::kLinear;
    scaling.factor = file.number("llama.rope.scaling.factor").value_or(old_factor.value_or(1));
  } else if (!kind.empty() && kind != "none") {
    fail("UNSUPPORTED",
         "%s: llama.rope.scaling.type is \"%s\", which is not supported (none, linear and a rope_freqs tensor are)",
         name, kind.c_str());
  }

  // Llama 3's scaling comes as a tensor of divisors, one for each frequency.
  const GgufTensor* factors = file.find_tensor("rope_freqs.weight");
  if (!factors) return;
  if (scaling.kind != RopeScalingKind::kNone)
    fail("UNSUPPORTED", "%s: a rope_freqs tensor together with linear rope scaling is not supported", name);
  if (factors->shape != std::vector<int64_t>{family.rotary_dims / 2})
    fail("BAD_FILE", "%s: rope_freqs.weight should have %d elements", name, family.rotary_dims / 2);
  scaling.kind = RopeScalingKind::kFactors;
  scaling.factors.resize(static_cast<size_t>(family.rotary_dims / 2));
  dequantise_rows(*factors, 0, 1, scaling.factors.data());
  for (const float factor : scaling.factors)
    if (!(factor > 0) || !std::isfinite(factor))
      fail("BAD_FILE", "%s: rope_freqs.weight has a value that is not above 0", name);
}

void read_gguf_special_tokens(const GgufFile& file, Family& family) {
  const auto token = [&](const char* key) {
    const int64_t id = file.integer(key).value_or(-1);
    if (id < -1 || id >= family.vocabulary)
      fail("BAD_FILE", "%s: %s is %lld, but the vocabulary has %d tokens", file.path().c_str(), key,
           static_cast<long long>(id), family.vocabulary);
    return static_cast<int>(id);
  };
  family.bos = token("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const int id = token(key); id >= 0 && std::find(family.eos.begin(), family.eos.end(), id) == family.eos.end())
      family.eos.push_back(id);
}

}  // namespace

Family family_from_gguf(const GgufFile& file) {
  const std::string& path = file.path();
  const char* name = path.c_str();
  if (file.integer("split.count").value_or(1) > 1)
    fail("UNSUPPORTED", "%s: one part of a split GGUF; join the parts with llama.cpp's gguf-split --merge first", name);
  const auto architecture = file.string("general.architecture");
  if (!architecture) fail("BAD_FILE", "%s: the metadata general.architecture is missing", name);
  if (*architecture != "llama")
    fail("UNSUPPORTED", "%s: the architecture \"%s\" is not supported; \"llama\" is (Llama 2 and 3, SmolLM2)", name,
         architecture->c_str());
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with("llama.")) continue;
    const std::string_view rest = std::string_view(key).substr(6);
    if (std::find(std::begin(kKnown), std::end(kKnown), rest) == std::end(kKnown) && !is_neutral(rest, value))
      fail("UNSUPPORTED", "%s: the metadata %s is set, and what it asks for is not supported", name, key.c_str());
  }

  Family family;
  family.architecture = *architecture;
  family.layers = gguf_size(file, "llama.block_count");
  family.hidden = gguf_size(file, "llama.embedding_length");
  family.intermediate = gguf_size(file, "llama.feed_forward_length");
  family.heads = gguf_size(file, "llama.attention.head_count");
  family.kv_heads = gguf_size(file, "llama.attention.head_count_kv", family.heads);
  family.context = gguf_size(file, "llama.context_length");
  if (!file.find("llama.attention.key_length") && family.hidden % family.heads != 0)
    fail("BAD_FILE", "%s: embedding_length %d is not a multiple of head_count %d, and there is no key_length", name,
         family.hidden, family.heads);
  family.head_dim = gguf_size(file, "llama.attention.key_length", family.hidden / family.heads);
  if (gguf_size(file, "llama.attention.value_length", family.head_dim) != family.head_dim)
    fail("UNSUPPORTED", "%s: values of another size than keys are not supported", name);
  family.rotary_dims = gguf_size(file, "llama.rope.dimension_count", family.head_dim);
  if (family.rotary_dims != family.head_dim)
    fail("UNSUPPORTED",
         "%s: llama.rope.dimension_count is %d of a head size of %d; rotating a part of a head is not supported", name,
         family.rotary_dims, family.head_dim);
  if (!file.find("llama.attention.layer_norm_rms_epsilon"))
    fail("BAD_FILE", "%s: the metadata llama.attention.layer_norm_rms_epsilon is missing", name);
  family.norm_eps = *file.number("llama.attention.layer_norm_rms_epsilon");

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2 || embedding->rows() > kMaxSize)
    fail("BAD_FILE", "%s: the matrix token_embd.weight is missing", name);
  family.vocabulary = static_cast<int>(embedding->rows());
  family.tied_head = !file.find_tensor("output.weight");
  read_gguf_rope(file, family);
  read_gguf_special_tokens(file, family);
  finish(family, path);
  return family;
}

}  // namespace credence
