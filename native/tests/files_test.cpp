// The formats: JSON, 16-bit floats, safetensors, GGUF.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/error.h"
#include "engine/gguf.h"
#include "engine/mapped_file.h"
#include "files_support.h"
#include "testing.h"

using namespace credence;
using namespace credence::testing;

// ---------------------------------------------------------------------------------------------------------------- JSON

TEST(json_reads_what_it_wrote) {
  const std::string text =
      R"({"b":[1,-2,0.1,1e+300,2.5e-308,1.0],"a":{"nested":[[],{}]},"s":"q\"\\\n\t\u0001é日🙂","n":null,"t":true,"f":false})";
  const Json value = parse_json(text);
  EXPECT_EQ(value.text(), text);
  EXPECT(parse_json(value.text(2)) == value);
  EXPECT_EQ(value.as_object().front().first, "b");
  EXPECT_EQ(parse_json("9223372036854775807").as_integer(), INT64_MAX);
  EXPECT_EQ(parse_json("9007199254740993").as_integer(), 9007199254740993);
  EXPECT(!parse_json("9223372036854775808").is_integer());
  EXPECT_EQ(parse_json("4.0").as_integer(), 4);
  EXPECT_EQ(parse_json("\"\\ud83d\\ude42\\u00e9\"").as_string(), "🙂é");
  EXPECT_THROWS(Json(std::nan("")).text(), "no NaN");
}

TEST(json_doubles_keep_their_bits) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    const double value = std::bit_cast<double>(random());
    if (std::isfinite(value) && std::fpclassify(value) != FP_SUBNORMAL)
      EXPECT_EQ(parse_json(Json(value).text()).as_number(), value);
  }
}

TEST(json_errors_name_line_and_column) {
  EXPECT_THROWS(parse_json("{\n  \"a\": 1,\n  \"é\" 2}", "x.json"), "x.json:3:7: expected \":\"");
  EXPECT_THROWS(parse_json("[1, 2", "x.json"), "x.json:1:6: the text ends");
  EXPECT_THROWS(parse_json("{\"a\":1,\"a\":2}", "x.json"), "x.json:1:8: the key \"a\" appears twice");
  EXPECT_THROWS(parse_json("[1]x"), ":1:4: expected the end");
  EXPECT_THROWS(parse_json("\"abc"), "has no end");
  for (const char* bad :
       {"", "01", "1.", "-", "+1", "nul", "[1,]", "{,}", "{\"a\"}", "\"\\x\"", "\"\\ud800\"", "\"\\udc00\"",
        "\"\\u12g4\"", "\"\n\"", "NaN", "1e999", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\""})
    EXPECT_THROWS(parse_json(bad), "json:1:");
  EXPECT_THROWS(parse_json(std::string(100000, '[')), "nested too deeply");
  EXPECT_THROWS(parse_json("{}").at("size"), "\"size\" is missing");
  EXPECT_THROWS(parse_json("[1]").as_string(), "expected a string, found an array");
}

// ------------------------------------------------------------------------------------------------------------ 16 bits

TEST(half_types_come_back_unchanged) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    if (std::isnan(f16_to_float(half))) EXPECT(std::isnan(f16_to_float(float_to_f16(f16_to_float(half)))));
    else EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
    if (std::isnan(bf16_to_float(half))) EXPECT(std::isnan(bf16_to_float(float_to_bf16(bf16_to_float(half)))));
    else EXPECT_EQ(float_to_bf16(bf16_to_float(half)), half);
  }
}

