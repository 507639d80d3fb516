#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "file_writer.h"
#include "half.h"
#include "model_writer.h"

namespace credence {

namespace {

constexpr uint32_t kVersion = 3;
constexpr size_t kAlignment = 32;
constexpr int64_t kBlock = int64_t{1} << 20;

/// The format's numbers of value types.
enum : uint32_t { kTypeU32 = 4, kTypeI32 = 5, kTypeF32 = 6, kTypeBool = 7, kTypeString = 8, kTypeArray = 9 };

/// llama.cpp's number for a file most of whose matrices have this type (llama_ftype).
uint32_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
    default:
      return 0;
  }
}

void store16(uint16_t bits, uint8_t* out) { std::memcpy(out, &bits, sizeof bits); }

/// Scale by the largest magnitude, which becomes 127.
void q8_0_block(const float* x, uint8_t* out) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[j]));
  const float d = largest / 127, inverse = d == 0 ? 0 : 1 / d;
  store16(float_to_f16(d), out);
  for (int j = 0; j < 32; ++j) out[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(std::round(x[j] * inverse)));
}

/// Scale so that the number of the largest magnitude becomes -8, the end of the range that goes one further.
void q4_0_block(const float* x, uint8_t* out) {
  float extreme = 0;
  for (int j = 0; j < 32; ++j)
    if (std::fabs(x[j]) > std::fabs(extreme)) extreme = x[j];
  const float d = extreme / -8, inverse = d == 0 ? 0 : 1 / d;
  const auto nibble = [&](float value) { return std::min(15, static_cast<int>(value * inverse + 8.5f)); };
  store16(float_to_f16(d), out);
  for (int j = 0; j < 16; ++j) out[2 + j] = static_cast<uint8_t>(nibble(x[j]) | nibble(x[j + 16]) << 4);
}

/// A tensor of the file: the weight it comes from, and how it is stored.
struct Entry {
  std::string name;
  WeightSpec spec;
  const GgufTypeInfo* type;
  uint64_t bytes;
  bool permuted;
};

class Writer {
 public:
  Writer(const MergedWeights& weights, const std::string& path, GgufType type)
      : weights_(weights), family_(weights.family()), file_(path), type_(type) {}

  WrittenModel write(const std::vector<std::pair<std::string, GgufField>>& fields, const AbortFlag* abort) {
    settle_family();
    plan();
    write_head(fields);
    for (const Entry& entry : entries_) write_tensor(entry, abort);
    if (!factors_.empty()) file_.write(factors_.data(), factors_.size() * sizeof(float)), file_.pad(kAlignment);
    file_.finish();
    result_.bytes = file_.written();
    return result_;
  }

  /// Throws unless the file, read again, holds what was to be written.
  void check(const std::string& path, const AbortFlag* abort) const {
    const auto written = BaseFiles::open(path);
    require_same_family(written->family, family_, path);
    for (const Entry& entry : entries_) require_rounded(weights_, *written, entry.spec, entry.type->type, abort);
  }

 private:
  /// llama.cpp reads Mistral as a Llama and gives neither windows: within the window the arithmetic is the same, so the
  /// context ends there.
  void settle_family() {
    if (family_.architecture == "mistral") family_.architecture = "llama";
    if (family_.architecture == "llama" && (family_.qkv_bias || family_.o_bias || family_.mlp_bias))
      fail("UNSUPPORTED", "%s: a GGUF of a Llama with biases is not written", weights_.base().path.c_str());
    int window = 0;
    for (const int w : family_.windows)
      if (w > 0 && w < family_.context) window = window == 0 ? w : std::min(window, w);
    std::fill(family_.windows.begin(), family_.windows.end(), 0);
    if (window == 0) return;
    result_.notes.push_back("the context is " + std::to_string(window) + " tokens instead of " +
                            std::to_string(family_.context) +
                            ": llama.cpp gives this architecture no sliding window, and within it nothing changes");
    family_.context = window;
  }

