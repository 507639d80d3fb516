// What a policy owns of its base: it begins as the base, its gradients are finite differences, its packed weights are its masters'.
#include <algorithm>
#include <cmath>

#include "backends.h"
#include "engine/model_writer.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

constexpr OwnedSpec kEverything = {true, true, true, true};
constexpr OwnedSpec kBesideLora = {true, true, true, false};

const std::vector<HeadSpec> kHeads = {{"sure", -1, {}, 1, 4}, {"deep", 1, {6}, 1, 9}, {"first", 0, {}, 1, 2}};

HostBatch some_sequences(const std::vector<int>& lengths = {1, 70, 7, 129, 2, 31}) {
  std::mt19937 random(23);
  std::vector<std::vector<int32_t>> sequences;
  for (const int length : lengths) sequences.push_back(random_tokens(random, length));
  return batch_of(sequences);
}

/// Every kind of loss at once.
Loss every_loss(const HostBatch& batch) {
  Loss loss;
  for (size_t t = 0; t < batch.tokens.size(); ++t) {
    loss.nll_weights.push_back(t % 3 ? 1.0f : 0.0f);
    loss.divergence_weights.push_back(t % 2 ? 0.5f : 0.0f);
  }
  for (int b = 0; b < batch.segments(); ++b)
    loss.nll_weights[batch.offsets[b]] = loss.divergence_weights[batch.offsets[b]] = 0;
  loss.closed_set = {{{4, 3, 90}, {0, batch.offsets.back() - 1}}, {1, 0}, {1, 2}};
  loss.read = {"sure", {{1, 3, batch.length(1)}, {batch.segments() - 1, 0, 1}}};
  loss.targets = {0, 1};
  return loss;
}

std::vector<float> logits_of(const std::shared_ptr<Policy>& policy, const HostBatch& batch, bool on = true) {
  PassRequest request;
  request.logits = true;
  request.adapter = on;
  return Pass(policy).forward(batch, request).logits;
}

std::shared_ptr<Policy> plain_policy(const std::string& folder, const DeviceOptions& device,
                                     const OwnedSpec& owned = {}) {
  return std::make_shared<Policy>(Base::open(folder, device), std::nullopt, std::vector<HeadSpec>{}, owned);
}

StepResult step(Trainer& trainer, const HostBatch& batch, const Loss& loss) {
  trainer.accumulate(batch, loss);
  return trainer.update(0.003, 100);
}

std::vector<NamedTensor> tensors_of(const Policy& policy, const std::vector<Parameter>& parameters) {
  const std::vector<float> values = policy.read_parameters();
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : parameters)
    tensors.push_back({p.name, p.shape, {values.begin() + p.offset, values.begin() + p.offset + p.count()}});
  return tensors;
}

}  // namespace

TEST(a_fresh_policy_that_owns_everything_says_what_its_base_says_and_the_base_stays) {
  for (const char* type : {"llama", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      TemporaryFolder folder;
      write_small_model(folder.path(), tied, type);
      const HostBatch batch = some_sequences({9, 66});
      Loss loss = every_loss(batch);
      loss.read.head.clear(), loss.read.spans.clear(), loss.targets.clear();
      each_device([&](const DeviceOptions& device) {
        const auto policy = plain_policy(folder.path(), device, kEverything);
        const std::vector<float> before = logits_of(policy, batch, false);
        EXPECT_EQ(policy->count(), parameter_count(policy->base()->family()));
        EXPECT(logits_of(policy, batch) == before);
        Trainer trainer(policy, {});
        step(trainer, batch, loss);
        EXPECT(logits_of(policy, batch) != before);
        EXPECT(logits_of(policy, batch, false) == before);
      });
    }
  }
}

