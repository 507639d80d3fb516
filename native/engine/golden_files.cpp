// The folder of GGUF files: stored types to float32 exactly, and the logits of what they hold.
#include "error.h"
#include "gguf.h"
#include "golden_parts.h"
#include "pass.h"

namespace credence::golden_parts {

namespace {

std::vector<float> logits_of(const Subject& subject, const std::string& file, const Json& batch) {
  const auto base = Base::open((subject.folder() / file).string(), subject.options().device);
  const auto policy = std::make_shared<Policy>(base, std::nullopt, std::vector<HeadSpec>{});
  PassRequest request;
  request.logits = true;
  return Pass(policy).forward({ids(batch.at("tokens")), ids(batch.at("cu_seqlens"))}, request).logits;
}

void compare_logits(Subject& subject, const std::string& quantity, const std::vector<float>& got,
                    const NamedTensor& expected, const std::string& yardstick) {
  Comparison c;
  c.add(got, expected.data);
  subject.judge(quantity, c, kRowBound, yardstick);
}

/// The smollm2 folder as a GGUF: the same logits.
void check_smollm2(Subject& subject, const std::filesystem::path& model) {
  const std::vector<float> got =
      logits_of(subject, "smollm2-f16.gguf", read_json_file((model / "batch.json").string()));
  const NamedTensor right = tensors_in(model / "forward.safetensors").at("out.base.logits");
  subject.use_yardstick(model / "bfloat16.json");
  compare_logits(subject, "smollm2-f16.logits", got, right, "forward.base.logits");
  subject.write("smollm2-f16", {{"logits", right.shape, got}});
}

/// Every type: "dequantised.NAME" are the first rows of tensor NAME in the file's order, to the bit.
void check_mixed(Subject& subject) {
  const GgufFile file((subject.folder() / "mixed.gguf").string());
  std::vector<NamedTensor> wrote;
  std::map<std::string, Comparison> by_type;
  constexpr std::string_view kPrefix = "dequantised.";
  for (const auto& [name, right] : tensors_in(subject.folder() / "mixed.safetensors")) {
    if (!name.starts_with(kPrefix)) continue;
    const GgufTensor* tensor = file.find_tensor(name.substr(kPrefix.size()));
    if (!tensor) fail("BAD_FILE", "%s: the tensor %s is missing", file.path().c_str(), name.c_str());
    std::vector<float> got(right.data.size());
    dequantise_rows(*tensor, 0, static_cast<int64_t>(got.size()) / tensor->width(), got.data());
    by_type[tensor->type->name].add(got, right.data);
    wrote.push_back({name, right.shape, std::move(got)});
  }
  for (const auto& [type, comparison] : by_type) subject.judge_files("mixed.dequantised." + type, comparison, 0);

  const NamedTensor right = tensors_in(subject.folder() / "mixed.safetensors").at("logits");
  const Json batch = read_json_file((subject.folder() / "mixed.json").string());
  const std::vector<float> got = logits_of(subject, "mixed.gguf", batch);
  compare_logits(subject, "mixed.logits", got, right, "");
  wrote.push_back({"logits", right.shape, got});
  subject.write("mixed", wrote);
}

}  // namespace

void check_gguf(Subject& subject, std::set<std::string>& present) {
  const std::filesystem::path smollm2 = subject.folder().parent_path() / "smollm2";
  present.erase("tokenizer");  // an input of the token ids' comparison
  if (present.count("mixed")) {
    check_mixed(subject);
    present.erase("mixed");
  }
  if (present.count("smollm2-f16") && std::filesystem::exists(smollm2 / "forward.safetensors")) {
    check_smollm2(subject, smollm2);
    present.erase("smollm2-f16");
  }
}

}  // namespace credence::golden_parts
