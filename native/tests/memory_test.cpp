// The ledger of memory: a dry run tells a real one's peak to the byte, and a limit is kept.
#include <algorithm>
#include <cstring>

#include "engine/generation.h"
#include "engine/reading.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

HostBatch random_batch(const std::vector<int>& lengths, uint32_t seed = 23) {
  std::mt19937 random(seed);
  std::vector<std::vector<int32_t>> sequences;
  for (const int length : lengths) sequences.push_back(random_tokens(random, length));
  return batch_of(sequences);
}

Loss nll_of(const HostBatch& batch) {
  Loss loss;
  for (size_t t = 0; t < batch.tokens.size(); ++t) loss.nll_weights.push_back(t % 3 ? 1.0f : 0.0f);
  for (int b = 0; b < batch.segments(); ++b) loss.nll_weights[batch.offsets[b]] = 0;
  return loss;
}

Loss head_of(const HostBatch& batch, const std::string& head) {
  Loss loss;
  loss.read.head = head;
  for (int b = 0; b < batch.segments(); ++b) {
    loss.read.spans.push_back({b, 0, batch.length(b)});
    loss.targets.push_back(0.25f);
  }
  return loss;
}

std::vector<HeadSpec> two_heads() {
  HeadSpec last{"last", -1, {}, 1, 3}, inner{"inner", 1, {7}, 1, 4};
  return {last, inner};
}

GenerateOptions sampling(int samples) {
  std::mt19937 random(7);
  GenerateOptions options;
  for (const int length : {3, 70, 64, 1, 130}) options.prompts.push_back(random_tokens(random, length));
  options.samples = samples;
  options.max_new_tokens = 9;
  options.stop_tokens = {2, 5, 11, 40};
  options.max_batch = 6;
  options.collect = {0, 1, 2};
  options.answer_heads = {"last", "inner"};
  options.seed = 3;
  return options;
}

/// Everything a policy can be asked for, one after the other; the ledger's peak after each.
std::vector<size_t> peaks(const std::string& folder, const DeviceOptions& device, const AdapterSpec& adapter,
                          const OwnedSpec& owned) {
  const auto base = Base::open(folder, device);
  std::vector<size_t> out{base->device()->memory(true).peak};
  auto note = [&] { out.push_back(base->device()->memory(true).peak); };
  const auto policy = std::make_shared<Policy>(base, std::optional(adapter), two_heads(), owned);
  note();
  GenerateOptions greedy = sampling(1);
  greedy.temperature = 0;
  greedy.collect.clear();
  greedy.answer_heads.clear();
  greedy.repetition_penalty = 1.1;
  for (const GenerateOptions& options : {sampling(4), greedy}) {
    generate(policy, options, [](std::vector<Sample>&&) {});
    note();
  }
  const HostBatch batch = random_batch({1, 70, 7, 129, 2, 31});
  PassRequest request;
  request.logprobs = request.entropy = true;
  request.collect = {1, 2};
  for (int b = 0; b < batch.segments(); ++b) request.spans.push_back({b, 0, 1});
  read_batch(policy, batch, request);
  note();
  {
    Trainer trainer(policy, {});
    for (const auto& [lengths, head] : {std::pair{std::vector{5, 90, 3}, "inner"}, {std::vector{300, 1}, "last"}}) {
      const HostBatch rows = random_batch(lengths);
      trainer.accumulate(rows, head_of(rows, head));
      trainer.update(1e-3, 2);
      note();
    }
    trainer.accumulate(batch, nll_of(batch));
    trainer.update(1e-3, 2);
    note();
    request.collect.clear();
    request.spans.clear();
    request.closed_set = {{3, 50}, {4, 90}};
    request.divergence = {Divergence::kKl, std::vector<uint8_t>(batch.tokens.size()), true};
    for (int t = 20; t < 60; ++t) request.divergence->mask[t] = 1;
    trainer.forward(batch, request);
    Upstream upstream;
    upstream.logprobs = nll_of(batch).nll_weights;
    upstream.closed_set.assign(4, 0.5f);
    upstream.divergence.assign(request.divergence->mask.begin(), request.divergence->mask.end());
    trainer.backward(upstream);
    note();
  }
  out.push_back(base->device()->memory().current);
  out.push_back(base->device()->memory().weights);
  out.push_back(base->device()->memory().adapters);
  return out;
}

