// A PEFT folder in one input: adapter_config.json up to the first zero byte, adapter_model.safetensors behind it. Refused
// by name, or what is written from it reads back the same.
#include "engine/adapter_files.h"

#include "engine/json.h"
#include "fuzz.h"
#include "mutators.h"

using namespace credence;
using namespace credence::fuzz;

namespace {

void put(const testing::TemporaryFolder& folder, std::string_view config, std::string_view tensors) {
  testing::write_bytes(folder.file("adapter_config.json"), config);
  testing::write_bytes(folder.file("adapter_model.safetensors"), tensors);
}

void require_same(const Adapter& a, const Adapter& b) {
  FUZZ_REQUIRE(a.config.r == b.config.r && a.config.alpha == b.config.alpha && a.config.rslora == b.config.rslora);
  FUZZ_REQUIRE(a.config.targets == b.config.targets && a.config.layers == b.config.layers);
  FUZZ_REQUIRE(a.pairs.size() == b.pairs.size());
  for (size_t i = 0; i < a.pairs.size(); ++i)
    FUZZ_REQUIRE(a.pairs[i].a == b.pairs[i].a && a.pairs[i].b == b.pairs[i].b);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const testing::TemporaryFolder folder, copy;
  static const Family family = family_from_config(testing::tiny_config(), "tiny");
  const auto files = parts(text(data, size), 2);
  put(folder, files[0], files.size() > 1 ? files[1] : std::string_view());
  Adapter adapter;
  accepts(size, 1 << 16, folder.path(), [&] { load_adapter_config(folder.path()); });
  if (!accepts(size, 1 << 16, folder.path(), [&] { adapter = load_adapter(folder.path(), family, "tiny"); })) return 0;
  put(copy, adapter_config_json(adapter.config), testing::text_of(write_adapter(adapter, family)));
  require_same(adapter, load_adapter(copy.path(), family, "tiny"));
  return 0;
}

#ifdef CREDENCE_FUZZER
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t room, unsigned seed) {
  const auto files = parts(text(data, size), 2);
  if (files.size() < 2) return mutate_json(data, size, room, seed / 2);
  const size_t start = files[0].size() + 1;
  if (seed % 2 == 0) {
    // The configuration alone, with as much room as the whole input has.
    std::string config(files[0]), rest(text(data, size).substr(files[0].size()));
    const size_t before = config.size();
    config.resize(room - rest.size());
    config.resize(mutate_json(reinterpret_cast<uint8_t*>(config.data()), before, config.size(), seed / 2));
    std::memcpy(data, (config + rest).data(), config.size() + rest.size());
    return config.size() + rest.size();
  }
  return start + mutate_safetensors(data + start, size - start, room - start, seed / 2);
}
#endif
