#include "golden_parts.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "error.h"

namespace credence::golden_parts {

namespace {

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json("not finite"); }

}  // namespace

void Comparison::add(const std::vector<float>& got, const std::vector<float>& expected) {
  if (got.size() != expected.size()) {
    broken = true;
    return;
  }
  double worst = 0, scale = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - expected[i]);
    if (!std::isfinite(got[i])) broken = true;
    worst = std::max(worst, difference);
    scale = std::max(scale, std::fabs(static_cast<double>(expected[i])));
    square_error += difference * difference;
    square_expected += static_cast<double>(expected[i]) * expected[i];
  }
  error = std::max(error, scale > 0 ? worst / scale : worst > 0 ? HUGE_VAL : 0);
  largest_error = std::max(largest_error, worst);
  largest_expected = std::max(largest_expected, scale);
}

void Comparison::add(double got, double expected) {
  add(std::vector<float>{static_cast<float>(got)}, {static_cast<float>(expected)});
}

Subject::Subject(const GoldenOptions& options, std::string name, Json& out)
    : options_(options), name_(std::move(name)), out_(out) {}

void Subject::use_yardstick(const std::filesystem::path& file) {
  if (bf16()) yardstick_ = read_json_file(file.string());
}

void Subject::judge(const std::string& quantity, const Comparison& c, double bound, std::string yardstick) {
  if (!bf16()) return judge_files(quantity, c, bound);
  const Json* stock = yardstick_.is_object() ? yardstick_.find(yardstick.empty() ? quantity : yardstick) : nullptr;
  if (!stock) {
    not_compared_.insert(quantity);
    return;
  }
  // Where everything expected is 0, so must be what was got.
  const auto relative = [](double error, double scale) { return scale > 0 ? error / scale : error > 0 ? HUGE_VAL : 0; };
  const double rms = relative(std::sqrt(c.square_error), std::sqrt(c.square_expected));
  const double largest = relative(c.largest_error, c.largest_expected);
  const double bound_rms = 2 * stock->at("rms").as_number(), bound_largest = 2 * stock->at("max").as_number();
  Json result = Json::object();
  result.set("error", finite(rms));
  result.set("bound", bound_rms);
  result.set("max", finite(largest));
  result.set("max_bound", bound_largest);
  set(quantity, std::move(result), !c.broken && rms <= bound_rms && largest <= bound_largest);
}

void Subject::judge_files(const std::string& quantity, const Comparison& c, double bound) {
  Json result = Json::object();
  result.set("error", finite(c.error));
  result.set("bound", bound);
  set(quantity, std::move(result), !c.broken && c.error <= bound);
}

void Subject::set(const std::string& quantity, Json result, bool ok) {
  result.set("ok", ok);
  failed_ += !ok;
  quantities_.set(quantity, std::move(result));
}

void Subject::write(const std::string& subject, const std::vector<NamedTensor>& tensors) const {
  if (!options_.write.empty()) write_bytes(subject + ".safetensors", write_safetensors(views(tensors)));
}

void Subject::write(const std::string& subject, const Json& value) const {
  if (options_.write.empty()) return;
  const std::string text = value.text(1);
  write_bytes(subject + ".json", {text.begin(), text.end()});
}

int Subject::finish() {
  if (!not_compared_.empty()) {
    Json list = Json::array();
    for (const std::string& quantity : not_compared_) list.push_back(quantity);
    quantities_.set("not_compared", list);
  }
  out_.set(name_, quantities_);
  return failed_;
}

void Subject::write_bytes(const std::string& file, const std::vector<uint8_t>& bytes) const {
  const std::filesystem::path path = std::filesystem::path(options_.write) / name_ / file;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!stream) fail("NO_FILE", "%s: cannot be written", path.c_str());
}

std::vector<int32_t> ids(const Json& list) {
  std::vector<int32_t> out;
  for (const Json& value : list.as_array()) out.push_back(static_cast<int32_t>(value.as_integer()));
  return out;
}
Json json_ids(const std::vector<int32_t>& values) {
  Json out = Json::array();
  for (int32_t value : values) out.push_back(static_cast<int64_t>(value));
  return out;
}

std::map<std::string, NamedTensor> tensors_in(const std::filesystem::path& file) {
  std::map<std::string, NamedTensor> out;
  for (NamedTensor& tensor : read_float_tensors(file.string())) out[tensor.name] = std::move(tensor);
  return out;
}

}  // namespace credence::golden_parts
