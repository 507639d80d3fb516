// Read-outs of the last states: log-probabilities, candidates, divergence, samples, heads.
#include "operator_bench.h"

namespace credence::operator_bench {

void OperatorBench::token_logprobs() {
  Room room(device);
  const Matrix head(device, vocabulary(), kHidden);
  const int rows = tokens / 8;
  std::vector<int32_t> targets(rows);
  for (int r = 0; r < rows; ++r) targets[r] = static_cast<int32_t>(r * 7919LL % vocabulary());
  credence_token_logprobs p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.vocabulary = vocabulary();
  p.dtype = device->dtype();
  p.weights = head;
  p.h = room.act(static_cast<size_t>(rows) * kHidden);
  p.ldh = p.lddh = kHidden;
  p.targets = room.numbers(targets);
  p.logprob = room.same(rows, 0);
  const double product = 2.0 * rows * kHidden * vocabulary(), weights = 1.0 * vocabulary() * kHidden * act();
  line("token_logprobs", rows_of(rows), product, weights, [&] { device->token_logprobs(p); }, false,
       {rows, vocabulary(), kHidden});
  p.d_logprob = room.same(rows, -1);
  p.dh = room.same(static_cast<size_t>(rows) * kHidden, 0);
  line("token_logprobs", rows_of(rows) + " and back", 2 * product, 2 * weights, [&] { device->token_logprobs(p); });
}

void OperatorBench::closed_set() {
  Room room(device);
  const Matrix head(device, vocabulary(), kHidden);
  const int rows = tokens / 2, candidates = 4;
  credence_closed_set p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.candidates_count = candidates;
  p.dtype = device->dtype();
  p.weights = head;
  p.h = room.act(static_cast<size_t>(rows) * kHidden);
  p.ldh = p.lddh = kHidden;
  p.candidates = room.numbers(std::vector<int32_t>{330, 378, 340, 422});
  p.logprob = room.same(static_cast<size_t>(rows) * candidates, 0);
  p.d_logprob = room.same(static_cast<size_t>(rows) * candidates, -1);
  p.dh = room.same(static_cast<size_t>(rows) * kHidden, 0);
  line("closed_set", rows_of(rows) + ", 4 candidates, and back", 4.0 * rows * kHidden * candidates,
       rows * kHidden * (act() + 4), [&] { device->closed_set(p); });
}

void OperatorBench::divergence() {
  Room room(device);
  const Matrix head(device, vocabulary(), kHidden);
  const int rows = tokens / 32;
  const size_t n = static_cast<size_t>(rows) * kHidden;
  credence_divergence p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.vocabulary = vocabulary();
  p.dtype = device->dtype();
  p.weights = p.weights_other = head;
  p.h = room.act(n);
  p.h_other = room.act(n, 0.5f);
  p.ldh = p.ldh_other = p.lddh = kHidden;
  p.divergence = room.same(rows, 0);
  p.upstream = room.same(rows, 1);
  p.dh = room.same(n, 0);
  line("divergence", rows_of(rows) + " and back", 6.0 * rows * kHidden * vocabulary(),
       3.0 * vocabulary() * kHidden * act(), [&] { device->divergence(p); });
}

void OperatorBench::sample() {
  const Matrix head(device, vocabulary(), kHidden);
  for (int rows : {16, 1}) {
    Room room(device);
    std::vector<double> uniform(rows);
    for (int r = 0; r < rows; ++r) uniform[r] = (r + 0.5) / rows;
    credence_sample p = {};
    p.rows = room.number(rows);
    p.capacity = rows;
    p.width = kHidden;
    p.vocabulary = vocabulary();
    p.dtype = device->dtype();
    p.weights = head;
    p.h = room.act(static_cast<size_t>(rows) * kHidden);
    p.ldh = kHidden;
    p.temperature = room.same(rows, 0.7f);
    p.top_k = room.numbers(std::vector<int32_t>(rows, 50));
    p.top_p = room.same(rows, 0.95f);
    p.repetition = room.same(rows, 1);
    p.uniform = room.numbers(uniform);
    p.token = room.numbers(std::vector<int32_t>(rows));
    p.logprob = room.same(rows, 0);
    line("sample", rows_of(rows) + ", top-k 50, top-p 0.95", 2.0 * rows * kHidden * vocabulary(),
         1.0 * vocabulary() * kHidden * act(), [&] { device->sample(p); }, false, {rows, vocabulary(), kHidden});
  }
}

namespace {

credence_pool spans_of(Room* room, int rows) {
  const int spans = rows / 64;
  std::vector<int32_t> from, to;
  for (int s = 0; s < spans; ++s) from.push_back(64 * s), to.push_back(64 * (s + 1));
  credence_pool p = {};
  p.rows = room->number(spans);
  p.capacity = spans;
  p.width = kHidden;
  p.from = room->numbers(from);
  p.to = room->numbers(to);
  p.ldx = p.lddx = kHidden;
  return p;
}

}  // namespace

void OperatorBench::pool() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_pool p = spans_of(&room, rows);
  p.x = room.floats(static_cast<size_t>(rows) * kHidden);
  p.y = room.same(static_cast<size_t>(p.capacity) * kHidden, 0);
  line("pool", rows_of(rows) + " in spans of 64", 0, 4.0 * rows * kHidden, [&] { device->pool(p); }, true);
}

