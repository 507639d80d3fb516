// Passes and learning: read-outs follow from the logits, gradients are finite differences, a restored trainer goes on.
#include <cmath>

#include "backends.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Problem {
  HostBatch batch;
  Loss loss;
  double count = 0;
};

Problem problem() {
  std::mt19937 random(23);
  Problem p;
  std::vector<std::vector<int32_t>> sequences;
  for (const int length : {1, 70, 7, 129, 2, 31}) sequences.push_back(random_tokens(random, length));
  p.batch = batch_of(sequences);
  for (size_t t = 0; t < p.batch.tokens.size(); ++t) p.loss.nll_weights.push_back(t % 3 ? 1.0f : 0.0f);
  for (int b = 0; b < p.batch.segments(); ++b) p.loss.nll_weights[p.batch.offsets[b]] = 0;
  for (float weight : p.loss.nll_weights) p.count += weight;
  return p;
}

}  // namespace

TEST(gradients_are_finite_differences_of_the_loss) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  HeadSpec linear{"sure", -1, {}, 1, 4}, mlp{"deep", 1, {6}, 1, 9};
  const auto plain = small_policy(folder.path(), {"cpu", "f32", "scalar", 2}, {linear, mlp});
  std::mt19937 random(5);
  const HostBatch batch = batch_of({random_tokens(random, 9), random_tokens(random, 4)});
  AdapterSpec dropping = small_adapter();
  dropping.config.dropout = 0.4;
  const auto with_dropout = small_policy(folder.path(), {"cpu", "f32", "scalar", 2}, {}, dropping);
  for (const std::string kind : {"nll", "dropout", "closed set", "kl", "reverse kl", "jsd", "sure", "deep"}) {
    const auto& policy = kind == "dropout" ? with_dropout : plain;
    Loss loss;
    const std::vector<float> weights = {0, 1, 1, 0, 2, 1, 1, 1, 1, 0, 1, 0.5, 1};
    if (kind == "nll" || kind == "dropout") {
      loss.nll_weights = weights;
    } else if (kind == "closed set") {
      loss.closed_set = {{{5, 90, 33}, {12, 3, 8}}, {2, 0, 1}, {1, 0.5f, 2}};
    } else if (kind == "kl" || kind == "reverse kl" || kind == "jsd") {
      loss.divergence = kind == "kl" ? Divergence::kKl : kind == "jsd" ? Divergence::kJsd : Divergence::kReverseKl;
      loss.divergence_weights = weights;
    } else {
      loss.read = {kind, {{0, 8, 9}, {1, 1, 4}}};
      loss.targets = {0.2f, 0.9f};
    }
    expect_finite_differences(policy, batch, loss, kind, 5e-3, 1e-4, 0.02, 2e-4);
  }
}

TEST(a_head_learns_the_same_from_hidden_states_that_were_collected) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  for (const std::vector<int>& widths : {std::vector<int>{}, std::vector<int>{6, 3}}) {
    const auto policy = std::make_shared<Policy>(Base::open(folder.path(), {"cpu", "f32", "auto", 1}), std::nullopt,
                                                 std::vector<HeadSpec>{{"sure", -1, widths, 1, 4}});
    const HostBatch batch = problem().batch;
    PassRequest request;
    request.collect = {policy->base()->family().layers};
    Loss loss;
    loss.read.head = "sure";
    for (int b = 0; b < batch.segments(); ++b) {
      loss.read.spans.push_back({b, batch.length(b) - 1, batch.length(b)});
      loss.targets.push_back(0.15f * static_cast<float>(b));
    }
    request.spans = loss.read.spans;
    const std::vector<float> hidden = Pass(policy).forward(batch, request).collected;
    Trainer whole(policy, {}), alone(policy, {});
    whole.accumulate(batch, loss);
    alone.accumulate("sure", hidden, loss.targets);
    EXPECT_EQ(alone.loss(), whole.loss());
    EXPECT(whole.loss() > 0);
    EXPECT(alone.gradients() == whole.gradients());
    EXPECT(largest(whole.gradients()) > 0);
    EXPECT_THROWS(alone.accumulate("sure", hidden, {0.5f}), "for each of 1 targets");
  }
}

