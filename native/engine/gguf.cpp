#include "gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "error.h"

namespace credence {

namespace {

enum ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kFloat32, kBool, kString, kArray, kU64, kI64, kFloat64 };

/// Reads the part of the file before the tensors' data; every read is checked against the end.
class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file) {}

  template <typename T>
  T take(const char* what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::string string(const char* what) {
    const uint64_t length = take<uint64_t>(what);
    need(length, what);
    std::string text(reinterpret_cast<const char*>(file_.data()) + at_, static_cast<size_t>(length));
    at_ += static_cast<size_t>(length);
    return text;
  }

  /// Refuses a count of things that each take at least `bytes`: no allocation is larger than the file warrants.
  void need_items(uint64_t count, uint64_t bytes, const char* what) {
    if (count > (file_.size() - at_) / bytes) cut(what);
  }

  size_t at() const { return at_; }
  [[noreturn]] void cut(const char* what) const {
    fail("BAD_FILE", "%s: the file ends inside %s (after byte %zu of %zu): it is cut short or damaged",
         file_.path().c_str(), what, at_, file_.size());
  }
  const char* path() const { return file_.path().c_str(); }

 private:
  void need(uint64_t bytes, const char* what) const {
    if (bytes > file_.size() - at_) cut(what);
  }

  const MappedFile& file_;
  size_t at_ = 0;
};

int64_t integer_value(Reader& reader, uint32_t type, const char* what) {
  switch (type) {
    case kU8:
      return reader.take<uint8_t>(what);
    case kI8:
      return reader.take<int8_t>(what);
    case kU16:
      return reader.take<uint16_t>(what);
    case kI16:
      return reader.take<int16_t>(what);
    case kU32:
      return reader.take<uint32_t>(what);
    case kI32:
      return reader.take<int32_t>(what);
    case kBool:
      return reader.take<uint8_t>(what) != 0;
    case kI64:
      return reader.take<int64_t>(what);
    default:
      break;
  }
  const uint64_t value = reader.take<uint64_t>(what);
  if (value > static_cast<uint64_t>(INT64_MAX)) fail("BAD_FILE", "%s: %s is out of range", reader.path(), what);
  return static_cast<int64_t>(value);
}

bool is_integer_type(uint32_t type) { return type <= kI32 || type == kU64 || type == kI64; }

size_t value_bytes(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kFloat32:
      return 4;
    default:
      return 8;  // also a string: the length before its bytes
  }
}

GgufValue read_array(Reader& reader, const char* what) {
  const uint32_t type = reader.take<uint32_t>(what);
  const uint64_t count = reader.take<uint64_t>(what);
  if (type == kArray) fail("UNSUPPORTED", "%s: %s is an array of arrays", reader.path(), what);
  if (type > kFloat64) fail("BAD_FILE", "%s: %s is an array of values of unknown type %u", reader.path(), what, type);
  reader.need_items(count, value_bytes(type), what);
  if (type == kString) {
    std::vector<std::string> strings(static_cast<size_t>(count));
    for (std::string& text : strings) text = reader.string(what);
    return strings;
  }
  if (type == kFloat32 || type == kFloat64) {
    std::vector<double> numbers(static_cast<size_t>(count));
    for (double& number : numbers)
      number = type == kFloat32 ? static_cast<double>(reader.take<float>(what)) : reader.take<double>(what);
    return numbers;
  }
  std::vector<int64_t> integers(static_cast<size_t>(count));
  for (int64_t& integer : integers) integer = integer_value(reader, type, what);
  return integers;
}

GgufValue read_value(Reader& reader, const std::string& key) {
  const std::string label = "the metadata " + key;
  const char* what = label.c_str();
  const uint32_t type = reader.take<uint32_t>(what);
  if (is_integer_type(type)) return integer_value(reader, type, what);
  switch (type) {
    case kFloat32:
      return static_cast<double>(reader.take<float>(what));
    case kFloat64:
      return reader.take<double>(what);
    case kBool:
      return reader.take<uint8_t>(what) != 0;
    case kString:
      return reader.string(what);
    case kArray:
      return read_array(reader, what);
    default:
      fail("BAD_FILE", "%s: %s has the unknown type %u", reader.path(), what, type);
  }
}

/// A tensor's entry; its data pointer is set when the start of the data is known.
GgufTensor read_tensor_entry(Reader& reader, uint64_t& offset) {
  constexpr uint32_t kMaxDimensions = 4;
  GgufTensor tensor;
  tensor.name = reader.string("the name of a tensor");
  const std::string label = "the entry of tensor " + tensor.name;
  const char* what = label.c_str();
  const uint32_t dimensions = reader.take<uint32_t>(what);
  if (dimensions > kMaxDimensions)
    fail("BAD_FILE", "%s: tensor %s has %u dimensions", reader.path(), tensor.name.c_str(), dimensions);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const uint64_t extent = reader.take<uint64_t>(what);
    if (extent == 0 || extent > static_cast<uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(elements, extent, &elements) || elements > static_cast<uint64_t>(INT64_MAX))
      fail("BAD_FILE", "%s: tensor %s has an impossible shape", reader.path(), tensor.name.c_str());
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  const uint32_t type = reader.take<uint32_t>(what);
  offset = reader.take<uint64_t>(what);
  tensor.type = gguf_type_info(type);
  if (!tensor.type)
    fail("UNSUPPORTED",
         "%s: tensor %s is stored as %s, which is not supported; convert the model to one of F32, F16, BF16, Q8_0, "
         "Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K",
         reader.path(), tensor.name.c_str(), gguf_type_name(type).c_str());
  if (tensor.width() % tensor.type->elements != 0)
    fail("BAD_FILE", "%s: rows of tensor %s have %lld elements, which is not a whole number of %s blocks of %d",
         reader.path(), tensor.name.c_str(), static_cast<long long>(tensor.width()), tensor.type->name,
         tensor.type->elements);
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements / static_cast<uint64_t>(tensor.type->elements),
                             static_cast<uint64_t>(tensor.type->bytes), &bytes))
    fail("BAD_FILE", "%s: tensor %s has an impossible shape", reader.path(), tensor.name.c_str());
  tensor.bytes = static_cast<size_t>(bytes);
  return tensor;
}

}  // namespace

