// Proximal policy optimisation: the clipped losses of policy and value.
#include <limits>

#include "backends.h"
#include "kernels/reference/ppo.h"

using namespace credence;
using namespace credence::testing;

namespace {

constexpr float kUnread = std::numeric_limits<float>::quiet_NaN();

std::vector<double> some_weights(uint64_t seed, size_t rows) {
  std::vector<double> weights = normal(seed, rows);
  for (size_t t = 0; t < rows; ++t) weights[t] = t % 4 == 1 ? 0 : t % 4 == 2 ? std::fabs(weights[t]) : 1;
  return weights;
}

/// Rows that no weight lets anybody read are NaN.
MemoryPointer weighed(Backend& backend, std::vector<double> values, const std::vector<double>& weights) {
  for (size_t t = 0; t < weights.size(); ++t)
    if (weights[t] == 0) values[t] = kUnread;
  return floats_on_device(backend, values);
}

reference::PolicyLoss policy_example(int rows, int estimator) {
  const auto size = static_cast<size_t>(rows);
  reference::PolicyLoss p{normal(1, size), normal(2, size, 0.3), normal(3, size), some_weights(4, size), {}, 0.25, 0.5};
  for (size_t t = 0; t < size; ++t) {
    p.old_logprob[t] = static_cast<float>(p.logprob[t] + p.old_logprob[t]);
    if (t % 7 == 3) p.advantage[t] = 0;
    if (t % 11 == 0) p.old_logprob[t] = p.logprob[t];
  }
  if (estimator) p.ref_logprob = normal(5, size), p.kl_estimator = estimator, p.kl_coefficient = 0.125;
  if (estimator % 2) p.entropy = normal(10, size), p.entropy_coefficient = 0.25;
  return p;
}

reference::ValueLoss value_example(int rows, double clip) {
  const auto size = static_cast<size_t>(rows);
  return {normal(6, size), normal(7, size), normal(8, size), some_weights(9, size), clip, 0.5};
}

/// Sums that something was added to before: 1 to each, and of the ratio's change the smaller.
MemoryPointer begun(Backend& backend, size_t count) { return on_device(backend, std::vector<double>(count, 1)); }

std::vector<double> list(const reference::PolicyLossResult& r) {
  return {r.weight,  r.policy,  r.ratio,        r.clipped, r.outside,
          r.old_kl1, r.old_kl2, r.reference_kl, r.entropy, r.ratio_change};
}

}  // namespace