TEST(closed_sets_and_divergences_follow_from_the_logits) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2});
  const HostBatch batch = problem().batch;
  const int total = batch.tokens_count(), vocabulary = policy->base()->family().vocabulary;
  PassRequest request;
  request.logits = true;
  const std::vector<float> on = Pass(policy).forward(batch, request).logits;
  request.adapter = false;
  const std::vector<float> off = Pass(policy).forward(batch, request).logits;
  auto softmax = [](std::vector<double> z) {
    double sum = 0;
    for (double& x : z) sum += x = std::exp(x);
    for (double& x : z) x /= sum;
    return z;
  };
  auto row = [&](const std::vector<float>& logits, int t) {
    return softmax({logits.begin() + static_cast<int64_t>(t) * vocabulary,
                    logits.begin() + static_cast<int64_t>(t + 1) * vocabulary});
  };
  auto kl = [](const std::vector<double>& p, const std::vector<double>& q) {
    double sum = 0;
    for (size_t v = 0; v < p.size(); ++v) sum += p[v] * std::log(p[v] / q[v]);
    return sum;
  };
  for (const Divergence kind : {Divergence::kKl, Divergence::kReverseKl, Divergence::kJsd}) {
    PassRequest asked;
    asked.keep = true;
    asked.logits = true;
    asked.closed_set = ClosedSetRead{{96, 0, 17}, {0, total - 1, 40}};
    asked.divergence = {kind, std::vector<uint8_t>(total, 0)};
    std::vector<double> expected(total, 0.0);
    for (int b = 0; b < batch.segments(); ++b) {
      for (int t = batch.offsets[b] + 1; t < batch.offsets[b + 1]; ++t) {
        if (t % 3 == 0) continue;
        asked.divergence->mask[t] = 1;
        const std::vector<double> p = row(on, t - 1), q = row(off, t - 1);
        std::vector<double> m(p);
        for (size_t v = 0; v < m.size(); ++v) m[v] = (p[v] + q[v]) / 2;
        expected[t] = kind == Divergence::kKl          ? kl(p, q)
                      : kind == Divergence::kReverseKl ? kl(q, p)
                                                       : (kl(p, m) + kl(q, m)) / 2;
      }
    }
    const PassResult got = Pass(policy).forward(batch, asked);
    EXPECT(got.logits == on);  // the base's pass leaves nothing behind
    EXPECT_CLOSE(std::vector<double>(got.divergence.begin(), got.divergence.end()), expected, 1e-5);
    std::vector<double> closed;
    for (int32_t r : asked.closed_set->rows) {
      std::vector<double> z;
      for (int32_t c : asked.closed_set->candidates) z.push_back(on[static_cast<size_t>(r) * vocabulary + c]);
      for (double p : softmax(z)) closed.push_back(std::log(p));
    }
    EXPECT_CLOSE(std::vector<double>(got.closed_set.begin(), got.closed_set.end()), closed, 1e-5);
  }
}

TEST(terms_of_a_loss_add_up) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const Problem p = problem();
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2}, {{"sure", -1, {}, 1, 4}});
  Loss parts[4], all;
  all.nll_weights = parts[0].nll_weights = p.loss.nll_weights;
  all.closed_set = parts[1].closed_set = {{{4, 3}, {0, 200}}, {1, 0}, {1, 2}};
  all.divergence = parts[2].divergence = Divergence::kJsd;
  all.divergence_weights = parts[2].divergence_weights = p.loss.nll_weights;
  all.read = parts[3].read = {"sure", {{1, 3, 60}, {4, 0, 1}}};
  all.targets = parts[3].targets = {0, 1};
  Trainer together(policy, {}), apart(policy, {});
  together.accumulate(p.batch, all);
  for (const Loss& part : parts) apart.accumulate(p.batch, part);
  const double total = together.loss(), sum = apart.loss();
  EXPECT(std::fabs(total - sum) <= 1e-9 * total);
  const auto a = together.gradients(), b = apart.gradients();
  EXPECT_CLOSE(std::vector<double>(a.begin(), a.end()), std::vector<double>(b.begin(), b.end()), 1e-5);
}

