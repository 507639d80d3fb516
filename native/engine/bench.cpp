#include "bench.h"

#include <algorithm>

namespace credence {

namespace {

struct Size {
  const char* name;
  int layers, hidden, intermediate, heads, kv_heads, vocabulary;
  bool tied;
};
// stories15M and stories42M of llama2.c, SmolLM2-135M and 360M, TinyLlama-1.1B.
constexpr Size kSizes[] = {{"15m", 6, 288, 768, 6, 6, 32000, true},
                           {"42m", 8, 512, 1376, 8, 8, 32000, true},
                           {"135m", 30, 576, 1536, 9, 3, 49152, true},
                           {"360m", 32, 960, 2560, 15, 5, 49152, true},
                           {"1.1b", 22, 2048, 5632, 32, 4, 32000, false}};

}  // namespace

std::vector<std::string> bench_shapes() {
  std::vector<std::string> names;
  for (const Size& size : kSizes) names.emplace_back(size.name);
  return names;
}

Family bench_shape(const std::string& name) {
  for (const Size& size : kSizes) {
    if (name != size.name) continue;
    Family f;
    f.architecture = "llama";
    f.layers = size.layers;
    f.hidden = size.hidden;
    f.intermediate = size.intermediate;
    f.heads = size.heads;
    f.kv_heads = size.kv_heads;
    f.head_dim = f.rotary_dims = size.hidden / size.heads;
    f.vocabulary = size.vocabulary;
    f.context = 16384;
    f.norm_eps = 1e-5;
    f.tied_head = size.tied;
    f.windows.assign(f.layers, 0);
    f.eos = {2};
    check_family(f, "shape " + name);
    return f;
  }
  std::string known;
  for (const Size& size : kSizes) known += std::string(known.empty() ? "" : ", ") + size.name;
  fail("BAD_OPTION", "shape: \"%s\" is not one of %s", name.c_str(), known.c_str());
}

std::shared_ptr<Base> bench_base(const BenchOptions& options) {
  if (options.model.empty() == options.shape.empty())
    fail("BAD_OPTION", "bench: give a model or a shape of random weights, and not both");
  if (!options.model.empty()) return Base::open(options.model, options.device);
  return Base::open(BaseFiles::random(bench_shape(options.shape)), options.device);
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Json bench_document(const BenchOptions& options, const Base& base) {
  const Device& device = *base.device();
  Json out = Json::object();
  out.set("engine", "credence");
  if (options.model.empty()) out.set("shape", options.shape);
  out.set("parameters", parameter_count(base.family()));
  out.set("storage", base.files().storage_type);
  out.set("isa", device.table().isa);
  out.set("dtype", device.dtype() == CREDENCE_BF16 ? "bf16" : "f32");
  out.set("threads", device.threads());
  return out;
}

Json peaks_document(const Peaks& peaks) {
  Json out = Json::object();
  out.set("f32Gflops", peaks.f32_gflops);
  out.set("bf16Gflops", peaks.bf16_gflops);
  out.set("readGBs", peaks.read_gbs);
  return out;
}

Json lacks_of(const Device& device) {
  Json out = Json::array();
  const std::string isa = device.table().isa;
  if (isa != "avx512bf16") out.as_array().push_back("no bf16 dot product in " + isa + ": bf16 runs at float32's rate");
  return out;
}

ModelWork work_of(const Family& f) {
  ModelWork work;
  for (const Projection projection : kProjections) {
    if (projection == Projection::kGate && !f.gated_mlp) continue;
    const double in = projection_in(f, projection), out = projection_out(f, projection);
    work.blocks += f.layers * in * out;
    work.adapter += f.layers * (in + out);
  }
  work.head = static_cast<double>(f.vocabulary) * f.hidden;
  work.attention = 4.0 * f.layers * f.query_width();
  return work;
}

void set_rates(Json* out, double tokens, const std::vector<double>& seconds) {
  const double best = *std::min_element(seconds.begin(), seconds.end()), middle = median_of(seconds);
  out->set("tokens_per_s_best", tokens / best);
  out->set("tokens_per_s_median", tokens / middle);
  out->set("ms_best", best * 1e3);
  out->set("ms_median", middle * 1e3);
}

Json bench(const std::string& what, const BenchOptions& options) {
  for (const auto& [name, value] :
       {std::pair{"repeats", options.repeats}, {"length", options.length}, {"rank", options.rank}}) {
    if (value < 1) fail("BAD_OPTION", "%s: expected 1 or more but received %d", name, value);
  }
  if (options.batch < 0) fail("BAD_OPTION", "batch: expected 1 or more but received %d", options.batch);
  if (what == "sft") return bench_sft(options);
  if (what == "generate") return bench_generate(options);
  if (what == "samples") return bench_samples(options);
  if (what == "kernels") return bench_kernel_lines(options);
  fail("BAD_OPTION", "bench: no workload \"%s\"; there are sft, generate, samples and kernels", what.c_str());
}

}  // namespace credence
