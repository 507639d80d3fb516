// What torch.save writes: a whole archive where the input begins with "PK", else a pickle alone beside one storage of 64
// bytes under the key "0". Refused by name, or every tensor can be read, row by row as at once.
#include "engine/pickle.h"

#include "fuzz.h"

using namespace credence;
using namespace credence::fuzz;

namespace {

void read_rows(const TensorView& tensor) {
  if (!is_float(tensor.dtype)) return;
  const std::vector<float> whole = tensor.floats();
  FUZZ_REQUIRE(whole.size() == static_cast<size_t>(tensor.elements()));
  if (tensor.shape.empty() || whole.empty()) return;
  const int64_t last = tensor.shape[0] - 1;
  std::vector<float> row(whole.size() / static_cast<size_t>(tensor.shape[0]));
  tensor.read_rows(last, 1, row.data());
  FUZZ_REQUIRE(std::memcmp(row.data(), whole.data() + whole.size() - row.size(), row.size() * sizeof(float)) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const testing::TemporaryFolder folder;
  static const std::string path = folder.file("head.pt");
  const std::string_view input = text(data, size);
  if (input.starts_with("PK")) {
    testing::write_bytes(path, input);
    accepts(size, 1 << 16, path, [&] {
      for (const PickleFile file(path); const TensorView& tensor : file.tensors()) read_rows(tensor);
    });
    return 0;
  }
  // Memory of its own, so that a read beside it is seen.
  static const std::vector<char> storage(64, '?');
  const auto storage_of = [&](std::string_view key) -> std::string_view {
    if (key != "0") fail("BAD_FILE", "%s: no such storage", path.c_str());
    return {storage.data(), storage.size()};
  };
  accepts(size, 1 << 16, path, [&] {
    for (const TensorView& tensor : pickled_tensors(input, storage_of, path)) read_rows(tensor);
  });
  return 0;
}
