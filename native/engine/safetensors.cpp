#include "safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "json.h"

namespace credence {

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit

bool dtype_from_name(const std::string& name, Dtype& dtype) {
  for (int i = 0; i <= static_cast<int>(Dtype::kF64); ++i)
    if (name == dtype_name(static_cast<Dtype>(i))) return dtype = static_cast<Dtype>(i), true;
  return false;
}

/// Shape's product times the element's size, or false where that overflows.
bool tensor_bytes(const std::vector<int64_t>& shape, Dtype dtype, uint64_t& bytes) {
  bytes = dtype_bytes(dtype);
  for (const int64_t extent : shape)
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) return false;
  return true;
}

TensorView read_entry(const std::string& path, const std::string& name, const Json& entry, const uint8_t* data,
                      size_t data_size) {
  const auto bad = [&](const char* what) {
    fail("BAD_FILE", "%s: the header entry of tensor %s %s", path.c_str(), name.c_str(), what);
  };
  if (!entry.is_object()) bad("is not an object");
  for (const auto& [key, value] : entry.as_object())
    if (key != "dtype" && key != "shape" && key != "data_offsets") bad(("has the unknown key \"" + key + "\"").c_str());

  TensorView tensor;
  tensor.name = name;
  const Json* dtype = entry.find("dtype");
  if (!dtype || !dtype->is_string()) bad("has no dtype");
  if (!dtype_from_name(dtype->as_string(), tensor.dtype)) bad(("has the unknown dtype " + dtype->as_string()).c_str());

  const Json* shape = entry.find("shape");
  if (!shape || !shape->is_array()) bad("has no shape");
  for (const Json& extent : shape->as_array()) {
    if (!extent.is_integer() || extent.as_integer() < 0) bad("has a shape that is not a list of sizes");
    tensor.shape.push_back(extent.as_integer());
  }

  const Json* offsets = entry.find("data_offsets");
  if (!offsets || !offsets->is_array() || offsets->size() != 2 || !(*offsets)[0].is_integer() ||
      !(*offsets)[1].is_integer())
    bad("has no data_offsets [begin, end]");
  const int64_t begin = (*offsets)[0].as_integer(), end = (*offsets)[1].as_integer();
  if (begin < 0 || end < begin) bad("has data_offsets that are not a range");
  if (static_cast<uint64_t>(end) > data_size)
    fail("BAD_FILE", "%s: tensor %s ends at byte %lld of the data, but the file has %zu: it is cut short or damaged",
         path.c_str(), name.c_str(), static_cast<long long>(end), data_size);

  uint64_t expected = 0;
  if (!tensor_bytes(tensor.shape, tensor.dtype, expected) || expected != static_cast<uint64_t>(end - begin))
    fail("BAD_FILE", "%s: tensor %s is %s %s, which is not %lld bytes", path.c_str(), name.c_str(),
         dtype_name(tensor.dtype), shape_text(tensor.shape).c_str(), static_cast<long long>(end - begin));
  tensor.data = data + begin;
  tensor.bytes = static_cast<size_t>(end - begin);
  return tensor;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const char* name = path.c_str();
  if (file_.size() < 8) fail("BAD_FILE", "%s: %zu bytes are too few for a safetensors file", name, file_.size());
  uint64_t length = 0;
  std::memcpy(&length, file_.data(), 8);
  if (length > kMaxHeader)
    fail("BAD_FILE", "%s: not a safetensors file (its header would be %llu bytes long)", name,
         static_cast<unsigned long long>(length));
  if (length > file_.size() - 8)
    fail("BAD_FILE", "%s: the header is %llu bytes long, but the file has %zu: it is cut short", name,
         static_cast<unsigned long long>(length), file_.size());
  const std::string_view text(reinterpret_cast<const char*>(file_.data()) + 8, length);
  if (!text.starts_with('{')) fail("BAD_FILE", "%s: not a safetensors file (its header is no JSON object)", name);
  const Json header = parse_json(text, path + " (header)");
  const uint8_t* data = file_.data() + 8 + length;
  const size_t data_size = file_.size() - 8 - length;

  for (const auto& [key, entry] : header.as_object()) {
    if (key != "__metadata__") {
      tensors_.push_back(read_entry(path, key, entry, data, data_size));
      continue;
    }
    if (!entry.is_object()) fail("BAD_FILE", "%s: __metadata__ is not an object", name);
    for (const auto& [metadata_key, value] : entry.as_object()) {
      if (!value.is_string()) fail("BAD_FILE", "%s: __metadata__.%s is not a string", name, metadata_key.c_str());
      metadata_.emplace_back(metadata_key, value.as_string());
    }
  }

  std::stable_sort(tensors_.begin(), tensors_.end(), [](const TensorView& a, const TensorView& b) {
    return a.data != b.data ? a.data < b.data : a.bytes < b.bytes;  // an empty tensor before the one that begins there
  });
  const uint8_t* end = data;
  for (const TensorView& tensor : tensors_) {
    if (tensor.data != end)
      fail("BAD_FILE", "%s: the data of tensor %s %s", name, tensor.name.c_str(),
           tensor.data < end ? "overlaps another's" : "does not begin where the one before it ends");
    end += tensor.bytes;
  }
  if (end != data + data_size)
    fail("BAD_FILE", "%s: %zu bytes after the last tensor belong to none", name,
         static_cast<size_t>(data + data_size - end));
}