TEST(completions_behind_one_prompt_give_what_whole_sequences_give) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  std::mt19937 random(31);
  each_device([&](const DeviceOptions& device) {
    const auto policy = small_policy(folder.path(), device, {{"sure", -1, {}, 1, 4}});
    const int hidden = policy->base()->family().hidden;
    HostBatch shared, apart;
    Loss behind, whole;
    shared.offsets = apart.offsets = {0};
    behind.read.head = whole.read.head = "sure";
    behind.closed_set = whole.closed_set = {{{4, 50}, {}}, {}, {}};
    behind.divergence = whole.divergence = Divergence::kReverseKl;
    std::vector<std::pair<int, int>> rows;  // of `shared` and of `apart`
    auto add = [](HostBatch& batch, const std::vector<int32_t>& tokens, int prefix) {
      batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
      batch.offsets.push_back(batch.tokens_count());
      batch.prefix_of.push_back(prefix);
    };
    // Prompts that end on a page's border, before and after it; the last one's completions are prompts themselves.
    for (const int length : {1, 63, 64, 130}) {
      const std::vector<int32_t> prompt = random_tokens(random, length);
      const int p = shared.segments(), prompt_at = shared.tokens_count();
      add(shared, prompt, -1);
      int reader = p;
      for (const int more : {1, 65, 3}) {
        const std::vector<int32_t> completion = random_tokens(random, more);
        const int sequence = apart.segments(), at = shared.tokens_count();
        std::vector<int32_t> all =
            apart.segments() && reader != p
                ? std::vector<int32_t>(apart.tokens.begin() + apart.offsets[sequence - 1], apart.tokens.end())
                : prompt;
        const int before = static_cast<int>(all.size());
        all.insert(all.end(), completion.begin(), completion.end());
        const int apart_at = apart.tokens_count();
        add(apart, all, -1);
        add(shared, completion, reader);
        for (int i = 0; i < more; ++i) rows.emplace_back(at + i, apart_at + before + i);
        if (reader == p) {
          for (int i = 0; i < length; ++i) rows.emplace_back(prompt_at + i, apart_at + i);
        }
        const int b = shared.segments() - 1;
        behind.read.spans.push_back({b, 0, more});
        whole.read.spans.push_back({sequence, before, before + more});
        behind.targets.push_back(0.3f);
        whole.targets.push_back(0.3f);
        behind.closed_set->read.rows.push_back(shared.tokens_count() - 1);
        whole.closed_set->read.rows.push_back(apart.tokens_count() - 1);
        for (Loss* loss : {&behind, &whole}) {
          loss->closed_set->labels.push_back(more % 2);
          loss->closed_set->weights.push_back(0.5f);
        }
        if (length == 130) reader = b;
      }
    }
    behind.nll_weights.assign(shared.tokens.size(), 0.0f);
    whole.nll_weights.assign(apart.tokens.size(), 0.0f);
    for (const auto& [s, a] : rows) {
      const bool first =
          a ==
          apart.offsets[std::upper_bound(apart.offsets.begin(), apart.offsets.end(), a) - apart.offsets.begin() - 1];
      if (first) continue;  // nothing predicts it
      const float weight = static_cast<float>(s % 4) / 4;
      behind.nll_weights[s] += weight;
      whole.nll_weights[a] += weight;
    }
    behind.divergence_weights = behind.nll_weights;
    whole.divergence_weights = whole.nll_weights;

    PassRequest request;
    request.logprobs = request.entropy = request.hidden = true;
    const PassResult one = Pass(policy).forward(shared, request), other = Pass(policy).forward(apart, request);
    int different = 0;
    for (const auto& [s, a] : rows) {
      different += one.logprobs[s] != other.logprobs[a] || one.entropy[s] != other.entropy[a] ||
                   !std::equal(one.hidden.begin() + static_cast<int64_t>(s) * hidden,
                               one.hidden.begin() + static_cast<int64_t>(s + 1) * hidden,
                               other.hidden.begin() + static_cast<int64_t>(a) * hidden);
    }
    EXPECT_EQ(different, 0);

    Trainer a(policy, {}), b(policy, {});
    a.accumulate(shared, behind);
    b.accumulate(apart, whole);
    const double loss = a.loss(), expected = b.loss();
    EXPECT(std::fabs(loss - expected) <= 1e-6 * std::fabs(expected));
    EXPECT_GRADIENTS(*policy, a.gradients(), b.gradients(), std::string(device.dtype) == "f32" ? 1e-5 : 3e-2);
  });
}

TEST(a_forward_held_open_gives_the_gradients_of_the_fused_loss) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const Problem p = problem();
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2});
  Trainer fused(policy, {}), open(policy, {});
  fused.accumulate(p.batch, p.loss);
  PassRequest request;
  request.logprobs = true;
  open.forward(p.batch, request);
  Upstream upstream;
  for (float weight : p.loss.nll_weights) upstream.logprobs.push_back(-weight);
  open.backward(upstream);
  const auto a = fused.gradients(), b = open.gradients();
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = std::max(difference, std::fabs(static_cast<double>(a[i]) - b[i]));
  EXPECT(difference <= 1e-5 * largest(a));
}

