// The safetensors format: u64 length of a JSON header, the header, the tensors' bytes one after the other.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "mapped_file.h"
#include "tensor_file.h"

namespace credence {

/// A tensor held as float32.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> data;
};

/// A mapped safetensors file whose header has been checked whole: tensors tile the data without gap or overlap, and
/// each one's shape and type give its bytes. tensors() is in the order of their data.
class SafetensorsFile final : public TensorFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const override { return file_.path(); }
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

/// The file's bytes: tensors in the order given, header padded with spaces to 8 bytes. The same input gives the same
/// bytes.
std::vector<uint8_t> write_safetensors(const std::vector<TensorView>& tensors,
                                       const std::vector<std::pair<std::string, std::string>>& metadata = {});

/// Every tensor of a file of either format as float32, in the file's order (heads.safetensors, head.pt, fixtures). A type that is no float nor I64, or
/// a NaN or infinity, is an error naming file and tensor.
std::vector<NamedTensor> read_float_tensors(const std::string& path);

/// Views of tensors held elsewhere, for write_safetensors.
std::vector<TensorView> views(const std::vector<NamedTensor>& tensors);

/// Throws Error "BAD_FILE" naming file, tensor and position if a value is NaN or infinite.
void require_finite(const float* values, size_t count, const std::string& file, const std::string& tensor,
                    size_t first_index = 0);

}  // namespace credence