std::vector<uint8_t> write_safetensors(const std::vector<TensorView>& tensors,
                                       const std::vector<std::pair<std::string, std::string>>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json::Object entries;
    for (const auto& [key, value] : metadata) entries.emplace_back(key, Json(value));
    header.set("__metadata__", Json(std::move(entries)));
  }
  int64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    uint64_t expected = 0;
    if (!tensor_bytes(tensor.shape, tensor.dtype, expected) || expected != tensor.bytes)
      fail("BAD_FILE", "tensor %s has %zu bytes, which is not %s %s", tensor.name.c_str(), tensor.bytes,
           dtype_name(tensor.dtype), shape_text(tensor.shape).c_str());
    if (header.has(tensor.name)) fail("BAD_FILE", "two tensors are called %s", tensor.name.c_str());
    const int64_t end = offset + static_cast<int64_t>(tensor.bytes);
    Json entry = Json::object();
    entry.set("dtype", Json(dtype_name(tensor.dtype)));
    entry.set("shape", Json(Json::Array(tensor.shape.begin(), tensor.shape.end())));
    entry.set("data_offsets", Json(Json::Array{Json(offset), Json(end)}));
    header.set(tensor.name, std::move(entry));
    offset = end;
  }
  std::string text = header.text();
  text.resize((text.size() + 7) / 8 * 8, ' ');

  std::vector<uint8_t> bytes(8 + text.size() + static_cast<size_t>(offset));
  const uint64_t length = text.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, text.data(), text.size());
  uint8_t* out = bytes.data() + 8 + text.size();
  for (const TensorView& tensor : tensors) {
    if (tensor.bytes) std::memcpy(out, tensor.data, tensor.bytes);
    out += tensor.bytes;
  }
  return bytes;
}

namespace {

/// Labels and token ids, as float32 where that holds each exactly.
std::vector<float> whole_numbers(const TensorView& tensor, const std::string& path) {
  if (!tensor.strides.empty())
    fail("BAD_FILE", "%s: tensor %s is a part of another; save it by itself", path.c_str(), tensor.name.c_str());
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t value;
    std::memcpy(&value, tensor.data + i * sizeof value, sizeof value);
    if (value < -(1 << 24) || value > 1 << 24)
      fail("BAD_FILE", "%s: tensor %s holds %lld; whole numbers are read up to 2^24", path.c_str(), tensor.name.c_str(),
           static_cast<long long>(value));
    values[i] = static_cast<float>(value);
  }
  return values;
}

}  // namespace

std::vector<NamedTensor> read_float_tensors(const std::string& path) {
  const auto file = TensorFile::open(path);
  std::vector<NamedTensor> result;
  for (const TensorView& tensor : file->tensors()) {
    if (tensor.dtype == Dtype::kI64) {
      result.push_back({tensor.name, tensor.shape, whole_numbers(tensor, path)});
      continue;
    }
    if (!is_float(tensor.dtype))
      fail("BAD_FILE", "%s: tensor %s is %s; expected F32, F16, BF16 or I64", path.c_str(), tensor.name.c_str(),
           dtype_name(tensor.dtype));
    NamedTensor& named = result.emplace_back(NamedTensor{tensor.name, tensor.shape, tensor.floats()});
    require_finite(named.data.data(), named.data.size(), path, tensor.name);
  }
  return result;
}

std::vector<TensorView> views(const std::vector<NamedTensor>& tensors) {
  std::vector<TensorView> result;
  for (const NamedTensor& tensor : tensors)
    result.push_back({tensor.name, Dtype::kF32, tensor.shape, reinterpret_cast<const uint8_t*>(tensor.data.data()),
                      tensor.data.size() * sizeof(float)});
  return result;
}

void require_finite(const float* values, size_t count, const std::string& file, const std::string& tensor,
                    size_t first_index) {
  // An exponent of all ones is a NaN or an infinity. The first loop vectorises; only a bad chunk is walked to say
  // where.
  constexpr size_t kChunk = 4096;
  for (size_t begin = 0; begin < count; begin += kChunk) {
    const size_t end = std::min(count, begin + kChunk);
    uint32_t bad = 0;
    for (size_t i = begin; i < end; ++i) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      bad |= static_cast<uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
    }
    if (!bad) continue;
    for (size_t i = begin; i < end; ++i)
      if (!std::isfinite(values[i]))
        fail("BAD_FILE", "%s: tensor %s has %s at element %zu: the file is damaged, or its training diverged",
             file.c_str(), tensor.c_str(), std::isnan(values[i]) ? "NaN" : "infinity", first_index + i);
  }
}

}  // namespace credence
