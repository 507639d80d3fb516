// What a model's folder says and holds: families, bases, adapters.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/adapter_files.h"
#include "engine/base_files.h"
#include "engine/error.h"
#include "engine/gguf.h"
#include "engine/mapped_file.h"
#include "files_support.h"
#include "testing.h"

using namespace credence;
using namespace credence::testing;

namespace {

Family family_of(const Json& config) { return family_from_config(config, "config.json"); }

Json with(const std::string& key, const std::string& value, Json config = tiny_config()) {
  config.set(key, parse_json(value));
  return config;
}

std::vector<float> read(const BaseFiles& base, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(product(base.shape(name))));
  base.read(name, values.data());
  return values;
}

/// A tiny model's folder whose tensors and config one may spoil before writing.
struct TinyFolder {
  TemporaryFolder folder;
  Json config = tiny_config();
  std::vector<NamedTensor> tensors = tiny_weights(family_of(config));

  NamedTensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& t) { return t.name == name; });
  }
  std::unique_ptr<BaseFiles> open(Dtype dtype = Dtype::kF32) {
    write_bytes(folder.file("config.json"), config.text(2));
    write_tensors(folder.file("model.safetensors"), tensors, dtype);
    return BaseFiles::open(folder.path());
  }
};

void expect_weights(const BaseFiles& base, const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& tensor : tensors) {
    EXPECT(base.has(tensor.name));
    EXPECT(base.shape(tensor.name) == tensor.shape);
    EXPECT(read(base, tensor.name) == tensor.data);
    const int64_t width = tensor.shape.size() > 1 ? tensor.shape[1] : 1, rows = tensor.shape[0];
    std::vector<float> part(static_cast<size_t>(2 * width));
    base.read_rows(tensor.name, rows - 3, 2, part.data());
    EXPECT(std::equal(part.begin(), part.end(), tensor.data.end() - 3 * width));
  }
}

}  // namespace

// -------------------------------------------------------------------------------------------------------------- family

TEST(config_gives_the_family) {
  const Family family = family_of(tiny_config());
  EXPECT_EQ(family.layers, 2);
  EXPECT_EQ(family.head_dim, 6);
  EXPECT_EQ(family.kv_width(), 6);
  EXPECT_EQ(family.context, 2048);
  EXPECT_EQ(family.rope_theta, 10000.0);
  EXPECT(!family.tied_head && family.gated_mlp && family.windows == std::vector<int>(2, 0));
  EXPECT_EQ(family.bos, 1);
  EXPECT(family.eos == std::vector<int>{2});
  EXPECT_EQ(parameter_count(family), 2 * 11 * 12 + 12 + 2 * (2 * 12 + 12 * (12 + 6 + 6 + 12) + 3 * 12 * 20));
  EXPECT_EQ(family_of(with("num_key_value_heads", "null")).kv_heads, 2);
  EXPECT_EQ(family_of(with("head_dim", "20")).query_width(), 40);
  EXPECT_EQ(family_of(with("bos_token_id", "null")).bos, -1);
  EXPECT(family_of(with("eos_token_id", "[2, 5]")).eos == (std::vector<int>{2, 5}));
  EXPECT(family_of(with("tie_word_embeddings", "true")).tied_head);
}

TEST(config_of_both_dialects_is_one_family) {
  const Json old_style = with(
      "rope_scaling",
      R"({"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64})",
      with("rope_theta", "500000.0"));
  const Json new_style = with(
      "rope_parameters",
      R"({"rope_type": "llama3", "rope_theta": 500000, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64})",
      with("dtype", "\"bfloat16\""));
  EXPECT(rope_frequencies(family_of(old_style)) == rope_frequencies(family_of(new_style)));
  EXPECT(rope_frequencies(family_of(with("rope_parameters", R"({"rope_type": "default"})"))) ==
         rope_frequencies(family_of(tiny_config())));
}

TEST(rope_frequencies_follow_their_scaling) {
  Family family = family_of(tiny_config());
  family.rotary_dims = 64;
  family.rope_theta = 500000;
  const auto plain = rope_frequencies(family);
  EXPECT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain[0], 1.0);
  EXPECT_NEAR(plain[16], 1 / std::sqrt(500000.0), 1e-15);
  family.rope_scaling = {RopeScalingKind::kLinear, 4, 1, 4, 0, {}};
  EXPECT_EQ(rope_frequencies(family)[5], plain[5] / 4);
  // Llama 3's rule in the words of wavelengths.
  family.rope_scaling = {RopeScalingKind::kLlama3, 8, 1, 4, 8192, {}};
  const auto scaled = rope_frequencies(family);
  int kept = 0, blended = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    double expected = plain[i] / 8;
    if (wavelength < 8192.0 / 4) {
      expected = plain[i], ++kept;
    } else if (wavelength <= 8192.0) {
      const double smooth = (8192 / wavelength - 1) / 3;
      expected = (1 - smooth) * plain[i] / 8 + smooth * plain[i], ++blended;
    }
    EXPECT_NEAR(scaled[i], expected, 1e-15 * plain[i] + 1e-18);
  }
  EXPECT(kept > 5 && blended > 1 && kept + blended < 32);
  family.rope_scaling = {RopeScalingKind::kFactors, 1, 1, 4, 0, std::vector<float>(32, 2.0f)};
  EXPECT_EQ(rope_frequencies(family)[7], plain[7] / 2);
}