TEST(gradients_of_what_is_owned_are_finite_differences_of_the_loss) {
  std::mt19937 random(5);
  const HostBatch batch = batch_of({random_tokens(random, 9), random_tokens(random, 4)});
  const std::vector<float> weights = {0, 1, 1, 0, 2, 1, 1, 1, 1, 0, 1, 0.5, 1};
  const auto check = [&](const std::string& type, bool tied, const std::vector<std::string>& kinds) {
    TemporaryFolder folder;
    write_small_model(folder.path(), tied, type);
    const auto policy =
        small_policy(folder.path(), {"cpu", "f32", "auto", 1}, kHeads, small_adapter({Projection::kV}), kEverything);
    for (const std::string& kind : kinds) {
      Loss loss;
      if (kind == "nll") loss.nll_weights = weights;
      else if (kind == "closed set") loss.closed_set = {{{5, 90, 33}, {12, 3, 8}}, {2, 0, 1}, {1, 0.5f, 2}};
      else if (kind == "kl") loss.divergence_weights = weights;
      else loss.read = {kind, {{0, 8, 9}, {1, 1, 4}}}, loss.targets = {0.2f, 0.9f};
      // A step that is small beside what a loss this sharp bends in: of the embedding it is the sum of many.
      expect_finite_differences(policy, batch, loss, type + " " + kind, 1e-3, 1e-3, 0.02, 2e-3);
    }
  };
  check("llama", false, {"nll", "closed set", "kl", "sure", "deep", "first"});
  check("llama", true, {"nll", "kl"});
  check("qwen2", false, {"nll"});
  check("qwen3", true, {"nll"});
}

TEST(gradients_have_the_same_bits_on_any_number_of_threads) {
  TemporaryFolder folder;
  write_small_model(folder.path(), true, "qwen3");
  const HostBatch batch = some_sequences();
  each_device([&](DeviceOptions device) {
    std::vector<std::vector<float>> got;
    for (const int threads : {1, 2, 3}) {
      device.threads = threads;
      Trainer trainer(small_policy(folder.path(), device, kHeads, small_adapter(), kEverything), {});
      trainer.accumulate(batch, every_loss(batch));
      got.push_back(trainer.gradients());
    }
    EXPECT(largest(got[0]) > 0);
    EXPECT(got[1] == got[0]);
    EXPECT(got[2] == got[0]);
  });
}

TEST(gradients_in_bf16_and_of_other_tables_are_those_of_float32) {
  TemporaryFolder folder;
  write_small_model(folder.path(), true);
  const HostBatch batch = some_sequences({70, 9});
  const Loss loss = every_loss(batch);
  Trainer exact(small_policy(folder.path(), {"cpu", "f32", "scalar", 1}, kHeads, small_adapter(), kEverything), {});
  exact.accumulate(batch, loss);
  each_device([&](const DeviceOptions& device) {
    Trainer trainer(small_policy(folder.path(), device, kHeads, small_adapter(), kEverything), {});
    trainer.accumulate(batch, loss);
    // In bf16 on so small a model, an adapter's gradients are as far off.
    EXPECT_GRADIENTS(*trainer.policy(), trainer.gradients(), exact.gradients(), device.dtype == "f32" ? 2e-5 : 0.1);
  });
}

TEST(blocks_computed_again_have_the_same_gradients) {
  TemporaryFolder folder;
  write_small_model(folder.path(), true);
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2}, {}, small_adapter(), kEverything);
  const HostBatch batch = some_sequences();
  std::vector<std::vector<float>> got;
  for (const bool recompute : {false, true}) {
    Buffer sums(policy->base()->device(), policy->count() * sizeof(float));
    sums.zero();
    Pass pass(policy);
    PassRequest request;
    request.keep = true;
    request.recompute = recompute;
    pass.forward(batch, request);
    Upstream upstream;
    upstream.logprobs = every_loss(batch).nll_weights;
    pass.backward(upstream, sums.f32());
    got.push_back(sums.download<float>(policy->count()));
  }
  EXPECT(largest(got[0]) > 0);
  EXPECT(got[1] == got[0]);
}

