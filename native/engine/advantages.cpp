#include "advantages.h"

#include <algorithm>

namespace credence {

namespace {

void check(const AdvantageInput& in) {
  if (in.offsets.empty() || in.offsets.front() != 0 || !std::is_sorted(in.offsets.begin(), in.offsets.end()))
    fail("BAD_BATCH", "advantages: offsets have to rise from 0");
  const size_t segments = in.offsets.size() - 1, tokens = in.offsets.back();
  const auto expect = [](size_t got, size_t wanted, const char* name, const char* of) {
    if (got != wanted)
      fail("BAD_BATCH", "advantages: %s: expected %zu, one a %s, but received %zu", name, wanted, of, got);
  };
  expect(in.completion_start.size(), segments, "completionStart", "sequence");
  expect(in.scores.size(), segments, "scores", "sequence");
  if (!in.bootstrap.empty()) expect(in.bootstrap.size(), segments, "bootstrap", "sequence");
  if (!in.score_at.empty()) expect(in.score_at.size(), segments, "scoreAt", "sequence");
  if (!in.mask.empty()) expect(in.mask.size(), tokens, "mask", "token");
  if (!in.values.empty()) expect(in.values.size(), tokens, "values", "token");
  if (!in.token_rewards.empty()) expect(in.token_rewards.size(), tokens, "tokenRewards", "token");
  if (!in.reference.empty()) {
    expect(in.reference.size(), tokens, "reference", "token");
    expect(in.logprobs.size(), tokens, "logprobs", "token");
  }
  for (size_t b = 0; b < segments; ++b) {
    const int length = in.offsets[b + 1] - in.offsets[b], start = in.completion_start[b];
    if (start < 0 || start > length)
      fail("BAD_BATCH", "advantages: the completion of sequence %zu begins at %d of its %d tokens", b, start, length);
    if (in.slots && length - start > in.slots) {
      fail("BAD_BATCH", "advantages: the completion of sequence %zu has %d tokens, more than %d slots", b,
           length - start, in.slots);
    }
  }
}

/// The completions alone, each in its slots.
AdvantageInput padded(const AdvantageInput& in) {
  AdvantageInput out = in;
  const size_t segments = in.scores.size();
  const auto spread = [&](auto& to, const auto& from, auto behind) {
    if (from.empty()) return;
    to.assign(segments * in.slots, behind);
    for (size_t b = 0; b < segments; ++b)
      std::copy(from.begin() + in.offsets[b] + in.completion_start[b], from.begin() + in.offsets[b + 1],
                to.begin() + b * in.slots);
  };
  spread(out.mask, in.mask, uint8_t{1});
  spread(out.logprobs, in.logprobs, 0.0f);
  spread(out.reference, in.reference, 0.0f);
  spread(out.values, in.values, 0.0f);
  spread(out.token_rewards, in.token_rewards, 0.0f);
  out.score_at.clear();
  for (size_t b = 0; b < segments; ++b) {
    const int first = in.offsets[b] + in.completion_start[b];
    int at = in.offsets[b + 1] - 1;
    while (at >= first && !in.mask.empty() && !in.mask[at]) --at;
    if (!in.score_at.empty()) at = in.score_at[b] < 0 ? -1 : in.offsets[b] + in.score_at[b];
    out.score_at.push_back(at < first ? -1 : at - first);
    out.offsets[b + 1] = static_cast<int32_t>(b + 1) * in.slots;
    out.completion_start[b] = 0;
  }
  out.slots = 0;
  return out;
}

}  // namespace

AdvantageOutput advantages(const std::shared_ptr<Device>& device, const AdvantageInput& in) {
  check(in);
  const size_t segments = in.scores.size(), tokens = in.offsets.back();
  if (in.slots) {
    const AdvantageOutput all = advantages(device, padded(in));
    AdvantageOutput out;
    for (const auto list : {&AdvantageOutput::rewards, &AdvantageOutput::advantages, &AdvantageOutput::returns,
                            &AdvantageOutput::whitened}) {
      (out.*list).assign(tokens, 0.0f);
      for (size_t b = 0; b < segments; ++b) {
        const int first = in.offsets[b] + in.completion_start[b];
        std::copy_n((all.*list).begin() + b * in.slots, in.offsets[b + 1] - first, (out.*list).begin() + first);
      }
    }
    out.moments = all.moments;
    return out;
  }
  const auto on_device = [&](const auto& values) {
    Buffer buffer(device);
    buffer.upload(values);
    return buffer;
  };
  const Buffer counts = on_device(std::vector<int32_t>{static_cast<int32_t>(tokens), static_cast<int32_t>(segments)});
  const Buffer offsets = on_device(in.offsets), start = on_device(in.completion_start), mask = on_device(in.mask),
               logprobs = on_device(in.logprobs), reference = on_device(in.reference), values = on_device(in.values),
               token_rewards = on_device(in.token_rewards), scores = on_device(in.scores),
               score_at = on_device(in.score_at), bootstrap = on_device(in.bootstrap);
  const size_t bytes = std::max<size_t>(tokens, 1) * sizeof(float);
  const Buffer reward(device, bytes), advantage(device, bytes), returns(device, bytes), whitened(device, bytes),
      moments(device, 6 * sizeof(double));
  credence_advantage op{};
  op.counts = counts.i32();
  op.token_capacity = static_cast<int32_t>(tokens);
  op.segment_capacity = static_cast<int32_t>(segments);
  op.cu_seqlens = offsets.i32();
  op.completion_start = start.i32();
  op.mask = mask.as<uint8_t>();
  op.logprob = logprobs.f32();
  op.ref_logprob = reference.f32();
  op.value = values.f32();
  op.token_reward = token_rewards.f32();
  op.score = scores.f32();
  op.score_at = score_at.i32();
  op.bootstrap = bootstrap.f32();
  op.kl_coefficient = static_cast<float>(in.kl_coefficient);
  op.kl_estimator = in.kl_estimator;
  op.kl_clamp = in.kl_clamp;
  op.score_shift = static_cast<float>(in.score_shift);
  op.score_scale = static_cast<float>(in.score_scale);
  op.score_clamp = static_cast<float>(in.score_clamp);
  op.gamma = static_cast<float>(in.gamma);
  op.lambda = static_cast<float>(in.lambda);
  op.whiten_rewards = in.whiten_rewards;
  op.whiten_advantages = in.whiten_advantages;
  op.keep_mean = in.keep_mean;
  op.whiten_eps = static_cast<float>(in.whiten_eps);
  op.reward = reward.f32();
  op.advantage = advantage.f32();
  op.returns = returns.f32();
  op.whitened = whitened.f32();
  op.moments = moments.as<double>();
  device->advantage(op);
  return {reward.download<float>(tokens), advantage.download<float>(tokens), returns.download<float>(tokens),
          whitened.download<float>(tokens), moments.download<double>(6)};
}

}  // namespace credence