TEST(config_of_every_architecture_has_its_own_defaults) {
  const auto of = [](const char* type) { return with("model_type", type); };
  Json mistral = of("\"mistral\""), qwen2 = of("\"qwen2\""), qwen3 = of("\"qwen3\"");
  const Family m = family_of(mistral);
  EXPECT(m.windows == (std::vector<int>{4096, 4096}) && !m.qkv_bias && !m.qk_norm);
  EXPECT_EQ(m.context, 131072);
  EXPECT(family_of(with("sliding_window", "null", mistral)).windows == std::vector<int>(2, 0));
  const Family two = family_of(qwen2);
  EXPECT(two.qkv_bias && !two.o_bias && !two.qk_norm && two.head_dim == 6);
  EXPECT(two.windows == std::vector<int>(2, 0));
  const Family three = family_of(qwen3);
  EXPECT(three.qk_norm && !three.qkv_bias && three.head_dim == 128);
  EXPECT(family_of(with("attention_bias", "true", qwen3)).o_bias);
  const Json none = parse_json(R"({"model_type": "qwen2", "vocab_size": 11, "hidden_size": 64, "intermediate_size": 20,
    "num_hidden_layers": 1, "num_attention_heads": 32})");
  EXPECT(family_of(none).bos == -1 && family_of(none).eos.empty() && family_of(none).kv_heads == 32);
  EXPECT_THROWS(family_of(with("attention_bias", "true", mistral)), "\"attention_bias\" is true");
  EXPECT_THROWS(family_of(with("mlp_bias", "true", qwen3)), "\"mlp_bias\" is true");
}

TEST(config_windows_are_those_of_the_layers_named) {
  const auto qwen = [](const char* key, const char* value) {
    return with(key, value,
                with("sliding_window", "8",
                     with("use_sliding_window", "true", with("model_type", "\"qwen3\"", with("head_dim", "6")))));
  };
  EXPECT(family_of(qwen("max_window_layers", "1")).windows == (std::vector<int>{0, 8}));
  EXPECT(family_of(qwen("max_window_layers", "28")).windows == (std::vector<int>{0, 0}));
  EXPECT(family_of(qwen("max_window_layers", "0")).windows == (std::vector<int>{8, 8}));
  EXPECT(family_of(qwen("layer_types", R"(["sliding_attention", "full_attention"])")).windows ==
         (std::vector<int>{8, 0}));
  EXPECT(family_of(qwen("use_sliding_window", "false")).windows == std::vector<int>(2, 0));
  EXPECT_THROWS(
      family_of(with("use_sliding_window", "false", qwen("layer_types", R"(["sliding_attention", "full_attention"])"))),
      "sliding_attention without a sliding_window");
  EXPECT_THROWS(
      family_of(with("layer_types", R"(["sliding_attention", "full_attention"])", with("model_type", "\"mistral\""))),
      "in every layer or in none");
}

TEST(config_refuses_by_name_what_is_not_honoured) {
  const std::pair<const char*, const char*> unsupported[] = {
      {"model_type", "\"gpt_neox\""},
      {"hidden_act", "\"gelu\""},
      {"pretraining_tp", "2"},
      {"quantization_config", "{\"bits\": 4}"},
      {"sliding_window", "128"},
      {"layer_types", "[\"full_attention\", \"sliding_attention\"]"},
      {"layer_types", "[\"full_attention\", \"chunked_attention\"]"},
      {"partial_rotary_factor", "0.5"},
      {"num_local_experts", "8"},
      {"final_logit_softcapping", "30.0"},
      {"logit_scale", "0.0625"},
      {"rope_interleaved", "true"},
      {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 2}"},
      {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2}"},
      {"rope_parameters", "{\"full_attention\": {\"rope_theta\": 1}}"}};
  for (const auto& [key, value] : unsupported) {
    try {
      (void)family_of(with(key, value));
      EXPECT_EQ(std::string(key), "refused");
    } catch (const Error& error) {
      EXPECT_EQ(error.code, "UNSUPPORTED");
      const std::string what = error.what();
      EXPECT(what.find("config.json") == 0 &&
             (what.find(key) != std::string::npos || std::string(key) == "model_type"));
    }
  }
  // Present but off.
  for (const auto& [key, value] : {std::pair{"sliding_window", "4096"},
                                   {"sliding_window", "null"},
                                   {"layer_types", "[\"full_attention\", \"full_attention\"]"},
                                   {"quantization_config", "null"},
                                   {"pretraining_tp", "1"},
                                   {"some_new_key", "[1, 2]"},
                                   {"rope_interleaved", "false"},
                                   {"partial_rotary_factor", "1.0"}})
    EXPECT_EQ(family_of(with(key, value)).hidden, 12);
  EXPECT_EQ(family_of(with("sliding_window", "8", with("use_sliding_window", "false"))).windows[0], 0);
}

