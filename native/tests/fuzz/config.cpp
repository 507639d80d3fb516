// The JSON files of a model's folder, cut from one input at zero bytes: config.json, then (if there) generation_config.json,
// then model.safetensors.index.json, beside weights that fit the seed `tiny`. Refused by name, or every weight can be
// read. The JSON itself must come back from its own text.
#include "engine/base_files.h"
#include "engine/json.h"
#include "fuzz.h"
#include "mutators.h"

using namespace credence;
using namespace credence::fuzz;

namespace {

/// A model's folder with weights and no configuration yet.
struct ModelFolder {
  testing::TemporaryFolder folder;
  explicit ModelFolder(const std::string& weights) {
    const Family family = family_from_config(testing::tiny_config(), "tiny");
    testing::write_tensors(folder.file(weights), testing::tiny_weights(family));
  }
  void put(const std::string& name, std::string_view bytes) const { testing::write_bytes(folder.file(name), bytes); }
};

void check_json(std::string_view input) {
  const std::string name = "config.json";
  accepts(input.size(), 1 << 16, name, [&] {
    const Json value = parse_json(input, name);
    FUZZ_REQUIRE(parse_json(value.text(), name) == value);
    FUZZ_REQUIRE(parse_json(value.text(2), name) == value);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ModelFolder one("model.safetensors"), sharded("weights.safetensors");
  const auto files = parts(text(data, size), 3);
  check_json(files[0]);

  const ModelFolder& model = files.size() > 2 ? sharded : one;
  const std::string& path = model.folder.path();
  model.put("config.json", files[0]);
  model.put("generation_config.json", files.size() > 1 ? files[1] : "{}");
  if (files.size() > 2) model.put("model.safetensors.index.json", files[2]);
  // A family of the most layers that are believed has about 4 MiB of weights' names.
  const bool fits = accepts(size, 32 << 20, path, [&] {
    const Family family = family_from_config(read_json_file(path + "/config.json"), path + "/config.json");
    FUZZ_REQUIRE(parameter_count(family) > 0);
    const auto base = BaseFiles::open(path);
    for (const WeightSpec& spec : weight_specs(base->family)) {
      std::vector<float> values(static_cast<size_t>(testing::product(spec.shape)));
      base->read(spec.name, values.data());
    }
  });
  if (fits) {
    const auto base = BaseFiles::open(path);
    FUZZ_REQUIRE(rope_frequencies(base->family).size() == static_cast<size_t>(base->family.rotary_dims / 2));
  }
  return 0;
}

#ifdef CREDENCE_FUZZER
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t room, unsigned seed) {
  return mutate_json(data, size, room, seed);
}
#endif
