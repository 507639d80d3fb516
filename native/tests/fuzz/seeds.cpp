// Writes the valid inputs that fuzzing starts from: fuzz_seeds FOLDER makes FOLDER/TARGET/NAME. Kept in corpus/ beside
// the inputs that once broke something (crash-*.bin).
#include <filesystem>

#include "engine/adapter_files.h"
#include "engine/gguf.h"
#include "files_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

std::string out;

void seed(const std::string& target, const std::string& name, const std::string& bytes) {
  std::filesystem::create_directories(out + "/" + target);
  write_bytes(out + "/" + target + "/" + name, bytes);
}

std::string zeros(size_t count) { return std::string(count, '\0'); }

std::string ramp(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(37 * i % 128);
  return bytes;
}

std::string safetensors(const std::vector<TensorView>& tensors,
                        const std::vector<std::pair<std::string, std::string>>& metadata = {}) {
  return text_of(write_safetensors(tensors, metadata));
}

void safetensors_seeds() {
  const std::string bytes = ramp(64);
  const uint8_t* data = reinterpret_cast<const uint8_t*>(bytes.data());
  seed("safetensors", "empty", safetensors({}));
  seed("safetensors", "floats",
       safetensors(
           {{"a", Dtype::kF32, {2, 3}, data, 24}, {"b", Dtype::kBF16, {5}, data, 10}, {"c", Dtype::kF16, {}, data, 2}},
           {{"format", "pt"}, {"by", "日本"}}));
  std::vector<TensorView> all;
  for (int i = 0; i <= static_cast<int>(Dtype::kF64); ++i) {
    const Dtype dtype = static_cast<Dtype>(i);
    all.push_back({dtype_name(dtype), dtype, {1, 2, 1}, data, 2 * dtype_bytes(dtype)});
  }
  seed("safetensors", "types", safetensors(all));
  seed("safetensors", "no-rows",
       safetensors({{"none", Dtype::kF32, {0, 7}, data, 0}, {"x", Dtype::kU8, {1}, data, 1}}));
}

std::string matrix(GgufType type, int64_t rows, int64_t width) {
  const GgufTypeInfo& info = *gguf_type_info(static_cast<uint32_t>(type));
  return ramp(static_cast<size_t>(rows * (width / info.elements) * info.bytes));
}