// What is packed after each step is the masters: a model of their numbers has the same bits.
TEST(a_trained_policy_is_the_model_of_its_numbers) {
  for (const bool tied : {false, true}) {
    TemporaryFolder folder;
    write_small_model(folder.path(), tied, "qwen3");
    const HostBatch batch = some_sequences({9, 66});
    Loss loss = every_loss(batch);
    loss.read.head.clear(), loss.read.spans.clear(), loss.targets.clear();
    each_device([&](const DeviceOptions& device) {
      const auto policy = plain_policy(folder.path(), device, kEverything);
      Trainer trainer(policy, {});
      for (int i = 0; i < 3; ++i) step(trainer, batch, loss);
      const std::vector<float> trained = logits_of(policy, batch);
      const TemporaryFolder written;
      const auto tensors = tensors_of(*policy, policy->owned_parameters());
      write_tensors(written.file("weights.safetensors"), tensors);
      // As a model by itself, merged into the base, and as a policy of the base.
      const auto file = TensorFile::open(written.file("weights.safetensors"));
      const auto base = BaseFiles::open(folder.path());
      std::filesystem::create_directories(written.file("merged"));
      write_folder(MergedWeights(*base, nullptr, 0, file.get()), written.file("merged"), Dtype::kF32, 1 << 30);
      EXPECT(logits_of(plain_policy(written.file("merged"), device), batch) == trained);
      const auto again = plain_policy(folder.path(), device, owned_in(*file));
      again->load_owned(*file);
      EXPECT(logits_of(again, batch) == trained);
      EXPECT(again->read_parameters() == policy->read_parameters());
    });
  }
}

TEST(a_policy_saved_in_the_middle_goes_on_to_the_same_bytes) {
  TemporaryFolder folder;
  write_small_model(folder.path(), true, "qwen2");
  const HostBatch batch = some_sequences();
  const Loss loss = every_loss(batch);
  OptimizerSpec optimizer;
  optimizer.weight_decay = 0.1;
  optimizer.max_gradient_norm = 1;
  each_device([&](const DeviceOptions& device) {
    const auto make = [&] { return small_policy(folder.path(), device, kHeads, small_adapter(), kEverything); };
    const auto policy = make(), resumed = make();
    Trainer trainer(policy, optimizer), again(resumed, optimizer);
    step(trainer, batch, loss);
    resumed->set_parameters(tensors_of(*policy, policy->all_parameters()));
    again.restore(1, 0, trainer.first_moment(), trainer.second_moment());
    for (int i = 0; i < 2; ++i) step(trainer, batch, loss), step(again, batch, loss);
    EXPECT(policy->read_parameters() == resumed->read_parameters());
    EXPECT(logits_of(policy, batch) == logits_of(resumed, batch));
  });
}

TEST(groups_learn_at_their_own_rates) {
  TemporaryFolder folder;
  write_small_model(folder.path(), false, "qwen2");
  const HostBatch batch = some_sequences({9, 30});
  const Loss loss = every_loss(batch);
  OptimizerSpec optimizer;
  optimizer.weight_decay = 0.1;
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1}, kHeads, small_adapter(), kEverything);
  const auto before = policy->read_parameters();
  const std::vector<GroupRange> groups = policy->groups();
  EXPECT_EQ(groups.size(), 7u);
  EXPECT_EQ(groups.front().begin, 0);
  EXPECT_EQ(groups.back().end, policy->count());
  for (size_t i = 1; i < groups.size(); ++i) EXPECT_EQ(groups[i].begin, groups[i - 1].end);
  Trainer trainer(policy, optimizer);
  std::map<Group, GroupSettings> settings;
  for (const GroupRange& range : groups) settings[range.group].learning_rate = 1e-3 * static_cast<double>(range.group);
  settings[Group::kBiases].weight_decay = 0;
  settings[Group::kAdapter] = {};
  trainer.accumulate(batch, loss);
  const std::vector<float> gradient = trainer.gradients();
  trainer.update(0.5, 100, settings);
  const auto after = policy->read_parameters();
  for (const GroupRange& range : groups) {
    const double rate = range.group == Group::kAdapter ? 0.5 : 1e-3 * static_cast<double>(range.group);
    const double decay = range.group == Group::kBiases ? 0 : 0.1;
    double worst = 0;
    for (int64_t i = range.begin; i < range.end; ++i) {
      // The first step of AdamW: the gradient's sign, but for eps.
      const double g = gradient[i] / 100, expected = before[i] * (1 - rate * decay) - rate * g / (std::fabs(g) + 1e-8);
      worst = std::max(worst, std::fabs(after[i] - expected) / std::max(1.0, std::fabs(expected)));
    }
    if (!(worst <= 2e-4 * rate + 1e-7))
      report(__FILE__, __LINE__, group_name(range.group) + (": off by " + show(worst)));
    if (rate == 0)
      EXPECT(std::equal(before.begin() + range.begin, before.begin() + range.end, after.begin() + range.begin));
  }
  EXPECT_THROWS(trainer.update(1, 1, {{Group::kNorms, {-1.0, {}}}}), "learning rate -1 (norms) is not a number from 0");
  EXPECT_THROWS(trainer.update(1, 1, {{Group::kNorms, {{}, NAN}}}), "weight decay nan (norms) is not a number from 0");
  EXPECT(policy->read_parameters() == after);
  Trainer heads(small_policy(folder.path(), {"cpu", "f32", "auto", 1}), {});
  EXPECT_THROWS(heads.update(1, 1, {{Group::kNorms, {}}}), "trains none of the group \"norms\"");
}