TEST(config_errors_name_the_field) {
  EXPECT_THROWS(family_of(with("hidden_size", "null")), "config.json: \"hidden_size\" is missing");
  EXPECT_THROWS(family_of(with("hidden_size", "-4")), "\"hidden_size\" is -4; expected a whole number from 1");
  EXPECT_THROWS(family_of(with("hidden_size", "\"12\"")), "\"hidden_size\" is \"12\"");
  EXPECT_THROWS(family_of(with("num_hidden_layers", "100000000")), "layers are no model");
  EXPECT_THROWS(family_of(with("num_key_value_heads", "3")), "cannot share 3 key/value heads");
  EXPECT_THROWS(family_of(with("hidden_size", "13")), "not a multiple of num_attention_heads");
  EXPECT_THROWS(family_of(with("head_dim", "5")), "odd");
  EXPECT_THROWS(family_of(with("rope_theta", "0")), "above 0");
  EXPECT_THROWS(family_of(with("eos_token_id", "11")), "a token id below vocab_size");
  EXPECT_THROWS(family_of(with("rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8}")),
                "\"rope_scaling.low_freq_factor\" is missing");
  EXPECT_THROWS(family_of(with("layer_types", "[\"full_attention\"]")), "one name for each of num_hidden_layers");
  EXPECT_THROWS(family_of(with("num_attention_heads", "200000000", with("head_dim", "200000000"))), "are no model");
  EXPECT_THROWS(family_of(parse_json("[]")), "expected an object");
}

// --------------------------------------------------------------------------------------------------------------- bases

TEST(base_folder_of_every_float_type_reads_the_same) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    TinyFolder tiny;
    const auto base = tiny.open(dtype);
    EXPECT_EQ(base->storage_type, dtype_name(dtype));
    EXPECT(base->files == std::vector<std::string>{tiny.folder.file("model.safetensors")});
    expect_weights(*base, tiny.tensors);
  }
}