TEST(half_types_round_to_nearest_even) {
  std::mt19937 random(5);
  for (int i = 0; i < 200000; ++i) {
    // Every other one with an exponent that f16 has, so that its rounding is exercised too.
    const uint32_t bits = i % 2 ? random() : (random() & 0x807fffffu) | ((100 + random() % 45) << 23);
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    const auto check = [&](uint16_t rounded, auto widen, float largest) {
      const float got = widen(rounded);
      if (std::isinf(got)) {
        EXPECT(std::fabs(value) >= largest);
        return;
      }
      // No neighbour is nearer, and at a tie the last bit is even.
      const double error = std::fabs(static_cast<double>(got) - value);
      for (const int step : {-1, 1}) {
        const float other = widen(static_cast<uint16_t>(rounded + step));
        if (!std::isfinite(other) || (rounded & 0x7fff) + step < 0) continue;
        const double other_error = std::fabs(static_cast<double>(other) - value);
        EXPECT(error < other_error || (error == other_error && rounded % 2 == 0));
      }
    };
    check(float_to_f16(value), f16_to_float, 65520.0f);
    check(float_to_bf16(value), bf16_to_float, 3.3961775e38f);
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT(std::isnan(f16_to_float(float_to_f16(std::bit_cast<float>(0xff800001u)))));
}

// --------------------------------------------------------------------------------------------------------- safetensors

namespace {

/// A safetensors file of one's own wording.
std::string raw_safetensors(std::string header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), 8);
  return bytes + header + std::string(data_bytes, '\0');
}

}  // namespace

TEST(safetensors_come_back_as_written) {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  std::vector<NamedTensor> tensors;
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{3, 5}, {}, {0, 4}, {7}, {2, 1, 3}})
    tensors.push_back({"t" + std::to_string(tensors.size()), shape, small_numbers(random, product(shape))});
  const auto bytes = write_safetensors(views(tensors), {{"format", "pt"}, {"note", "ä\""}});
  EXPECT(bytes == write_safetensors(views(tensors), {{"format", "pt"}, {"note", "ä\""}}));
  const std::string path = folder.file("a.safetensors");
  write_bytes(path, text_of(bytes));
  const SafetensorsFile file(path);
  EXPECT_EQ((reinterpret_cast<uintptr_t>(file.tensors().back().data) -
             reinterpret_cast<uintptr_t>(file.tensors().front().data)),
            23u * 4);
  EXPECT(file.metadata() == (std::vector<std::pair<std::string, std::string>>{{"format", "pt"}, {"note", "ä\""}}));
  EXPECT(file.find("t3") != nullptr && file.find("t3")->shape == std::vector<int64_t>{7});
  EXPECT(file.find("t9") == nullptr);
  const auto again = read_float_tensors(path);
  for (const NamedTensor& tensor : tensors) {
    const auto same = [&](const NamedTensor& other) {
      return other.name == tensor.name && other.shape == tensor.shape && other.data == tensor.data;
    };
    EXPECT(std::any_of(again.begin(), again.end(), same));
  }
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    write_tensors(path, tensors, dtype);
    EXPECT(read_float_tensors(path).back().data == tensors.back().data);
  }
  const std::vector<int64_t> labels = {1, 0, 1 << 24}, beyond = {(1 << 24) + 1};
  const auto whole = [](const std::vector<int64_t>& values) {
    return TensorView{"labels",
                      Dtype::kI64,
                      {static_cast<int64_t>(values.size())},
                      reinterpret_cast<const uint8_t*>(values.data()),
                      values.size() * 8};
  };
  write_bytes(path, text_of(write_safetensors({whole(labels)})));
  EXPECT(read_float_tensors(path).back().data == (std::vector<float>{1, 0, 1 << 24}));
  write_bytes(path, text_of(write_safetensors({whole(beyond)})));
  EXPECT_THROWS(read_float_tensors(path), "tensor labels holds 16777217");
  EXPECT_THROWS(write_safetensors({{"x", Dtype::kF32, {3}, nullptr, 8}}), "tensor x has 8 bytes");
}

TEST(safetensors_cut_anywhere_are_refused) {
  const TemporaryFolder folder;
  const std::string path = folder.file("cut.safetensors");
  const std::vector<NamedTensor> tensors = {{"a", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"b", {2}, {7, 8}}};
  const std::string whole = text_of(write_safetensors(views(tensors)));
  for (size_t length = 0; length < whole.size(); ++length) {
    write_bytes(path, whole.substr(0, length));
    EXPECT_THROWS(SafetensorsFile(path), "cut.safetensors");
  }
  write_bytes(path, whole + "x");
  EXPECT_THROWS(SafetensorsFile(path), "1 bytes after the last tensor");
}

