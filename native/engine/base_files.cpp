#include "base_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>

#include "error.h"
#include "gguf.h"
#include "json.h"
#include "safetensors.h"

namespace credence {

namespace {

/// The name under which most elements are counted.
std::string most(const std::map<std::string, int64_t>& elements_of) {
  const auto largest = std::max_element(elements_of.begin(), elements_of.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
  return largest == elements_of.end() ? "" : largest->first;
}

void require_shape(const std::string& file, const std::string& stored_name, const std::vector<int64_t>& stored,
                   const std::vector<int64_t>& expected, const char* expects) {
  if (stored != expected)
    fail("BAD_FILE", "%s: tensor %s is %s; %s calls for %s", file.c_str(), stored_name.c_str(),
         shape_text(stored).c_str(), expects, shape_text(expected).c_str());
}

int64_t row_width(const WeightSpec& weight) { return weight.shape.size() < 2 ? 1 : weight.shape.back(); }

// ------------------------------------------------------------------------------------------------- Hugging Face folder

class FolderFiles final : public BaseFiles {
 public:
  FolderFiles(const std::string& folder, bool shape_alone) {
    const std::string config = folder + "/config.json";
    if (!file_exists(config))
      fail("NO_FILE", "%s has no config.json: expected a Hugging Face model folder or a .gguf file", folder.c_str());
    family = family_from_config(read_json_file(config), config);
    add_end_tokens(folder + "/generation_config.json");
    open_files(folder, shape_alone);
    if (files.empty()) return;
    settle_tied_head();
    check_weights(config);
  }

 protected:
  void load(const WeightSpec& weight, int64_t first, int64_t count, float* out) const override {
    stored_.at(weight.name).tensor->read_rows(first, count, out);
  }

  const std::string& file_of(const std::string& name) const override { return stored_.at(name).file->path(); }

 private:
  struct Stored {
    const TensorFile* file;
    const TensorView* tensor;
  };

  /// Llama 3 names its end-of-turn token only there.
  void add_end_tokens(const std::string& path) {
    if (!file_exists(path)) return;
    const Json object = read_json_file(path);
    const Json* eos = object.find("eos_token_id");
    if (!eos || eos->is_null()) return;
    for (const Json& id : eos->is_array() ? eos->as_array() : Json::Array{*eos}) {
      if (!id.is_integer() || id.as_integer() < 0 || id.as_integer() >= family.vocabulary)
        fail("BAD_FILE", "%s: \"eos_token_id\" is %s; expected a token id below vocab_size", path.c_str(),
             id.text().c_str());
      const int token = static_cast<int>(id.as_integer());
      if (std::find(family.eos.begin(), family.eos.end(), token) == family.eos.end()) family.eos.push_back(token);
    }
  }

  void open_files(const std::string& folder, bool shape_alone) {
    // Safetensors first: where a folder has both, they hold the same, and no pickle need be read.
    std::string index_path;
    std::unordered_map<std::string, std::string> shard_of;
    std::set<std::string> names;
    for (const char* single : {"model.safetensors", "pytorch_model.bin"}) {
      index_path = folder + "/" + single + ".index.json";
      if (file_exists(folder + "/" + single)) names.insert(single);
      else if (file_exists(index_path)) shard_of = read_index(index_path);
      for (const auto& [tensor, shard] : shard_of) names.insert(shard);
      if (!names.empty()) break;
    }
    if (names.empty() && !shape_alone)
      fail("NO_FILE", "%s has neither model.safetensors nor pytorch_model.bin, nor an index of their parts",
           folder.c_str());

    for (const std::string& name : names) {
      files.push_back(folder + "/" + name);
      const TensorFile& file = *opened_.emplace_back(TensorFile::open(files.back()));
      for (const TensorView& tensor : file.tensors())
        if (!stored_.emplace(tensor.name, Stored{&file, &tensor}).second)
          fail("BAD_FILE", "%s: tensor %s is in another shard too", file.path().c_str(), tensor.name.c_str());
    }
    for (const auto& [tensor, shard] : shard_of) {
      const auto found = stored_.find(tensor);
      if (found == stored_.end() || found->second.file->path() != folder + "/" + shard)
        fail("BAD_FILE", "%s: tensor %s is not in %s", index_path.c_str(), tensor.c_str(), shard.c_str());
    }
  }

  /// Under tie_word_embeddings transformers 5 ties what is stored once or twice the same, whichever name it has, and
  /// leaves a head that differs from the embedding as it is: the weights are then right and the setting is wrong.
  void settle_tied_head() {
    if (!family.tied_head) return;
    const auto head = stored_.find("lm_head.weight"), embedding = stored_.find("model.embed_tokens.weight");
    if (head == stored_.end()) return;
    if (embedding == stored_.end()) {
      stored_["model.embed_tokens.weight"] = head->second;
      return;
    }
    const TensorView &a = *head->second.tensor, &b = *embedding->second.tensor;
    const bool same_kind = a.dtype == b.dtype && a.shape == b.shape && a.strides == b.strides;
    if (same_kind && a.data == b.data) return;
    family.tied_head =
        same_kind && (a.strides.empty() ? std::memcmp(a.data, b.data, a.bytes) == 0 : a.floats() == b.floats());
  }

  /// Which file of several holds each tensor.
  static std::unordered_map<std::string, std::string> read_index(const std::string& path) {
    const Json index = read_json_file(path);
    const Json* map = index.find("weight_map");
    if (!map || !map->is_object() || map->size() == 0) fail("BAD_FILE", "%s: \"weight_map\" is missing", path.c_str());
    std::unordered_map<std::string, std::string> shard_of;
    for (const auto& [tensor, shard] : map->as_object()) {
      if (!shard.is_string() || shard.as_string().empty() || shard.as_string().find('/') != std::string::npos)
        fail("BAD_FILE", "%s: the weight_map entry of %s is not a file name", path.c_str(), tensor.c_str());
      shard_of[tensor] = shard.as_string();
    }
    return shard_of;
  }

  void check_weights(const std::string& config) {
    std::set<std::string> known;
    std::map<std::string, int64_t> elements_of;
    for (const WeightSpec& spec : weight_specs(family)) {
      const auto found = stored_.find(spec.name);
      if (found == stored_.end())
        fail("BAD_FILE", "%s: the weight %s is missing%s", path_of_weights().c_str(), spec.name.c_str(),
             spec.name == "lm_head.weight" ? " (and config.json does not set tie_word_embeddings)" : "");
      const TensorView& tensor = *found->second.tensor;
      require_shape(found->second.file->path(), spec.name, tensor.shape, spec.shape, config.c_str());
      if (!is_float(tensor.dtype))
        fail("UNSUPPORTED", "%s: tensor %s is %s; weights of F32, F16 and BF16 are read",
             found->second.file->path().c_str(), spec.name.c_str(), dtype_name(tensor.dtype));
      if (spec.shape.size() > 1) elements_of[dtype_name(tensor.dtype)] += tensor.elements();
      known.insert(spec.name);
    }
    for (const auto& [name, stored] : stored_) {
      // A tied head that is stored all the same, and the tables of old checkpoints, which follow from
      // config.json.
      if (known.count(name) || name == "lm_head.weight" || name.ends_with(".rotary_emb.inv_freq") ||
          name.ends_with(".position_ids"))
        continue;
      fail("UNSUPPORTED", "%s: tensor %s is no weight of a %s model; the file asks for something that is not done here",
           stored.file->path().c_str(), name.c_str(), family.architecture.c_str());
    }
    storage_type = most(elements_of);
  }

  std::string path_of_weights() const {
    return files.size() == 1 ? files.front() : std::filesystem::path(files.front()).parent_path().string();
  }

  std::vector<std::unique_ptr<TensorFile>> opened_;
  std::unordered_map<std::string, Stored> stored_;
};

// ---------------------------------------------------------------------------------------------------------------- GGUF

class GgufFiles final : public BaseFiles {
 public:
  explicit GgufFiles(const std::string& file_path) : file_(file_path) {
    family = family_from_gguf(file_);
    files = {file_path};
    std::set<std::string> known = {"rope_freqs.weight"};  // read with the family
    std::map<std::string, int64_t> elements_of;
    for (const WeightSpec& spec : weight_specs(family)) {
      const std::string name = gguf_name(spec.name);
      const GgufTensor* tensor = file_.find_tensor(name);
      if (!tensor) fail("BAD_FILE", "%s: the tensor %s is missing", file_path.c_str(), name.c_str());
      require_shape(file_path, name, tensor->shape, spec.shape, "its metadata");
      if (spec.shape.size() > 1) elements_of[tensor->type->name] += tensor->rows() * tensor->width();
      const bool permuted = family.architecture == "llama" && (spec.name.find(".q_proj.") != std::string::npos ||
                                                               spec.name.find(".k_proj.") != std::string::npos);
      stored_.emplace(spec.name, Stored{tensor, permuted});
      known.insert(name);
    }
    for (const GgufTensor& tensor : file_.tensors())
      if (!known.count(tensor.name))
        fail("UNSUPPORTED",
             "%s: tensor %s is no weight of a %s model; the file asks for something that is not done here",
             file_path.c_str(), tensor.name.c_str(), family.architecture.c_str());
    storage_type = most(elements_of);
  }

 protected:
  void load(const WeightSpec& weight, int64_t first, int64_t count, float* out) const override {
    const Stored& stored = stored_.at(weight.name);
    if (weight.shape.size() < 2) return load_vector(stored, first, count, out);
    if (!stored.permuted) return dequantise_rows(*stored.tensor, first, count, out);
    for (int64_t i = 0; i < count; ++i)
      dequantise_rows(*stored.tensor, file_row(first + i), 1, out + i * weight.shape.back());
  }

  const std::string& file_of(const std::string&) const override { return file_.path(); }

 private:
  struct Stored {
    const GgufTensor* tensor;
    bool permuted;
  };

  /// llama.cpp rotates neighbouring dimensions of a Llama (of no other architecture here), so its q and k rows are
  /// interleaved in the file: within a head of size d, row j + i d/2 (i in 0, 1) lies at 2 j + i.
  int64_t file_row(int64_t row) const {
    const int64_t size = family.head_dim, inside = row % size;
    return row - inside + 2 * (inside % (size / 2)) + inside / (size / 2);
  }

  void load_vector(const Stored& stored, int64_t first, int64_t count, float* out) const {
    std::vector<float> whole(static_cast<size_t>(stored.tensor->width()));
    dequantise_rows(*stored.tensor, 0, 1, whole.data());
    for (int64_t i = 0; i < count; ++i) out[i] = whole[stored.permuted ? file_row(first + i) : first + i];
  }

  GgufFile file_;
  std::unordered_map<std::string, Stored> stored_;
};

// --------------------------------------------------------------------------------------------------------- random weights

class RandomFiles final : public BaseFiles {
 public:
  explicit RandomFiles(const Family& of) {
    path = "random weights";
    family = of;
    storage_type = "F32";
  }

 protected:
  void load(const WeightSpec& weight, int64_t first, int64_t count, float* out) const override {
    const int64_t width = row_width(weight);
    if (weight.shape.size() < 2) std::fill_n(out, count, weight.name.ends_with(".bias") ? 0.0f : 1.0f);
    else random_rows(std::hash<std::string>()(weight.name), first, count, width, out);
  }
  const std::string& file_of(const std::string&) const override { return path; }

 private:
  /// A row's numbers are the row's own, in whatever blocks it is read.
  static void random_rows(size_t seed, int64_t first, int64_t count, int64_t width, float* out) {
    for (int64_t row = first; row < first + count; ++row) {
      auto state = static_cast<uint32_t>(seed + 0x9E3779B9u * static_cast<uint64_t>(row));
      for (int64_t i = 0; i < width; ++i) {
        state = state * 1664525u + 1013904223u;
        *out++ = 0.05f * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
      }
    }
  }
};

}  // namespace

std::string gguf_name(const std::string& name) {
  constexpr std::pair<std::string_view, const char*> kTop[] = {
      {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
  constexpr std::pair<std::string_view, const char*> kBlock[] = {
      {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  const size_t last = name.rfind('.');  // ".weight" or ".bias" stays
  const std::string stem = name.substr(0, last), kind = name.substr(last);
  for (const auto& [ours, theirs] : kTop)
    if (stem == ours) return theirs + kind;
  constexpr std::string_view kPrefix = "model.layers.";
  const size_t dot = stem.find('.', kPrefix.size());
  const std::string layer = stem.substr(kPrefix.size(), dot - kPrefix.size()), rest = stem.substr(dot + 1);
  for (const auto& [ours, theirs] : kBlock)
    if (rest == ours) return "blk." + layer + "." + theirs + kind;
  fail("BAD_FILE", "the weight %s has no name in a GGUF", name.c_str());
}

std::unique_ptr<BaseFiles> BaseFiles::open(const std::string& path, bool shape_alone) {
  std::string name = path;
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  std::unique_ptr<BaseFiles> base;
  if (is_directory(name)) base = std::make_unique<FolderFiles>(name, shape_alone);
  else if (file_exists(name)) base = std::make_unique<GgufFiles>(name);
  else fail("NO_FILE", "there is no model at %s: expected a Hugging Face model folder or a .gguf file", path.c_str());
  base->path = path;
  base->list_weights();
  return base;
}

std::unique_ptr<BaseFiles> BaseFiles::random(const Family& family) {
  std::unique_ptr<BaseFiles> base = std::make_unique<RandomFiles>(family);
  base->list_weights();
  return base;
}

void BaseFiles::list_weights() {
  specs_ = weight_specs(family);
  std::sort(specs_.begin(), specs_.end(), [](const WeightSpec& a, const WeightSpec& b) { return a.name < b.name; });
}

bool BaseFiles::has(const std::string& name) const {
  return std::binary_search(specs_.begin(), specs_.end(), WeightSpec{name, {}},
                            [](const WeightSpec& a, const WeightSpec& b) { return a.name < b.name; });
}

const WeightSpec& BaseFiles::spec(const std::string& name) const {
  const auto found = std::lower_bound(specs_.begin(), specs_.end(), name,
                                      [](const WeightSpec& a, const std::string& b) { return a.name < b; });
  if (found == specs_.end() || found->name != name) fail("BAD_FILE", "%s has no weight %s", path.c_str(), name.c_str());
  return *found;
}

const std::vector<int64_t>& BaseFiles::shape(const std::string& name) const { return spec(name).shape; }

void BaseFiles::read(const std::string& name, float* out) const { read_rows(name, 0, shape(name).front(), out); }

void BaseFiles::read_rows(const std::string& name, int64_t first, int64_t count, float* out) const {
  const WeightSpec& weight = spec(name);
  const int64_t rows = weight.shape.front();
  if (first < 0 || count < 0 || first > rows - count)
    fail("BAD_FILE", "%s: weight %s has %lld rows, not rows %lld to %lld", path.c_str(), name.c_str(),
         static_cast<long long>(rows), static_cast<long long>(first), static_cast<long long>(first + count));
  load(weight, first, count, out);
  const int64_t width = row_width(weight);
  require_finite(out, static_cast<size_t>(count * width), file_of(name), name, static_cast<size_t>(first * width));
}

}  // namespace credence