TEST(parts_alone_are_owned_and_nothing_else_moves) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const HostBatch batch = some_sequences({9, 30});
  Loss loss = every_loss(batch);
  loss.read.head.clear(), loss.read.spans.clear(), loss.targets.clear();
  const DeviceOptions device{"cpu", "f32", "auto", 1};
  Trainer whole(plain_policy(folder.path(), device, kEverything), {});
  whole.accumulate(batch, loss);
  const auto all = whole.gradients();
  for (const OwnedSpec& owned :
       {OwnedSpec{true, false, false, false}, {false, true, false, false}, {false, false, true, false}, kBesideLora}) {
    const auto policy = plain_policy(folder.path(), device, owned);
    EXPECT_EQ(policy->lowest_trained(), owned.embeddings || owned.norms ? 0 : 2);
    Trainer trainer(policy, {});
    trainer.accumulate(batch, loss);
    const auto gradient = trainer.gradients();
    for (const Parameter& p : policy->all_parameters()) {
      const auto& known = whole.policy()->all_parameters();
      const auto same = std::find_if(known.begin(), known.end(), [&](const Parameter& q) { return q.name == p.name; });
      EXPECT(
          std::equal(gradient.begin() + p.offset, gradient.begin() + p.offset + p.count(), all.begin() + same->offset));
    }
  }
}

TEST(what_does_not_fit_is_named) {
  TemporaryFolder tied, other;
  write_small_model(tied.path(), true);
  write_small_model(other.path(), false, "qwen2");
  const DeviceOptions device{"cpu", "f32", "auto", 1};
  EXPECT_THROWS(plain_policy(tied.path(), device, {false, true, false, false}), "is its embedding");
  EXPECT_EQ(plain_policy(tied.path(), device, {true, true, false, false})->count(), 97 * 40);
  const auto policy = plain_policy(tied.path(), device, {false, false, true, false});
  const auto save = [&](const std::vector<NamedTensor>& tensors) {
    write_tensors(tied.file("weights.safetensors"), tensors);
    return TensorFile::open(tied.file("weights.safetensors"));
  };
  auto tensors = tensors_of(*policy, policy->owned_parameters());
  auto fewer = tensors, wider = tensors, wrong = tensors;
  fewer.pop_back();
  EXPECT_THROWS(policy->load_owned(*save(fewer)), "has no tensor model.norm.weight");
  wider.back().shape = {20, 2};
  EXPECT_THROWS(policy->load_owned(*save(wider)), "is not one of the model's. Was it made for another model?");
  wrong.back().data[3] = INFINITY;
  EXPECT_THROWS(policy->load_owned(*save(wrong)), "model.norm.weight");
  const auto more = save(tensors_of(*plain_policy(other.path(), device, kEverything),
                                    plain_policy(other.path(), device, kEverything)->owned_parameters()));
  EXPECT_THROWS(policy->load_owned(*more), "is not one of the model's");
  const auto base = BaseFiles::open(tied.path());
  EXPECT_THROWS(MergedWeights(*base, nullptr, 0, more.get()), "Was it made for another model?");
}

TESTING_MAIN
