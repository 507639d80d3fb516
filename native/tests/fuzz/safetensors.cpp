// A safetensors file: refused by name, or every tensor lies inside the file and writing them gives a file that holds the
// same.
#include "engine/safetensors.h"

#include "fuzz.h"
#include "mutators.h"

using namespace credence;
using namespace credence::fuzz;

namespace {

bool same(const TensorView& a, const TensorView& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes &&
         (a.bytes == 0 || std::memcmp(a.data, b.data, a.bytes) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const testing::TemporaryFolder folder;
  static const std::string path = folder.file("model.safetensors"), copy = folder.file("copy.safetensors");
  testing::write_bytes(path, text(data, size));
  std::vector<uint8_t> written;
  const bool accepted = accepts(size, 1 << 16, path, [&] {
    const SafetensorsFile file(path);
    for (const TensorView& tensor : file.tensors()) FUZZ_REQUIRE(file.find(tensor.name) == &tensor);
    written = write_safetensors(file.tensors(), file.metadata());
  });
  accepts(size, 1 << 16, path, [&] { read_float_tensors(path); });
  if (!accepted) return 0;

  testing::write_bytes(copy, testing::text_of(written));
  const SafetensorsFile original(path), again(copy);
  FUZZ_REQUIRE(original.tensors().size() == again.tensors().size() && original.metadata() == again.metadata());
  for (size_t i = 0; i < again.tensors().size(); ++i) FUZZ_REQUIRE(same(original.tensors()[i], again.tensors()[i]));
  return 0;
}

#ifdef CREDENCE_FUZZER
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t room, unsigned seed) {
  return mutate_safetensors(data, size, room, seed);
}
#endif
