// The metadata of a GGUF to a Family.
#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <string_view>

#include "error.h"
#include "family.h"
#include "gguf.h"

namespace credence {

namespace {

/// What general.architecture may be. Converters of Mistral 7B call it "llama".
struct Architecture {
  const char* name;
  bool qkv_bias, qk_norm;
};
constexpr Architecture kArchitectures[] = {{"llama", false, false}, {"qwen2", true, false}, {"qwen3", false, true}};

/// Metadata under the architecture's name that says nothing about the arithmetic, or that family_from_gguf reads.
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
    "attention.sliding_window",
    "attention.sliding_window_pattern",
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
  if (*absent < 1 || *absent > kMaxFamilySize)
    fail("BAD_FILE", "%s: the metadata %s is %lld; expected a whole number from 1", file.path().c_str(), key.c_str(),
         static_cast<long long>(*absent));
  return static_cast<int>(*absent);
}

void read_gguf_rope(const GgufFile& file, const std::string& rope, Family& family) {
  const char* name = file.path().c_str();
  family.rope_theta = file.number(rope + "freq_base").value_or(10000);
  RopeScaling& scaling = family.rope_scaling;
  const std::string kind = file.string(rope + "scaling.type").value_or("");
  const auto old_factor = file.number(rope + "scale_linear");
  if (kind == "linear" || (kind.empty() && old_factor.value_or(1) != 1)) {
    scaling.kind = RopeScalingKind::kLinear;
    scaling.factor = file.number(rope + "scaling.factor").value_or(old_factor.value_or(1));
  } else if (!kind.empty() && kind != "none") {
    fail("UNSUPPORTED",
         "%s: %sscaling.type is \"%s\", which is not supported (none, linear and a rope_freqs tensor are)", name,
         rope.c_str(), kind.c_str());
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

/// attention.sliding_window for every layer, or for those that sliding_window_pattern (a list of flags) names.
void read_gguf_windows(const GgufFile& file, const std::string& attention, Family& family) {
  const std::string key = attention + "sliding_window", pattern_key = key + "_pattern";
  family.windows.assign(static_cast<size_t>(family.layers), 0);
  const int64_t window = file.integer(key).value_or(0);
  if (window < 0 || window > kMaxFamilySize)
    fail("BAD_FILE", "%s: the metadata %s is %lld; expected a number of keys", file.path().c_str(), key.c_str(),
         static_cast<long long>(window));
  const GgufValue* value = file.find(pattern_key);
  const auto* pattern = value ? std::get_if<std::vector<int64_t>>(value) : nullptr;
  if (value && (!pattern || pattern->size() != family.windows.size()))
    fail("UNSUPPORTED", "%s: the metadata %s is no list of a flag for each of %d layers, which is what is read",
         file.path().c_str(), pattern_key.c_str(), family.layers);
  for (size_t layer = 0; layer < family.windows.size(); ++layer)
    if (!pattern || (*pattern)[layer]) family.windows[layer] = static_cast<int>(window);
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
  const auto* known = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                   [&](const Architecture& a) { return *architecture == a.name; });
  if (known == std::end(kArchitectures))
    fail(
        "UNSUPPORTED",
        "%s: the architecture \"%s\" is not supported; llama (Llama 2 and 3, Mistral 7B, SmolLM2), qwen2 and qwen3 are",
        name, architecture->c_str());
  const std::string prefix = *architecture + ".";
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view rest = std::string_view(key).substr(prefix.size());
    if (std::find(std::begin(kKnown), std::end(kKnown), rest) == std::end(kKnown) && !is_neutral(rest, value))
      fail("UNSUPPORTED", "%s: the metadata %s is set, and what it asks for is not supported", name, key.c_str());
  }

  Family family;
  family.architecture = *architecture;
  family.layers = gguf_size(file, prefix + "block_count");
  family.hidden = gguf_size(file, prefix + "embedding_length");
  family.intermediate = gguf_size(file, prefix + "feed_forward_length");
  family.heads = gguf_size(file, prefix + "attention.head_count");
  family.kv_heads = gguf_size(file, prefix + "attention.head_count_kv", family.heads);
  family.context = gguf_size(file, prefix + "context_length");
  if (!file.find(prefix + "attention.key_length") && family.hidden % family.heads != 0)
    fail("BAD_FILE", "%s: embedding_length %d is not a multiple of head_count %d, and there is no key_length", name,
         family.hidden, family.heads);
  family.head_dim = gguf_size(file, prefix + "attention.key_length", family.hidden / family.heads);
  if (gguf_size(file, prefix + "attention.value_length", family.head_dim) != family.head_dim)
    fail("UNSUPPORTED", "%s: values of another size than keys are not supported", name);
  family.rotary_dims = gguf_size(file, prefix + "rope.dimension_count", family.head_dim);
  if (family.rotary_dims != family.head_dim)
    fail("UNSUPPORTED",
         "%s: %srope.dimension_count is %d of a head size of %d; rotating a part of a head is not supported", name,
         prefix.c_str(), family.rotary_dims, family.head_dim);
  if (!file.find(prefix + "attention.layer_norm_rms_epsilon"))
    fail("BAD_FILE", "%s: the metadata %sattention.layer_norm_rms_epsilon is missing", name, prefix.c_str());
  family.norm_eps = *file.number(prefix + "attention.layer_norm_rms_epsilon");
  // A llama says by its tensors alone whether its projections have biases.
  family.qkv_bias = known->qkv_bias || file.find_tensor("blk.0.attn_q.bias");
  family.o_bias = file.find_tensor("blk.0.attn_output.bias");
  family.mlp_bias = file.find_tensor("blk.0.ffn_gate.bias");
  family.qk_norm = known->qk_norm;

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2 || embedding->rows() > kMaxFamilySize)
    fail("BAD_FILE", "%s: the matrix token_embd.weight is missing", name);
  family.vocabulary = static_cast<int>(embedding->rows());
  family.tied_head = !file.find_tensor("output.weight");
  read_gguf_rope(file, prefix + "rope.", family);
  check_family(family, path);
  read_gguf_windows(file, prefix + "attention.", family);
  read_gguf_special_tokens(file, family);
  return family;
}

}  // namespace credence
