// Models written as folders and GGUFs: numbers, orders of rows, shards, what cannot be said, and a disk that is full.
#include "engine/model_writer.h"

#include <sys/resource.h>

#include <csignal>

#include "engine/error.h"
#include "engine/file_writer.h"
#include "files_support.h"
#include "testing.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// A base in a folder: the tiny Llama with some settings changed.
std::unique_ptr<BaseFiles> tiny_base(const TemporaryFolder& folder,
                                     const std::vector<std::pair<std::string, Json>>& set) {
  Json config = tiny_config();
  for (const auto& [key, value] : set) config.set(key, value);
  write_bytes(folder.file("config.json"), config.text());
  write_tensors(folder.file("model.safetensors"), tiny_weights(family_from_config(config, "config.json")));
  return BaseFiles::open(folder.path());
}

std::vector<float> weight_of(const BaseFiles& base, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(product(base.shape(name))));
  base.read(name, values.data());
  return values;
}

void expect_same_weights(const BaseFiles& a, const BaseFiles& b) {
  for (const WeightSpec& spec : weight_specs(a.family)) EXPECT(weight_of(a, spec.name) == weight_of(b, spec.name));
}

/// The largest |value - what a type keeps of it|, in blocks of 32, over the block's largest magnitude.
double rounding(GgufType type, const std::vector<float>& values) {
  const GgufTypeInfo& info = *gguf_type_info(static_cast<uint32_t>(type));
  std::vector<uint8_t> stored(values.size() / static_cast<size_t>(info.elements) * static_cast<size_t>(info.bytes));
  quantise(type, values.data(), static_cast<int64_t>(values.size()), stored.data());
  double worst = 0;
  for (size_t block = 0; block < values.size(); block += 32) {
    float back[32], largest = 0;
    for (int at = 0; at < 32; at += info.elements)
      info.dequantise(stored.data() + (block + static_cast<size_t>(at)) / static_cast<size_t>(info.elements) *
                                          static_cast<size_t>(info.bytes),
                      back + at);
    for (size_t j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(values[block + j]));
    for (size_t j = 0; j < 32; ++j)
      worst = std::max(worst, std::fabs(static_cast<double>(values[block + j]) - back[j]) / std::max(largest, 1e-30f));
  }
  return worst;
}

}  // namespace

TEST(types_round_as_far_as_they_must) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> values(32 * 200);
  for (float& value : values) value = normal(random);
  EXPECT_EQ(rounding(GgufType::kF32, values), 0.0);
  EXPECT(rounding(GgufType::kF16, values) <= 0x1p-11);
  EXPECT(rounding(GgufType::kBF16, values) <= 0x1p-8);
  // Half a step, and what float16 does to the scale; the far end of 4 bits is a whole step away.
  EXPECT(rounding(GgufType::kQ8_0, values) <= 0.5 / 127 + 0x1p-11);
  EXPECT(rounding(GgufType::kQ4_0, values) <= 1.0 / 8 + 0x1p-10);
  EXPECT(rounding(GgufType::kQ4_0, values) > 1.0 / 17);
  for (const GgufType type : {GgufType::kQ8_0, GgufType::kQ4_0}) EXPECT_EQ(rounding(type, std::vector<float>(32)), 0.0);
  EXPECT_THROWS(quantise(GgufType::kQ6_K, values.data(), 256, nullptr), "not Q6_K");
}

TEST(what_was_written_is_its_source_as_far_as_its_type_holds_it) {
  const TemporaryFolder folder, other;
  const auto base = tiny_base(folder, {{"hidden_size", 32}, {"intermediate_size", 64}});
  const MergedWeights source(*base, nullptr);
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0, GgufType::kQ4_0}) {
    const std::string path = folder.file(gguf_type_name(static_cast<uint32_t>(type)) + ".gguf");
    write_gguf(source, path, type, {{"tokenizer.ggml.model", std::string("none")}});
    const auto written = BaseFiles::open(path);
    for (const WeightSpec& spec : weight_specs(base->family)) {
      if (spec.name != name) continue;
      require_rounded(source, *written, spec, type);
      // Every type but the last tells a weight that is 3 % larger; a row in another place none takes.
      auto weights = tiny_weights(base->family);
      for (NamedTensor& tensor : weights)
        if (tensor.name == name) {
          for (float& value : tensor.data) value *= 1.03f;
          if (type == GgufType::kQ4_0) std::rotate(tensor.data.begin(), tensor.data.begin() + 32, tensor.data.end());
        }
      write_bytes(other.file("config.json"), read_json_file(folder.file("config.json")).text());
      write_tensors(other.file("model.safetensors"), weights);
      const auto changed = BaseFiles::open(other.path());
      EXPECT_THROWS(require_rounded(MergedWeights(*changed, nullptr), *written, spec, type), name);
    }
  }
}

TEST(a_gguf_of_float32_is_its_source) {
  const TemporaryFolder folder;
  for (const bool tied : {false, true}) {
    const auto base = tiny_base(folder, {{"tie_word_embeddings", tied}});
    const std::string path = folder.file(tied ? "tied.gguf" : "untied.gguf");
    write_gguf(MergedWeights(*base, nullptr), path, GgufType::kF32, {{"tokenizer.ggml.model", std::string("none")}});
    expect_same_weights(*base, *BaseFiles::open(path));
    EXPECT_EQ(GgufFile(path).find_tensor("output.weight") == nullptr, tied);
  }
}

