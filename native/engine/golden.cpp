#include "golden.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "error.h"
#include "golden_parts.h"

namespace credence {

namespace fs = std::filesystem;

Json golden(const GoldenOptions& options) {
  const fs::path root = options.directory;
  if (!fs::is_directory(root)) fail("NO_FILE", "%s: no such folder of reference tensors", root.c_str());
  Json models = Json::object(), skipped = Json::array();
  int failed = 0, compared = 0;
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(root)) {
    if (entry.is_directory()) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  // What a model folder holds besides the subjects.
  const std::set<std::string> inputs = {"config", "batch", "bfloat16", "model"};
  for (const fs::path& folder : folders) {
    const std::string name = folder.filename().string();
    golden_parts::Subject subject(options, name, models);
    std::set<std::string> present;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (!entry.is_regular_file()) continue;
      std::string stem = entry.path().stem().string();
      if (stem.starts_with("model-") || stem.starts_with("model.")) stem = "model";
      present.insert(stem);
    }
    auto skip_rest = [&] {
      for (const std::string& stem : present) {
        if (!inputs.count(stem)) skipped.push_back(name + "/" + stem);
      }
    };
    if (name == "gguf") {
      golden_parts::check_gguf(subject, present);
    } else if (name == "ppo" && present.count("ppo")) {
      golden_parts::check_ppo(subject, present);
    } else if (present.count("config") && present.count("batch")) {
      try {
        golden_parts::check_model(subject, present);
      } catch (const Error& error) {
        if (error.code != "UNSUPPORTED") throw;
        skip_rest();
        continue;
      }
    } else {
      skip_rest();
      continue;
    }
    ++compared;
    skip_rest();
    failed += subject.finish();
  }
  if (!compared) fail("NO_FILE", "%s: holds no reference tensors of a model this engine knows", root.c_str());
  Json out = Json::object();
  out.set("dtype", options.device.dtype);
  out.set("models", models);
  out.set("skipped", skipped);
  out.set("failed", failed);
  return out;
}

}  // namespace credence
