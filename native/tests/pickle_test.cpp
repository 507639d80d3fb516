// What torch.save writes: files made by PyTorch (tests/golden/pickle/make.py), pickles made by hand, damaged ones.
#include "engine/pickle.h"

#include "engine/adapter_files.h"
#include "engine/base_files.h"
#include "engine/error.h"
#include "files_support.h"
#include "testing.h"

using namespace credence;
using namespace credence::testing;

namespace {

const std::string kFolder = "tests/golden/pickle/";

void put16(std::string& out, size_t value) { out += {static_cast<char>(value), static_cast<char>(value >> 8)}; }
void put32(std::string& out, size_t value) { put16(out, value & 0xffff), put16(out, value >> 16); }

/// A zip archive of stored entries, as torch.save lays them out.
std::string zip(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string out, directory;
  for (const auto& [name, data] : entries) {
    const size_t at = out.size();
    put32(out, 0x04034b50);
    out.append(22, '\0');
    put16(out, name.size()), put16(out, 0);
    out += name + data;
    put32(directory, 0x02014b50);
    directory.append(16, '\0');
    put32(directory, data.size()), put32(directory, data.size());
    put16(directory, name.size());
    directory.append(12, '\0');
    put32(directory, at);
    directory += name;
  }
  const size_t start = out.size();
  out += directory;
  put32(out, 0x06054b50), put32(out, 0);
  put16(out, entries.size()), put16(out, entries.size());
  put32(out, directory.size()), put32(out, start), put16(out, 0);
  return out;
}

std::string integer(int64_t value) {
  std::string out = "\x8a\x08";
  for (int i = 0; i < 8; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

std::string text(const std::string& value) {
  std::string out = "X";
  put32(out, value.size());
  return out + value;
}

std::string tuple(const std::vector<int64_t>& values) {
  std::string out = "(";
  for (const int64_t value : values) out += integer(value);
  return out + "t";
}

/// The operations that leave one tensor on the stack.
std::string tensor(const std::string& key, int64_t elements, int64_t offset, const std::vector<int64_t>& sizes,
                   const std::vector<int64_t>& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" + text(key) +
         text("cpu") + integer(elements) + "tQ" + integer(offset) + tuple(sizes) + tuple(strides) + "\x89N" + "tR";
}

std::vector<TensorView> read(const std::string& pickle, const std::string& data = std::string(48, '\0')) {
  return pickled_tensors("\x80\x02" + pickle + ".", [&](std::string_view) { return std::string_view(data); }, "x.bin");
}

/// The tensors of a folder of weights in one or several .bin files, made with `tensor` above.
std::string pickled(const std::vector<NamedTensor>& tensors) {
  std::string pickle = "\x80\x02}(";
  std::vector<std::pair<std::string, std::string>> entries = {{"archive/data.pkl", ""}};
  for (const NamedTensor& t : tensors) {
    const std::string key = std::to_string(entries.size());
    std::vector<int64_t> strides(t.shape.size(), 1);
    for (size_t i = strides.size(); i > 1; --i) strides[i - 2] = strides[i - 1] * t.shape[i - 1];
    pickle += text(t.name) + tensor(key, product(t.shape), 0, t.shape, strides);
    entries.push_back({"archive/data/" + key, text_of(stored_as(Dtype::kF32, t.data))});
  }
  entries.front().second = pickle + "u.";
  return zip(entries);
}

}  // namespace

TEST(pytorch_files_are_read) {
  const std::vector<NamedTensor> head = read_float_tensors(kFolder + "head.pt");
  EXPECT_EQ(head.size(), size_t{4});
  const std::vector<std::pair<std::string, std::vector<int64_t>>> expected = {
      {"0.weight", {3, 5}}, {"0.bias", {3}}, {"2.weight", {1, 3}}, {"2.bias", {1}}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(head[i].name, expected[i].first);
    EXPECT(head[i].shape == expected[i].second);
    for (size_t j = 0; j < head[i].data.size(); ++j)
      EXPECT_EQ(head[i].data[j], static_cast<float>(i) + static_cast<float>(j) / 8);
  }
  const std::vector<NamedTensor> nested = read_float_tensors(kFolder + "nested.pth");
  EXPECT_EQ(nested.size(), size_t{4});
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(nested[i].name, "head." + expected[i].first);
    EXPECT(nested[i].data == head[i].data);
  }
}

TEST(pytorch_layouts_are_honoured) {
  const PickleFile file(kFolder + "layouts.bin");
  const auto floats = [&](const char* name) { return file.find(name)->floats(); };
  const std::vector<float> transposed = floats("transposed"), column = floats("column"), middle = floats("middle");
  EXPECT(file.find("transposed")->shape == (std::vector<int64_t>{6, 4}));
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j < 4; ++j)
      EXPECT_EQ(transposed[static_cast<size_t>(4 * i + j)], static_cast<float>(6 * j + i) / 8);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(column[static_cast<size_t>(i)], static_cast<float>(6 * i + 2) / 8);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      EXPECT_EQ(middle[static_cast<size_t>(2 * i + j)], static_cast<float>(6 * (i + 1) + 1 + 2 * j) / 8);
  std::vector<float> rows(8);
  file.find("transposed")->read_rows(3, 2, rows.data());
  EXPECT(std::equal(rows.begin(), rows.end(), transposed.begin() + 12));
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(floats("half")[i], static_cast<float>(i) / 8);
    EXPECT_EQ(floats("bfloat")[i], static_cast<float>(i) / 8);
  }
  EXPECT(floats("scalar") == std::vector<float>{2.5f});
  EXPECT(floats("empty").empty());
  EXPECT_EQ(std::string(dtype_name(file.find("positions")->dtype)), "I64");
}

