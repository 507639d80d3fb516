// Learning by proximal policy optimisation: the gradient is that of the loss, masks change no bit of what is read.
#include <cmath>

#include "backends.h"
#include "engine/reading.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// Two prompts, the first with three completions behind it, the second with its own in one sequence.
HostBatch rollouts(std::mt19937& random) {
  HostBatch batch = batch_of({random_tokens(random, 7), random_tokens(random, 4), random_tokens(random, 1),
                              random_tokens(random, 3), random_tokens(random, 8)});
  batch.prefix_of = {-1, 0, 0, 0, -1};
  return batch;
}

/// Of the tokens from 7 on but the last sequence's first three, each with a weight of its own.
PpoLoss loss_of(const HostBatch& batch) {
  PpoLoss loss;
  const size_t tokens = batch.tokens.size();
  const auto some = [&](double from, double to, int seed) {
    std::mt19937 random(seed);
    std::vector<float> out;
    for (size_t t = 0; t < tokens; ++t)
      out.push_back(static_cast<float>(from + (to - from) * (random() % 1000) / 1000));
    return out;
  };
  loss.weights = some(0.5, 1.5, 1), loss.advantages = some(-1, 1, 2), loss.old_logprobs = some(-6, -4, 3);
  for (int t = 0; t < 7; ++t) loss.weights[t] = 0;
  for (int t = batch.offsets[4]; t < batch.offsets[4] + 3; ++t) loss.weights[t] = 0;
  loss.kl = {some(-6, -4, 4), 0.3, 3};
  loss.entropy = 0.2;
  loss.value = {"worth", loss.weights, some(-0.3, 0.3, 5), some(-1, 1, 6), 0.2, 0.7};
  loss.value->weights[9] = 0;
  return loss;
}

double largest(const std::vector<float>& values) {
  double out = 0;
  for (float value : values) out = std::max(out, std::fabs(static_cast<double>(value)));
  return out;
}

std::vector<HeadSpec> critics() { return {{"worth", -1, {}, 1, 4}, {"deep", 1, {6}, 1, 9}}; }

}  // namespace

TEST(the_gradient_is_the_finite_difference_of_the_loss) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "scalar", 2}, critics());
  std::mt19937 random(5);
  const HostBatch batch = rollouts(random);
  const PpoLoss whole = loss_of(batch);
  for (const std::string kind : {"policy", "unclipped", "k1", "k2", "entropy", "values", "deep", "all"}) {
    PpoLoss loss = whole;
    if (kind != "all") {
      if (kind != "k1" && kind != "k2") loss.kl.reset();
      if (kind != "entropy") loss.entropy = 0;
      if (kind != "values" && kind != "deep") loss.value.reset();
      if (kind == "values" || kind == "deep") loss.weights.clear();
      if (kind == "deep") loss.value->head = "deep", loss.value->clip = 0;
      if (kind == "unclipped") loss.clip_low = loss.clip_high = INFINITY;
      if (kind == "k1") loss.kl->estimator = 1;
      if (kind == "k2") loss.kl->estimator = 2;
    }
    Trainer trainer(policy, {});
    trainer.accumulate(batch, loss);
    const std::vector<float> gradient = trainer.gradients();
    const double scale = largest(gradient);
    EXPECT(scale > 0);
    for (const auto* list : {&policy->adapter_parameters(), &policy->head_parameters()}) {
      for (const Parameter& p : *list) {
        // Along the tensor's own gradient: one number that every element enters.
        const std::vector<float> original = policy->read_parameters();
        double norm = 0;
        for (int64_t i = 0; i < p.count(); ++i)
          norm += static_cast<double>(gradient[p.offset + i]) * gradient[p.offset + i];
        norm = std::sqrt(norm);
        if (norm < 1e-3 * scale) continue;
        constexpr double kStep = 1e-3;
        const auto moved = [&](double by) {
          NamedTensor tensor{p.name, p.shape, {original.begin() + p.offset, original.begin() + p.offset + p.count()}};
          const NamedTensor back = tensor;
          for (int64_t i = 0; i < p.count(); ++i)
            tensor.data[i] += static_cast<float>(by * gradient[p.offset + i] / norm);
          policy->set_parameters({tensor});
          Trainer probe(policy, {});
          const double value = probe.accumulate(batch, loss).loss;
          policy->set_parameters({back});
          return value;
        };
        const double difference = (moved(kStep) - moved(-kStep)) / (2 * kStep);
        if (std::fabs(difference - norm) > 0.03 * norm + 3e-3) {
          report(__FILE__, __LINE__,
                 kind + " " + p.name + ": gradient " + show(norm) + ", finite difference " + show(difference));
        }
      }
    }
  }
}

TEST(the_first_update_is_a_weighted_likelihood) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2}, critics());
  std::mt19937 random(5);
  const HostBatch batch = rollouts(random);
  PpoLoss loss = loss_of(batch);
  loss.kl.reset(), loss.value.reset();
  loss.entropy = 0;
  PassRequest request;
  request.logprobs = true;
  loss.old_logprobs = Pass(policy).forward(batch, request).logprobs;
  Loss likelihood;
  for (size_t t = 0; t < loss.weights.size(); ++t)
    likelihood.nll_weights.push_back(static_cast<float>(static_cast<double>(loss.weights[t]) * loss.advantages[t]));
  Trainer ppo(policy, {}), plain(policy, {});
  const PpoSums sums = ppo.accumulate(batch, loss);
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
    const auto policy = small_policy(folder.path(), {"cpu", dtype, "auto", 2}, critics());
    std::mt19937 random(6);
    HostBatch batch = rollouts(random);
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

TEST(a_critic_held_open_learns_what_the_fused_one_does) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 2}, critics());
  std::mt19937 random(6);
  const HostBatch batch = rollouts(random);
  for (const std::string head : {"worth", "deep"}) {
    PpoLoss loss = loss_of(batch);
    loss.weights.clear();
    loss.kl.reset();
    loss.value->head = head, loss.value->clip = 0, loss.value->coefficient = 1;
    Trainer fused(policy, {}), own(policy, {});
    const PpoSums sums = fused.accumulate(batch, loss);
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

TEST(what_does_not_belong_together_is_an_error) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy =
      small_policy(folder.path(), {"cpu", "f32", "auto", 1}, {{"worth", -1, {}, 1, 4}, {"pair", -1, {}, 2, 4}});
  std::mt19937 random(6);
  const HostBatch batch = rollouts(random);
  Trainer trainer(policy, {});
  const PpoLoss right = loss_of(batch);
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
  EXPECT_THROWS(trainer.accumulate(batch, loss), "the loss is not finite");
  trainer.clear_gradients();
  EXPECT_EQ(largest(trainer.gradients()), 0.0);
}

TESTING_MAIN