TEST(base_folder_of_shards_reads_the_same) {
  TinyFolder tiny;
  write_bytes(tiny.folder.file("config.json"), tiny.config.text());
  const auto half = tiny.tensors.begin() + 9;
  const std::string shards[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  write_tensors(tiny.folder.file(shards[0]), {tiny.tensors.begin(), half}, Dtype::kF16);
  write_tensors(tiny.folder.file(shards[1]), {half, tiny.tensors.end()}, Dtype::kF16);
  Json index = Json::object();
  Json& map = index.set("weight_map", Json::object());
  for (size_t i = 0; i < tiny.tensors.size(); ++i) map.set(tiny.tensors[i].name, shards[i < 9 ? 0 : 1]);
  const std::string index_path = tiny.folder.file("model.safetensors.index.json");
  write_bytes(index_path, index.text());
  const auto base = BaseFiles::open(tiny.folder.path() + "/");
  expect_weights(*base, tiny.tensors);
  EXPECT_EQ(base->files.size(), 2u);

  map.set(tiny.tensors[0].name, shards[1]);
  write_bytes(index_path, index.text());
  EXPECT_THROWS(BaseFiles::open(tiny.folder.path()), "tensor model.embed_tokens.weight is not in " + shards[1]);
  map.set(tiny.tensors[0].name, "../x.safetensors");
  write_bytes(index_path, index.text());
  EXPECT_THROWS(BaseFiles::open(tiny.folder.path()), "is not a file name");
  map.set(tiny.tensors[0].name, shards[0]);
  write_bytes(index_path, index.text());
  std::filesystem::remove(tiny.folder.file(shards[1]));
  EXPECT_THROWS(BaseFiles::open(tiny.folder.path()), shards[1] + ": No such file");
}

TEST(base_folder_of_every_architecture_has_its_weights) {
  for (const auto& [key, value] : {std::pair{"model_type", "\"mistral\""},
                                   {"model_type", "\"qwen2\""},
                                   {"model_type", "\"qwen3\""},
                                   {"attention_bias", "true"},
                                   {"mlp_bias", "true"}}) {
    TinyFolder tiny;
    tiny.config = with(key, value, with("head_dim", "6"));
    tiny.tensors = tiny_weights(family_of(tiny.config));
    expect_weights(*tiny.open(), tiny.tensors);
  }
  TinyFolder tiny;  // a llama's folder under another name lacks what that name calls for
  tiny.config = with("model_type", "\"qwen2\"");
  EXPECT_THROWS(tiny.open(), "model.layers.0.self_attn.q_proj.bias is missing");
  tiny.config = with("model_type", "\"qwen3\"", with("head_dim", "6"));
  EXPECT_THROWS(tiny.open(), "self_attn.q_norm.weight is missing");
}

TEST(base_head_under_tied_embeddings_is_tied_if_it_is_the_same) {
  TinyFolder tiny;
  tiny.config = with("tie_word_embeddings", "true");
  const NamedTensor embedding = tiny.tensor("model.embed_tokens.weight"), other = tiny.tensor("lm_head.weight");
  tiny.tensor("lm_head.weight").data = embedding.data;
  EXPECT(tiny.open()->family.tied_head);
  tiny.tensor("lm_head.weight").data = other.data;
  const auto apart = tiny.open();
  EXPECT(!apart->family.tied_head && read(*apart, "lm_head.weight") == other.data);
  tiny.tensor("model.embed_tokens.weight").name = "not_there";
  tiny.tensors.erase(tiny.tensors.begin());  // the embedding stands first
  const auto head_only = tiny.open();
  EXPECT(head_only->family.tied_head && read(*head_only, "model.embed_tokens.weight") == other.data);
}

TEST(base_weights_must_be_all_there_and_no_others) {
  {
    TinyFolder tiny;
    tiny.tensors.pop_back();
    EXPECT_THROWS(tiny.open(),
                  "the weight lm_head.weight is missing (and config.json does not set tie_word_embeddings)");
    tiny.config.set("tie_word_embeddings", true);
    const auto base = tiny.open();
    EXPECT(!base->has("lm_head.weight"));
    EXPECT_THROWS(base->shape("lm_head.weight"), "has no weight lm_head.weight");
  }
  {
    TinyFolder tiny;
    tiny.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {3}, {1, 2, 3}});
    EXPECT_EQ(tiny.open()->family.layers, 2);
    tiny.tensors.push_back({"model.layers.0.self_attn.q_norm.weight", {6}, std::vector<float>(6)});
    EXPECT_THROWS(tiny.open(), "tensor model.layers.0.self_attn.q_norm.weight is no weight of a llama model");
  }
  {
    TinyFolder tiny;
    tiny.config.set("num_attention_heads", 1);
    EXPECT_THROWS(tiny.open(), "tensor model.layers.0.self_attn.k_proj.weight is [6, 12];");
  }
}

TEST(base_reads_are_checked) {
  TinyFolder tiny;
  tiny.tensor("model.layers.1.mlp.up_proj.weight").data[12 * 3 + 5] = std::numeric_limits<float>::quiet_NaN();
  tiny.tensor("model.norm.weight").data[2] = std::numeric_limits<float>::infinity();
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    const auto base = tiny.open(dtype);
    std::vector<float> row(12);
    base->read_rows("model.layers.1.mlp.up_proj.weight", 2, 1, row.data());
    EXPECT_THROWS(base->read_rows("model.layers.1.mlp.up_proj.weight", 3, 1, row.data()),
                  "tensor model.layers.1.mlp.up_proj.weight has NaN at element 41");
    EXPECT_THROWS(read(*base, "model.norm.weight"), "tensor model.norm.weight has infinity at element 2");
    EXPECT_THROWS(base->read_rows("model.norm.weight", 12, 1, row.data()), "has 12 rows");
    EXPECT_THROWS(base->read("model.embed.weight", row.data()), "has no weight model.embed.weight");
  }
}

TEST(base_that_is_not_there_says_so) {
  const TemporaryFolder folder;
  EXPECT_THROWS(BaseFiles::open(folder.file("absent")), "there is no model at");
  EXPECT_THROWS(BaseFiles::open(folder.path()), "has no config.json");
  write_bytes(folder.file("config.json"), tiny_config().text());
  EXPECT_THROWS(BaseFiles::open(folder.path()), "has neither model.safetensors nor");
  write_bytes(folder.file("pytorch_model.bin"), "x");
  EXPECT_THROWS(BaseFiles::open(folder.path()), "not what torch.save writes");
  EXPECT_THROWS(BaseFiles::open(folder.file("config.json")), "not a GGUF file");
  write_bytes(folder.file("config.json"), "{");
  EXPECT_THROWS(BaseFiles::open(folder.path()), "config.json:1:2");
}