TEST(what_asks_for_more_than_tensors_is_refused_by_name) {
  EXPECT_THROWS(PickleFile(kFolder + "harmful.bin"),
                "asks for posix.system, which is no tensor. Nothing in it was run");
  EXPECT_THROWS(PickleFile(kFolder + "harmful-4.bin"), "asks for posix.system");
  EXPECT(!file_exists("pickle-ran") && !file_exists(kFolder + "pickle-ran"));
  EXPECT_THROWS(PickleFile(kFolder + "expanded.bin"), "larger than its storage");
  EXPECT_THROWS(PickleFile(kFolder + "old.bin"), "before 1.6");
  for (const char* ask : {"cbuiltins\neval\n", "ccollections\ndefaultdict\n", "ctorch\nload\n", "cOrderedDict\ntorch\n",
                          "ccollections\nOrderedDict.__init__\n", "(ios\nsystem\n"})
    EXPECT_THROWS(read(ask), "asks for ");
  // An operation that makes objects of classes, sets memo-free state or reads extensions is no tensor's either.
  for (const char* operation : {"\x81", "\x82x", "o", "P1\n", "I01\n", "0", "2"})
    EXPECT_THROWS(read(std::string("}").append(operation)), "which tensors do not need");
}

TEST(a_tensor_stays_inside_its_storage) {
  EXPECT_EQ(read(tensor("0", 12, 0, {3, 4}, {4, 1})).front().elements(), 12);
  EXPECT_EQ(read(tensor("0", 12, 4, {2, 4}, {4, 1})).front().elements(), 8);
  EXPECT_THROWS(read(tensor("0", 13, 0, {1}, {1})), "should hold 13 elements of F32 but has 48 bytes");
  EXPECT_THROWS(read(tensor("0", 12, 1, {3, 4}, {4, 1})), "larger than its storage");
  EXPECT_THROWS(read(tensor("0", 12, 0, {3, 4}, {5, 1})), "larger than its storage");
  EXPECT_THROWS(read(tensor("0", 12, 0, {13}, {0})), "larger than its storage");
  EXPECT_THROWS(read(tensor("0", 12, -1, {1}, {1})), "do not match");
  EXPECT_THROWS(read(tensor("0", 12, 0, {1}, {-1})), "negative");
  EXPECT_THROWS(read(tensor("0", 12, 0, {1, 1}, {1})), "do not match");
  const int64_t huge = int64_t{1} << 62;
  EXPECT_THROWS(read(tensor("0", 12, 0, {huge, 8}, {1, 1})), "impossible size");
  EXPECT_THROWS(read(tensor("0", 12, 0, {2, 1}, {huge, 1})), "larger than its storage");
  EXPECT_THROWS(read(tensor("0", 12, huge, {2}, {huge})), "larger than its storage");
  EXPECT_THROWS(read(tensor("0", -1, 0, {1}, {1})), "no storage");
  EXPECT_EQ(read(tensor("0", 12, huge, {0}, {1})).front().elements(), 0);  // nothing lies anywhere
}