TEST(safetensors_headers_are_checked) {
  const TemporaryFolder folder;
  const std::string path = folder.file("h.safetensors");
  const auto refused = [&](const std::string& header, size_t bytes, const char* why) {
    write_bytes(path, raw_safetensors(header, bytes));
    EXPECT_THROWS(SafetensorsFile(path), why);
  };
  refused("[1]", 0, "not a safetensors file");
  refused("{\"a\":", 0, "(header):1:6");
  refused("{\"a\":1}", 0, "tensor a is not an object");
  refused(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4, "tensor a has the unknown dtype F99");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "tensor a is F32 [2], which is not 4 bytes");
  refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "not a list of sizes");
  refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0, "which is not 0 bytes");
  refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "not a range");
  refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 2, "cut short");
  refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "does not begin where");
  refused(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
      12, "overlaps");
  refused(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      4, "twice");
  refused(R"({"__metadata__":{"a":1}})", 0, "__metadata__.a is not a string");
  write_bytes(path, std::string(64, '\xff'));
  EXPECT_THROWS(SafetensorsFile(path), "not a safetensors file");
  EXPECT_THROWS(SafetensorsFile(folder.file("absent")), "No such file");
  EXPECT_THROWS(SafetensorsFile(folder.path()), "it is a folder");
}

TEST(float_tensors_must_be_finite_floats) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  std::vector<NamedTensor> tensors = {{"head.weight", {3}, {1, std::numeric_limits<float>::quiet_NaN(), 3}}};
  write_tensors(path, tensors);
  EXPECT_THROWS(read_float_tensors(path), "tensor head.weight has NaN at element 1");
  tensors[0].data[1] = -std::numeric_limits<float>::infinity();
  write_tensors(path, tensors, Dtype::kBF16);
  EXPECT_THROWS(read_float_tensors(path), "tensor head.weight has infinity at element 1");
  write_bytes(path, raw_safetensors(R"({"ids":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})", 4));
  EXPECT_THROWS(read_float_tensors(path), "tensor ids is I32");
}

// ---------------------------------------------------------------------------------------------------------------- GGUF

namespace {

std::string tiny_gguf() {
  const Family family = family_from_config(tiny_config(), "config.json");
  GgufWriter writer;
  tiny_gguf_metadata(writer, family);
  tiny_gguf_tensors(writer, family, tiny_weights(family));
  return writer.bytes();
}

}  // namespace

TEST(gguf_cut_anywhere_is_refused) {
  const TemporaryFolder folder;
  const std::string path = folder.file("cut.gguf"), whole = tiny_gguf();
  write_bytes(path, whole);
  const GgufFile file(path);
  EXPECT_EQ(*file.string("general.architecture"), "llama");
  EXPECT_EQ(std::get<std::vector<std::string>>(*file.find("tokenizer.ggml.tokens"))[2], "日本");
  const std::string cut = folder.file("shorter.gguf");
  write_bytes(cut, whole);
  for (size_t length = whole.size(); length-- > 0;) {
    std::filesystem::resize_file(cut, length);
    EXPECT_THROWS(GgufFile(cut), "shorter.gguf");
  }
}

TEST(gguf_damaged_anywhere_never_crashes) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.gguf"), whole = tiny_gguf();
  std::mt19937 random(11);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string damaged = whole;
    for (int k = 0; k < 1 + i % 3; ++k) damaged[random() % 2000] = static_cast<char>(random());
    write_bytes(path, damaged);
    try {
      const GgufFile file(path);
      (void)family_from_gguf(file);
      std::vector<float> row;
      for (const GgufTensor& tensor : file.tensors()) {
        row.resize(static_cast<size_t>(tensor.width()));
        dequantise_rows(tensor, tensor.rows() - 1, 1, row.data());
      }
    } catch (const Error& error) {
      ++refused;
      EXPECT(!error.code.empty());
    }
  }
  EXPECT(refused > 1000);
}

