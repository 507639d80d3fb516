// Until a policy learns, each token it sampled has importance ratio exactly 1: what decoding gave while sequences joined and left
// its batch is what a training pass gives, in whatever micro-batch. (docs/derivations/ppo.md.)
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "engine/generation.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// Under a sanitizer answers are short: what is looked for there is not in their number.
const bool kSanitized = std::getenv("CREDENCE_SANITIZED") != nullptr;

struct Rollout {
  std::vector<int32_t> prompt, answer;
  std::vector<float> logprobs;  // of the answer
};

/// Four samples of each prompt, scored at the temperature they are drawn at, through a batch of sixteen or of five; answers end by chance, and others take their places.
std::vector<Rollout> roll_out(const std::shared_ptr<Policy>& policy, uint64_t seed, double temperature) {
  constexpr int32_t kStop = 2;
  std::mt19937 random(static_cast<uint32_t>(seed));
  GenerateOptions options;
  for (const int length : {1, 63, 64, 65, 7, 130}) options.prompts.push_back(random_tokens(random, length));
  options.samples = 4;
  options.temperature = options.score_temperature = temperature;
  options.max_new_tokens = kSanitized ? 12 : 140;
  options.stop_tokens = {kStop};
  options.seed = seed;
  options.max_batch = seed % 2 ? 16 : 5;
  std::vector<Rollout> out;
  generate(policy, options, [&](std::vector<Sample>&& samples) {
    for (Sample& sample : samples) {
      if (sample.stopped) sample.tokens.push_back(kStop);
      out.push_back({options.prompts[sample.prompt], sample.tokens, sample.logprobs});
    }
  });
  std::shuffle(out.begin(), out.end(), random);
  return out;
}

/// Some rollouts as one micro-batch: whole sequences, or behind a prompt that stands once.
void add(HostBatch& batch, PpoLoss& loss, const Rollout& rollout, bool apart, int prefix) {
  const auto token = [&](int32_t id, float weight, float logprob, float advantage) {
    batch.tokens.push_back(id);
    loss.weights.push_back(weight);
    loss.old_logprobs.push_back(logprob);
    loss.advantages.push_back(advantage);
  };
  const auto end = [&](int of) {
    batch.offsets.push_back(batch.tokens_count());
    batch.prefix_of.push_back(of);
  };
  if (batch.offsets.empty()) batch.offsets.push_back(0);
  if (prefix < 0)
    for (int32_t id : rollout.prompt) token(id, 0, NAN, NAN);
  if (apart && prefix < 0) {
    end(-1);
    prefix = batch.segments() - 1;
  }
  for (size_t i = 0; i < rollout.answer.size(); ++i)
    token(rollout.answer[i], 1, rollout.logprobs[i], i % 3 == 0 ? -1.0f : 0.7f);
  end(prefix);
}

struct MicroBatch {
  HostBatch batch;
  PpoLoss loss;
};

std::vector<MicroBatch> micro_batches(const std::vector<Rollout>& rollouts) {
  std::vector<MicroBatch> out;
  for (size_t from = 0; from < rollouts.size(); from += 5) {
    MicroBatch& some = out.emplace_back();
    std::vector<std::pair<std::vector<int32_t>, int>> prompts;  // that stand in the batch
    for (size_t i = from; i < std::min(rollouts.size(), from + 5); ++i) {
      const bool apart = i % 2 == 0;
      int prefix = -1;
      for (const auto& [prompt, segment] : prompts)
        if (apart && prompt == rollouts[i].prompt) prefix = segment;
      if (apart && prefix < 0)
        prompts.emplace_back(rollouts[i].prompt, some.batch.segments() < 0 ? 0 : some.batch.segments());
      add(some.batch, some.loss, rollouts[i], apart, prefix);
    }
  }
  return out;
}

/// The policy's sums over all micro-batches, the reference being `reference`. They are not learnt.
credence_policy_sums sums_of(Trainer& trainer, std::vector<MicroBatch> all, const std::shared_ptr<Policy>& reference,
                             double temperature) {
  for (MicroBatch& some : all) {
    PassRequest request;
    request.logprobs = true;
    request.temperature = some.loss.temperature = temperature;
    some.loss.kl = {Pass(reference).forward(some.batch, request).logprobs, 0.1, 3};
    trainer.accumulate(some.batch, some.loss);
  }
  const PpoSums sums = trainer.ppo_sums();
  trainer.clear_gradients();
  return sums.policy;
}

void expect_ratio_1(const DeviceOptions& options) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto base = Base::open(folder.path(), options);
  const auto policy = std::make_shared<Policy>(base, small_adapter(), std::vector<HeadSpec>{});
  const auto reference = std::make_shared<Policy>(base, std::nullopt, std::vector<HeadSpec>{});
  Trainer trainer(policy, {});
  double tokens = 0;
  for (const bool learnt : {false, true}) {
    const double temperature = learnt ? 0.7 : 1;
    const auto rollouts = roll_out(policy, learnt ? 8 : 3, temperature);
    const auto batches = micro_batches(rollouts);
    auto equal = reference;  // B is 0 at first: the policy is its reference
    if (learnt) {
      equal = std::make_shared<Policy>(base, small_adapter(), std::vector<HeadSpec>{});
      const std::vector<float> flat = policy->read_parameters();
      std::vector<NamedTensor> tensors;
      for (const Parameter& p : policy->adapter_parameters())
        tensors.push_back({p.name, p.shape, {flat.begin() + p.offset, flat.begin() + p.offset + p.count()}});
      equal->set_parameters(tensors);
    }
    const credence_policy_sums sums = sums_of(trainer, batches, equal, temperature);
    EXPECT_EQ(rollouts.size(), 24u);
    EXPECT_EQ(sums.ratio_change, 0.0);
    EXPECT_EQ(sums.reference_kl, 0.0);
    tokens += sums.weight;
    if (learnt) {
      EXPECT(sums_of(trainer, batches, reference, temperature).reference_kl > 1e-3);  // it did learn
      EXPECT(sums_of(trainer, batches, equal, 1).ratio_change > 1e-3);  // at another temperature they differ
      break;
    }
    for (int step = 0; step < (kSanitized ? 4 : 20); ++step) {
      const MicroBatch& some = batches[step % batches.size()];
      double count = 0;
      for (float weight : some.loss.weights) count += weight;
      trainer.accumulate(some.batch, some.loss);
      trainer.update(0.01, count);
    }
    EXPECT(sums_of(trainer, batches, reference, temperature).ratio_change > 1e-3);
  }
  EXPECT(kSanitized || tokens >= 2000);
}

}  // namespace

TEST(a_sampled_token_has_ratio_1_until_the_policy_learns) { each_device(expect_ratio_1, 1); }
TEST(a_sampled_token_has_ratio_1_on_two_threads) { each_device(expect_ratio_1, 2); }

TESTING_MAIN
