// What the parts of the golden driver share: an error with its bound, and a folder under comparison.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "advantages.h"
#include "golden.h"
#include "ppo.h"
#include "safetensors.h"

namespace credence::golden_parts {

/// Largest error a float32 engine may show, by kind of quantity (twice to ten times what stock float32 arithmetic shows).
inline constexpr double kRowBound = 1e-4, kGradientBound = 2e-4, kLossBound = 2e-4, kFinalBound = 1e-2,
                        kProbabilityBound = 2e-4, kMergedBound = 1e-6, kArrayBound = 2e-5;

/// Collects the tensors and numbers of one quantity.
struct Comparison {
  double error = 0, square_error = 0, square_expected = 0, largest_error = 0, largest_expected = 0;
  bool broken = false;  // another shape, or not a number

  void add(const std::vector<float>& got, const std::vector<float>& expected);
  void add(double got, double expected);
};

/// One folder under comparison.
class Subject {
 public:
  Subject(const GoldenOptions& options, std::string name, Json& out);

  std::filesystem::path folder() const { return std::filesystem::path(options_.directory) / name_; }
  const GoldenOptions& options() const { return options_; }
  bool bf16() const { return options_.device.dtype == "bf16"; }
  /// The file of what the stock computation errs by in bfloat16.
  void use_yardstick(const std::filesystem::path& file);

  /// In float32 by `bound`; in bf16 by the yardstick of that name (the quantity's own where there is none).
  void judge(const std::string& quantity, const Comparison& c, double bound, std::string yardstick = "");
  /// By `bound` in every type: what comes from files alone.
  void judge_files(const std::string& quantity, const Comparison& c, double bound);

  void write(const std::string& subject, const std::vector<NamedTensor>& tensors) const;
  void write(const std::string& subject, const Json& value) const;

  /// Returns how many quantities failed.
  int finish();

 private:
  void set(const std::string& quantity, Json result, bool ok);
  void write_bytes(const std::string& file, const std::vector<uint8_t>& bytes) const;

  const GoldenOptions& options_;
  std::string name_;
  Json& out_;
  Json yardstick_, quantities_ = Json::object();
  std::set<std::string> not_compared_;
  int failed_ = 0;
};

std::vector<int32_t> ids(const Json& list);
Json json_ids(const std::vector<int32_t>& values);
/// The float tensors of a file, by name.
std::map<std::string, NamedTensor> tensors_in(const std::filesystem::path& file);

/// What the PPO subjects share: the settings of the advantage step and of both losses, over the tokens of completions.
struct PpoCase {
  AdvantageInput advantages;  // offsets, starts, divergence and lambda
  PpoLoss loss;               // clips and weights; the value loss has no head
  std::vector<float> mask;    // [T] 1: a token of a completion

  PpoCase(const Json& batch, const Json& settings, const std::map<std::string, NamedTensor>& file);
};

/// The subjects of a model's folder that are in `present`; what was compared is taken out of it.
void check_model(Subject& subject, std::set<std::string>& present);
/// The same for the folder of GGUF files.
void check_gguf(Subject& subject, std::set<std::string>& present);
/// The same for the folder of PPO's arithmetic alone.
void check_ppo(Subject& subject, std::set<std::string>& present);

}  // namespace credence::golden_parts