TEST(generation_config_adds_end_tokens) {
  TinyFolder tiny;
  write_bytes(tiny.folder.file("generation_config.json"), R"({"eos_token_id": [2, 7]})");
  EXPECT(tiny.open()->family.eos == (std::vector<int>{2, 7}));
  write_bytes(tiny.folder.file("generation_config.json"), R"({"eos_token_id": 70})");
  EXPECT_THROWS(tiny.open(), "generation_config.json: \"eos_token_id\" is 70");
}

TEST(base_gguf_has_hugging_face_names_and_rows) {
  const TemporaryFolder folder;
  const std::string path = folder.file("tiny.gguf");
  const Family family = family_of(tiny_config());
  const auto weights = tiny_weights(family);
  GgufWriter writer;
  tiny_gguf_metadata(writer, family);
  tiny_gguf_tensors(writer, family, weights);
  write_bytes(path, writer.bytes());
  const auto base = BaseFiles::open(path);
  expect_weights(*base, weights);
  EXPECT_EQ(base->storage_type, "F32");
  EXPECT(!base->family.tied_head);
  EXPECT_EQ(base->family.context, 64);
  EXPECT_NEAR(base->family.norm_eps, 1e-5, 1e-12);
  EXPECT(rope_frequencies(base->family) == rope_frequencies(family));
}

TEST(base_gguf_of_every_architecture_reads_its_weights) {
  for (const char* type : {"\"qwen2\"", "\"qwen3\"", "\"llama\""}) {
    const Json config = with("model_type", type, with("head_dim", "8"));
    const Family family =
        family_of(with("attention_bias", type == std::string("\"llama\"") ? "true" : "false", config));
    const auto weights = tiny_weights(family);
    GgufWriter writer;
    tiny_gguf_metadata(writer, family);
    writer.number(family.architecture + ".attention.key_length", 8u);
    tiny_gguf_tensors(writer, family, weights);
    const TemporaryFolder folder;
    write_bytes(folder.file("tiny.gguf"), writer.bytes());
    const auto base = BaseFiles::open(folder.file("tiny.gguf"));
    expect_weights(*base, weights);
    EXPECT(base->family.qk_norm == family.qk_norm && base->family.qkv_bias == family.qkv_bias &&
           base->family.o_bias == family.o_bias && base->family.head_dim == 8);
  }
}

TEST(base_gguf_refuses_by_name_what_is_not_honoured) {
  const TemporaryFolder folder;
  const std::string path = folder.file("tiny.gguf");
  const Family family = family_of(tiny_config());
  const auto weights = tiny_weights(family);
  const auto open = [&](auto change, bool tensors = true) {
    GgufWriter writer;
    tiny_gguf_metadata(writer, family);
    if (tensors) tiny_gguf_tensors(writer, family, weights);
    change(writer);
    write_bytes(path, writer.bytes());
    return BaseFiles::open(path);
  };
  EXPECT_THROWS(open([](GgufWriter& w) { w.number("llama.expert_count", 8u); }), "llama.expert_count is set");
  EXPECT_EQ(open([](GgufWriter& w) { w.number("llama.expert_count", 0u); })->family.layers, 2);
  EXPECT_THROWS(open([](GgufWriter& w) { w.number("llama.logit_scale", 0.5f); }), "llama.logit_scale is set");
  EXPECT_THROWS(open([](GgufWriter& w) { w.string("llama.rope.scaling.type", "yarn"); }),
                "llama.rope.scaling.type is \"yarn\"");
  EXPECT_THROWS(open([](GgufWriter& w) { w.number("llama.rope.dimension_count", 4u); }), "rotating a part of a head");
  EXPECT_THROWS(open([](GgufWriter& w) { w.number("split.count", 2u); }), "one part of a split GGUF");
  EXPECT_THROWS(open([](GgufWriter& w) { w.f32("blk.0.attn_q.bias", {12}, std::vector<float>(12)); }),
                "the tensor blk.0.attn_k.bias is missing");
  EXPECT_THROWS(open([](GgufWriter& w) { w.f32("blk.0.attn_q_norm.weight", {6}, std::vector<float>(6)); }),
                "tensor blk.0.attn_q_norm.weight is no weight of a llama model");
  EXPECT(open([](GgufWriter& w) { w.number("llama.attention.sliding_window", 7u); })->family.windows ==
         std::vector<int>(2, 7));
  EXPECT_THROWS(open([](GgufWriter& w) { w.number("llama.attention.sliding_window_pattern", 4u); }),
                "sliding_window_pattern is no list");
  EXPECT_THROWS(open([](GgufWriter&) {}, false), "token_embd.weight is missing");
  EXPECT_THROWS(open([](GgufWriter& w) { w.number("tokenizer.ggml.eot_token_id", 11u); }), "eot_token_id is 11");
  EXPECT_THROWS(open([](GgufWriter& w) { w.f32("rope_freqs.weight", {3}, {1, 0, 2}); }), "not above 0");

  const auto linear = open([](GgufWriter& w) {
    w.string("llama.rope.scaling.type", "linear"), w.number("llama.rope.scaling.factor", 2.0f);
  });
  EXPECT_EQ(rope_frequencies(linear->family)[0], 0.5);
  const auto factors = open([](GgufWriter& w) { w.f32("rope_freqs.weight", {3}, {1, 4, 8}); });
  EXPECT_EQ(rope_frequencies(factors->family)[2], rope_frequencies(family)[2] / 8);
  GgufWriter other;
  other.string("general.architecture", "gpt2");
  write_bytes(path, other.bytes());
  EXPECT_THROWS(BaseFiles::open(path), "the architecture \"gpt2\" is not supported");
}

