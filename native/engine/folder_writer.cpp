#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "error.h"
#include "file_writer.h"
#include "half.h"
#include "model_writer.h"

namespace credence {

namespace {

/// Numbers read at a time.
constexpr int64_t kBlock = int64_t{1} << 20;

uint64_t elements(const WeightSpec& spec) {
  uint64_t count = 1;
  for (const int64_t extent : spec.shape) count *= static_cast<uint64_t>(extent);
  return count;
}

/// Runs of weights that fit a file, in their order.
std::vector<std::vector<WeightSpec>> shards_of(const Family& family, Dtype dtype, uint64_t shard_bytes) {
  std::vector<std::vector<WeightSpec>> shards(1);
  uint64_t bytes = 0;
  for (const WeightSpec& spec : weight_specs(family)) {
    const uint64_t more = elements(spec) * dtype_bytes(dtype);
    if (!shards.back().empty() && bytes + more > shard_bytes) shards.emplace_back(), bytes = 0;
    shards.back().push_back(spec);
    bytes += more;
  }
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

void store(Dtype dtype, const float* values, int64_t count, const std::string& name, std::vector<uint8_t>& out) {
  out.resize(static_cast<size_t>(count) * dtype_bytes(dtype));
  if (dtype == Dtype::kF32) {
    std::memcpy(out.data(), values, out.size());
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = dtype == Dtype::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    if ((half & (dtype == Dtype::kF16 ? 0x7c00u : 0x7f80u)) == (dtype == Dtype::kF16 ? 0x7c00u : 0x7f80u))
      fail("UNSUPPORTED", "weight %s has %g, which %s cannot hold; choose BF16 or F32", name.c_str(),
           static_cast<double>(values[i]), dtype_name(dtype));
    std::memcpy(out.data() + 2 * i, &half, 2);
  }
}

void write_shard(const MergedWeights& weights, const std::vector<WeightSpec>& specs, const std::string& path,
                 Dtype dtype, const AbortFlag* abort) {
  Json header = Json::object(), metadata = Json::object();
  metadata.set("format", "pt");
  header.set("__metadata__", metadata);
  int64_t offset = 0;
  for (const WeightSpec& spec : specs) {
    const int64_t end = offset + static_cast<int64_t>(elements(spec) * dtype_bytes(dtype));
    Json entry = Json::object();
    entry.set("dtype", dtype_name(dtype));
    entry.set("shape", Json(Json::Array(spec.shape.begin(), spec.shape.end())));
    entry.set("data_offsets", Json(Json::Array{Json(offset), Json(end)}));
    header.set(spec.name, std::move(entry));
    offset = end;
  }
  std::string text = header.text();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();

  FileWriter file(path);
  file.write(&length, sizeof length);
  file.write(text);
  std::vector<float> block;
  std::vector<uint8_t> stored;
  for (const WeightSpec& spec : specs) {
    const int64_t rows = spec.shape.front(), width = static_cast<int64_t>(elements(spec)) / rows;
    const int64_t step = std::max<int64_t>(1, kBlock / width);
    for (int64_t first = 0; first < rows; first += step) {
      check_abort(abort);
      const int64_t count = std::min(step, rows - first);
      block.resize(static_cast<size_t>(count * width));
      weights.read_rows(spec.name, first, count, block.data());
      store(dtype, block.data(), count * width, spec.name, stored);
      file.write(stored.data(), stored.size());
    }
  }
  file.finish();
}

void write_text(const std::string& path, const Json& json) {
  FileWriter file(path);
  file.write(json.text(2) + "\n");
  file.finish();
}

const char* torch_name(Dtype dtype) {
  return dtype == Dtype::kF32 ? "float32" : dtype == Dtype::kF16 ? "float16" : "bfloat16";
}

/// The base's own config.json with what changed, or one made from its family where it is a GGUF.
Json config_of(const MergedWeights& weights, Dtype dtype) {
  const std::string path = weights.base().path + "/config.json";
  if (!file_exists(path)) return config_json(weights.family(), dtype);
  Json config = read_json_file(path);
  config.set("vocab_size", weights.family().vocabulary);
  config.set("tie_word_embeddings", weights.family().tied_head);
  config.set(config.has("dtype") ? "dtype" : "torch_dtype", torch_name(dtype));
  return config;
}

/// The settings of rope_scaling, or null.
Json rope_scaling(const Family& family) {
  const RopeScaling& scaling = family.rope_scaling;
  const auto llama3 = [](const RopeScaling& s) {
    Json json = Json::object();
    json.set("rope_type", "llama3");
    json.set("factor", s.factor);
    json.set("low_freq_factor", s.low_frequency_factor);
    json.set("high_freq_factor", s.high_frequency_factor);
    json.set("original_max_position_embeddings", s.original_context);
    return json;
  };
  switch (scaling.kind) {
    case RopeScalingKind::kNone:
      return Json();
    case RopeScalingKind::kLinear: {
      Json json = Json::object();
      json.set("rope_type", "linear");
      json.set("factor", scaling.factor);
      return json;
    }
    case RopeScalingKind::kLlama3:
      return llama3(scaling);
    case RopeScalingKind::kFactors:
      break;
  }
  // A GGUF holds divisors; the settings they came from are found by trying those of the models there are.
  const std::vector<double> wanted = rope_frequencies(family);
  Family tried = family;
  tried.rope_scaling = {RopeScalingKind::kLlama3,
                        std::round(*std::max_element(scaling.factors.begin(), scaling.factors.end())),
                        1,
                        4,
                        0,
                        {}};
  for (int context = 64; context <= 1 << 20; context *= 2) {
    tried.rope_scaling.original_context = context;
    const std::vector<double> got = rope_frequencies(tried);
    bool same = true;
    for (size_t i = 0; i < got.size(); ++i) same = same && std::fabs(got[i] - wanted[i]) <= 1e-5 * wanted[i];
    if (same) return llama3(tried.rope_scaling);
  }
  fail("UNSUPPORTED", "%s",
       "the file's rope_freqs follow from no llama3 scaling, and config.json has no word for them");
}

/// The number of fewest digits that is the same float32: a GGUF keeps no more of 1e-5.
double shortest(double value) {
  char digits[64] = {};
  std::to_chars(digits, digits + sizeof digits - 1, static_cast<float>(value));
  return std::strtod(digits, nullptr);
}

/// Names what two families differ in.
class Difference {
 public:
  explicit Difference(const std::string& path) : path_(path) {}
  void number(const char* what, double written, double expected, double tolerance = 0) const {
    if (std::fabs(written - expected) <= tolerance * std::fabs(expected)) return;
    fail("BAD_FILE", "%s was written, but reads back with %s %.9g instead of %.9g", path_.c_str(), what, written,
         expected);
  }

 private:
  const std::string& path_;
};

}  // namespace

WrittenModel write_folder(const MergedWeights& weights, const std::string& folder, Dtype dtype, uint64_t shard_bytes,
                          const AbortFlag* abort) {
  if (!is_float(dtype)) fail("BAD_OPTION", "safetensors are written as F32, F16 or BF16, not %s", dtype_name(dtype));
  WrittenModel written;
  const auto shards = shards_of(weights.family(), dtype, shard_bytes);
  Json map = Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    write_shard(weights, shards[i], folder + "/" + name, dtype, abort);
    written.files.push_back(name);
    for (const WeightSpec& spec : shards[i]) {
      map.set(spec.name, name);
      written.bytes += elements(spec) * dtype_bytes(dtype);
    }
  }
  if (shards.size() > 1) {
    Json index = Json::object(), total = Json::object();
    total.set("total_size", static_cast<int64_t>(written.bytes));
    index.set("metadata", total);
    index.set("weight_map", map);
    written.files.push_back("model.safetensors.index.json");
    write_text(folder + "/" + written.files.back(), index);
  }
  written.files.push_back("config.json");
  write_text(folder + "/config.json", config_of(weights, dtype));
  const auto again = BaseFiles::open(folder);
  require_same_family(again->family, weights.family(), folder);
  const GgufType type = dtype == Dtype::kF32 ? GgufType::kF32 : dtype == Dtype::kF16 ? GgufType::kF16 : GgufType::kBF16;
  for (const WeightSpec& spec : weight_specs(weights.family())) require_rounded(weights, *again, spec, type, abort);
  return written;
}

Json config_json(const Family& family, Dtype dtype) {
  const auto first = [&](auto test) { return std::find_if(family.windows.begin(), family.windows.end(), test); };
  if (first([](int window) { return window != 0; }) != family.windows.end())
    fail("UNSUPPORTED", "%s", "a file whose attention has windows is not written as a folder");
  const bool qwen = family.architecture.starts_with("qwen");
  Json config = Json::object();
  std::string name = family.architecture;
  name[0] = static_cast<char>(name[0] - 'a' + 'A');
  config.set("architectures", Json(Json::Array{Json(name + "ForCausalLM")}));
  config.set("model_type", family.architecture);
  config.set("hidden_size", family.hidden);
  config.set("intermediate_size", family.intermediate);
  config.set("num_hidden_layers", family.layers);
  config.set("num_attention_heads", family.heads);
  config.set("num_key_value_heads", family.kv_heads);
  config.set("head_dim", family.head_dim);
  config.set("vocab_size", family.vocabulary);
  config.set("max_position_embeddings", family.context);
  config.set("hidden_act", "silu");
  config.set("rms_norm_eps", shortest(family.norm_eps));
  config.set("rope_theta", family.rope_theta);
  config.set("rope_scaling", rope_scaling(family));
  if (family.architecture != "qwen2") config.set("attention_bias", family.qkv_bias);
  if (!qwen) config.set("mlp_bias", family.mlp_bias);
  if (qwen) config.set("use_sliding_window", false);
  config.set("tie_word_embeddings", family.tied_head);
  config.set("bos_token_id", family.bos < 0 ? Json() : Json(family.bos));
  Json eos = Json(Json::Array(family.eos.begin(), family.eos.end()));
  config.set("eos_token_id", family.eos.empty() ? Json() : family.eos.size() == 1 ? Json(family.eos.front()) : eos);
  config.set("torch_dtype", torch_name(dtype));
  return config;
}

void require_same_family(const Family& written, const Family& expected, const std::string& path) {
  const Difference differ(path);
  differ.number("layers", written.layers, expected.layers);
  differ.number("a hidden size of", written.hidden, expected.hidden);
  differ.number("an inner size of", written.intermediate, expected.intermediate);
  differ.number("heads", written.heads, expected.heads);
  differ.number("key/value heads", written.kv_heads, expected.kv_heads);
  differ.number("a head size of", written.head_dim, expected.head_dim);
  differ.number("a vocabulary of", written.vocabulary, expected.vocabulary);
  differ.number("a context of", written.context, expected.context);
  differ.number("a norm epsilon of", written.norm_eps, expected.norm_eps, 1e-6);
  differ.number("q/k norms", written.qk_norm, expected.qk_norm);
  differ.number("biases", 4 * written.qkv_bias + 2 * written.o_bias + written.mlp_bias,
                4 * expected.qkv_bias + 2 * expected.o_bias + expected.mlp_bias);
  differ.number("a tied head", written.tied_head, expected.tied_head);
  const std::vector<double> got = rope_frequencies(written), right = rope_frequencies(expected);
  for (size_t i = 0; i < right.size(); ++i) differ.number("a rotary frequency of", got[i], right[i], 1e-5);
  for (size_t i = 0; i < expected.windows.size(); ++i)
    differ.number("a window of", written.windows[i], expected.windows[i]);
}

}  // namespace credence