  void plan() {
    int odd = 0;
    for (const WeightSpec& spec : weight_specs(family_)) {
      GgufType type = GgufType::kF32;
      if (spec.shape.size() > 1) {
        type = type_;
        const bool output = spec.name == (family_.tied_head ? "model.embed_tokens.weight" : "lm_head.weight");
        if (type == GgufType::kQ4_0 && output) type = GgufType::kQ8_0;
        if (spec.shape.back() % gguf_type_info(static_cast<uint32_t>(type))->elements != 0)
          type = GgufType::kF16, ++odd;
      }
      const bool permuted = family_.architecture == "llama" && (spec.name.find(".q_proj.") != std::string::npos ||
                                                                spec.name.find(".k_proj.") != std::string::npos);
      const GgufTypeInfo* info = gguf_type_info(static_cast<uint32_t>(type));
      const int64_t width = spec.shape.back(), rows = spec.shape.size() > 1 ? spec.shape.front() : 1;
      const uint64_t bytes = static_cast<uint64_t>(rows) * static_cast<uint64_t>(width / info->elements * info->bytes);
      entries_.push_back({gguf_name(spec.name), spec, info, bytes, permuted});
    }
    if (odd > 0)
      result_.notes.push_back(std::to_string(odd) + " matrices are F16: their rows are no multiple of 32 numbers");
    if (type_ == GgufType::kQ4_0) result_.notes.push_back("the output matrix is Q8_0: four bits cost most there");
    // Llama 3's scaling is a tensor of divisors, one for each frequency.
    Family plain = family_;
    plain.rope_scaling = {};
    const RopeScalingKind kind = family_.rope_scaling.kind;
    if (kind != RopeScalingKind::kLlama3 && kind != RopeScalingKind::kFactors) return;
    const std::vector<double> unscaled = rope_frequencies(plain), scaled = rope_frequencies(family_);
    for (size_t i = 0; i < scaled.size(); ++i) factors_.push_back(static_cast<float>(unscaled[i] / scaled[i]));
  }

  // ------------------------------------------------------------------------------------------------------- the head

  template <typename T>
  void raw(T value) {
    file_.write(&value, sizeof value);
  }
  void text(const std::string& value) {
    raw<uint64_t>(value.size());
    file_.write(value);
  }
  void key(const std::string& name, uint32_t type) {
    text(name);
    raw(type);
  }
  void number(const std::string& name, int64_t value) {
    key(name, kTypeU32);
    raw(static_cast<uint32_t>(value));
  }
  void number(const std::string& name, double value) {
    key(name, kTypeF32);
    raw(static_cast<float>(value));
  }
  void string(const std::string& name, const std::string& value) {
    key(name, kTypeString);
    text(value);
  }
  void array(const std::string& name, uint32_t type, size_t count) {
    key(name, kTypeArray);
    raw(type);
    raw<uint64_t>(count);
  }

  void field(const std::string& name, const GgufField& value) {
    if (const bool* flag = std::get_if<bool>(&value)) {
      key(name, kTypeBool);
      raw<uint8_t>(*flag ? 1 : 0);
    } else if (const uint32_t* integer = std::get_if<uint32_t>(&value)) {
      number(name, static_cast<int64_t>(*integer));
    } else if (const std::string* words = std::get_if<std::string>(&value)) {
      string(name, *words);
    } else if (const auto* integers = std::get_if<std::vector<int32_t>>(&value)) {
      array(name, kTypeI32, integers->size());
      file_.write(integers->data(), integers->size() * sizeof(int32_t));
    } else {
      const auto& strings = std::get<std::vector<std::string>>(value);
      array(name, kTypeString, strings.size());
      for (const std::string& item : strings) text(item);
    }
  }

  void write_head(const std::vector<std::pair<std::string, GgufField>>& fields) {
    const std::string prefix = family_.architecture + ".";
    const bool linear = family_.rope_scaling.kind == RopeScalingKind::kLinear;
    const uint64_t own = 16 + (linear ? 2 : 0);
    file_.write("GGUF");
    raw(kVersion);
    raw<uint64_t>(entries_.size() + (factors_.empty() ? 0 : 1));
    raw<uint64_t>(own + fields.size());
    string("general.architecture", family_.architecture);
    string("general.type", "model");
    number("general.file_type", int64_t{file_type(type_)});
    number("general.quantization_version", int64_t{2});
    number(prefix + "vocab_size", int64_t{family_.vocabulary});
    number(prefix + "context_length", int64_t{family_.context});
    number(prefix + "embedding_length", int64_t{family_.hidden});
    number(prefix + "block_count", int64_t{family_.layers});
    number(prefix + "feed_forward_length", int64_t{family_.intermediate});
    number(prefix + "attention.head_count", int64_t{family_.heads});
    number(prefix + "attention.head_count_kv", int64_t{family_.kv_heads});
    number(prefix + "attention.key_length", int64_t{family_.head_dim});
    number(prefix + "attention.value_length", int64_t{family_.head_dim});
    number(prefix + "rope.dimension_count", int64_t{family_.rotary_dims});
    number(prefix + "attention.layer_norm_rms_epsilon", family_.norm_eps);
    number(prefix + "rope.freq_base", family_.rope_theta);
    if (linear) {
      string(prefix + "rope.scaling.type", "linear");
      number(prefix + "rope.scaling.factor", family_.rope_scaling.factor);
    }
    for (const auto& [name, value] : fields) field(name, value);

    uint64_t offset = 0;
    const auto place = [&](const std::string& name, const std::vector<int64_t>& shape, uint32_t type, uint64_t bytes) {
      text(name);
      raw(static_cast<uint32_t>(shape.size()));
      for (size_t i = shape.size(); i > 0; --i) raw(static_cast<uint64_t>(shape[i - 1]));  // fastest first
      raw(type);
      raw(offset);
      offset += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    };
    for (const Entry& entry : entries_)
      place(entry.name, entry.spec.shape, static_cast<uint32_t>(entry.type->type), entry.bytes);
    if (!factors_.empty())
      place("rope_freqs.weight", {static_cast<int64_t>(factors_.size())}, 0, factors_.size() * sizeof(float));
    file_.pad(kAlignment);
  }

