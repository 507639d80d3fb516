// What the tests of files share: a temporary folder, the fixtures' place, small files of both formats made in memory.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/family.h"
#include "engine/half.h"
#include "engine/json.h"
#include "engine/safetensors.h"

namespace credence::testing {

/// A folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "credence-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string text_of(const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

/// The fixtures' folder ($CREDENCE_SHARED/fixtures, else ../shared/fixtures), or "" where there is none.
inline std::string fixtures() {
  const char* shared = std::getenv("CREDENCE_SHARED");
  const std::string path = std::string(shared ? shared : "../shared") + "/fixtures";
  return std::filesystem::is_directory(path) ? path : "";
}

#define REQUIRE_FIXTURES()                                      \
  const std::string fixtures = ::credence::testing::fixtures(); \
  if (fixtures.empty()) SKIP("no fixtures: set CREDENCE_SHARED to the folder that holds fixtures/")

inline int64_t product(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return elements;
}

/// Numbers that F16 and BF16 hold exactly: sixteenths between -4 and 4.
inline std::vector<float> small_numbers(std::mt19937& random, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 129) - 64) / 16;
  return values;
}

/// A Llama of odd sizes: 2 layers, 12 wide, 2 heads of 6 sharing one key/value head.
inline Json tiny_config() {
  return parse_json(R"({"model_type": "llama", "vocab_size": 11, "hidden_size": 12, "intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-05, "bos_token_id": 1,
    "eos_token_id": 2})");
}

inline std::vector<NamedTensor> tiny_weights(const Family& family) {
  std::mt19937 random(7);
  std::vector<NamedTensor> tensors;
  for (const WeightSpec& spec : weight_specs(family))
    tensors.push_back({spec.name, spec.shape, small_numbers(random, product(spec.shape))});
  return tensors;
}

/// The bytes of a tensor in another float type.
inline std::vector<uint8_t> stored_as(Dtype dtype, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * dtype_bytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == Dtype::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      continue;
    }
    const uint16_t half = dtype == Dtype::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

inline void write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors, Dtype dtype = Dtype::kF32) {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<TensorView> list;
  for (const NamedTensor& tensor : tensors) bytes.push_back(stored_as(dtype, tensor.data));
  for (size_t i = 0; i < tensors.size(); ++i)
    list.push_back({tensors[i].name, dtype, tensors[i].shape, bytes[i].data(), bytes[i].size()});
  write_bytes(path, text_of(write_safetensors(list, {{"format", "pt"}})));
}

/// Writes a GGUF piece by piece; values are appended in the order of the calls.
class GgufWriter {
 public:
  void number(const std::string& key, uint32_t value) { header(key, 4), raw(metadata_, value); }
  void number(const std::string& key, float value) { header(key, 6), raw(metadata_, value); }
  void string(const std::string& key, const std::string& value) { header(key, 8), text(metadata_, value); }
  void strings(const std::string& key, const std::vector<std::string>& values) {
    header(key, 9);
    raw(metadata_, uint32_t{8});
    raw(metadata_, uint64_t{values.size()});
    for (const std::string& value : values) text(metadata_, value);
  }
  /// Any other kind of value: its type's number, and the bytes that follow it.
  void value(const std::string& key, uint32_t type, std::string_view bytes) { header(key, type), metadata_ += bytes; }
  void tensor(const std::string& name, const std::vector<int64_t>& shape, uint32_t type, std::string_view data) {
    text(table_, name);
    raw(table_, static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i > 0; --i) raw(table_, static_cast<uint64_t>(shape[i - 1]));
    raw(table_, type);
    raw(table_, uint64_t{data_.size()});
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensors_;
  }
  void f32(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    tensor(name, shape, 0, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::string bytes() const {
    std::string out = "GGUF";
    raw(out, uint32_t{3});
    raw(out, tensors_);
    raw(out, keys_);
    out += metadata_ + table_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

 private:
  template <typename T>
  static void raw(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void text(std::string& out, const std::string& value) {
    raw(out, uint64_t{value.size()});
    out += value;
  }
  void header(const std::string& key, uint32_t type) {
    text(metadata_, key);
    raw(metadata_, type);
    ++keys_;
  }

  std::string metadata_, table_, data_;
  uint64_t tensors_ = 0, keys_ = 0;
};

inline void tiny_gguf_metadata(GgufWriter& writer, const Family& family) {
  const auto size = [](int value) { return static_cast<uint32_t>(value); };
  const std::string& name = family.architecture;
  writer.string("general.architecture", name);
  writer.number(name + ".block_count", size(family.layers));
  writer.number(name + ".context_length", 64u);
  writer.number(name + ".embedding_length", size(family.hidden));
  writer.number(name + ".feed_forward_length", size(family.intermediate));
  writer.number(name + ".attention.head_count", size(family.heads));
  writer.number(name + ".attention.head_count_kv", size(family.kv_heads));
  writer.number(name + ".attention.layer_norm_rms_epsilon", 1e-5f);
  writer.strings("tokenizer.ggml.tokens", {"a", "b", "日本"});
  writer.number("tokenizer.ggml.bos_token_id", 1u);
  writer.number("tokenizer.ggml.eos_token_id", 2u);
}

/// "model.layers.0.mlp.up_proj.weight" -> "blk.0.ffn_up.weight"
inline std::string gguf_tensor_name(std::string name) {
  constexpr std::pair<std::string_view, std::string_view> kParts[] = {{"model.embed_tokens", "token_embd"},
                                                                      {"model.norm", "output_norm"},
                                                                      {"lm_head", "output"},
                                                                      {"model.layers", "blk"},
                                                                      {"input_layernorm", "attn_norm"},
                                                                      {"post_attention_layernorm", "ffn_norm"},
                                                                      {"self_attn.o_proj", "attn_output"},
                                                                      {"self_attn.", "attn_"},
                                                                      {"mlp.", "ffn_"},
                                                                      {"_proj", ""}};
  for (const auto& [from, to] : kParts)
    if (const size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

/// Rows (or elements of a bias) of q and k as llama.cpp orders a Llama's: within a head of size d, row j + i d/2 goes to
/// 2 j + i.
inline std::vector<float> interleaved(const NamedTensor& tensor, int head_dim) {
  std::vector<float> out(tensor.data.size());
  const size_t width = tensor.shape.size() < 2 ? 1 : static_cast<size_t>(tensor.shape[1]),
               size = static_cast<size_t>(head_dim);
  for (size_t row = 0; row < static_cast<size_t>(tensor.shape[0]); ++row) {
    const size_t head = row / size, i = row % size / (size / 2), j = row % (size / 2);
    std::copy_n(tensor.data.begin() + static_cast<int64_t>(row * width), width,
                out.begin() + static_cast<int64_t>((head * size + 2 * j + i) * width));
  }
  return out;
}

inline void tiny_gguf_tensors(GgufWriter& writer, const Family& family, const std::vector<NamedTensor>& weights) {
  for (const NamedTensor& tensor : weights) {
    const bool permuted = family.architecture == "llama" && (tensor.name.find(".q_proj.") != std::string::npos ||
                                                             tensor.name.find(".k_proj.") != std::string::npos);
    writer.f32(gguf_tensor_name(tensor.name), tensor.shape,
               permuted ? interleaved(tensor, family.head_dim) : tensor.data);
  }
}

}  // namespace credence::testing
