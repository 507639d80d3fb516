#include "tensor_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "error.h"
#include "half.h"
#include "pickle.h"
#include "safetensors.h"

namespace credence {

static_assert(std::endian::native == std::endian::little, "model files are little endian and are read in place");

namespace {

struct DtypeInfo {
  const char* name;
  size_t bytes;
};

// In the order of Dtype.
constexpr DtypeInfo kDtypes[] = {{"BOOL", 1},    {"U8", 1},  {"I8", 1},   {"U16", 2}, {"I16", 2},
                                 {"U32", 4},     {"I32", 4}, {"U64", 8},  {"I64", 8}, {"F8_E4M3", 1},
                                 {"F8_E5M2", 1}, {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}};

/// Elements below `dimension` in row-major order, from `data` on, which is stepped over by the strides.
void read_strided(const TensorView& tensor, size_t dimension, const uint8_t* data, float*& out) {
  const size_t size = dtype_bytes(tensor.dtype);
  const int64_t extent = tensor.shape[dimension], stride = tensor.strides[dimension] * static_cast<int64_t>(size);
  for (int64_t i = 0; i < extent; ++i) {
    if (dimension + 1 == tensor.shape.size()) to_float(tensor.dtype, data + i * stride, 1, out++);
    else read_strided(tensor, dimension + 1, data + i * stride, out);
  }
}

}  // namespace

const char* dtype_name(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }
size_t dtype_bytes(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bytes; }

bool is_float(Dtype dtype) { return dtype == Dtype::kF16 || dtype == Dtype::kBF16 || dtype == Dtype::kF32; }

void to_float(Dtype dtype, const uint8_t* data, size_t count, float* out) {
  if (count == 0) return;
  const auto each = [&](auto convert) {
    for (size_t i = 0; i < count; ++i) {
      uint16_t stored;
      std::memcpy(&stored, data + i * sizeof stored, sizeof stored);
      out[i] = convert(stored);
    }
  };
  switch (dtype) {
    case Dtype::kF32:
      std::memcpy(out, data, count * sizeof(float));
      return;
    case Dtype::kBF16:
      return each(bf16_to_float);
    case Dtype::kF16:
      return each(f16_to_float);
    default:
      fail("UNSUPPORTED", "%s is not a type of weights", dtype_name(dtype));
  }
}

int64_t TensorView::elements() const { return static_cast<int64_t>(bytes / dtype_bytes(dtype)); }

void TensorView::read_rows(int64_t first, int64_t count, float* out) const {
  const int64_t rows = shape.empty() ? 1 : shape.front();
  const int64_t width = rows == 0 ? 0 : elements() / rows;
  const size_t size = dtype_bytes(dtype);
  if (strides.empty())
    return to_float(dtype, data + static_cast<size_t>(first * width) * size, static_cast<size_t>(count * width), out);
  TensorView part = *this;
  part.shape.front() = count;
  read_strided(part, 0, data + first * strides.front() * static_cast<int64_t>(size), out);
}

std::vector<float> TensorView::floats() const {
  std::vector<float> values(static_cast<size_t>(elements()));
  read_rows(0, shape.empty() ? 1 : shape.front(), values.data());
  return values;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::unique_ptr<TensorFile> TensorFile::open(const std::string& path) {
  for (const char* ending : {".bin", ".pt", ".pth"})
    if (path.ends_with(ending)) return std::make_unique<PickleFile>(path);
  return std::make_unique<SafetensorsFile>(path);
}

const TensorView* TensorFile::find(const std::string& name) const {
  const auto found =
      std::find_if(tensors_.begin(), tensors_.end(), [&](const TensorView& tensor) { return tensor.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

}  // namespace credence