std::vector<float> gradients(const std::shared_ptr<Policy>& policy, const HostBatch& batch, const Loss& loss,
                             bool recompute) {
  Pass pass(policy);
  PassRequest request;
  request.keep = true;
  request.recompute = recompute;
  Upstream upstream;
  if (loss.targets.empty()) upstream.logprobs = loss.nll_weights;
  else {
    request.heads.push_back(loss.read);
    upstream.heads[loss.read.head].assign(loss.targets.size(), 0.3f);
  }
  Buffer sums(policy->base()->device(), policy->count() * sizeof(float));
  sums.zero();
  pass.forward(batch, request);
  pass.backward(upstream, sums.f32());
  return sums.download<float>(policy->count());
}

}  // namespace

TEST(a_dry_run_tells_the_peak_to_the_byte) {
  for (const bool tied : {false, true}) {
    TemporaryFolder folder;
    write_small_model(folder.path(), tied);
    AdapterSpec one_layer = small_adapter({Projection::kV, Projection::kDown});
    one_layer.config.layers = std::vector<int>{1};
    each_device([&](const DeviceOptions& device) {
      DeviceOptions dry = device;
      dry.dry = true;
      for (const AdapterSpec& adapter : {small_adapter(), one_layer}) {
        for (const OwnedSpec& owned : {OwnedSpec(), {true, true, true, false}, {true, true, true, true}})
          EXPECT(peaks(folder.path(), device, adapter, owned) == peaks(folder.path(), dry, adapter, owned));
      }
    });
  }
}

TEST(trainers_on_one_base_share_the_room_of_a_step) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const HostBatch batch = random_batch({90, 70, 31});
  each_device([&](const DeviceOptions& device) {
    const auto base = Base::open(folder.path(), device);
    auto trainer_of = [&](uint64_t seed) {
      AdapterSpec adapter = small_adapter();
      adapter.seed = seed;
      return std::make_shared<Trainer>(std::make_shared<Policy>(base, adapter, two_heads()), OptimizerSpec{});
    };
    const auto actor = trainer_of(1), critic = trainer_of(2);
    auto step = [&](Trainer& trainer) {
      trainer.accumulate(batch, nll_of(batch));
      const std::vector<float> gradients = trainer.gradients();
      trainer.update(0, 1);  // learns nothing: every step has the same gradients
      return gradients;
    };
    const std::vector<float> first = step(*actor);
    const size_t one = base->device()->memory().current;
    const std::vector<float> second = step(*critic);
    for (int turn = 0; turn < 2; ++turn) {
      EXPECT(step(*actor) == first);
      EXPECT(step(*critic) == second);
    }
    // Each keeps where its own batch begins and ends; activations are some megabytes.
    EXPECT(base->device()->memory().current < one + 8192);

    // A forward that is held open keeps what its backward reads.
    PassRequest request;
    request.logprobs = true;
    Upstream upstream;
    upstream.logprobs = nll_of(batch).nll_weights;
    auto held = [&](bool between) {
      actor->forward(batch, request);
      if (between) EXPECT(step(*critic) == second);
      actor->backward(upstream);
      const std::vector<float> gradients = actor->gradients();
      actor->clear_gradients();
      return gradients;
    };
    const std::vector<float> alone = held(false);
    EXPECT(held(true) == alone);
  });
}

TEST(what_is_given_back_leaves_the_ledger) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto base = Base::open(folder.path(), {"cpu", "f32", "scalar", 1});
  const credence_memory before = base->device()->memory();
  EXPECT(before.weights > 0 && before.adapters == 0 && before.current >= before.weights);
  {
    const auto policy = std::make_shared<Policy>(base, std::optional(small_adapter()), two_heads());
    EXPECT(base->device()->memory().adapters > 0);
    read_batch(policy, random_batch({9}), {});
  }
  base->trim();
  EXPECT_EQ(base->device()->memory().current, before.current);
}