void OperatorBench::pool_backward() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_pool p = spans_of(&room, rows);
  p.dy = room.floats(static_cast<size_t>(p.capacity) * kHidden);
  p.dx = room.same(static_cast<size_t>(rows) * kHidden, 0);
  line(
      "pool_backward", rows_of(rows) + " in spans of 64", 0, 8.0 * rows * kHidden, [&] { device->pool_backward(p); },
      true);
}

void OperatorBench::dense() {
  Room room(device);
  const int out = 256;
  credence_dense p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.in = kHidden;
  p.out = out;
  p.activation = CREDENCE_RELU;
  p.x = room.floats(static_cast<size_t>(tokens) * kHidden);
  p.weight = room.floats(static_cast<size_t>(out) * kHidden);
  p.bias = room.same(out, 0);
  p.y = room.same(static_cast<size_t>(tokens) * out, 0);
  line(
      "dense", rows_of(tokens) + ", 576 to 256", 2.0 * tokens * kHidden * out,
      4.0 * (tokens * (kHidden + out) + kHidden * out), [&] { device->dense(p); }, true);
}

void OperatorBench::dense_backward() {
  Room room(device);
  const int out = 256;
  credence_dense_backward p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.in = kHidden;
  p.out = out;
  p.activation = CREDENCE_RELU;
  p.x = room.floats(static_cast<size_t>(tokens) * kHidden);
  p.weight = room.floats(static_cast<size_t>(out) * kHidden);
  p.y = room.same(static_cast<size_t>(tokens) * out, 1);
  p.dy = room.floats(static_cast<size_t>(tokens) * out);
  p.dweight = room.same(static_cast<size_t>(out) * kHidden, 0);
  p.dbias = room.same(out, 0);
  p.dx = room.same(static_cast<size_t>(tokens) * kHidden, 0);
  line(
      "dense_backward", rows_of(tokens) + ", 576 to 256", 4.0 * tokens * kHidden * out,
      4.0 * (tokens * (2 * kHidden + out) + 2 * kHidden * out), [&] { device->dense_backward(p); }, true);
}

void OperatorBench::weighted_sum() {
  Room room(device);
  const int rows = 64 * tokens;
  credence_weighted_sum p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = 1;
  p.weight = room.floats(rows);
  p.value = room.floats(rows);
  p.sum = room.numbers(std::vector<double>(1));
  line("weighted_sum", rows_of(rows), 0, 8.0 * rows, [&] { device->weighted_sum(p); }, true);
}

void OperatorBench::squared_error() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_squared_error p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.z = room.floats(rows);
  p.target = room.floats(rows);
  p.dz = room.same(rows, 0);
  p.sum = room.numbers(std::vector<double>(1));
  line("squared_error", rows_of(rows), 0, 12.0 * rows, [&] { device->squared_error(p); }, true);
}

}  // namespace credence::operator_bench
