// Learning by proximal policy optimisation: the gradient is that of the loss, masks change no bit of what is read.
#include <cmath>
#include <thread>

#include "backends.h"
#include "engine/reading.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

TEST(the_gradient_is_the_finite_difference_of_the_loss) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "scalar", 2}, ppo_critics());
  std::mt19937 random(5);
  const HostBatch batch = ppo_rollouts(random);
  const PpoLoss whole = ppo_loss_of(batch);
  for (const std::string kind : {"policy", "unclipped", "k1", "k2", "entropy", "values", "deep", "all", "cooled"}) {
    PpoLoss loss = whole;
    if (kind == "cooled") {
      loss.temperature = 0.7;
    } else if (kind != "all") {
      if (kind != "k1" && kind != "k2") loss.kl.reset();
      if (kind != "entropy") loss.entropy = 0;
      if (kind != "values" && kind != "deep") loss.value.reset();
      if (kind == "values" || kind == "deep") loss.weights.clear();
      if (kind == "deep") loss.value->head = "deep", loss.value->clip = 0;
      if (kind == "unclipped") loss.clip_low = loss.clip_high = INFINITY;
      if (kind == "k1") loss.kl->estimator = 1;
      if (kind == "k2") loss.kl->estimator = 2;
    }
    expect_finite_differences(policy, batch, loss, kind, 1e-3, 1e-3, 0.03, 3e-3);
  }
}

TEST(the_first_update_is_a_weighted_likelihood) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2}, ppo_critics());
  std::mt19937 random(5);
  const HostBatch batch = ppo_rollouts(random);
  PpoLoss loss = ppo_loss_of(batch);
  loss.kl.reset(), loss.value.reset();
  loss.entropy = 0;
  PassRequest request;
  request.logprobs = true;
  loss.old_logprobs = Pass(policy).forward(batch, request).logprobs;
  Loss likelihood;
  for (size_t t = 0; t < loss.weights.size(); ++t)
    likelihood.nll_weights.push_back(static_cast<float>(static_cast<double>(loss.weights[t]) * loss.advantages[t]));
  Trainer ppo(policy, {}), plain(policy, {});
  ppo.accumulate(batch, loss);
  const PpoSums sums = ppo.ppo_sums();
  plain.accumulate(batch, likelihood);
  EXPECT_EQ(sums.policy.ratio_change, 0.0);
  EXPECT_EQ(sums.policy.clipped, 0.0);
  EXPECT_EQ(sums.policy.ratio, sums.policy.weight);
  EXPECT(ppo.gradients() == plain.gradients());
  EXPECT(largest(ppo.gradients()) > 0);
}

TEST(masks_change_no_bit_and_values_are_the_head_before_each_token) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  for (const char* dtype : {"f32", "bf16"}) {
    const auto policy = small_policy(folder.path(), {"cpu", dtype, "auto", 2}, ppo_critics());
    std::mt19937 random(6);
    HostBatch batch = ppo_rollouts(random);
    PassRequest all;
    all.logprobs = all.entropy = true;
    const PassResult everywhere = Pass(policy).forward(batch, all);
    for (const std::string head : {"worth", "deep"}) {
      PassRequest some = all;
      for (size_t t = 0; t < batch.tokens.size(); ++t) some.mask.push_back(t >= 7 && t % 3 != 0);
      some.mask[batch.offsets[4]] = 0;
      some.values = {head, some.mask};
      some.heads = {{head, {}}};
      std::vector<int> tokens;
      for (int b = 0; b < batch.segments(); ++b)
        for (int t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
          if (!some.mask[t]) continue;
          const bool first = t == batch.offsets[b];
          const int sequence = first ? batch.prefix(b) : b;
          const int at = first ? batch.length(sequence) - 1 : t - 1 - batch.offsets[b];
          some.heads[0].spans.push_back({sequence, at, at + 1});
          tokens.push_back(t);
        }
      const PassResult got = Pass(policy).forward(batch, some);
      std::vector<float> expected(batch.tokens.size());
      for (size_t i = 0; i < tokens.size(); ++i) expected[tokens[i]] = got.heads.at(head)[i];
      EXPECT(got.values == expected);
      EXPECT(largest(got.values) > 0);
      std::vector<float> masked(batch.tokens.size());
      for (int t : tokens) masked[t] = everywhere.logprobs[t];
      EXPECT(got.logprobs == masked);
      for (int b = 0; b < batch.segments(); ++b)
        for (int t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
          if (some.mask[t]) EXPECT_EQ(got.entropy[batch.row_before(b, t)], everywhere.entropy[batch.row_before(b, t)]);
      some.heads.clear();
      const PassResult read = read_batch(policy, batch, some);
      EXPECT(read.values == expected);
      EXPECT(read.logprobs == masked);
    }
  }
}