void gguf_seeds() {
  seed("gguf", "empty", GgufWriter().bytes());

  GgufWriter types;
  for (const GgufType type :
       {GgufType::kF32, GgufType::kF16, GgufType::kQ4_0, GgufType::kQ4_1, GgufType::kQ5_0, GgufType::kQ5_1,
        GgufType::kQ8_0, GgufType::kQ4_K, GgufType::kQ5_K, GgufType::kQ6_K, GgufType::kBF16}) {
    const GgufTypeInfo& info = *gguf_type_info(static_cast<uint32_t>(type));
    types.tensor(info.name, {2, info.elements}, static_cast<uint32_t>(type), matrix(type, 2, info.elements));
  }
  seed("gguf", "types", types.bytes());

  GgufWriter values;
  const uint8_t bytes_of[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  for (uint32_t type = 0; type < 13; ++type) {
    if (!bytes_of[type]) continue;
    values.value("value." + std::to_string(type), type, ramp(bytes_of[type]));
    // An array: the elements' type, how many, the elements.
    std::string array(12, '\0');
    array[0] = static_cast<char>(type), array[4] = 3;
    values.value("array." + std::to_string(type), 9, array + ramp(3u * bytes_of[type]));
  }
  values.string("general.name", "日本");
  values.strings("tokenizer.ggml.tokens", {"a", "", "日本"});
  values.number("general.alignment", 64u);
  seed("gguf", "values", values.bytes());

  const Family family = family_from_config(tiny_config(), "tiny");
  GgufWriter model;
  tiny_gguf_metadata(model, family);
  for (const NamedTensor& tensor : tiny_weights(family)) {
    const bool matrix = tensor.shape.size() > 1;
    const std::vector<uint8_t> half = stored_as(Dtype::kBF16, tensor.data);
    if (matrix) model.tensor(gguf_tensor_name(tensor.name), tensor.shape, 30, text_of(half));
    else model.f32(gguf_tensor_name(tensor.name), tensor.shape, tensor.data);
  }
  model.f32("rope_freqs.weight", {family.rotary_dims / 2}, {1, 2, 8});
  seed("gguf", "model", model.bytes());
}

std::string with(std::initializer_list<std::pair<const char*, const char*>> changes) {
  Json config = tiny_config();
  for (const auto& [key, value] : changes) config.set(key, parse_json(value));
  return config.text();
}

void config_seeds() {
  const std::string tiny = with({});
  seed("config", "tiny", tiny);
  seed("config", "generation", tiny + zeros(1) + R"({"eos_token_id": [2, 3], "do_sample": true, "temperature": 0.6})");
  Json map = Json::object();
  for (const WeightSpec& spec : weight_specs(family_from_config(tiny_config(), "tiny")))
    map.set(spec.name, "weights.safetensors");
  Json index = Json::object();
  index.set("weight_map", std::move(map));
  seed("config", "index", tiny + zeros(1) + "{}" + zeros(1) + index.text());
  seed("config", "rope-4",
       with({{"rope_theta", "500000.0"},
             {"max_position_embeddings", "8192"},
             {"rope_scaling", R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64})"}}));
  seed("config", "rope-5",
       with({{"rope_parameters", R"({"rope_type": "linear", "factor": 2, "rope_theta": 1e4})"},
             {"layer_types", R"(["full_attention", "full_attention"])"},
             {"eos_token_id", "[2, 3]"},
             {"pad_token_id", "null"},
             {"head_dim", "6"},
             {"hidden_act", R"("silu")"},
             {"sliding_window", "null"},
             {"tie_word_embeddings", "false"}}));
  seed("config", "json",
       R"( {"é\u00e9\ud83d\ude42": [1, -2.5e-3, 1e300, true, false, null, {}, [], "\"\\\/\b\f\n\r\t"]} )");
}

void adapter_seed(const std::string& name, const AdapterConfig& config, Dtype dtype, bool bare) {
  const Family family = family_from_config(tiny_config(), "tiny");
  std::mt19937 random(11);
  std::vector<NamedTensor> tensors;
  for (int layer = 0; layer < family.layers; ++layer) {
    if (config.layers && (*config.layers)[0] != layer) continue;
    for (const Projection projection : config.targets)
      for (const char which : {'A', 'B'}) {
        std::string key = adapter_tensor_name(layer, projection, which);
        if (bare) key.erase(std::string("base_model.model.").size(), std::string("model.").size());
        const std::vector<int64_t> shape = which == 'A'
                                               ? std::vector<int64_t>{config.r, projection_in(family, projection)}
                                               : std::vector<int64_t>{projection_out(family, projection), config.r};
        tensors.push_back({key, shape, small_numbers(random, product(shape))});
      }
  }
  const TemporaryFolder folder;
  write_tensors(folder.file("x"), tensors, dtype);
  std::ifstream file(folder.file("x"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  seed("adapter", name, adapter_config_json(config) + zeros(1) + bytes);
}

void adapter_seeds() {
  AdapterConfig config;
  config.r = 2, config.alpha = 4, config.base_model = "tiny";
  config.targets = {Projection::kQ, Projection::kV};
  adapter_seed("attention", config, Dtype::kF32, false);
  config.targets.assign(kProjections.begin(), kProjections.end());
  config.layers = {{1}};
  config.rslora = true, config.r = 1, config.alpha = 0.5;
  adapter_seed("one-layer", config, Dtype::kBF16, true);
  seed("adapter", "config", R"({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "lora_dropout": 0.1, "bias": "none",
    "target_modules": "all-linear", "layers_to_transform": 1, "init_lora_weights": "gaussian", "rank_pattern": {}})");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: fuzz_seeds FOLDER\n"), 2;
  out = argv[1];
  safetensors_seeds();
  gguf_seeds();
  config_seeds();
  adapter_seeds();
}
