// The safetensors format: u64 length of a JSON header, the header, the tensors' bytes one after the other.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "mapped_file.h"

namespace credence {

enum class Dtype { kBool, kU8, kI8, kU16, kI16, kU32, kI32, kU64, kI64, kF8E4M3, kF8E5M2, kF16, kBF16, kF32, kF64 };

/// "F32", "BF16", ...: the format's own spelling.
const char* dtype_name(Dtype dtype);
size_t dtype_bytes(Dtype dtype);
/// F16, BF16 or F32: the types of weights, and what to_float takes.
bool is_float(Dtype dtype);
/// Converts count elements (any alignment, little endian) to float32, exactly.
void to_float(Dtype dtype, const uint8_t* data, size_t count, float* out);

/// A tensor inside a mapped file, or one to be written. Row-major; data need not be aligned.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  size_t bytes = 0;

  int64_t elements() const;
};

/// A tensor held as float32.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> data;
};

/// "[2, 3]"
std::string shape_text(const std::vector<int64_t>& shape);

/// A mapped safetensors file whose header has been checked whole: tensors tile the data without gap or overlap, and
/// each one's shape and type give its bytes.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  /// In the order of their data.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  /// Null where there is none.
  const TensorView* find(const std::string& name) const;

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

/// The file's bytes: tensors in the order given, header padded with spaces to 8 bytes. The same input gives the same
/// bytes.
std::vector<uint8_t> write_safetensors(const std::vector<TensorView>& tensors,
                                       const std::vector<std::pair<std::string, std::string>>& metadata = {});

/// Every tensor of a file as float32, in the file's order (heads.safetensors, fixtures). A type that is not a float, or
/// a NaN or infinity, is an error naming file and tensor.
std::vector<NamedTensor> read_float_tensors(const std::string& path);

/// Views of tensors held elsewhere, for write_safetensors.
std::vector<TensorView> views(const std::vector<NamedTensor>& tensors);

/// Throws Error "BAD_FILE" naming file, tensor and position if a value is NaN or infinite.
void require_finite(const float* values, size_t count, const std::string& file, const std::string& tensor,
                    size_t first_index = 0);

}  // namespace credence
