// What comes once a step: the gradient's norm, AdamW, the advantages and PPO's losses.
#include "operator_bench.h"

namespace credence::operator_bench {

void OperatorBench::gradient_norm() {
  Room room(device);
  credence_gradient_norm p = {};
  p.count = 8192LL * tokens;
  p.g = room.floats(p.count);
  p.norm = room.same(1, 0);
  line(
      "gradient_norm", std::to_string(p.count) + " numbers", 0, 4.0 * p.count, [&] { device->gradient_norm(p); }, true);
}

void OperatorBench::adamw() {
  Room room(device);
  credence_adamw p = {};
  p.end = 2048LL * tokens;
  p.p = room.floats(p.end);
  p.m = room.same(p.end, 0);
  p.v = room.same(p.end, 0);
  p.g = room.floats(p.end);
  p.gradient_scale = 1;
  p.lr = 1e-4;
  p.beta1 = 0.9;
  p.beta2 = 0.999;
  p.eps = 1e-8;
  p.weight_decay = 0.01;
  p.step = 1;
  line("adamw", std::to_string(p.end) + " numbers", 0, 28.0 * p.end, [&] { device->adamw(p); }, true);
  p.average = room.same(p.end, 0);
  p.average_decay = 0.999;
  line("adamw", std::to_string(p.end) + " numbers, averaged", 0, 36.0 * p.end, [&] { device->adamw(p); }, true);
}

// A rollout of 64 completions of up to 1,024 tokens, which caches hold, and 64 times as many, which they do not.
void OperatorBench::advantage() {
  for (const int segments : {64, 4096}) {
    Room room(device);
    const int longest = tokens / 2;
    std::vector<int32_t> ends = {0};
    for (int b = 0; b < segments; ++b) ends.push_back(ends.back() + longest / 2 + 1 + b * 7919 % (longest / 2));
    const int count = ends.back();
    credence_advantage p = {};
    p.counts = room.numbers(std::vector<int32_t>{count, segments});
    p.token_capacity = count;
    p.segment_capacity = segments;
    p.cu_seqlens = room.numbers(ends);
    p.completion_start = room.numbers(std::vector<int32_t>(segments));
    p.logprob = room.floats(count);
    p.ref_logprob = room.floats(count);
    p.value = room.floats(count);
    p.score = room.floats(segments);
    p.kl_coefficient = 0.05f;
    p.score_scale = 1;
    p.gamma = 1;
    p.lambda = 0.95f;
    p.kl_estimator = 1;
    p.reward = room.same(count, 0);
    p.advantage = room.same(count, 0);
    p.returns = room.same(count, 0);
    p.moments = room.numbers(std::vector<double>(6));
    line(
        "advantage",
        std::to_string(segments) + " x " + std::to_string(longest) + ", ragged: " + std::to_string(count) + " tokens",
        0, 24.0 * count, [&] { device->advantage(p); }, true);
  }
}

namespace {

/// What both of PPO's losses have: their rows, the weights of those, and what is written.
template <class P, class Sums>
P loss_over(Room* room, int rows, Sums* P::* sums) {
  P p = {};
  p.rows = room->number(rows);
  p.capacity = rows;
  p.weight = room->same(rows, 1);
  p.*sums = room->numbers(std::vector<Sums>(1));
  return p;
}

}  // namespace

void OperatorBench::policy_loss() {
  Room room(device);
  auto p = loss_over(&room, tokens, &credence_policy_loss::sums);
  p.logprob = room.floats(tokens);
  p.old_logprob = room.floats(tokens);
  p.advantage = room.floats(tokens);
  p.entropy = room.floats(tokens);
  p.clip_low = p.clip_high = 0.2f;
  p.entropy_coefficient = 0.01f;
  p.d_logprob = room.same(tokens, 0);
  p.d_entropy = room.same(tokens, 0);
  line("policy_loss", rows_of(tokens), 0, 28.0 * tokens, [&] { device->policy_loss(p); }, true);
}

void OperatorBench::value_loss() {
  Room room(device);
  auto p = loss_over(&room, tokens, &credence_value_loss::sums);
  p.value = room.floats(tokens);
  p.old_value = room.floats(tokens);
  p.returns = room.floats(tokens);
  p.clip = 0.2f;
  p.coefficient = 0.1f;
  p.d_value = room.same(tokens, 0);
  line("value_loss", rows_of(tokens), 0, 20.0 * tokens, [&] { device->value_loss(p); }, true);
}

}  // namespace credence::operator_bench
