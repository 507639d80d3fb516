// Named tensors in a file, whatever its format: safetensors, or what torch.save writes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace credence {

enum class Dtype { kBool, kU8, kI8, kU16, kI16, kU32, kI32, kU64, kI64, kF8E4M3, kF8E5M2, kF16, kBF16, kF32, kF64 };

/// "F32", "BF16", ...: the spelling of safetensors.
const char* dtype_name(Dtype dtype);
size_t dtype_bytes(Dtype dtype);
/// F16, BF16 or F32: the types of weights, and what to_float takes.
bool is_float(Dtype dtype);
/// Converts count elements (any alignment, little endian) to float32, exactly.
void to_float(Dtype dtype, const uint8_t* data, size_t count, float* out);

/// A tensor inside a mapped file, or one to be written. data need not be aligned.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  /// Of the elements, gaps not counted.
  size_t bytes = 0;
  /// Elements from one index to the next in each dimension; empty: row-major without gaps.
  std::vector<int64_t> strides = {};

  int64_t elements() const;
  /// Rows [first, first + count) (elements of a vector) as float32, row-major.
  void read_rows(int64_t first, int64_t count, float* out) const;
  /// All of it as float32, row-major.
  std::vector<float> floats() const;
};

/// "[2, 3]"
std::string shape_text(const std::vector<int64_t>& shape);

/// A mapped file whose tensors have all been checked against its size.
class TensorFile {
 public:
  /// By the name's ending: .bin, .pt and .pth are pickles, anything else is safetensors.
  static std::unique_ptr<TensorFile> open(const std::string& path);
  virtual ~TensorFile() = default;

  virtual const std::string& path() const = 0;
  const std::vector<TensorView>& tensors() const { return tensors_; }
  /// Null where there is none.
  const TensorView* find(const std::string& name) const;

 protected:
  std::vector<TensorView> tensors_;
};

}  // namespace credence