TEST(base_fixtures_open) {
  REQUIRE_FIXTURES();
  for (const auto& [name, type] : {std::pair{"llama", "F32"},
                                   {"llama3", "BF16"},
                                   {"mistral", "F32"},
                                   {"qwen2", "F32"},
                                   {"qwen3", "F32"},
                                   {"smollm2", "F16"}}) {
    const auto base = BaseFiles::open(fixtures + "/" + name);
    EXPECT_EQ(base->storage_type, type);
    for (const WeightSpec& spec : weight_specs(base->family)) (void)read(*base, spec.name);
  }
}

TEST(base_gguf_fixture_is_the_folder_it_was_made_from) {
  REQUIRE_FIXTURES();
  const auto folder = BaseFiles::open(fixtures + "/smollm2"),
             gguf = BaseFiles::open(fixtures + "/gguf/smollm2-f16.gguf");
  EXPECT_EQ(gguf->storage_type, "F16");
  EXPECT(gguf->family.tied_head);
  EXPECT(rope_frequencies(gguf->family) == rope_frequencies(folder->family));
  for (const WeightSpec& spec : weight_specs(folder->family))
    EXPECT(read(*folder, spec.name) == read(*gguf, spec.name));
  const auto mixed = BaseFiles::open(fixtures + "/gguf/mixed.gguf");
  for (const WeightSpec& spec : weight_specs(mixed->family)) (void)read(*mixed, spec.name);
}

// ------------------------------------------------------------------------------------------------------------ adapters

namespace {

Adapter tiny_adapter(const Family& family) {
  std::mt19937 random(9);
  Adapter adapter;
  adapter.config.r = 2;
  adapter.config.dropout = 0.05;
  adapter.config.targets = {Projection::kQ, Projection::kO, Projection::kDown};
  adapter.config.base_model = "some/base";
  for (int layer = 0; layer < family.layers; ++layer)
    for (const Projection projection : adapter.config.targets)
      adapter.pairs.push_back({layer, projection, small_numbers(random, 2 * projection_in(family, projection)),
                               small_numbers(random, 2 * projection_out(family, projection))});
  return adapter;
}

void write_adapter_folder(const std::string& folder, const Adapter& adapter, const Family& family) {
  write_bytes(folder + "/adapter_config.json", adapter_config_json(adapter.config));
  write_bytes(folder + "/adapter_model.safetensors", text_of(write_adapter(adapter, family)));
}

bool same_pairs(const Adapter& a, const Adapter& b) {
  return std::equal(a.pairs.begin(), a.pairs.end(), b.pairs.begin(), b.pairs.end(),
                    [](const AdapterPair& x, const AdapterPair& y) {
                      return x.layer == y.layer && x.projection == y.projection && x.a == y.a && x.b == y.b;
                    });
}

}  // namespace

TEST(adapter_comes_back_as_written) {
  const TemporaryFolder folder;
  const Family family = family_of(tiny_config());
  Adapter adapter = tiny_adapter(family);
  adapter.config.rslora = true;
  write_adapter_folder(folder.path(), adapter, family);
  const Adapter again = load_adapter(folder.path(), family, "base");
  EXPECT(same_pairs(adapter, again));
  EXPECT_EQ(again.config.base_model, "some/base");
  EXPECT_EQ(again.config.dropout, 0.05);
  EXPECT_NEAR(again.config.scale(), 8 / std::sqrt(2.0), 1e-15);
  EXPECT(write_adapter(again, family) == write_adapter(adapter, family));
  EXPECT_EQ(adapter_config_json(again.config), adapter_config_json(adapter.config));
  EXPECT(parse_json(adapter_config_json(adapter.config)).at("target_modules").text() ==
         R"(["down_proj","o_proj","q_proj"])");

  adapter.config.layers = {1};
  adapter.pairs.erase(adapter.pairs.begin(), adapter.pairs.begin() + 3);
  write_adapter_folder(folder.path(), adapter, family);
  EXPECT(same_pairs(adapter, load_adapter(folder.path(), family, "base")));
}