  // ------------------------------------------------------------------------------------------------------ the tensors

  void write_tensor(const Entry& entry, const AbortFlag* abort) {
    const bool matrix = entry.spec.shape.size() > 1;
    const int64_t rows = entry.spec.shape.front(), width = matrix ? entry.spec.shape.back() : 1;
    // A head's rows are put in their order together.
    const int64_t size = family_.head_dim;
    int64_t step = std::max<int64_t>(1, kBlock / width);
    if (!matrix) step = rows;
    else if (entry.permuted) step = std::max<int64_t>(1, step / size) * size;
    std::vector<float> block, ordered;
    std::vector<uint8_t> stored;
    for (int64_t first = 0; first < rows; first += step) {
      check_abort(abort);
      const int64_t count = std::min(step, rows - first);
      block.resize(static_cast<size_t>(count * width));
      weights_.read_rows(entry.spec.name, first, count, block.data());
      if (entry.permuted) {
        ordered.resize(block.size());
        for (int64_t row = 0; row < count; ++row) {
          const int64_t inside = row % size, to = row - inside + 2 * (inside % (size / 2)) + inside / (size / 2);
          std::copy_n(block.begin() + row * width, width, ordered.begin() + to * width);
        }
        block.swap(ordered);
      }
      stored.resize(static_cast<size_t>(count * width / entry.type->elements * entry.type->bytes));
      quantise(entry.type->type, block.data(), count * width, stored.data());
      if (entry.type->type == GgufType::kF16) require_half(block, stored, entry.spec.name);
      file_.write(stored.data(), stored.size());
    }
    file_.pad(kAlignment);
  }

  static void require_half(const std::vector<float>& values, const std::vector<uint8_t>& stored,
                           const std::string& name) {
    for (size_t i = 0; i < values.size(); ++i)
      if ((stored[2 * i + 1] & 0x7c) == 0x7c)
        fail("UNSUPPORTED", "weight %s has %g, which F16 cannot hold; choose BF16 or F32", name.c_str(),
             static_cast<double>(values[i]));
  }

  const MergedWeights& weights_;
  Family family_;
  FileWriter file_;
  GgufType type_;
  std::vector<Entry> entries_;
  std::vector<float> factors_;
  WrittenModel result_;
};

}  // namespace

void quantise(GgufType type, const float* values, int64_t count, uint8_t* out) {
  switch (type) {
    case GgufType::kF32:
      std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
      return;
    case GgufType::kF16:
      for (int64_t i = 0; i < count; ++i) store16(float_to_f16(values[i]), out + 2 * i);
      return;
    case GgufType::kBF16:
      for (int64_t i = 0; i < count; ++i) store16(float_to_bf16(values[i]), out + 2 * i);
      return;
    case GgufType::kQ8_0:
      for (int64_t i = 0; i < count; i += 32) q8_0_block(values + i, out + i / 32 * 34);
      return;
    case GgufType::kQ4_0:
      for (int64_t i = 0; i < count; i += 32) q4_0_block(values + i, out + i / 32 * 18);
      return;
    default:
      fail("BAD_OPTION", "GGUFs are written as F32, F16, BF16, Q8_0 or Q4_0, not %s",
           gguf_type_name(static_cast<uint32_t>(type)).c_str());
  }
}

WrittenModel write_gguf(const MergedWeights& weights, const std::string& path, GgufType type,
                        const std::vector<std::pair<std::string, GgufField>>& fields, const AbortFlag* abort) {
  Writer writer(weights, path, type);
  WrittenModel written = writer.write(fields, abort);
  written.files = {path};
  writer.check(path, abort);
  return written;
}

}  // namespace credence
