// The engine on two tables: what it computes on the CUDA kernels, executed on the CPU, is what it computes on the CPU's own.
#define CREDENCE_EMULATE
#include <cmath>

#include "engine/generation.h"
#include "engine/trainer.h"
#include "engine_support.h"
#include "kernels/cuda/backend.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// The device that is compared with the CPU: the emulation, or a GPU where CREDENCE_TEST_TABLE=cuda asks for it.
std::string device_name() { return named_table() ? named_table()->name : "cuda-emulated"; }

/// Why there are no such kernels here, or nothing.
std::string missing() {
  const char* reason = nullptr;
  const credence_table* table = named_table() ? named_table() : credence_cuda_emulated_table(&reason);
  if (!table) return reason;
  const char* why = table->unavailable();
  return why ? why : "";
}

int64_t waits_of(const Policy& policy) {
  const Device& device = *policy.base()->device();
  return device.table().waits(device.backend());
}

/// Recordings replayed so far; a GPU's library does not say.
int64_t replays_of(const Policy& policy) {
  return is_emulated(&policy.base()->device()->table()) ? cuda::of(policy.base()->device()->backend()).replays : 0;
}

/// A step of fine-tuning on sequences of its own.
struct Step {
  HostBatch batch;
  Loss loss;
  double count = 0;
};

Step step_of(std::mt19937& random) {
  Step step;
  std::vector<std::vector<int32_t>> sequences;
  for (const int length : {1 + static_cast<int>(random() % 30), 66, 3})
    sequences.push_back(random_tokens(random, length));
  step.batch = batch_of(sequences);
  for (size_t t = 0; t < step.batch.tokens.size(); ++t) step.loss.nll_weights.push_back(t % 3 ? 1.0f : 0.0f);
  for (int b = 0; b < step.batch.segments(); ++b) step.loss.nll_weights[step.batch.offsets[b]] = 0;
  for (float weight : step.loss.nll_weights) step.count += weight;
  return step;
}

std::vector<StepResult> train(const std::string& folder, const DeviceOptions& device, int steps) {
  OptimizerSpec optimizer;
  optimizer.max_gradient_norm = 1;
  Trainer trainer(small_policy(folder, device), optimizer);
  std::mt19937 random(29);
  std::vector<StepResult> told;
  for (int i = 0; i < steps; ++i) {
    const Step step = step_of(random);
    trainer.accumulate(step.batch, step.loss);
    told.push_back(trainer.update(2e-3, step.count));
  }
  return told;
}

}  // namespace

TEST(fifty_steps_of_fine_tuning_agree_with_the_cpu) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  const int steps = std::getenv("CREDENCE_SANITIZED") ? 3 : 50;
  const auto cpu = train(folder.path(), {"cpu", "f32", "auto", 1}, steps);
  const auto cuda = train(folder.path(), {device_name(), "f32", "auto", 1}, steps);
  for (int i = 0; i < steps; ++i) {
    const double loss = std::fabs(cuda[i].loss / cpu[i].loss - 1),
                 norm = std::fabs(cuda[i].gradient_norm / cpu[i].gradient_norm - 1);
    if (!(loss <= 1e-4) || !(norm <= 1e-4))
      report(__FILE__, __LINE__,
             "step " + show(i) + ": loss " + show(cuda[i].loss) + " and norm " + show(cuda[i].gradient_norm) +
                 ", on the CPU " + show(cpu[i].loss) + " and " + show(cpu[i].gradient_norm));
  }
}

// How far rounding to bf16 takes a training from float32: the kernels' may be at most twice as far off as the CPU's, in the root of the
// mean square over the steps.
TEST(fifty_steps_in_bf16_stay_as_near_to_float32_as_the_cpu_does) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  if (std::getenv("CREDENCE_SANITIZED")) SKIP("minutes under a sanitizer; the operators' tests run there");
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto exact = train(folder.path(), {"cpu", "f32", "auto", 1}, 50);
  const auto distance = [&](const std::string& device, double StepResult::* of) {
    const auto steps = train(folder.path(), {device, "bf16", "auto", 1}, 50);
    double squares = 0;
    for (size_t i = 0; i < exact.size(); ++i) squares += std::pow(steps[i].*of / exact[i].*of - 1, 2);
    return std::sqrt(squares / static_cast<double>(exact.size()));
  };
  for (double StepResult::* of : {&StepResult::loss, &StepResult::gradient_norm}) {
    const double cpu = distance("cpu", of), cuda = distance(device_name(), of);
    std::printf("    %s: %.2g from float32, the CPU %.2g\n", of == &StepResult::loss ? "loss" : "norm", cuda, cpu);
    EXPECT(cuda > 0 && cuda <= 2 * cpu);
  }
}

