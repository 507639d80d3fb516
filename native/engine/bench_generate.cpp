// Prefill and decoding on the prompts of the peers' scripts, beside the walls: the weights read once a step, or the products.
#include <algorithm>
#include <chrono>
#include <random>

#include "bench.h"
#include "generation.h"

namespace credence {

namespace {

constexpr int kPrompt = 48, kNew = 32;

/// bench/peers/llama_cpp.mjs: one stream of x = 1664525 x + 1013904223 from 12345, each prompt 5 + floor(u (vocabulary - 10)).
class LlamaPrompts {
 public:
  explicit LlamaPrompts(int vocabulary) : vocabulary_(vocabulary) {}
  std::vector<int32_t> next(int length) {
    std::vector<int32_t> out(length);
    for (int32_t& token : out) {
      state_ = state_ * 1664525u + 1013904223u;
      token = 5 + static_cast<int32_t>(static_cast<double>(state_) * 0x1p-32 * (vocabulary_ - 10));
    }
    return out;
  }

 private:
  uint32_t state_ = 12345;
  int vocabulary_;
};

struct Answers {
  double seconds = 0;
  int64_t tokens = 0;
};

/// Every sequence makes every token: nothing ends one.
Answers answer(const std::shared_ptr<Policy>& policy, GenerateOptions options) {
  Answers out;
  const auto start = std::chrono::steady_clock::now();
  generate(policy, options, [&](std::vector<Sample>&& samples) {
    for (const Sample& sample : samples) out.tokens += static_cast<int64_t>(sample.tokens.size());
  });
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const int64_t expected = static_cast<int64_t>(options.prompts.size()) * options.samples * options.max_new_tokens;
  if (out.tokens != expected)
    fail("BENCH", "%lld tokens were generated and not %lld", static_cast<long long>(out.tokens),
         static_cast<long long>(expected));
  return out;
}

/// What one step over `sequences` sequences costs at the walls, each with so many keys.
struct Walls {
  double bytes = 0;    // weights in memory that a step reads, and keys and values
  double flop = 0;     // a step
  double seconds = 0;  // the larger of what the two take
  bool memory = false;
};
Walls walls_of(const Base& base, const Peaks& peaks, int sequences, double keys) {
  const Family& f = base.family();
  const Device& device = *base.device();
  const ModelWork work = work_of(f);
  const double act = static_cast<double>(device.act_bytes());
  Walls out;
  out.bytes = act * (work.blocks + work.head + 2.0 * f.layers * f.kv_width() * keys * sequences);
  out.flop = sequences * (2 * (work.blocks + work.head) + work.attention * keys);
  const double rate = 1e9 * (device.dtype() == CREDENCE_BF16 ? peaks.bf16_gflops : peaks.f32_gflops);
  const double reading = out.bytes / (peaks.read_gbs * 1e9), computing = out.flop / rate;
  out.memory = reading > computing;
  out.seconds = std::max(reading, computing);
  return out;
}

void set_walls(Json* out, const Walls& walls, double tokens_per_step, double rate) {
  out->set("step_bytes", walls.bytes);
  out->set("step_gflop", walls.flop * 1e-9);
  out->set("wall", walls.memory ? "memory" : "product");
  out->set("wall_tokens_per_s", tokens_per_step / walls.seconds);
  out->set("share_of_wall", rate * walls.seconds / tokens_per_step);
}

Json prefill_document(const Base& base, const Peaks& peaks, int length, const std::vector<double>& seconds) {
  const ModelWork work = work_of(base.family());
  const double flop = 2 * (length * work.blocks + work.head) + work.attention * length * (length + 1.0) / 2;
  const double peak = base.device()->dtype() == CREDENCE_BF16 ? peaks.bf16_gflops : peaks.f32_gflops;
  Json out = Json::object();
  out.set("prompt", length);
  set_rates(&out, length, seconds);
  out.set("gflops_median", flop / median_of(seconds) * 1e-9);
  out.set("share_of_peak", flop / median_of(seconds) * 1e-9 / peak);
  return out;
}

struct Decoded {
  int batch;
  std::vector<double> first, all;  // seconds to one token a sequence, and to all of them
};

Json decode_document(const Base& base, const Peaks& peaks, const Decoded& d) {
  Json out = Json::object();
  out.set("batch", d.batch);
  out.set("prompt", kPrompt);
  out.set("new_tokens", kNew);
  set_rates(&out, static_cast<double>(d.batch) * kNew, d.all);
  out.set("ms_prefill_and_first", median_of(d.first) * 1e3);
  const auto decoding = [&](double first, double all) { return d.batch * (kNew - 1) / (all - first); };
  const double rate = decoding(median_of(d.first), median_of(d.all));
  out.set("decode_tokens_per_s_best",
          decoding(*std::min_element(d.first.begin(), d.first.end()), *std::min_element(d.all.begin(), d.all.end())));
  out.set("decode_tokens_per_s_median", rate);
  set_walls(&out, walls_of(base, peaks, d.batch, kPrompt + kNew / 2.0), d.batch, rate);
  return out;
}

}  // namespace

Json bench_generate(const BenchOptions& options) {
  const auto base = bench_base(options);
  const auto policy = std::make_shared<Policy>(base, std::nullopt, std::vector<HeadSpec>{});
  LlamaPrompts prompts(base->family().vocabulary);
  GenerateOptions ask;
  ask.temperature = 0;

  // The first call of each warms up.
  std::vector<double> prefill;
  for (int i = 0; i <= options.repeats; ++i) {
    ask.prompts = {prompts.next(options.length)};
    ask.max_new_tokens = 1;
    const double seconds = answer(policy, ask).seconds;
    if (i) prefill.push_back(seconds);
  }
  std::vector<Decoded> decoded;
  for (const int batch : options.batch ? std::vector<int>{options.batch} : std::vector<int>{1, 16}) {
    Decoded d{batch, {}, {}};
    ask.max_batch = batch;
    for (int i = 0; i <= options.repeats; ++i) {
      for (const int count : {1, kNew}) {
        ask.prompts.clear();
        for (int b = 0; b < batch; ++b) ask.prompts.push_back(prompts.next(kPrompt));
        ask.max_new_tokens = count;
        const double seconds = answer(policy, ask).seconds;
        if (i) (count == 1 ? d.first : d.all).push_back(seconds);
      }
    }
    decoded.push_back(std::move(d));
  }
  const auto rss = static_cast<int64_t>(peak_memory() >> 20);
  const Device& device = *base->device();
  const Peaks peaks = measure_peaks(device.threads(), device.table().isa);
  Json out = bench_document(options, *base), list = Json::array();
  out.set("prefill", prefill_document(*base, peaks, options.length, prefill));
  for (const Decoded& d : decoded) list.as_array().push_back(decode_document(*base, peaks, d));
  out.set("decode", std::move(list));
  out.set("repeats", options.repeats);
  out.set("peak_rss_mb", rss);
  out.set("peaks", peaks_document(peaks));
  out.set("lacks", lacks_of(device));
  return out;
}

Json bench_samples(const BenchOptions& options) {
  constexpr int kQuestions = 16, kLength = 40, kSamples = 10, kTokens = 16;
  const auto base = bench_base(options);
  const auto policy = std::make_shared<Policy>(base, std::nullopt, std::vector<HeadSpec>{});
  const int vocabulary = base->family().vocabulary;
  GenerateOptions ask;
  // torch.randint(5, vocabulary, (16, 40)) under torch.Generator().manual_seed(1)
  std::mt19937 random(1);
  for (int q = 0; q < kQuestions; ++q) {
    std::vector<int32_t> prompt(kLength);
    for (int32_t& token : prompt) token = 5 + static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary - 5));
    ask.prompts.push_back(std::move(prompt));
  }
  ask.samples = kSamples;
  ask.max_new_tokens = kTokens;
  ask.max_batch = options.batch;
  std::vector<double> seconds;
  for (int i = 0; i <= options.repeats; ++i) {
    const double took = answer(policy, ask).seconds;
    if (i) seconds.push_back(took);
  }
  const auto rss = static_cast<int64_t>(peak_memory() >> 20);
  const Device& device = *base->device();
  const Peaks peaks = measure_peaks(device.threads(), device.table().isa);
  constexpr int kAll = kQuestions * kSamples;
  Json out = bench_document(options, *base);
  out.set("questions", kQuestions);
  out.set("samples", kSamples);
  out.set("prompt", kLength);
  out.set("new_tokens", kTokens);
  set_rates(&out, static_cast<double>(kAll) * kTokens, seconds);
  set_walls(&out, walls_of(*base, peaks, kAll, kLength + kTokens / 2.0), kAll,
            static_cast<double>(kAll) * kTokens / median_of(seconds));
  out.set("repeats", options.repeats);
  out.set("peak_rss_mb", rss);
  out.set("peaks", peaks_document(peaks));
  out.set("lacks", lacks_of(device));
  return out;
}

}  // namespace credence