TEST(adapter_keys_of_a_bare_backbone_and_16_bits_are_read) {
  const TemporaryFolder folder;
  const Family family = family_of(tiny_config());
  const Adapter adapter = tiny_adapter(family);
  write_adapter_folder(folder.path(), adapter, family);
  const std::string path = folder.file("adapter_model.safetensors");
  auto tensors = read_float_tensors(path);
  for (NamedTensor& tensor : tensors) tensor.name.replace(0, 23, "base_model.model.");
  EXPECT(tensors[0].name.starts_with("base_model.model.layers.0."));
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    write_tensors(path, tensors, dtype);
    EXPECT(same_pairs(adapter, load_adapter(folder.path(), family, "base")));
  }
  tensors[1].data[3] = std::numeric_limits<float>::quiet_NaN();
  write_tensors(path, tensors);
  EXPECT_THROWS(load_adapter(folder.path(), family, "base"), "has NaN at element 3");
}

TEST(adapter_for_another_model_says_which_base_to_use) {
  const TemporaryFolder folder;
  const Family family = family_of(tiny_config());
  write_adapter_folder(folder.path(), tiny_adapter(family), family);
  const auto against = [&](const char* key, const char* value) {
    return load_adapter(folder.path(), family_of(with(key, value)), "models/other");
  };
  EXPECT_THROWS(
      against("hidden_size", "24"),
      "adapter " + folder.path() +
          " was trained for a model 12 wide; models/other is 24 wide. Use the base named in its adapter_config.json: some/base");
  EXPECT_THROWS(against("num_hidden_layers", "3"), "was trained for a model of 2 layers; models/other has 3.");
  EXPECT_THROWS(against("num_hidden_layers", "1"), "was trained for a model of 2 layers; models/other has 1.");
  EXPECT_THROWS(against("intermediate_size", "24"), "its down_proj has 20 inputs, that of models/other has 24.");
  EXPECT_THROWS(against("head_dim", "8"), "its q_proj has 12 outputs, that of models/other has 16.");
  try {
    (void)against("hidden_size", "24");
  } catch (const Error& error) {
    EXPECT_EQ(error.code, "WRONG_MODEL");
  }
}

TEST(adapter_on_any_matrices_is_read_and_written_back) {
  const TemporaryFolder folder;
  const Family family = family_of(tiny_config());
  Adapter adapter = tiny_adapter(family);
  adapter.pairs.erase(adapter.pairs.begin() + 1);  // o_proj of layer 0
  write_adapter_folder(folder.path(), adapter, family);
  const std::string config_path = folder.file("adapter_config.json");
  const Json config = read_json_file(config_path);
  const auto load = [&](const std::string& targets) {
    write_bytes(config_path, with("target_modules", targets, config).text());
    return load_adapter(folder.path(), family, "base");
  };
  for (const char* targets :
       {R"(["q_proj","down_proj","layers.1.self_attn.o_proj"])",
        R"(["q_proj","mlp.down_proj","model.layers.1.self_attn.o_proj"])",
        R"re("model\\.layers\\.(\\d+\\.(self_attn\\.q_proj|mlp\\.down_proj)|1\\.self_attn\\.o_proj)")re"}) {
    const Adapter read = load(targets);
    EXPECT(same_pairs(read, adapter));
    EXPECT(!read.config.adapts(0, Projection::kO) && read.config.adapts(1, Projection::kO));
    write_bytes(config_path, adapter_config_json(read.config));
    const Adapter again = load_adapter(folder.path(), family, "base");
    EXPECT(same_pairs(again, adapter));
    EXPECT_EQ(again.config.pattern, read.config.pattern);
  }
  EXPECT_THROWS(load(R"(["q_proj","down_proj","o_proj"])"), "layers.0.self_attn.o_proj.lora_A.weight is missing");
  EXPECT_THROWS(load(R"(["q_proj","down_proj","layers.1.self_attn.o_proj","layers.9.mlp.up_proj"])"),
                "sits on \"layers.9.mlp.up_proj\", which base, of 2 layers, does not have");
  EXPECT_THROWS(load(R"(["q_proj","layers.1.self_attn.o_proj"])"), "does not name");
  EXPECT_THROWS(load(R"(["q_proj","layers.x.mlp.down_proj"])"), "names \"layers.x.mlp.down_proj\"");
  write_bytes(config_path, with("layers_to_transform", "[1]", with("target_modules", "\".*proj\"", config)).text());
  EXPECT_THROWS(load_adapter(folder.path(), family, "base"), "a pattern says itself which layers it means");
}