TEST(large_matrices_pass_in_blocks) {
  // q has 1280 rows of 1024, more than is read at a time, and heads of 64 rows that are put in another order.
  const TemporaryFolder folder;
  const auto base = tiny_base(folder, {{"hidden_size", 1024},
                                       {"num_attention_heads", 20},
                                       {"num_key_value_heads", 1},
                                       {"head_dim", 64},
                                       {"num_hidden_layers", 1}});
  write_gguf(MergedWeights(*base, nullptr), folder.file("x.gguf"), GgufType::kF32, {});
  expect_same_weights(*base, *BaseFiles::open(folder.file("x.gguf")));
  std::filesystem::create_directory(folder.file("x"));
  write_folder(MergedWeights(*base, nullptr), folder.file("x"), Dtype::kF32, 1 << 30);
  expect_same_weights(*base, *BaseFiles::open(folder.file("x")));
}

TEST(shards_keep_to_their_size) {
  const TemporaryFolder folder;
  const auto base = tiny_base(folder, {});
  for (const uint64_t limit : {1, 600, 1500, 1 << 20}) {
    const std::string out = folder.file("of-" + std::to_string(limit));
    std::filesystem::create_directory(out);
    const WrittenModel written = write_folder(MergedWeights(*base, nullptr), out, Dtype::kBF16, limit);
    expect_same_weights(*base, *BaseFiles::open(out));  // sixteenths: nothing is rounded
    for (const std::string& name : written.files) {
      if (!name.ends_with(".safetensors")) continue;
      const SafetensorsFile file(out + "/" + name);
      uint64_t bytes = 0;
      for (const TensorView& tensor : file.tensors()) bytes += tensor.bytes;
      EXPECT(bytes <= limit || file.tensors().size() == 1);
    }
    EXPECT_EQ(file_exists(out + "/model.safetensors"), limit == 1 << 20);
    EXPECT_EQ(read_json_file(out + "/config.json").at("torch_dtype").as_string(), "bfloat16");
  }
}

TEST(a_window_ends_the_context_of_a_gguf) {
  const TemporaryFolder folder;
  const auto base =
      tiny_base(folder, {{"model_type", "mistral"}, {"sliding_window", 7}, {"max_position_embeddings", 64}});
  const WrittenModel written = write_gguf(MergedWeights(*base, nullptr), folder.file("x.gguf"), GgufType::kF32, {});
  EXPECT_EQ(written.notes.size(), size_t{1});
  EXPECT_EQ(BaseFiles::open(folder.file("x.gguf"))->family.context, 7);
}

TEST(llama3_divisors_become_settings_again) {
  Family family = family_from_config(tiny_config(), "config.json");
  family.head_dim = family.rotary_dims = 64;
  family.rope_scaling = {RopeScalingKind::kLlama3, 32, 1, 4, 8192, {}};
  const std::vector<double> scaled = rope_frequencies(family);
  Family plain = family, stored = family;
  plain.rope_scaling = {};
  stored.rope_scaling = {RopeScalingKind::kFactors, 1, 1, 4, 0, {}};
  for (size_t i = 0; i < scaled.size(); ++i)
    stored.rope_scaling.factors.push_back(static_cast<float>(rope_frequencies(plain)[i] / scaled[i]));
  const Json config = config_json(stored, Dtype::kF16);
  EXPECT_EQ(config.at("rope_scaling").at("factor").as_number(), 32);
  EXPECT_EQ(config.at("rope_scaling").at("original_max_position_embeddings").as_integer(), 8192);
  require_same_family(family_from_config(config, "config.json"), stored, "x");
  stored.rope_scaling.factors[3] *= 1.5f;
  EXPECT_THROWS(config_json(stored, Dtype::kF16), "follow from no llama3 scaling");
  family.heads = 3;
  EXPECT_THROWS(require_same_family(family, stored, "x"), "x was written, but reads back with heads 3 instead of 2");
}

TEST(what_float16_cannot_hold_is_an_error) {
  const TemporaryFolder folder;
  const auto base = tiny_base(folder, {});
  std::vector<NamedTensor> weights = tiny_weights(base->family);
  weights[2].data[5] = 1e6f;
  write_tensors(folder.file("model.safetensors"), weights);
  const auto large = BaseFiles::open(folder.path());
  std::filesystem::create_directory(folder.file("x"));
  EXPECT_THROWS(write_folder(MergedWeights(*large, nullptr), folder.file("x"), Dtype::kF16, 1 << 20),
                "has 1e+06, which F16 cannot hold");
  EXPECT_THROWS(write_gguf(MergedWeights(*large, nullptr), folder.file("x.gguf"), GgufType::kF16, {}),
                "has 1e+06, which F16 cannot hold");
  EXPECT(!file_exists(folder.file("x.gguf")) && !file_exists(folder.file("x/model.safetensors")));
}

TEST(a_full_disk_leaves_nothing) {
  const TemporaryFolder folder;
  const auto base = tiny_base(folder, {});
  // A limit on the size of files fails as a full disk does, once the signal that comes with it is ignored.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROWS(write_gguf(MergedWeights(*base, nullptr), folder.file("x.gguf"), GgufType::kF32, {}),
                "the disk is full");
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT(!file_exists(folder.file("x.gguf")));
  write_bytes(folder.file("there"), "kept");
  EXPECT_THROWS(FileWriter(folder.file("there")), "File exists");
  EXPECT_EQ(read_file(folder.file("there")), "kept");
}

TESTING_MAIN