TEST(recomputed_blocks_give_the_same_bits) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  AdapterSpec upper = small_adapter();
  upper.config.layers = std::vector<int>{1};
  each_device([&](const DeviceOptions& device) {
    for (const AdapterSpec& adapter : {small_adapter(), upper}) {
      const auto policy = small_policy(folder.path(), device, two_heads(), adapter);
      const HostBatch batch = random_batch({1, 70, 7, 129, 2, 31});
      for (const Loss& loss : {nll_of(batch), head_of(batch, "last"), head_of(batch, "inner")}) {
        const auto kept = gradients(policy, batch, loss, false), again = gradients(policy, batch, loss, true);
        EXPECT(std::any_of(kept.begin(), kept.end(), [](float g) { return g != 0; }));
        EXPECT_EQ(std::memcmp(kept.data(), again.data(), kept.size() * sizeof(float)), 0);
      }
    }
  });
}

TEST(a_batch_read_in_parts_is_the_batch_read_whole) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "scalar", 1}, two_heads());
  HostBatch batch = random_batch({390, 1, 380, 300, 70, 2, 399});
  batch.prefix_of = {-1, -1, -1, -1, 1, 3, -1};  // what follows a prefix is read in its part
  PassRequest request;
  request.logprobs = request.entropy = request.hidden = true;
  request.collect = {0, 2};
  for (const int b : {6, 0, 3, 3, 5}) request.spans.push_back({b, 0, 1 + b / 6});  // in no order, some sequences never
  request.heads = {{"last", request.spans}, {"inner", {{2, 5, 9}}}};
  request.closed_set = {{3, 50}, {1500, 0, 391, 392, 1100}};
  std::vector<uint8_t> mask(batch.tokens.size());
  for (int t : {5, 392, 1000, 1541}) mask[t] = 1;
  request.divergence = {Divergence::kJsd, mask, true};
  const PassResult whole = Pass(policy).forward(batch, request), parts = read_batch(policy, batch, request);
  EXPECT(whole.logprobs == parts.logprobs && whole.entropy == parts.entropy && whole.hidden == parts.hidden);
  EXPECT(whole.collected == parts.collected && whole.heads == parts.heads);
  EXPECT(whole.closed_set == parts.closed_set && whole.divergence == parts.divergence);
}

TEST(a_longer_sequence_must_recompute_and_then_does_not_fit) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  DeviceOptions device{"cpu", "f32", "scalar", 1};
  // What 120 tokens need when everything is kept.
  {
    Trainer trainer(small_policy(folder.path(), device), {});
    const HostBatch batch = random_batch({120});
    trainer.accumulate(batch, nll_of(batch));
    device.max_memory = trainer.policy()->base()->device()->memory().peak;
  }
  const auto policy = small_policy(folder.path(), device);
  Trainer trainer(policy, {});
  int kept = 0, recomputed = 0, failed = 0;
  for (int length = 40; length <= 400 && !failed; length += 8) {
    const HostBatch batch = random_batch({length});
    try {
      trainer.accumulate(batch, nll_of(batch));
      (trainer.pass_size().recompute ? recomputed : kept) = length;
    } catch (const Error& error) {
      failed = length;
      EXPECT_EQ(error.code, std::string("NO_MEMORY"));
      EXPECT(std::string(error.what()).find("bytes at least; the limit is") != std::string::npos);
    }
    EXPECT(policy->base()->device()->memory().peak <= device.max_memory);
  }
  EXPECT_EQ(kept, 120);  // exactly as long as it fits: no sooner is anything recomputed
  EXPECT(recomputed > kept);
  EXPECT(failed > recomputed);
  // After a failure and after longer ones, a short one is kept whole again.
  const HostBatch batch = random_batch({120});
  trainer.accumulate(batch, nll_of(batch));
  EXPECT(!trainer.pass_size().recompute);
  EXPECT(policy->base()->device()->memory().peak <= device.max_memory);
}