TEST(a_temperature_divides_the_logits_and_nothing_else) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  for (const auto& [dtype, bound] : {std::pair{"f32", 1e-5}, {"bf16", 0.05}}) {
    const auto policy = small_policy(folder.path(), {"cpu", dtype, "auto", 2}, ppo_critics());
    std::mt19937 random(6);
    const HostBatch batch = ppo_rollouts(random);
    PassRequest request;
    request.logprobs = request.entropy = request.logits = true;
    request.closed_set = {{3, 5, 8}, {4}};
    request.heads = {{"worth", {{0, 1, 3}}}};
    const PassResult plain = Pass(policy).forward(batch, request);
    const int vocabulary = static_cast<int>(plain.logits.size() / batch.tokens.size());
    for (const double temperature : {0.7, 1.0, 2.5}) {
      request.temperature = temperature;
      const PassResult got = Pass(policy).forward(batch, request);
      const auto logit = [&](int row, int token) {
        return plain.logits[static_cast<int64_t>(row) * vocabulary + token] / temperature;
      };
      std::vector<double> lse, entropy, logprobs(batch.tokens.size());
      for (int row = 0; row < batch.tokens_count(); ++row) {
        double sum = 0, mean = 0;
        for (int v = 0; v < vocabulary; ++v) sum += std::exp(logit(row, v));
        for (int v = 0; v < vocabulary; ++v) mean += std::exp(logit(row, v)) / sum * logit(row, v);
        lse.push_back(std::log(sum));
        entropy.push_back(lse.back() - mean);
      }
      for (int b = 0; b < batch.segments(); ++b) {
        for (int t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
          const int row = batch.row_before(b, t);
          if (row >= 0) logprobs[t] = logit(row, batch.tokens[t]) - lse[row];
        }
      }
      EXPECT_CLOSE(std::vector<double>(got.logprobs.begin(), got.logprobs.end()), logprobs, bound);
      EXPECT_CLOSE(std::vector<double>(got.entropy.begin(), got.entropy.end()), entropy, bound);
      EXPECT(got.closed_set == plain.closed_set);
      EXPECT(got.heads == plain.heads);
      EXPECT_EQ(got.logprobs == plain.logprobs, temperature == 1);
    }
    request.temperature = 0;
    EXPECT_THROWS(Pass(policy).forward(batch, request), "expected above 0 but received 0");
  }
}

TEST(a_critic_held_open_learns_what_the_fused_one_does) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2}, ppo_critics());
  std::mt19937 random(6);
  const HostBatch batch = ppo_rollouts(random);
  for (const std::string head : {"worth", "deep"}) {
    PpoLoss loss = ppo_loss_of(batch);
    loss.weights.clear();
    loss.kl.reset();
    loss.value->head = head, loss.value->clip = 0, loss.value->coefficient = 1;
    Trainer fused(policy, {}), own(policy, {});
    fused.accumulate(batch, loss);
    const PpoSums sums = fused.ppo_sums();
    PassRequest request;
    request.values = {head, {}};
    for (float weight : loss.value->weights) request.values->mask.push_back(weight != 0);
    const PassResult read = own.forward(batch, request);
    Upstream upstream;
    double error = 0;
    for (size_t t = 0; t < batch.tokens.size(); ++t) {
      const double weight = loss.value->weights[t], off = static_cast<double>(read.values[t]) - loss.value->returns[t];
      error += weight * off * off;
      upstream.values.push_back(static_cast<float>(weight * off));
    }
    own.backward(upstream);
    EXPECT(fused.gradients() == own.gradients());
    EXPECT_CLOSE((std::vector<double>{sums.value.error, sums.loss}), (std::vector<double>{error, error / 2}), 1e-12);
  }
}