std::vector<Sample> sampled(const std::shared_ptr<Policy>& policy, const GenerateOptions& options,
                            GenerateStats* stats) {
  std::vector<Sample> out;
  *stats = generate(policy, options, [&](std::vector<Sample>&& samples) {
    for (Sample& sample : samples) out.push_back(std::move(sample));
  });
  std::sort(out.begin(), out.end(), [](const Sample& a, const Sample& b) {
    return std::pair(a.prompt, a.sample) < std::pair(b.prompt, b.sample);
  });
  return out;
}

TEST(decoding_is_recorded_and_replayed_and_waits_once_a_step) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  for (const char* dtype : {"f32", "bf16"}) {
    const auto policy = small_policy(folder.path(), {device_name(), dtype, "auto", 1});
    std::mt19937 random(3);
    GenerateOptions options;
    for (const int length : {3, 62, 17}) options.prompts.push_back(random_tokens(random, length));
    options.samples = 2;
    options.max_new_tokens = 5;
    options.repetition_penalty = 1.2;
    options.collect = {0, 1, 2};
    GenerateStats recorded, plain;
    const int64_t replays = replays_of(*policy), waits = waits_of(*policy);
    const int64_t expected = is_emulated(&policy->base()->device()->table()) ? 4 : 0;
    const auto with = sampled(policy, options, &recorded);
    // The prompts, four steps that decode the other tokens, one that feeds the last: of those five all but the first are replayed.
    EXPECT_EQ(recorded.steps, 6);
    EXPECT_EQ(replays_of(*policy) - replays, expected);
    EXPECT_EQ(waits_of(*policy) - waits, recorded.steps);
    options.record = false;
    const auto without = sampled(policy, options, &plain);
    EXPECT_EQ(replays_of(*policy) - replays, expected);
    EXPECT_EQ(with.size(), 6u);
    EXPECT_EQ(without.size(), with.size());
    for (size_t i = 0; i < with.size(); ++i) {
      EXPECT(with[i].tokens == without[i].tokens && with[i].logprobs == without[i].logprobs);
      EXPECT(with[i].prompt_hidden == without[i].prompt_hidden && with[i].answer_hidden == without[i].answer_hidden);
    }
    // Sequences end one by one: other sizes are recorded apart.
    options.record = true;
    options.stop_tokens = {with[0].tokens[1], with[3].tokens[2], with[5].tokens[3]};
    const auto stopped = sampled(policy, options, &recorded);
    options.record = false;
    const auto same = sampled(policy, options, &plain);
    EXPECT_EQ(stopped.size(), same.size());
    EXPECT_EQ(recorded.steps, plain.steps);
    for (size_t i = 0; i < same.size(); ++i)
      EXPECT(stopped[i].tokens == same[i].tokens && stopped[i].answer_hidden == same[i].answer_hidden);
  }
}

// Keys are cut where a sequence has more than 256: those samples are another rounding, all others the same bits, and each is its own
// whatever decodes beside it, recorded or not; so is each that was not asked to be fast.
TEST(fast_decoding_is_another_rounding_of_long_sequences_alone) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  for (const char* dtype : {"f32", "bf16"}) {
    if (dtype[0] == 'f' && std::getenv("CREDENCE_SANITIZED"))
      continue;  // two minutes there, for what bf16 goes through too
    const auto policy = small_policy(folder.path(), {device_name(), dtype, "auto", 1});
    std::mt19937 random(3);
    GenerateOptions options;
    for (const int length : {300, 20, 384}) options.prompts.push_back(random_tokens(random, length));
    options.samples = 2;
    options.max_new_tokens = 4;
    options.collect = {2};
    GenerateStats stats;
    const auto exact = sampled(policy, options, &stats);
    options.fast_decode = true;
    const auto fast = sampled(policy, options, &stats);
    options.max_batch = 1, options.record = false;
    const auto alone = sampled(policy, options, &stats);
    options.fast_decode = false;
    const auto exact_alone = sampled(policy, options, &stats);
    EXPECT_EQ(fast.size(), 6u);
    for (size_t i = 0; i < exact.size(); ++i)
      EXPECT(exact[i].tokens == exact_alone[i].tokens && exact[i].logprobs == exact_alone[i].logprobs &&
             exact[i].answer_hidden == exact_alone[i].answer_hidden);
    bool another = false;
    for (size_t i = 0; i < fast.size(); ++i) {
      const auto same = [&](const Sample& other) {
        return fast[i].tokens == other.tokens && fast[i].logprobs == other.logprobs &&
               fast[i].answer_hidden == other.answer_hidden;
      };
      EXPECT(same(alone[i]));
      EXPECT_EQ(fast[i].logprobs[0], exact[i].logprobs[0]);  // of the prompt's last row
      if (fast[i].prompt == 1) EXPECT(same(exact[i]));
      else another = another || !same(exact[i]);
      for (size_t t = 0; t < fast[i].tokens.size() && fast[i].tokens[t] == exact[i].tokens[t]; ++t)
        EXPECT(std::fabs(fast[i].logprobs[t] - exact[i].logprobs[t]) < (dtype[0] == 'f' ? 1e-5 : 5e-2));
    }
    EXPECT(another);
  }
}

