// The advantage step: its definition on random ragged batches, and numbers that published implementations gave.
#include <limits>

#include "backends.h"
#include "kernels/reference/ppo.h"

using namespace credence;
using namespace credence::testing;

namespace {

using reference::Whitening;

/// An example's lists on the device, where what nobody may read is NaN, and its results.
class OnDevice {
 public:
  OnDevice(Backend& backend, const reference::Advantage& p)
      : tokens_(p.value.size()),
        segments_(p.score.size()),
        counts_(on_device(backend, std::vector<int32_t>{int32(tokens_), int32(segments_)})),
        offsets_(on_device(backend, p.cu_seqlens)),
        start_(on_device(backend, p.completion_start)),
        mask_(p.mask.empty() ? nullptr : on_device(backend, p.mask)),
        logprob_(p.ref_logprob.empty() ? nullptr : floats_on_device(backend, inside(p, p.logprob))),
        reference_(p.ref_logprob.empty() ? nullptr : floats_on_device(backend, inside(p, p.ref_logprob))),
        value_(floats_on_device(backend, inside(p, p.value))),
        token_reward_(p.token_reward.empty() ? nullptr : floats_on_device(backend, inside(p, p.token_reward))),
        score_(floats_on_device(backend, p.score)),
        score_at_(p.score_at.empty() ? nullptr : on_device(backend, p.score_at)),
        bootstrap_(p.bootstrap.empty() ? nullptr : floats_on_device(backend, p.bootstrap)),
        reward(float_space(backend, tokens_)),
        advantage(float_space(backend, tokens_)),
        returns(float_space(backend, tokens_)),
        whitened(float_space(backend, tokens_)),
        moments(backend, 6 * sizeof(double)) {
    parameters = {};
    parameters.counts = *counts_;
    parameters.token_capacity = int32(tokens_) + 3, parameters.segment_capacity = int32(segments_) + 2;
    parameters.cu_seqlens = *offsets_, parameters.completion_start = *start_;
    parameters.mask = mask_ ? mask_->as<uint8_t>() : nullptr;
    parameters.logprob = floats(logprob_), parameters.ref_logprob = floats(reference_);
    parameters.token_reward = floats(token_reward_);
    parameters.value = *value_, parameters.score = *score_, parameters.bootstrap = floats(bootstrap_);
    parameters.score_at = score_at_ ? score_at_->as<int32_t>() : nullptr;
    parameters.kl_coefficient = static_cast<float>(p.kl_coefficient);
    parameters.kl_estimator = p.kl_estimator, parameters.kl_clamp = p.kl_clamp;
    parameters.score_shift = static_cast<float>(p.score_shift);
    parameters.score_scale = static_cast<float>(p.score_scale);
    parameters.score_clamp = static_cast<float>(p.score_clamp);
    parameters.gamma = static_cast<float>(p.gamma), parameters.lambda = static_cast<float>(p.lambda);
    parameters.whiten_rewards = static_cast<credence_whitening>(p.whiten_rewards);
    parameters.whiten_advantages = static_cast<credence_whitening>(p.whiten_advantages);
    parameters.keep_mean = p.keep_mean, parameters.whiten_eps = static_cast<float>(p.whiten_eps);
    parameters.reward = *reward, parameters.advantage = *advantage, parameters.returns = *returns;
    parameters.whitened = *whitened, parameters.moments = moments.as<double>();
  }