TEST(five_steps_saved_and_restored_in_the_middle_end_with_the_same_bytes) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const Problem p = problem();
    Loss loss = p.loss;
    loss.read = {"sure", {{1, 3, 60}, {4, 0, 1}}};
    loss.targets = {0, 1};
    OptimizerSpec optimizer;
    optimizer.weight_decay = 0.1;
    optimizer.max_gradient_norm = 1;
    optimizer.average_decay = 0.75;
    auto step = [&](Trainer& trainer) {
      trainer.accumulate(p.batch, loss);
      return trainer.update(0.01, p.count);
    };
    const std::vector<HeadSpec> heads = {{"sure", -1, {}, 1, 4}};
    const auto policy = small_policy(folder.path(), device, heads);
    Trainer trainer(policy, optimizer);
    for (int i = 0; i < 2; ++i) step(trainer);
    const auto parameters = policy->read_parameters(), m = trainer.first_moment(), v = trainer.second_moment(),
               average = trainer.average();
    for (int i = 0; i < 3; ++i) step(trainer);
    const auto resumed = small_policy(folder.path(), device, heads);
    std::vector<NamedTensor> tensors;
    for (const auto& all : {resumed->adapter_parameters(), resumed->head_parameters()})
      for (const Parameter& q : all) {
        const auto from = parameters.begin() + q.offset;
        tensors.push_back({q.name, q.shape, {from, from + q.count()}});
      }
    resumed->set_parameters(tensors);
    Trainer again(resumed, optimizer);
    again.restore(2, 0, m, v);
    again.restore_average(average);
    for (int i = 0; i < 3; ++i) step(again);
    EXPECT(policy->read_parameters() == resumed->read_parameters());
    EXPECT(trainer.average() == again.average());
  });
}

TEST(the_average_begins_as_the_policy_and_follows_it) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const Problem p = problem();
    OptimizerSpec averaged;
    averaged.average_decay = 0.75;
    const auto policy = small_policy(folder.path(), device), plain = small_policy(folder.path(), device);
    Trainer trainer(policy, averaged), without(plain, {});
    std::vector<float> expected = policy->read_parameters();
    EXPECT(trainer.average() == expected);
    EXPECT(without.average().empty());
    for (int i = 0; i < 3; ++i) {
      for (Trainer* one : {&trainer, &without}) {
        one->accumulate(p.batch, p.loss);
        one->update(0.01, p.count);
      }
      const auto now = policy->read_parameters();
      for (size_t j = 0; j < now.size(); ++j) expected[j] += 0.25f * (now[j] - expected[j]);
    }
    const auto got = trainer.average();
    for (size_t j = 0; j < got.size(); ++j) EXPECT_NEAR(got[j], expected[j], 1e-7);
    EXPECT(got != policy->read_parameters());
    EXPECT(policy->read_parameters() == plain->read_parameters());  // who is averaged learns the same
    EXPECT_THROWS(without.restore_average(got), "averageDecay");
    averaged.average_decay = 1;
    EXPECT_THROWS(Trainer(policy, averaged), "above 0 and below 1");
  });
}

// The losses as they are defined, from what a pass reads out: the sums that stay on the device are theirs.
TEST(a_step_tells_the_loss_of_what_it_learnt_from) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const Problem p = problem();
    const auto policy = small_policy(folder.path(), device, {{"sure", -1, {}, 1, 4}});
    Loss loss;
    loss.nll_weights = loss.divergence_weights = p.loss.nll_weights;
    loss.closed_set = {{{4, 3}, {0, 200}}, {1, 0}, {1, 2}};
    loss.read = {"sure", {{1, 3, 60}, {4, 0, 1}}};
    loss.targets = {0, 1};
    PassRequest request;
    request.logprobs = true;
    request.heads = {loss.read};
    request.closed_set = loss.closed_set->read;
    request.divergence = {Divergence::kKl, {}, true};
    for (float weight : loss.divergence_weights) request.divergence->mask.push_back(weight != 0);
    const PassResult read = Pass(policy).forward(p.batch, request);
    double expected = -1.0 * read.closed_set[1] - 2.0 * read.closed_set[2];
    for (size_t t = 0; t < p.batch.tokens.size(); ++t)
      expected += static_cast<double>(p.loss.nll_weights[t]) * (read.divergence[t] - read.logprobs[t]);
    for (size_t s = 0; s < loss.targets.size(); ++s) {
      const double score = 1 / (1 + std::exp(-static_cast<double>(read.heads.at("sure")[s])));
      expected += (score - loss.targets[s]) * (score - loss.targets[s]);
    }
    Trainer trainer(policy, {});
    trainer.accumulate(p.batch, loss);
    trainer.accumulate(p.batch, loss);
    const StepResult step = trainer.update(0.01, 4);
    EXPECT(std::fabs(step.loss - expected / 2) <= 1e-6 * std::fabs(expected));
    EXPECT_EQ(trainer.loss(), 0.0);
  });
}

