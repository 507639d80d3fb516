// LoRA fine-tuning on the tokens of bench/peers/torch_lora_sft.py, the base's own weights beside it or alone.
#include <algorithm>
#include <chrono>
#include <random>

#include "bench.h"
#include "trainer.h"

namespace credence {

namespace {

struct Step {
  HostBatch batch;
  Loss loss;
  double supervised = 0;
  double pairs = 0;  // of queries and keys
};

void add_sequence(Step* step, const std::vector<int32_t>& tokens, int first_supervised) {
  HostBatch& batch = step->batch;
  if (batch.offsets.empty()) batch.offsets.push_back(0);
  const double length = static_cast<double>(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool supervised = static_cast<int>(i) >= first_supervised;
    step->loss.nll_weights.push_back(supervised ? 1.0f : 0.0f);
    step->supervised += supervised;
  }
  batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
  batch.offsets.push_back(batch.tokens_count());
  step->pairs += length * (length + 1) / 2;
}

// torch.randint under torch.Generator().manual_seed(1234) is the stream of MT19937, reduced by the remainder.
std::vector<int32_t> drawn(std::mt19937* random, int count, int low, int high) {
  std::vector<int32_t> out(count);
  for (int32_t& token : out) token = low + static_cast<int32_t>((*random)() % static_cast<uint32_t>(high - low));
  return out;
}

/// torch.randint(0, vocabulary, (batch, length)). Nothing comes before a first token.
std::vector<Step> full(int sequences, int length, int vocabulary) {
  std::mt19937 random(1234);
  std::vector<Step> steps(1);
  for (int b = 0; b < sequences; ++b) add_sequence(&steps[0], drawn(&random, length, 0, vocabulary), 1);
  return steps;
}

/// 64 lengths, then 64 sequences; eight a step as they come.
std::vector<Step> ragged(int vocabulary) {
  std::mt19937 random(1234);
  const std::vector<int32_t> lengths = drawn(&random, 64, 40, 201);
  std::vector<Step> steps(8);
  for (int i = 0; i < 64; ++i)
    add_sequence(&steps[i / 8], drawn(&random, lengths[i], 5, vocabulary), lengths[i] - std::max(1, lengths[i] / 5));
  return steps;
}

/// Forward and input gradients of every product, the adapter's three, those of matrices that are trained, attention 2.5 times its
/// forward on the way back, the head on supervised rows alone. What is recomputed does not count.
double useful_flop(const ModelWork& work, int rank, const OwnedSpec& owned, const Step& step) {
  return step.batch.tokens_count() * ((owned.projections ? 6 : 4) * work.blocks + 6 * rank * work.adapter) +
         (owned.embeddings ? 6 : 4) * work.head * step.supervised + 3.5 * work.attention * step.pairs;
}

}  // namespace

Json bench_sft(const BenchOptions& options) {
  const bool is_ragged = options.workload == "ragged";
  if (!is_ragged && options.workload != "full")
    fail("BAD_OPTION", "workload: expected full or ragged but received \"%s\"", options.workload.c_str());
  const auto base = bench_base(options);
  AdapterSpec adapter;
  adapter.config.r = options.rank;
  adapter.config.alpha = 2 * options.rank;
  adapter.config.targets.assign(kProjections.begin(), kProjections.end());
  const bool all = options.train == "all", beside = options.train == "beside";
  if (!all && !beside && options.train != "adapter")
    fail("BAD_OPTION", "train: expected adapter, beside or all but received \"%s\"", options.train.c_str());
  const OwnedSpec owned = {all || beside, all || beside, all || beside, all};
  const auto policy =
      std::make_shared<Policy>(base, all ? std::nullopt : std::optional(adapter), std::vector<HeadSpec>{}, owned);
  const int rank = all ? 0 : options.rank;
  OptimizerSpec optimizer;
  optimizer.weight_decay = 0.01;  // PyTorch's default for AdamW, which the peer keeps
  Trainer trainer(policy, optimizer);

  const int sequences = options.batch ? options.batch : 4, vocabulary = base->family().vocabulary;
  const std::vector<Step> steps = is_ragged ? ragged(vocabulary) : full(sequences, options.length, vocabulary);
  double tokens = 0, supervised = 0, flop = 0;
  for (const Step& step : steps) {
    tokens += step.batch.tokens_count();
    supervised += step.supervised;
    flop += useful_flop(work_of(base->family()), rank, owned, step);
  }
  std::vector<double> losses, seconds;
  const auto take = [&](const Step& step) {
    trainer.accumulate(step.batch, step.loss);
    losses.push_back(trainer.update(2e-4, step.supervised).loss);
  };
  for (int i = 0; i < (is_ragged ? 1 : 2); ++i) take(steps[0]);
  for (int i = 0; i < (is_ragged ? std::max(1, options.repeats / 3) : options.repeats); ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (const Step& step : steps) take(step);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const auto rss = static_cast<int64_t>(peak_memory() >> 20);  // before the peaks, which take memory of their own
  const Device& device = *base->device();
  const Peaks peaks = measure_peaks(device.threads(), device.table().isa);
  const double rate = flop / median_of(seconds) * 1e-9;

  Json out = bench_document(options, *base);
  out.set("workload", options.workload);
  out.set("batch", is_ragged ? 8 : sequences);
  if (!is_ragged) out.set("seq", options.length);
  out.set("train", options.train);
  out.set("rank", rank);
  out.set("trainable", policy->count());
  out.set("real_tokens", tokens);
  out.set("supervised_tokens", supervised);
  set_rates(&out, tokens, seconds);
  out.set("repeats", static_cast<int64_t>(seconds.size()));
  out.set("gflop_per_token", flop / tokens * 1e-9);
  out.set("gflops_median", rate);
  out.set("share_of_peak", rate / (device.dtype() == CREDENCE_BF16 ? peaks.bf16_gflops : peaks.f32_gflops));
  out.set("loss_first", losses.front());
  out.set("loss_last", losses.back());
  out.set("peak_rss_mb", rss);
  out.set("peaks", peaks_document(peaks));
  out.set("lacks", lacks_of(device));
  return out;
}

}  // namespace credence