// As a device that is full: the table refuses, and the engine knows of no limit.
TEST(a_step_for_which_there_is_no_memory_says_what_it_takes) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const DeviceOptions options{"cpu", "f32", "scalar", 1};
  const HostBatch batch = random_batch({120});
  const auto step = [&](Trainer& trainer) { trainer.accumulate(batch, nll_of(batch)); };
  size_t need = 0;
  {
    Trainer trainer(small_policy(folder.path(), options), {});
    step(trainer);
    need = trainer.policy()->base()->device()->memory().peak;
  }
  const auto policy = small_policy(folder.path(), options);
  const Device& device = *policy->base()->device();
  Trainer trainer(policy, {});
  device.table().limit(device.backend(), need - 1);
  EXPECT_THROWS(step(trainer), "This training step takes " + std::to_string(need) + " bytes in all, " +
                                   std::to_string(device.memory().weights) + " of them weights");
  device.table().limit(device.backend(), 0);
  step(trainer);
  Trainer untroubled(policy, {});
  step(untroubled);
  EXPECT(trainer.gradients() == untroubled.gradients());
}

TEST(passes_shrink_before_anything_is_recomputed) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  DeviceOptions device{"cpu", "f32", "scalar", 1};
  const HostBatch batch = random_batch(std::vector<int>(30, 40));
  std::vector<float> sums[2];
  for (const bool limited : {false, true}) {
    const auto policy = small_policy(folder.path(), device);
    Trainer trainer(policy, {});
    trainer.accumulate(batch, nll_of(batch));
    sums[limited] = trainer.gradients();
    if (!limited) {
      EXPECT_EQ(trainer.pass_size().tokens, 1024);
      device.max_memory = policy->base()->device()->memory().peak / 2;
    } else {
      EXPECT(trainer.pass_size().tokens < 1024);
      EXPECT(!trainer.pass_size().recompute);
      EXPECT(policy->base()->device()->memory().peak <= device.max_memory);
    }
  }
  float largest = 0, difference = 0;
  for (size_t i = 0; i < sums[0].size(); ++i) {
    largest = std::max(largest, std::fabs(sums[0][i]));
    difference = std::max(difference, std::fabs(sums[0][i] - sums[1][i]));
  }
  EXPECT(difference <= 1e-5f * largest);
}

TEST(a_limit_makes_the_generating_batch_smaller_and_changes_no_sample) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  DeviceOptions device{"cpu", "f32", "scalar", 1};
  std::vector<Sample> samples[2];
  for (const bool limited : {false, true}) {
    const auto policy = small_policy(folder.path(), device, two_heads());
    const GenerateStats stats = generate(policy, sampling(4), [&](std::vector<Sample>&& done) {
      for (Sample& sample : done) samples[limited].push_back(std::move(sample));
    });
    const size_t peak = policy->base()->device()->memory().peak;
    if (!limited) {
      EXPECT_EQ(stats.max_batch, 6);
      device.max_memory = peak - 1;
    } else {
      EXPECT_EQ(stats.max_batch, 3);
      EXPECT(peak <= device.max_memory);
    }
    std::sort(samples[limited].begin(), samples[limited].end(), [](const Sample& a, const Sample& b) {
      return std::pair(a.prompt, a.sample) < std::pair(b.prompt, b.sample);
    });
  }
  EXPECT_EQ(samples[0].size(), samples[1].size());
  for (size_t i = 0; i < samples[0].size(); ++i) {
    EXPECT(samples[0][i].tokens == samples[1][i].tokens && samples[0][i].logprobs == samples[1][i].logprobs);
    EXPECT(samples[0][i].answer_heads == samples[1][i].answer_heads);
  }
}

TEST(a_limit_below_the_weights_says_what_they_take) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  DeviceOptions device{"cpu", "f32", "scalar", 1};
  const size_t need = Base::open(folder.path(), device)->device()->memory().peak;
  device.max_memory = need;
  Base::open(folder.path(), device);
  device.max_memory = need - 1;
  EXPECT_THROWS(Base::open(folder.path(), device), std::to_string(need) + " bytes");
}

TESTING_MAIN