TEST(gguf_says_what_it_cannot_read) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.gguf");
  const auto refused = [&](const std::string& bytes, const char* why) {
    write_bytes(path, bytes);
    EXPECT_THROWS(GgufFile(path), why);
  };
  const auto one = [](uint32_t type, std::vector<int64_t> shape, size_t bytes) {
    GgufWriter writer;
    writer.tensor("w", shape, type, std::string(bytes, '\0'));
    return writer.bytes();
  };
  refused("GGML and so on", "does not begin with \"GGUF\"");
  refused("", "does not begin with \"GGUF\"");
  refused(one(20, {1, 32}, 18), "tensor w is stored as IQ4_NL, which is not supported");
  refused(one(99, {1, 32}, 18), "stored as type 99");
  refused(one(8, {2, 33}, 80), "not a whole number of Q8_0 blocks of 32");
  refused(one(0, {0}, 0), "impossible shape");
  refused(one(0, {INT64_MAX, 2}, 0), "impossible shape");
  refused(one(0, {64}, 32), "lies beyond the end");
  refused(one(0, {1, 1, 1, 1, 1}, 4), "5 dimensions");
  std::string version = one(0, {1}, 4);
  version[4] = 1;
  refused(version, "GGUF version 1");
  version[4] = 0, version[7] = 3;
  refused(version, "big-endian");
  GgufWriter writer;
  writer.number("general.alignment", 24u);
  refused(writer.bytes(), "not a power of two");
  GgufWriter twice;
  twice.number("a", 1u), twice.number("a", 2u);
  refused(twice.bytes(), "a appears twice");

  write_bytes(path, one(8, {2, 32}, 68));
  const GgufFile file(path);
  float row[64];
  EXPECT_THROWS(dequantise_rows(file.tensors()[0], 1, 2, row), "has 2 rows, not rows 1 to 3");
}

TEST(gguf_dequantises_every_type_exactly) {
  REQUIRE_FIXTURES();
  const GgufFile file(fixtures + "/gguf/mixed.gguf");
  const SafetensorsFile expected(fixtures + "/gguf/mixed.safetensors");
  std::vector<std::string> types;
  for (const GgufTensor& tensor : file.tensors()) {
    const TensorView* want = expected.find("dequantised." + tensor.name);
    EXPECT(want != nullptr);
    if (!want) continue;
    const int64_t rows = std::max<int64_t>(want->shape.size() > 1 ? want->shape[0] : 1, 1);
    std::vector<float> got(static_cast<size_t>(want->elements())), wanted(got.size());
    to_float(want->dtype, want->data, wanted.size(), wanted.data());
    dequantise_rows(tensor, 0, rows, got.data());
    EXPECT(got == wanted);
    // A row read alone is the same row.
    std::vector<float> row(static_cast<size_t>(tensor.width()));
    dequantise_rows(tensor, rows - 1, 1, row.data());
    EXPECT(std::equal(row.begin(), row.end(), got.end() - tensor.width()));
    types.push_back(tensor.type->name);
  }
  std::sort(types.begin(), types.end());
  types.erase(std::unique(types.begin(), types.end()), types.end());
  EXPECT_EQ(types.size(), 11u);
}

TEST(gguf_fixture_cut_in_many_places_is_refused) {
  REQUIRE_FIXTURES();
  const TemporaryFolder folder;
  const std::string path = folder.file("cut.gguf");
  write_bytes(path, read_file(fixtures + "/gguf/mixed.gguf"));
  const size_t size = std::filesystem::file_size(path);
  for (size_t length = size - 1; length > 0; length -= std::min<size_t>(length, length > 20000 ? 997 : 7)) {
    std::filesystem::resize_file(path, length);
    EXPECT_THROWS(GgufFile(path), "cut.gguf");
  }
}

TESTING_MAIN
