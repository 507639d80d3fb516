// A GGUF file: refused by name, or every row of every tensor can be expanded, the same alone as among others; and as a
// model, refused by name or every weight can be read.
#include "engine/gguf.h"

#include "engine/base_files.h"
#include "fuzz.h"

using namespace credence;
using namespace credence::fuzz;

namespace {

void read_rows(const GgufTensor& tensor) {
  const size_t width = static_cast<size_t>(tensor.width());
  std::vector<float> whole(static_cast<size_t>(tensor.rows()) * width), row(width);
  dequantise_rows(tensor, 0, tensor.rows(), whole.data());
  const int64_t last = tensor.rows() - 1;
  dequantise_rows(tensor, last, 1, row.data());
  FUZZ_REQUIRE(std::memcmp(row.data(), whole.data() + static_cast<size_t>(last) * width, width * sizeof(float)) == 0);
}

/// Asks for a value as each kind: only the kind it is may be had.
void read_value(const GgufFile& file, const std::string& key) {
  FUZZ_REQUIRE(file.find(key));
  for (const int kind : {0, 1, 2}) try {
      if (kind == 0) file.integer(key);
      if (kind == 1) file.number(key);
      if (kind == 2) file.string(key);
    } catch (const Error& error) {
      FUZZ_REQUIRE(error.code == "BAD_FILE");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const testing::TemporaryFolder folder;
  static const std::string path = folder.file("model.gguf");
  testing::write_bytes(path, text(data, size));
  const bool accepted = accepts(size, 1 << 16, path, [&] {
    const GgufFile file(path);
    for (const GgufTensor& tensor : file.tensors()) FUZZ_REQUIRE(file.find_tensor(tensor.name) == &tensor);
  });
  if (!accepted) return 0;
  const GgufFile file(path);
  for (const auto& [key, value] : file.metadata()) read_value(file, key);
  for (const GgufTensor& tensor : file.tensors()) read_rows(tensor);

  // A family of the most layers that are believed has about 4 MiB of weights' names.
  accepts(size, 32 << 20, path, [&] {
    const auto base = BaseFiles::open(path);
    for (const WeightSpec& spec : weight_specs(base->family)) {
      std::vector<float> values(static_cast<size_t>(testing::product(spec.shape)));
      base->read(spec.name, values.data());
    }
  });
  return 0;
}
