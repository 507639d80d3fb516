#include "trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "native/kernels/ppo_terms.h"
#include "random.h"

namespace credence {

Trainer::Trainer(std::shared_ptr<Policy> policy, const OptimizerSpec& optimizer,
                 std::shared_ptr<Communicator> communicator)
    : policy_(std::move(policy)),
      device_(policy_->base()->device()),
      optimizer_(optimizer),
      communicator_(std::move(communicator)),
      pass_(policy_) {
  if (!policy_->count())
    fail("BAD_OPTION", "nothing to train: the policy has neither an adapter nor a head, and owns nothing of its base");
  if (device_->max_memory()) rehearsal_.emplace(*policy_);
  const size_t bytes = policy_->count() * sizeof(float);
  for (Buffer* buffer : {&gradients_, &m_, &v_}) {
    *buffer = Buffer(device_, bytes);
    buffer->zero();
  }
  if (optimizer.average_decay != 0) {
    if (!(optimizer.average_decay > 0 && optimizer.average_decay < 1)) {
      fail("BAD_OPTION", "averageDecay: expected a number above 0 and below 1 but received %g",
           optimizer.average_decay);
    }
    average_ = Buffer(device_, bytes);
    device_->check(device_->table().copy(device_->backend(), average_.f32(), policy_->parameters(), bytes), "copy");
  }
  told_ = Buffer(device_, sizeof(Told));
  told_.zero();
  if (rehearsal_) twin_ = std::make_unique<Trainer>(rehearsal_->policy(), optimizer);
}

void Trainer::take_room() {
  std::weak_ptr<Trainer>& stepping = policy_->base()->stepping;
  const std::shared_ptr<Trainer> before = stepping.lock();
  if (before && before.get() != this && !before->held_) pass_.take_room(before->pass_);
  stepping = weak_from_this();
}

void Trainer::prepare(bool head) {
  policy_->prepare_backward();
  if (head) policy_->prepare_head_backward();
}

PassSize Trainer::fit(const std::vector<PassSize>& sizes, bool head,
                      const std::function<void(Trainer&, const PassSize&)>& call) {
  const size_t limit = device_->max_memory();
  if (!limit) {
    prepare(head);
    return sizes.front();
  }
  const char* const way_out = "use shorter sequences, a smaller adapter or a smaller model";
  const size_t before = rehearsal_->rest(), ready = rehearsal_->peak([&] { twin_->prepare(head); });
  const bool new_weights = rehearsal_->rest() != before;
  size_t least = SIZE_MAX;
  for (const PassSize& size : sizes) {
    twin_->pass_ = Pass(twin_->policy_);
    const size_t need = std::max(ready, rehearsal_->peak([&] { call(*twin_, size); }));
    least = std::min(least, need);
    if (need > limit) continue;
    twin_->pass_ = Pass(twin_->policy_);
    twin_->policy_->base()->trim();
    const size_t left_over = device_->memory().current;
    if (new_weights || !(size == size_) || need + left_over > limit + rehearsal_->rest()) {
      pass_ = Pass(policy_);
      policy_->base()->trim();
    }
    prepare(head);
    return size;
  }
  fail_limit("this training step", least, limit, way_out);
}

void Trainer::run_fitted(bool head, const std::function<void(Trainer&, const PassSize&)>& call) {
  take_room();
  try {
    size_ = fit(pass_sizes(true), head, call);
    call(*this, size_);
  } catch (const Error& error) {
    clear_gradients();
    if (error.code != "NO_MEMORY" || device_->max_memory()) throw;
    pass_ = Pass(policy_);
    const Rehearsal rehearsal(*policy_);
    const size_t before = rehearsal.rest();
    Trainer twin(rehearsal.policy(), optimizer_);
    const size_t counted_twice = rehearsal.rest() - before;  // this trainer's buffers, which the twin has too
    const size_t ready = rehearsal.peak([&] { twin.prepare(head); }),
                 need = std::max(ready, rehearsal.peak([&] { call(twin, pass_sizes(true).front()); })) - counted_twice;
    fail(
        "NO_MEMORY",
        "%s. This training step takes %zu bytes in all, %zu of them weights; under a limit of memory (maxMemory) its passes shrink to fit",
        error.what(), need, device_->memory().weights);
  }
}

void Trainer::accumulate(const HostBatch& batch, const Loss& loss, const AbortFlag* abort) {
  batch.check(policy_->base()->family());
  check(batch, loss);
  run_fitted(reads_vocabulary(loss),
             [&](Trainer& on, const PassSize& size) { on.accumulate_in(batch, loss, size, abort); });
}

void Trainer::accumulate(const std::string& head, const std::vector<float>& hidden, const std::vector<float>& targets,
                         const AbortFlag* abort) {
  constexpr size_t kRows = 1024;  // at once: what bounds memory
  const size_t width = policy_->base()->family().hidden;
  if (hidden.size() != targets.size() * width) {
    fail("BAD_BATCH", "hidden states: expected %zu numbers for each of %zu targets but received %zu in all", width,
         targets.size(), hidden.size());
  }
  for (size_t from = 0; from < targets.size(); from += kRows) {
    check_abort(abort);
    const size_t to = std::min(targets.size(), from + kRows);
    pass_.learn_head(head, {hidden.begin() + from * width, hidden.begin() + to * width},
                     {targets.begin() + from, targets.begin() + to}, gradients_.f32(), told_loss());
  }
}

void Trainer::accumulate_in(const HostBatch& batch, const Loss& loss, const PassSize& size, const AbortFlag* abort) {
  for (const std::vector<int>& segments : batch.passes(size.tokens)) {
    const HostBatch part = batch.take(segments);
    accumulate_part(part, part_of(batch, loss, part, segments), size, dropout(segments), abort);
  }
  sequences_ += batch.segments();
}

std::optional<DropoutKeys> Trainer::dropout(const std::vector<int>& segments) const {
  if (!policy_->has_adapter() || policy_->adapter_config().dropout == 0) return std::nullopt;
  DropoutKeys keys{mixed(optimizer_.seed, step_, 0), {}};
  for (int segment : segments)
    keys.sequences.push_back((sequences_ + segment) * communicator_->size() + communicator_->rank());
  return keys;
}

void Trainer::accumulate_part(const HostBatch& batch, const Loss& loss, const PassSize& size,
                              const std::optional<DropoutKeys>& dropout, const AbortFlag* abort) {
  std::optional<PassRequest> request = request_of(loss);
  if (!request) return;
  request->recompute = size.recompute;
  request->dropout = dropout;
  pass_.forward(batch, *request, abort);
  pass_.backward(upstream_of(loss), gradients_.f32(), told_loss(), abort);
}

PassResult Trainer::forward(const HostBatch& batch, const PassRequest& request, const AbortFlag* abort) {
  take_room();
  held_ = true;
  const bool vocabulary = request.logprobs || request.entropy || request.divergence;
  const auto ones = [&](const std::vector<uint8_t>& mask) { return std::vector<float>(mask.begin(), mask.end()); };
  size_ = fit({{batch.tokens_count(), false}, {batch.tokens_count(), true}}, vocabulary,
              [&](Trainer& twin, const PassSize& size) {
                const PassResult result = twin.forward_in(batch, request, size, nullptr);
                Upstream upstream;
                std::vector<float> some = ones(request.mask);
                if (some.empty()) {
                  some.assign(batch.tokens.size(), 1.0f);
                  for (int b = 0; b < batch.segments(); ++b) some[batch.offsets[b]] = 0;
                }
                if (request.logprobs) upstream.logprobs = some;
                if (request.entropy) upstream.entropy.assign(batch.tokens.size(), 1.0f);
                upstream.heads = result.heads;
                upstream.closed_set = result.closed_set;
                if (request.divergence) upstream.divergence = ones(request.divergence->mask);
                if (request.values) upstream.values = ones(request.values->mask);
                twin.backward(upstream);
              });
  return forward_in(batch, request, size_, abort);
}

PassResult Trainer::forward_in(const HostBatch& batch, const PassRequest& request, const PassSize& size,
                               const AbortFlag* abort) {
  PassRequest kept = request;
  kept.keep = true;
  kept.recompute = size.recompute;
  std::vector<int> segments(std::max(0, batch.segments()));
  std::iota(segments.begin(), segments.end(), 0);
  kept.dropout = dropout(segments);
  sequences_ += batch.segments();
  return pass_.forward(batch, kept, abort);
}

void Trainer::backward(const Upstream& upstream, const AbortFlag* abort) {
  pass_.backward(upstream, gradients_.f32(), nullptr, abort);
}

void Trainer::clear_gradients() {
  gradients_.zero();
  told_.zero();
  sequences_ = 0;
  held_ = false;
}

void Trainer::sum_over_ranks(double* count) {
  std::vector<float> sum = gradients();
  PpoSums told = told_.download<Told>(1)[0].sums;
  // The largest of all ranks, by a sum in which each has a place of its own.
  std::vector<double> changes(communicator_->size());
  changes[communicator_->rank()] = told.policy.ratio_change;
  communicator_->all_reduce_sum(sum.data(), sum.size());
  static_assert(sizeof told % sizeof(double) == 0);
  communicator_->all_reduce_sum(&told.loss, sizeof told / sizeof(double));
  communicator_->all_reduce_sum(changes.data(), changes.size());
  communicator_->all_reduce_sum(count, 1);
  told.policy.ratio_change = 0;
  for (double change : changes) told.policy.ratio_change = larger_or_nan(told.policy.ratio_change, change);
  gradients_.write(sum.data(), sum.size() * sizeof(float));
  told_.write(&told, sizeof told, offsetof(Told, sums));
}

void Trainer::check_finite(double number, const char* what) {
  if (std::isfinite(number)) return;
  clear_gradients();
  fail("NOT_FINITE", "the %s is not finite. Lower the learning rate, or look for a damaged row", what);
}

StepResult Trainer::update(double learning_rate, double count, const std::map<Group, GroupSettings>& groups) {
  if (communicator_->size() > 1) sum_over_ranks(&count);
  if (!(count > 0)) fail("BAD_OPTION", "update: count %g is not positive. Was anything in the step supervised?", count);
  const std::vector<GroupRange> ranges = policy_->groups();
  for (const auto& [group, _] : groups) {
    if (std::none_of(ranges.begin(), ranges.end(), [&](const GroupRange& range) { return range.group == group; }))
      fail("BAD_OPTION", "update: the policy trains none of the group \"%s\"", group_name(group));
  }
  struct Rates {
    double learning_rate, weight_decay;
  };
  const auto rates_of = [&](Group group) {
    const auto found = groups.find(group);
    const GroupSettings own = found == groups.end() ? GroupSettings() : found->second;
    return Rates{own.learning_rate.value_or(learning_rate), own.weight_decay.value_or(optimizer_.weight_decay)};
  };
  for (const GroupRange& range : ranges) {
    const Rates rates = rates_of(range.group);
    for (const auto& [value, name] :
         {std::pair{rates.learning_rate, "learning rate"}, {rates.weight_decay, "weight decay"}}) {
      if (!(value >= 0)) {
        fail("BAD_OPTION", "update: %s %g (%s) is not a number from 0 up", name, value, group_name(range.group));
      }
    }
  }
  device_->gradient_norm({policy_->count(), gradients_.f32(), told_norm()});
  for (const GroupRange& range : ranges) {
    const Rates rates = rates_of(range.group);
    credence_adamw adamw{};
    adamw.begin = range.begin;
    adamw.end = range.end;
    adamw.p = policy_->parameters();
    adamw.m = m_.f32();
    adamw.v = v_.f32();
    adamw.g = gradients_.f32();
    adamw.norm = told_norm();
    adamw.loss = told_loss();
    adamw.gradient_scale = static_cast<float>(1 / count);
    adamw.max_norm = static_cast<float>(optimizer_.max_gradient_norm);
    adamw.lr = rates.learning_rate;
    adamw.beta1 = optimizer_.beta1;
    adamw.beta2 = optimizer_.beta2;
    adamw.eps = optimizer_.epsilon;
    adamw.weight_decay = rates.weight_decay;
    adamw.step = step_ + 1;
    adamw.average = average_.f32();
    adamw.average_decay = optimizer_.average_decay;
    device_->adamw(adamw);
  }
  policy_->repack();
  const Told told = told_.download<Told>(1)[0];
  clear_gradients();
  check_finite(told.sums.loss, "loss");
  check_finite(told.norm, "gradient's norm");
  ++step_;
  return {told.sums.loss / count, told.norm / count, told.sums};
}

void Trainer::restore(int64_t step, uint64_t seed, const std::vector<float>& m, const std::vector<float>& v) {
  const size_t count = policy_->count();
  if (m.size() != count || v.size() != count) {
    fail("WRONG_MODEL", "optimiser state: expected %zu numbers but received %zu and %zu", count, m.size(), v.size());
  }
  m_.write(m.data(), count * sizeof(float));
  v_.write(v.data(), count * sizeof(float));
  step_ = step;
  sequences_ = 0;
  optimizer_.seed = seed;
}

void Trainer::restore_average(const std::vector<float>& average) {
  const size_t count = policy_->count();
  if (!average_) fail("BAD_OPTION", "the optimiser keeps no average of what is learnt: make it with averageDecay");
  if (average.size() != count)
    fail("WRONG_MODEL", "running average: expected %zu numbers but received %zu", count, average.size());
  average_.write(average.data(), count * sizeof(float));
}

}  // namespace credence