TEST(pickles_that_lead_nowhere_end_soon) {
  // A dictionary that holds itself; twelve lists that each hold the one before 16 times: 2^48 ways through them.
  EXPECT_THROWS(read(std::string("}q\x01").append(text("self")).append("h\x01s")), "nested too deep");
  std::string ways = "(]q";
  for (char level = 1; level <= 12; ++level) {
    ways.append(1, level).append("](");
    for (int i = 0; i < 16; ++i) ways.append(1, 'h').append(1, level);
    ways += "eq";
  }
  EXPECT_THROWS(read(ways.append("\x7ft")), "nested too deep");
  EXPECT_THROWS(read(std::string(1 << 16, '(')), "damaged");
  EXPECT_THROWS(read("u"), "a mark that is not there");
  EXPECT_THROWS(read("}(s"), "takes more than it has");
  EXPECT_THROWS(read("h\x07"), "recalls what it did not keep");
  EXPECT_THROWS(read("}}"), "does not end with one value");
  EXPECT_THROWS(read("NN\x86R"), "takes more than it has");
  EXPECT_THROWS(read("NNR"), "calls what is no function");
  EXPECT_EQ(read(std::string("]").append(tensor("0", 12, 0, {1}, {1})).append("a")).front().name, "0");
}

TEST(cut_and_damaged_files_are_errors) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.pt"), whole = read_file(kFolder + "head.pt");
  for (size_t cut = 0; cut < whole.size(); cut += 3) {
    write_bytes(path, whole.substr(0, cut));
    EXPECT_THROWS(PickleFile{path}, path);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    for (int k = 0; k < 1 + i % 4; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
    write_bytes(path, bytes);
    try {
      const PickleFile file(path);
      for (const TensorView& tensor : file.tensors())
        if (is_float(tensor.dtype)) (void)tensor.floats();
    } catch (const Error&) {
    }
  }
  write_bytes(path, zip({{"a/data.pkl", "\x80\x02}."}, {"a/data.pkl", "\x80\x02}."}}));
  EXPECT_THROWS(PickleFile{path}, "two entries have one name");
  write_bytes(path, zip({{"a/other", ""}}));
  EXPECT_THROWS(PickleFile{path}, "without data.pkl");
  write_bytes(path, zip({{"a/data.pkl", "\x80\x02}."}, {"a/byteorder", "big"}}));
  EXPECT_THROWS(PickleFile{path}, "big-endian");
  write_bytes(path, zip({{"a/data.pkl", "\x80\x02" + tensor("9", 1, 0, {1}, {1}) + "."}}));
  EXPECT_THROWS(PickleFile{path}, "storage 9 is missing");
}

TEST(models_and_adapters_are_read_from_bin) {
  const TemporaryFolder folder;
  write_bytes(folder.file("config.json"), tiny_config().text());
  const Family family = family_from_config(tiny_config(), "config.json");
  const std::vector<NamedTensor> weights = tiny_weights(family);
  write_bytes(folder.file("pytorch_model.bin"), pickled(weights));
  const auto expect_weights = [&] {
    const auto base = BaseFiles::open(folder.path());
    for (const NamedTensor& weight : weights) {
      std::vector<float> got(weight.data.size());
      base->read(weight.name, got.data());
      EXPECT(got == weight.data);
    }
    return base->files;
  };
  EXPECT_EQ(expect_weights().size(), size_t{1});

  // The same in two parts with an index.
  std::filesystem::remove(folder.file("pytorch_model.bin"));
  Json map = Json::object(), index = Json::object();
  std::vector<NamedTensor> parts[2];
  for (size_t i = 0; i < weights.size(); ++i) {
    map.set(weights[i].name, i % 3 ? "part-1.bin" : "part-0.bin");
    parts[i % 3 ? 1 : 0].push_back(weights[i]);
  }
  index.set("weight_map", map);
  write_bytes(folder.file("pytorch_model.bin.index.json"), index.text());
  for (int i = 0; i < 2; ++i) write_bytes(folder.file("part-" + std::to_string(i) + ".bin"), pickled(parts[i]));
  EXPECT_EQ(expect_weights().size(), size_t{2});

  AdapterConfig config;
  config.r = 2;
  config.targets = {Projection::kQ};
  config.layers = {1};
  const std::string name = adapter_tensor_name(1, Projection::kQ, 'A');
  std::mt19937 random(3);
  std::vector<NamedTensor> tensors = {
      {name, {2, 12}, small_numbers(random, 24)},
      {adapter_tensor_name(1, Projection::kQ, 'B'), {12, 2}, small_numbers(random, 24)}};
  write_bytes(folder.file("adapter_config.json"), adapter_config_json(config));
  write_bytes(folder.file("adapter_model.bin"), pickled(tensors));
  const Adapter adapter = load_adapter(folder.path(), family, "base");
  EXPECT(adapter.pairs.front().a == tensors[0].data && adapter.pairs.front().b == tensors[1].data);
}

TESTING_MAIN