TEST(a_step_that_is_not_finite_moves_nothing_and_is_forgotten) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const Problem p = problem();
    const auto policy = small_policy(folder.path(), device);
    Trainer trainer(policy, {}), untouched(small_policy(folder.path(), device), {});
    const auto step = [&](Trainer& of) {
      of.accumulate(p.batch, p.loss);
      return of.update(0.01, p.count);
    };
    step(trainer), step(untouched);
    const auto before = policy->read_parameters(), m = trainer.first_moment(), v = trainer.second_moment();
    Loss bad = p.loss;
    for (float& weight : bad.nll_weights) weight *= INFINITY;
    for (float& weight : bad.nll_weights)
      if (std::isnan(weight)) weight = 0;
    trainer.accumulate(p.batch, bad);
    EXPECT_THROWS(trainer.update(0.01, p.count), "is not finite. Lower the learning rate");
    EXPECT(policy->read_parameters() == before);
    EXPECT(trainer.first_moment() == m && trainer.second_moment() == v);
    EXPECT_EQ(trainer.step(), 1);
    const StepResult again = step(trainer), expected = step(untouched);
    EXPECT_EQ(again.loss, expected.loss);
    EXPECT_EQ(again.gradient_norm, expected.gradient_norm);
    EXPECT(policy->read_parameters() == untouched.policy()->read_parameters());
  });
}

TEST(only_the_targets_asked_for_are_trained_and_nothing_below_the_lowest_runs_backward) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  AdapterSpec adapter = small_adapter({Projection::kV, Projection::kUp});
  adapter.config.layers = std::vector<int>{1};
  const Problem p = problem();
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1}, {}, adapter);
  EXPECT_EQ(policy->adapter_parameters().size(), 4u);
  EXPECT_EQ(policy->lowest_trained(), 1);
  Trainer trainer(policy, {});
  trainer.accumulate(p.batch, p.loss);
  EXPECT(largest(trainer.gradients()) > 0);
  EXPECT(!policy->base()->block(0).backward);
}

TEST(bad_batches_are_named) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  Trainer trainer(policy, {});
  Loss loss;
  loss.nll_weights = {0, 1, 1};
  EXPECT_THROWS(trainer.accumulate(batch_of({{1, 97, 3}}), loss), "token id 97");
  EXPECT_THROWS(trainer.accumulate({{1, 2, 3}, {0, 2}}, loss), "offsets");
  EXPECT_THROWS(trainer.accumulate(batch_of({{1, 2}}), loss),
                "weights: expected one for each of 2 tokens but received 3");
  EXPECT_THROWS(trainer.update(0.1, 0), "Was anything in the step supervised");
  loss.nll_weights = {1, 1};
  EXPECT_THROWS(trainer.accumulate(batch_of({{1, 2}}), loss), "token 0 begins sequence 0: nothing predicts it");
  PassRequest closed, diverging;
  closed.closed_set = ClosedSetRead{{3, 4}, {2}};
  EXPECT_THROWS(Pass(policy).forward(batch_of({{1, 2}}), closed), "row 2 is not one of the batch's 2");
  closed.closed_set = ClosedSetRead{{3, 3}, {1}};
  EXPECT_THROWS(Pass(policy).forward(batch_of({{1, 2}}), closed), "candidate 3 stands twice");
  closed.closed_set = ClosedSetRead{{97}, {1}};
  EXPECT_THROWS(Pass(policy).forward(batch_of({{1, 2}}), closed), "not in the vocabulary of 97");
  diverging.divergence = DivergenceRead{Divergence::kKl, {1, 0}};
  EXPECT_THROWS(Pass(policy).forward(batch_of({{1, 2}}), diverging), "token 0 begins sequence 0");
  diverging.divergence->mask = {0, 1};
  diverging.adapter = false;
  EXPECT_THROWS(Pass(policy).forward(batch_of({{1, 2}}), diverging), "there is none to switch");
  EXPECT_THROWS(Pass(policy).forward({{1, 2}, {0, 1, 2}, {1, -1}}, {}), "a prefix stands before its readers");
  EXPECT_THROWS(Pass(policy).forward({{1, 2}, {0, 1, 2}, {-1}}, {}), "expected one for each of 2 sequences");
  std::mt19937 random(1);
  HostBatch behind = batch_of({random_tokens(random, 200), random_tokens(random, 201)});
  behind.prefix_of = {-1, 0};
  EXPECT_THROWS(Pass(policy).forward(behind, {}), "sequence 1 has 401 tokens");
  EXPECT_THROWS(Pass(policy).forward(batch_of({random_tokens(random, 401)}), {}), "the model's context is 400");
}

TESTING_MAIN