TEST(ranks_that_share_a_step_are_told_the_sums_of_all) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  std::mt19937 random(6);
  const HostBatch first = ppo_rollouts(random), second = ppo_rollouts(random);
  const auto told = [&](int ranks) {
    const auto communicators = threads_of_one_process(ranks);
    std::vector<StepResult> results(ranks);
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        Trainer trainer(small_policy(folder.path(), {"cpu", "f32", "auto", 1}, ppo_critics()), {}, communicators[r]);
        for (const HostBatch* batch : {&first, &second})
          if (ranks == 1 || (batch == &second) == (r == 1)) trainer.accumulate(*batch, ppo_loss_of(*batch));
        results[r] = trainer.update(1e-3, ranks == 1 ? 20 : 10);
      });
    for (std::thread& thread : threads) thread.join();
    return results;
  };
  const auto numbers = [](const StepResult& of) {
    const credence_policy_sums& p = of.ppo.policy;
    const credence_value_sums& v = of.ppo.value;
    return std::vector<double>{of.loss,        of.gradient_norm, of.ppo.loss, p.weight,  p.policy,       p.ratio,
                               p.clipped,      p.outside,        p.old_kl1,   p.old_kl2, p.reference_kl, p.entropy,
                               p.ratio_change, v.weight,         v.loss,      v.error,   v.clipped};
  };
  const auto alone = told(1), two = told(2);
  EXPECT(numbers(two[0]) == numbers(two[1]));
  EXPECT(alone[0].ppo.policy.ratio_change > 0 && alone[0].ppo.policy.entropy > 0);
  EXPECT_CLOSE(numbers(two[0]), numbers(alone[0]), 1e-6);
}

TEST(what_does_not_belong_together_is_an_error) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy =
      small_policy(folder.path(), {"cpu", "f32", "auto", 1}, {{"worth", -1, {}, 1, 4}, {"pair", -1, {}, 2, 4}});
  std::mt19937 random(6);
  const HostBatch batch = ppo_rollouts(random);
  Trainer trainer(policy, {});
  const PpoLoss right = ppo_loss_of(batch);
  PpoLoss loss = right;
  loss.advantages.pop_back();
  EXPECT_THROWS(trainer.accumulate(batch, loss), "advantages: expected one for each of");
  loss = right;
  loss.weights[0] = 1;
  EXPECT_THROWS(trainer.accumulate(batch, loss), "token 0 begins sequence 0: nothing predicts it");
  loss = right;
  loss.value->head = "pair";
  EXPECT_THROWS(trainer.accumulate(batch, loss), "has 2 outputs; a value is one number");
  loss = right;
  loss.kl->estimator = 4;
  EXPECT_THROWS(trainer.accumulate(batch, loss), "kl_estimator is none of 1, 2 and 3");
  loss = right;
  for (float& x : loss.old_logprobs) x = NAN;
  // Seen by whoever asks, and by the update; the step is forgotten, and nothing was learnt.
  const std::vector<float> before = policy->read_parameters();
  trainer.accumulate(batch, loss);
  EXPECT_THROWS(trainer.ppo_sums(), "the loss is not finite");
  EXPECT_EQ(largest(trainer.gradients()), 0.0);
  trainer.accumulate(batch, loss);
  EXPECT_THROWS(trainer.update(0.01, 1), "the loss is not finite");
  EXPECT_EQ(largest(trainer.gradients()), 0.0);
  EXPECT(policy->read_parameters() == before);
  trainer.accumulate(batch, right);
  EXPECT(trainer.update(0.01, 1).ppo.policy.weight > 0);
}

TESTING_MAIN