OPERATOR_TEST("policy_loss", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (int rows : {0, 1, 97, 257, 1025})
        for (int estimator : {0, 1, 2, 3}) {
          const auto p = policy_example(rows, estimator);
          const auto expected = reference::policy_loss(p);
          const auto count = on_device(backend, std::vector<int32_t>{rows});
          const auto logprob = weighed(backend, p.logprob, p.weight), old = weighed(backend, p.old_logprob, p.weight);
          const auto advantage = weighed(backend, p.advantage, p.weight), weight = floats_on_device(backend, p.weight);
          const auto ref = estimator ? weighed(backend, p.ref_logprob, p.weight) : nullptr;
          const auto entropy = estimator % 2 ? weighed(backend, p.entropy, p.weight) : nullptr;
          const auto d = float_space(backend, p.logprob.size()), de = float_space(backend, p.entropy.size());
          const auto sums = begun(backend, 10), loss = begun(backend, 1);
          RUN_OPERATOR(
              backend, policy_loss,
              (credence_policy_loss{*count, rows + 5, *logprob, *old, *advantage, *weight,
                                    estimator ? ref->as<float>() : nullptr, entropy ? entropy->as<float>() : nullptr,
                                    0.25f, 0.5f, 0.125f, estimator, 0.25f, *d, entropy ? de->as<float>() : nullptr,
                                    sums->as<credence_policy_sums>(), loss->as<double>()}));
          EXPECT_CLOSE(d->floats(), expected.d_logprob, 1e-6);
          EXPECT_CLOSE(de->floats(), expected.d_entropy, 1e-6);
          auto total = list(expected);
          for (size_t i = 0; i < 9; ++i) total[i] += 1;
          total[9] = std::max(total[9], 1.0);
          EXPECT_CLOSE(sums->read<double>(10), total, 1e-9);
          EXPECT_CLOSE(loss->read<double>(1), std::vector<double>{1 + expected.loss}, 1e-9);
          for (const auto& memory : {&d, &de, &sums, &loss}) bits[threads - 1].push_back((*memory)->bits());
        }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("value_loss", "reference odd-shapes bits", is_its_definition) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      for (int rows : {0, 1, 97, 257, 1025})
        for (double clip : {0.0, 0.25}) {
          const auto p = value_example(rows, clip);
          const auto expected = reference::value_loss(p);
          const auto count = on_device(backend, std::vector<int32_t>{rows});
          const auto value = weighed(backend, p.value, p.weight), old = weighed(backend, p.old_value, p.weight);
          const auto returns = weighed(backend, p.returns, p.weight), weight = floats_on_device(backend, p.weight);
          const auto d = float_space(backend, p.value.size());
          const auto sums = begun(backend, 4), loss = begun(backend, 1);
          RUN_OPERATOR(backend, value_loss,
                       (credence_value_loss{*count, rows + 5, *value, clip > 0 ? old->as<float>() : nullptr, *returns,
                                            *weight, static_cast<float>(clip), 0.5f, *d,
                                            sums->as<credence_value_sums>(), loss->as<double>()}));
          EXPECT_CLOSE(d->floats(), expected.d_value, 1e-6);
          EXPECT_CLOSE(
              sums->read<double>(4),
              (std::vector<double>{1 + expected.weight, 1 + expected.loss, 1 + expected.error, 1 + expected.clipped}),
              1e-9);
          EXPECT_CLOSE(loss->read<double>(1), std::vector<double>{1 + 0.5 * expected.loss}, 1e-9);
          for (const auto& memory : {&d, &sums, &loss}) bits[threads - 1].push_back((*memory)->bits());
        }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("policy_loss", "bits", the_ratio_of_equal_log_probabilities_is_1_and_a_nan_shows) {
  each_backend(1, [](Backend& backend) {
    std::vector<double> same = normal(1, 300);
    for (double& x : same) x = static_cast<float>(x * 1.2345678);
    for (bool broken : {false, true}) {
      const auto count = on_device(backend, std::vector<int32_t>{300});
      const auto logprob = floats_on_device(backend, same), advantage = floats_on_device(backend, normal(2, 300)),
                 weight = floats_on_device(backend, std::vector<double>(300, 1));
      auto old = same;
      if (broken) old[40] = kUnread;
      const auto device_old = floats_on_device(backend, old), d = float_space(backend, 300);
      const auto sums = on_device(backend, std::vector<credence_policy_sums>(1));
      RUN_OPERATOR(backend, policy_loss,
                   (credence_policy_loss{*count, 300, *logprob, *device_old, *advantage, *weight, *logprob, nullptr,
                                         0.2f, 0.2f, 1, 3, 0, *d, nullptr, sums->as<credence_policy_sums>(), nullptr}));
      const auto got = sums->read<credence_policy_sums>(1)[0];
      EXPECT_EQ(std::isnan(got.ratio_change), broken);
      if (broken) continue;
      EXPECT_EQ(got.ratio_change, 0.0);
      EXPECT_EQ(got.reference_kl, 0.0);
      EXPECT_EQ(got.ratio, 300.0);
    }
  });
}

// Linguistic Calibration's losses for the batch of advantage.as_linguistic_calibration_has_it: padding counts, at ratio 1.
OPERATOR_TEST("policy_loss value_loss", "reference", as_linguistic_calibration_has_them) {
  each_backend(1, [](Backend& backend) {
    const std::vector<int> lengths = {4, 3, 2, 4, 1, 3, 4, 2};
    reference::Advantage p;
    p.cu_seqlens = {0};
    reference::PolicyLoss policy;
    reference::ValueLoss value;
    for (int row = 0; row < 8; ++row) {
      p.cu_seqlens.push_back(4 * (row + 1)), p.completion_start.push_back(0), p.score_at.push_back(lengths[row] - 1);
      for (int column = 0; column < 4; ++column) {
        const double n = 4 * row + column, in = column < lengths[row];
        p.logprob.push_back((-0.5 + 0.05 * std::sin(n)) * in), p.ref_logprob.push_back(-0.5 * in);
        p.value.push_back(0.02 * std::sin(n));
        policy.logprob.push_back(p.logprob.back() + 0.3 * std::cos(n) * in);
        value.value.push_back(p.value.back() + 0.25 * std::cos(2 * n));
      }
    }
    p.score = {1, -2, 3.5, 0, 4, -4, 2.5, 0.5};
    p.kl_coefficient = 0.1, p.kl_clamp = true;
    p.whiten_rewards = p.whiten_advantages = reference::Whitening::kBiased;
    const auto step = reference::advantage(p);
    const auto count = on_device(backend, std::vector<int32_t>{32});
    const auto ones = floats_on_device(backend, std::vector<double>(32, 1)), d = float_space(backend, 32);
    const auto logprob = floats_on_device(backend, policy.logprob), old = floats_on_device(backend, p.logprob),
               advantage = floats_on_device(backend, step.whitened);
    const auto sums = on_device(backend, std::vector<credence_policy_sums>(1));
    const auto values = on_device(backend, std::vector<credence_value_sums>(1));
    RUN_OPERATOR(backend, policy_loss,
                 (credence_policy_loss{*count, 32, *logprob, *old, *advantage, *ones, nullptr, nullptr, 0.2f, 0.2f, 0,
                                       1, 0, *d, nullptr, sums->as<credence_policy_sums>(), nullptr}));
    const auto new_value = floats_on_device(backend, value.value), old_value = floats_on_device(backend, p.value),
               returns = floats_on_device(backend, step.returns);
    RUN_OPERATOR(backend, value_loss,
                 (credence_value_loss{*count, 32, *new_value, *old_value, *returns, *ones, 0.2f, 0.1f, *d,
                                      values->as<credence_value_sums>(), nullptr}));
    const auto of_policy = sums->read<credence_policy_sums>(1)[0];
    const auto of_value = values->read<credence_value_sums>(1)[0];
    EXPECT_CLOSE((std::vector<double>{of_policy.policy / 32, of_value.loss / 32,
                                      (of_policy.policy + 0.1 * of_value.loss) / 32, of_policy.old_kl2 / 32}),
                 (std::vector<double>{0.009849, 1.218430, 0.131692, 0.017428}), 1e-6);
    EXPECT_CLOSE((std::vector<double>{of_policy.clipped / 32, of_value.clipped / 32}),
                 (std::vector<double>{0.15625, 0.1875}), 1e-6);
  });
}

OPERATOR_TEST("policy_loss value_loss", "refusal", what_cannot_be_is_named) {
  each_backend(1, [](Backend& backend) {
    const auto refuses = [&](int status, const char* why) {
      EXPECT(backend.refused(status));
      EXPECT(std::string(backend.table->last_error(backend.handle)).find(why) != std::string::npos);
    };
    const auto room = floats_on_device(backend, {0});
    credence_policy_loss policy{};
    policy.ref_logprob = *room, policy.kl_estimator = 4;
    refuses(backend.table->policy_loss(backend.handle, &policy, nullptr), "kl_estimator is none of 1, 2 and 3");
    policy.kl_estimator = 1, policy.clip_low = -0.1f;
    refuses(backend.table->policy_loss(backend.handle, &policy, nullptr), "the range of the ratio");
    credence_value_loss value{};
    value.clip = -1;
    refuses(backend.table->value_loss(backend.handle, &value, nullptr), "the clip is not a number from 0");
  });
}

OPERATOR_TEST("policy_loss value_loss", "finite-difference", the_reference_is_the_finite_difference) {
  for (int estimator : {0, 1, 2, 3}) {
    auto p = policy_example(40, estimator);
    const auto expected = reference::policy_loss(p);
    EXPECT_GRADIENT(p.logprob, expected.d_logprob, [&] { return reference::policy_loss(p).loss; });
    if (estimator % 2) EXPECT_GRADIENT(p.entropy, expected.d_entropy, [&] { return reference::policy_loss(p).loss; });
  }
  for (double clip : {0.0, 0.25}) {
    auto p = value_example(40, clip);
    const auto gradient = reference::value_loss(p).d_value;
    EXPECT_GRADIENT(p.value, gradient, [&] { return p.coefficient * reference::value_loss(p).loss; });
  }
}

TESTING_MAIN
