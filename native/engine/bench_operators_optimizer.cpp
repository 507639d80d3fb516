// What comes once a step: the gradient's norm, AdamW, the advantages.
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
}

void OperatorBench::advantage() {
  Room room(device);
  const int count = 64 * tokens, segments = count / 256;
  std::vector<int32_t> ends, starts;
  for (int b = 0; b <= segments; ++b) ends.push_back(256 * b);
  for (int b = 0; b < segments; ++b) starts.push_back(64);
  credence_advantage p = {};
  p.counts = room.numbers(std::vector<int32_t>{count, segments});
  p.token_capacity = count;
  p.segment_capacity = segments;
  p.cu_seqlens = room.numbers(ends);
  p.completion_start = room.numbers(starts);
  p.logprob = room.floats(count);
  p.ref_logprob = room.floats(count);
  p.value = room.floats(count);
  p.score = room.floats(segments);
  p.kl_coefficient = 0.05f;
  p.gamma = 1;
  p.lambda = 0.95f;
  p.kl_estimator = 1;
  p.reward = room.same(count, 0);
  p.advantage = room.same(count, 0);
  p.returns = room.same(count, 0);
  p.moments = room.numbers(std::vector<double>(3));
  line("advantage", std::to_string(segments) + " x 256 tokens", 0, 24.0 * count, [&] { device->advantage(p); }, true);
}

}  // namespace credence::operator_bench