/// Every fused loss at once.
Loss every_loss(const Step& step) {
  Loss loss = step.loss;
  loss.divergence = Divergence::kJsd;
  loss.divergence_weights = loss.nll_weights;
  loss.closed_set = {{{3, 50}, {step.batch.offsets[1], step.batch.offsets[2] - 1}}, {0, 1}, {1, 2}};
  loss.read = {"sure", {{0, 0, 1}, {1, 2, 60}}};
  loss.targets = {0, 1};
  return loss;
}

TEST(a_step_waits_for_the_device_once_however_many_passes_it_has) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  const std::vector<HeadSpec> heads = {{"sure", -1, {}, 1, 4}, {"early", 1, {6}, 1, 4}};
  for (const char* dtype : {"f32", "bf16"}) {
    const auto policy = small_policy(folder.path(), {device_name(), dtype, "auto", 1}, heads);
    OptimizerSpec optimizer;
    optimizer.max_gradient_norm = 1;
    Trainer trainer(policy, optimizer);
    std::mt19937 random(29);
    for (int calls : {1, 3}) {
      const Step step = step_of(random);
      const Loss loss = every_loss(step);
      const int64_t before = waits_of(*policy);
      for (int i = 0; i < calls; ++i) {
        trainer.accumulate(step.batch, loss);
        trainer.accumulate("early", std::vector<float>(40, 0.5f), {1});
      }
      EXPECT(trainer.update(1e-3, step.count).loss > 0);
      EXPECT_EQ(waits_of(*policy) - before, 1);
    }
  }
}

TEST(so_does_a_step_of_ppo_whose_gradient_and_sums_are_the_cpus) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto cpu = small_policy(folder.path(), {"cpu", "f32", "auto", 1}, ppo_critics()),
             cuda = small_policy(folder.path(), {device_name(), "f32", "auto", 1}, ppo_critics());
  Trainer right(cpu, {}), trainer(cuda, {});
  std::mt19937 random(5);
  for (int calls : {1, 3}) {
    const int64_t before = waits_of(*cuda);
    for (int i = 0; i < calls; ++i) {
      const HostBatch batch = ppo_rollouts(random);
      PpoLoss loss = ppo_loss_of(batch);
      if (i == 1) loss.value->head = "deep";
      right.accumulate(batch, loss);
      trainer.accumulate(batch, loss);
    }
    EXPECT_EQ(waits_of(*cuda) - before, 0);
    EXPECT_GRADIENTS(*cuda, trainer.gradients(), right.gradients(), 1e-4);
    const PpoSums expected = right.ppo_sums();
    const int64_t then = waits_of(*cuda);
    EXPECT(trainer.ppo_sums().policy.weight > 0);  // whoever judges a step before it is taken waits once more
    EXPECT_EQ(waits_of(*cuda) - then, 1);
    const StepResult told = trainer.update(0, 1);
    EXPECT_EQ(waits_of(*cuda) - then, 2);
    for (const auto& [got, sum] : {std::pair{told.loss, expected.loss},
                                   {told.ppo.policy.entropy, expected.policy.entropy},
                                   {told.ppo.policy.ratio_change, expected.policy.ratio_change},
                                   {told.ppo.value.loss, expected.value.loss}})
      EXPECT(std::fabs(got - sum) <= 1e-4 * std::fabs(sum));
    right.clear_gradients();
  }
}

TESTING_MAIN