TEST(adapter_folders_are_checked) {
  const TemporaryFolder folder;
  const Family family = family_of(tiny_config());
  const Adapter adapter = tiny_adapter(family);
  write_adapter_folder(folder.path(), adapter, family);
  const std::string path = folder.file("adapter_model.safetensors"), config_path = folder.file("adapter_config.json");
  const Json config = read_json_file(config_path);
  const auto refused = [&](const char* key, const char* value, const char* why) {
    write_bytes(config_path, with(key, value, config).text());
    EXPECT_THROWS(load_adapter(folder.path(), family, "base"), why);
  };
  for (const auto& [key, value] : {std::pair{"use_dora", "true"},
                                   {"use_qalora", "true"},
                                   {"bias", "\"all\""},
                                   {"lora_bias", "true"},
                                   {"rank_pattern", "{\"q_proj\": 4}"},
                                   {"alpha_pattern", "{\"q_proj\": 4}"},
                                   {"fan_in_fan_out", "true"},
                                   {"modules_to_save", "[\"lm_head\"]"},
                                   {"peft_type", "\"IA3\""},
                                   {"layer_replication", "[[0, 2]]"},
                                   {"trainable_token_indices", "[1]"},
                                   {"something_new", "true"},
                                   {"init_lora_weights", "\"pissa\""}})
    refused(key, value, key);
  refused("target_modules", "[\"lm_head\"]", "names \"lm_head\"");
  refused("r", "0", "\"r\" is 0");
  refused("r", "4", "says r = 4");
  refused("lora_alpha", "\"x\"", "\"lora_alpha\" is \"x\"; expected a number");
  refused("target_modules", "[\"q_proj\"]", "on a matrix that adapter_config.json does not name");
  refused("target_modules", "\"all-linear\"", "layers.0.self_attn.k_proj.lora_A.weight is missing");
  for (const auto& [key, value] : {std::pair{"something_new", "false"},
                                   {"something_new", "16"},
                                   {"arrow_config", "null"},
                                   {"target_modules", "[\"self_attn.o_proj\", \"q_proj\", \"down_proj\"]"},
                                   {"layers_to_transform", "[1, 0]"}}) {
    write_bytes(config_path, with(key, value, config).text());
    EXPECT_EQ(load_adapter(folder.path(), family, "base").pairs.size(), 6u);
  }

  auto tensors = read_float_tensors(path);
  tensors.push_back({"base_model.model.lm_head.lora_A.weight", {1}, {0}});
  write_tensors(path, tensors);
  EXPECT_THROWS(load_adapter(folder.path(), family, "base"),
                "tensor base_model.model.lm_head.lora_A.weight is no LoRA matrix");
  std::filesystem::resize_file(path, 500);
  EXPECT_THROWS(load_adapter(folder.path(), family, "base"), "cut short");
  std::filesystem::remove(path);
  EXPECT_THROWS(load_adapter(folder.path(), family, "base"), "No such file");
  write_bytes(folder.file("adapter_model.bin"), "x");
  EXPECT_THROWS(load_adapter(folder.path(), family, "base"), "not what torch.save writes");
  EXPECT_THROWS(load_adapter(folder.file("absent"), family, "base"), "there is no adapter at");
}

TEST(adapter_fixtures_come_back_with_the_same_bytes) {
  REQUIRE_FIXTURES();
  for (const char* name : {"llama", "llama3", "smollm2"}) {
    const std::string model = fixtures + "/" + name, folder = model + "/adapter";
    const Family family = BaseFiles::open(model)->family;
    const Adapter adapter = load_adapter(folder, family, model);
    EXPECT_EQ(adapter.pairs.size(), adapter.config.targets.size() * static_cast<size_t>(family.layers));
    EXPECT(text_of(write_adapter(adapter, family)) == read_file(folder + "/adapter_model.safetensors"));
    const Json theirs = read_json_file(folder + "/adapter_config.json"),
               ours = parse_json(adapter_config_json(adapter.config));
    for (const auto& [key, value] : ours.as_object()) EXPECT(theirs.has(key) && theirs.at(key) == value);
  }
  const Family other = BaseFiles::open(fixtures + "/llama3")->family;
  EXPECT_THROWS(
      load_adapter(fixtures + "/smollm2/adapter", other, "llama3"),
      "was trained for a model 192 wide; llama3 is 64 wide. Use the base named in its adapter_config.json: credence-fixture/smollm2");
}

TESTING_MAIN
