// The GGUF format (versions 2 and 3): metadata, a table of tensors, and their data, often quantised in blocks of a row.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "mapped_file.h"

namespace credence {

/// The file's numbers for the types this engine reads.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

/// A storage type: rows are whole blocks of `elements` values in `bytes` bytes.
struct GgufTypeInfo {
  GgufType type;
  const char* name;
  int elements;
  int bytes;
  /// One block to float32.
  void (*dequantise)(const uint8_t* block, float* out);
};

/// Null for a type this engine does not read.
const GgufTypeInfo* gguf_type_info(uint32_t type);
/// The name of any type in the format's list, for messages ("IQ4_NL"); "type 99" beyond it.
std::string gguf_type_name(uint32_t type);

/// A metadata value. Integers of every width are int64, floats double; arrays of bool are integers.
using GgufValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  const GgufTypeInfo* type = nullptr;
  /// Row-major, slowest first (the file lists them the other way round): [rows, width] for a matrix.
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  size_t bytes = 0;

  int64_t width() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const;
};

/// A mapped GGUF file, every length and offset of which has been checked against the file's size.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  uint32_t version() const { return version_; }
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  const GgufValue* find(const std::string& key) const;
  const GgufTensor* find_tensor(const std::string& name) const;

  /// A metadata value of the kind named; absent gives nullopt, another kind throws naming file and key.
  std::optional<int64_t> integer(const std::string& key) const;
  std::optional<double> number(const std::string& key) const;
  std::optional<std::string> string(const std::string& key) const;

 private:
  MappedFile file_;
  uint32_t version_ = 0;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> metadata_index_, tensor_index_;
};

/// Rows [first, first + count) of a tensor as float32, in the file's row order: out[count, width].
void dequantise_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* out);

}  // namespace credence