int64_t GgufTensor::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  Reader reader(file_);
  if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0)
    fail("BAD_FILE", "%s: not a GGUF file (it does not begin with \"GGUF\")", path.c_str());
  reader.take<uint32_t>("the header");
  version_ = reader.take<uint32_t>("the header");
  if (version_ != 2 && version_ != 3) {
    const bool swapped = (version_ & 0xffffu) == 0 && version_ != 0;
    fail("UNSUPPORTED", "%s: %s; convert it again with a current converter", path.c_str(),
         swapped ? "a big-endian GGUF" : ("GGUF version " + std::to_string(version_) + ", this reads 2 and 3").c_str());
  }
  const uint64_t tensor_count = reader.take<uint64_t>("the header");
  const uint64_t metadata_count = reader.take<uint64_t>("the header");

  constexpr uint64_t kLeastMetadata = 8 + 4 + 1, kLeastTensor = 8 + 4 + 4 + 8;
  reader.need_items(metadata_count, kLeastMetadata, "the metadata");
  for (uint64_t i = 0; i < metadata_count; ++i) {
    std::string key = reader.string("the metadata");
    if (!metadata_index_.emplace(key, metadata_.size()).second)
      fail("BAD_FILE", "%s: the metadata %s appears twice", path.c_str(), key.c_str());
    GgufValue value = read_value(reader, key);
    metadata_.emplace_back(std::move(key), std::move(value));
  }

  reader.need_items(tensor_count, kLeastTensor, "the table of tensors");
  std::vector<uint64_t> offsets(static_cast<size_t>(tensor_count));
  for (uint64_t& offset : offsets) {
    GgufTensor tensor = read_tensor_entry(reader, offset);
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second)
      fail("BAD_FILE", "%s: the tensor %s appears twice", path.c_str(), tensor.name.c_str());
    tensors_.push_back(std::move(tensor));
  }

  const int64_t alignment = integer("general.alignment").value_or(32);
  if (alignment < 1 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0)
    fail("BAD_FILE", "%s: general.alignment is %lld, not a power of two", path.c_str(),
         static_cast<long long>(alignment));
  const uint64_t start = (reader.at() + static_cast<uint64_t>(alignment) - 1) & ~(static_cast<uint64_t>(alignment) - 1);
  if (!tensors_.empty() && start > file_.size()) reader.cut("the padding before the tensors' data");

  std::vector<size_t> order(tensors_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return offsets[a] < offsets[b]; });
  uint64_t end = 0;
  for (const size_t i : order) {
    GgufTensor& tensor = tensors_[i];
    const uint64_t offset = offsets[i], room = file_.size() - start;
    // The format pads every tensor, the last one too: a file that lacks the padding has lost its end.
    const uint64_t padded =
        (tensor.bytes + static_cast<uint64_t>(alignment) - 1) & ~(static_cast<uint64_t>(alignment) - 1);
    if (offset % static_cast<uint64_t>(alignment) != 0)
      fail("BAD_FILE", "%s: the data of tensor %s is not aligned", path.c_str(), tensor.name.c_str());
    // (The padding of an impossible size would wrap around to nothing, hence both.)
    if (offset > room || tensor.bytes > room - offset || padded > room - offset)
      fail("BAD_FILE",
           "%s: the data of tensor %s lies beyond the end of the file (%zu bytes): it is cut short or damaged",
           path.c_str(), tensor.name.c_str(), file_.size());
    if (offset < end)
      fail("BAD_FILE", "%s: the data of tensor %s overlaps another's", path.c_str(), tensor.name.c_str());
    tensor.data = file_.data() + start + offset;
    end = offset + tensor.bytes;
  }
}

const GgufValue* GgufFile::find(const std::string& key) const {
  const auto found = metadata_index_.find(key);
  return found == metadata_index_.end() ? nullptr : &metadata_[found->second].second;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

std::optional<int64_t> GgufFile::integer(const std::string& key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (const int64_t* integer = std::get_if<int64_t>(value)) return *integer;
  fail("BAD_FILE", "%s: the metadata %s is not an integer", path().c_str(), key.c_str());
}

std::optional<double> GgufFile::number(const std::string& key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (const double* number = std::get_if<double>(value); number && std::isfinite(*number)) return *number;
  if (const int64_t* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  fail("BAD_FILE", "%s: the metadata %s is not a finite number", path().c_str(), key.c_str());
}

std::optional<std::string> GgufFile::string(const std::string& key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (const std::string* text = std::get_if<std::string>(value)) return *text;
  fail("BAD_FILE", "%s: the metadata %s is not a string", path().c_str(), key.c_str());
}

}  // namespace credence