  std::vector<uint8_t> bits() const {
    std::vector<uint8_t> all = moments.bits();
    for (const Memory* part : {reward.get(), advantage.get(), returns.get(), whitened.get()}) {
      const auto more = part->bits();
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }

 private:
  static int32_t int32(size_t n) { return static_cast<int32_t>(n); }
  static const float* floats(const MemoryPointer& memory) { return memory ? memory->as<float>() : nullptr; }
  /// NaN where a token does not count.
  static std::vector<double> inside(const reference::Advantage& p, const std::vector<double>& values) {
    std::vector<double> out(values.size(), std::numeric_limits<double>::quiet_NaN());
    for (size_t b = 0; b < p.score.size(); ++b)
      for (int t = p.cu_seqlens[b] + p.completion_start[b]; t < p.cu_seqlens[b + 1]; ++t)
        if (p.mask.empty() || p.mask[t]) out[t] = values[t];
    return out;
  }

  size_t tokens_, segments_;
  MemoryPointer counts_, offsets_, start_, mask_, logprob_, reference_, value_, token_reward_, score_, score_at_,
      bootstrap_;

 public:
  credence_advantage parameters;
  MemoryPointer reward, advantage, returns, whitened;
  Memory moments;
};

double among(std::mt19937_64& random, std::initializer_list<double> values) {
  return values.begin()[random() % values.size()];
}

/// Segments of any length, some without a completion or without a token that counts; every setting by chance.
reference::Advantage any_example(uint64_t seed, int longest) {
  std::mt19937_64 random(seed);
  reference::Advantage p;
  p.cu_seqlens = {0};
  const int segments = static_cast<int>(random() % 9);
  for (int b = 0; b < segments; ++b) {
    const int length = static_cast<int>(random() % (longest + 1));
    p.cu_seqlens.push_back(p.cu_seqlens.back() + length);
    p.completion_start.push_back(static_cast<int32_t>(random() % (length + 1)));
  }
  const size_t tokens = p.cu_seqlens.back();
  p.logprob = normal(seed + 1, tokens), p.ref_logprob = normal(seed + 2, tokens), p.value = normal(seed + 3, tokens);
  for (size_t t = 0; t < tokens; ++t)
    if (random() % 3 == 0) p.ref_logprob[t] = static_cast<float>(p.logprob[t] + p.ref_logprob[t] / 256);
  p.score = normal(seed + 4, segments);
  if (random() % 2) {
    const uint64_t rare = 1 + random() % 4;
    for (size_t t = 0; t < tokens; ++t) p.mask.push_back(random() % rare == 0);
  }
  if (random() % 3 == 0) p.token_reward = normal(seed + 6, tokens);
  if (random() % 2) p.bootstrap = normal(seed + 5, segments);
  if (random() % 3 == 0)
    for (int b = 0; b < segments; ++b) {
      const int length = p.cu_seqlens[b + 1] - p.cu_seqlens[b], room = length - p.completion_start[b];
      p.score_at.push_back(room && random() % 4 ? p.completion_start[b] + static_cast<int32_t>(random() % room) : -1);
    }
  if (random() % 4 == 0) p.ref_logprob.clear();
  p.kl_coefficient = static_cast<float>(among(random, {0, 0.05, 0.2}));
  p.kl_estimator = 1 + static_cast<int>(random() % 3), p.kl_clamp = random() % 2;
  p.score_shift = among(random, {0, 0.25}), p.score_scale = among(random, {1, 2.5});
  p.score_clamp = among(random, {0, 0.5, 5});
  p.gamma = static_cast<float>(among(random, {1, 0.95})), p.lambda = static_cast<float>(among(random, {1, 0.95, 0}));
  p.whiten_rewards = static_cast<Whitening>(random() % 3), p.whiten_advantages = static_cast<Whitening>(random() % 3);
  p.keep_mean = random() % 2, p.whiten_eps = static_cast<float>(among(random, {1e-8, 1e-3}));
  return p;
}

std::vector<double> list(const reference::Moments& a, const reference::Moments& b) {
  return {a.n, a.mean, a.squares, b.n, b.mean, b.squares};
}

/// The results are those of the definition, to roundings of float32. Those of the mean and the scale by which rewards are whitened are
/// the same for every token, so that they add up in what is summed over tokens.
void expect_definition(const OnDevice& got, const reference::AdvantageResult& expected) {
  const double rounding = expected.reward_moments.n > 0 ? 1e-5 : 1e-6;
  EXPECT_CLOSE(got.reward->floats(), expected.reward, rounding);
  EXPECT_CLOSE(got.advantage->floats(), expected.advantage, rounding);
  EXPECT_CLOSE(got.returns->floats(), expected.returns, rounding);
  EXPECT_CLOSE(got.whitened->floats(), expected.whitened, 3 * rounding);
  EXPECT_CLOSE(got.moments.read<double>(6), list(expected.moments, expected.reward_moments), 2 * rounding);
}

}  // namespace

OPERATOR_TEST("advantage", "refusal", what_cannot_be_is_named) {
  each_backend(1, [](Backend& backend) {
    credence_advantage p{};
    const auto refuses = [&](const char* why) {
      EXPECT(backend.refused(backend.table->advantage(backend.handle, &p, nullptr)));
      EXPECT(std::string(backend.table->last_error(backend.handle)).find(why) != std::string::npos);
    };
    const auto room = floats_on_device(backend, {0});
    p.ref_logprob = *room, p.kl_estimator = 4;
    refuses("kl_estimator is none of 1, 2 and 3");
    p.kl_estimator = 1, p.score_clamp = -1;
    refuses("score_clamp is not a number from 0");
    p.score_clamp = 0, p.whiten_eps = -1;
    refuses("whiten_eps is not a number from 0");
  });
}

OPERATOR_TEST("advantage", "reference odd-shapes bits", is_its_definition_on_any_batch) {
  std::vector<std::vector<uint8_t>> bits[2];
  for (int threads : {1, 2})
    each_backend(threads, [&](Backend& backend) {
      if (backend.bf16()) return;  // no activation is read
      const int cases = backend.slow() ? 60 : 400;
      for (int i = 0; i < cases && !state().failures; ++i) {
        const auto p = any_example(100 * i, i % 10 == 0 ? 300 : 40);
        const OnDevice here(backend, p);
        RUN_OPERATOR(backend, advantage, here.parameters);
        expect_definition(here, reference::advantage(p));
        if (state().failures) std::printf("    example %d\n", i);
        bits[threads - 1].push_back(here.bits());
      }
    });
  EXPECT(bits[0] == bits[1]);
}

OPERATOR_TEST("advantage", "reference", a_long_completion_keeps_its_digits) {
  each_backend(2, [](Backend& backend) {
    if (backend.bf16()) return;
    for (double gamma : {1.0, 0.5}) {
      reference::Advantage p;
      const int tokens = backend.slow() ? 1500 : 20001;
      p.cu_seqlens = {0, tokens}, p.completion_start = {3}, p.score = {1};
      p.logprob = normal(1, tokens), p.ref_logprob = normal(2, tokens), p.value = normal(3, tokens);
      p.kl_coefficient = 1, p.gamma = p.lambda = gamma;
      for (double& x : p.ref_logprob) x -= 4;  // rewards of one sign: the sum grows
      const OnDevice here(backend, p);
      RUN_OPERATOR(backend, advantage, here.parameters);
      expect_definition(here, reference::advantage(p));
    }
  });
}

// CONQORD: rewards, generalised advantages and returns of its trainer for one answer of four tokens, the score clipped from 7.
OPERATOR_TEST("advantage", "reference", as_conqord_has_it) {
  each_backend(1, [](Backend& backend) {
    reference::Advantage p;
    p.cu_seqlens = {0, 4}, p.completion_start = {0};
    p.logprob = {-1, -.5, -2, -.1}, p.ref_logprob = {-1.2, -.4, -1.5, -.3}, p.value = {.1, .2, -.1, .3}, p.score = {7};
    p.kl_coefficient = 0.1, p.lambda = 0.95, p.score_clamp = 5;
    const OnDevice here(backend, p);
    RUN_OPERATOR(backend, advantage, here.parameters);
    EXPECT_CLOSE(here.reward->floats(), (std::vector<double>{-.02, .01, .05, 4.98}), 1e-6);
    EXPECT_CLOSE(here.advantage->floats(), (std::vector<double>{4.22314, 4.3612, 4.896, 4.68}), 1e-6);
    EXPECT_CLOSE(here.returns->floats(), (std::vector<double>{4.32314, 4.5612, 4.796, 4.98}), 1e-6);
    EXPECT(here.whitened->bits() == here.advantage->bits());
  });
}

// SaySelf (TRL 0.7.10): the same with the last two tokens trained alone.
OPERATOR_TEST("advantage", "reference", as_sayself_has_it) {
  each_backend(1, [](Backend& backend) {
    reference::Advantage p;
    p.cu_seqlens = {0, 4}, p.completion_start = {0}, p.mask = {0, 0, 1, 1};
    p.logprob = {-1, -.5, -2, -.1}, p.ref_logprob = {-1.2, -.4, -1.5, -.3}, p.value = {.1, .2, -.1, .3};
    p.score = {0.5};
    p.kl_coefficient = 0.2, p.lambda = 0.95, p.whiten_advantages = Whitening::kUnbiased;
    const OnDevice here(backend, p);
    RUN_OPERATOR(backend, advantage, here.parameters);
    EXPECT_CLOSE(here.reward->floats(), (std::vector<double>{0, 0, .1, .46}), 1e-6);
    EXPECT_CLOSE(here.advantage->floats(), (std::vector<double>{.49343, .5194, .652, .16}), 1e-6);
    EXPECT_CLOSE(here.returns->floats(), (std::vector<double>{.49343, .5194, .552, .46}), 1e-6);
    EXPECT_CLOSE(here.whitened->floats(), (std::vector<double>{0, 0, .707107, -.707107}), 1e-6);
  });
}

// Linguistic Calibration: a batch padded on the right to four slots, whose padding counts in the scan and in both whitenings.
OPERATOR_TEST("advantage", "reference", as_linguistic_calibration_has_it) {
  each_backend(1, [](Backend& backend) {
    reference::Advantage p;
    const std::vector<int32_t> lengths = {4, 3, 2, 4, 1, 3, 4, 2};
    p.cu_seqlens = {0};
    for (int row = 0; row < 8; ++row) {
      p.cu_seqlens.push_back(4 * (row + 1));
      p.completion_start.push_back(0);
      p.score_at.push_back(lengths[row] - 1);
      for (int column = 0; column < 4; ++column) {
        const double n = 4 * row + column, in = column < lengths[row];
        p.logprob.push_back((-0.5 + 0.05 * std::sin(n)) * in);
        p.ref_logprob.push_back(-0.5 * in);
        p.value.push_back(0.02 * std::sin(n));
      }
    }
    p.score = {1, -2, 3.5, 0, 4, -4, 2.5, 0.5};
    p.kl_coefficient = 0.1, p.kl_clamp = true;
    const auto rows = [](const std::vector<double>& all, std::initializer_list<int> which) {
      std::vector<double> out;
      for (int row : which) out.insert(out.end(), all.begin() + 4 * row, all.begin() + 4 * row + 4);
      return out;
    };
    {
      const OnDevice shaped(backend, p);
      RUN_OPERATOR(backend, advantage, shaped.parameters);
      EXPECT_CLOSE(rows(shaped.reward->floats(), {0, 7}),
                   (std::vector<double>{0, -0.004207, -0.004546, 0.999294, -0.001355, 0.5, 0, 0}), 1e-6);
    }
    p.whiten_rewards = p.whiten_advantages = Whitening::kBiased;
    const OnDevice here(backend, p);
    RUN_OPERATOR(backend, advantage, here.parameters);
    EXPECT_CLOSE(rows(here.reward->floats(), {0}), (std::vector<double>{0.040177, 0.036961, 0.036702, 0.803933}), 1e-6);
    EXPECT_CLOSE(
        rows(here.returns->floats(), {0, 5}),
        (std::vector<double>{0.917773, 0.877596, 0.840635, 0.803933, -2.903160, -2.939848, -2.976828, 0.040177}), 1e-6);
    EXPECT_CLOSE(rows(here.whitened->floats(), {0, 4, 7}),
                 (std::vector<double>{0.410868, 0.373621, 0.348585, 0.334642, 1.917498, -0.097477, -0.126478, -0.164501,
                                      0.161685, 0.148323, -0.123380, -0.157262}),
                 1e-6);
  });
}

TESTING_MAIN
