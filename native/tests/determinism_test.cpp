// What a result may depend on: not on threads, batch mates, packing or micro-batches, nor on how many engines share a step.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "comm/communicator.h"
#include "engine/trainer.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

using Sequences = std::vector<std::vector<int32_t>>;

const std::vector<HeadSpec> kHeads = {{"last", -1, {}, 1, 4}, {"deep", 1, {6}, 2, 9}};

/// Around a page's border and far from it.
Sequences sequences() {
  std::mt19937 random(23);
  Sequences out;
  for (const int length : {1, 70, 7, 129, 64, 2, 65, 31}) out.push_back(random_tokens(random, length));
  return out;
}

DeviceOptions with_threads(DeviceOptions device, int threads) {
  device.threads = threads;
  return device;
}

/// Everything read at one sequence, in one row of numbers.
std::vector<std::vector<float>> rows_of(const std::shared_ptr<Policy>& policy, const Sequences& given, bool keep) {
  const HostBatch batch = batch_of(given);
  PassRequest request;
  request.keep = keep;
  request.logprobs = request.entropy = request.hidden = true;
  request.closed_set = ClosedSetRead{{5, 96, 40}, {}};
  request.divergence = {Divergence::kJsd, std::vector<uint8_t>(batch.tokens.size(), 1)};
  request.heads = {{"last", {}}, {"deep", {}}};
  for (int b = 0; b < batch.segments(); ++b) {
    request.divergence->mask[batch.offsets[b]] = 0;
    request.closed_set->rows.push_back(batch.offsets[b + 1] - 1);
    for (HeadRead& head : request.heads) head.spans.push_back({b, batch.length(b) / 2, batch.length(b)});
  }
  const PassResult read = Pass(policy).forward(batch, request);
  std::vector<std::vector<float>> out(batch.segments());
  for (int b = 0; b < batch.segments(); ++b) {
    auto take = [&](const std::vector<float>& values, size_t from, size_t to, size_t width) {
      out[b].insert(out[b].end(), values.begin() + from * width, values.begin() + to * width);
    };
    const size_t from = batch.offsets[b], to = batch.offsets[b + 1];
    take(read.logprobs, from, to, 1);
    take(read.entropy, from, to, 1);
    take(read.divergence, from, to, 1);
    take(read.hidden, from, to, policy->base()->family().hidden);
    take(read.closed_set, b, b + 1, 3);
    take(read.heads.at("last"), b, b + 1, 1);
    take(read.heads.at("deep"), b, b + 1, 2);
  }
  return out;
}

/// Each kind of loss over sequences, whose weights stay theirs wherever they are packed.
Loss loss_of(const HostBatch& batch, const std::vector<int>& which) {
  Loss loss;
  loss.read.head = "last";
  loss.closed_set = {{{5, 96, 40}, {}}, {}, {}};
  loss.divergence = Divergence::kKl;
  for (int b = 0; b < batch.segments(); ++b) {
    for (int i = 0; i < batch.length(b); ++i) {
      loss.nll_weights.push_back(i % 3 ? 1.0f : 0.0f);
      loss.divergence_weights.push_back(i % 2 ? 0.5f : 0.0f);
    }
    loss.read.spans.push_back({b, 0, batch.length(b)});
    loss.targets.push_back(static_cast<float>(which[b]) / 8);
    loss.closed_set->read.rows.push_back(batch.offsets[b + 1] - 1);
    loss.closed_set->labels.push_back(which[b] % 3);
    loss.closed_set->weights.push_back(2);
  }
  return loss;
}

void accumulate(Trainer& trainer, const Sequences& all, const std::vector<int>& which) {
  Sequences chosen;
  for (int s : which) chosen.push_back(all[s]);
  const HostBatch batch = batch_of(chosen);
  trainer.accumulate(batch, loss_of(batch, which));
}

/// The sequences in turn over `parts` micro-batches.
std::vector<std::vector<int>> dealt(size_t count, int parts) {
  std::vector<std::vector<int>> out(parts);
  for (size_t s = 0; s < count; ++s) out[s % parts].push_back(static_cast<int>(s));
  return out;
}

std::vector<int> in_order(size_t count) { return dealt(count, 1).front(); }

AdapterSpec dropping(double share) {
  AdapterSpec adapter = small_adapter();
  adapter.config.dropout = share;
  return adapter;
}

}  // namespace

TEST(rows_have_the_same_bits_on_two_threads_alone_and_in_any_packing) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const Sequences all = sequences();
    const auto policy = small_policy(folder.path(), device, kHeads);
    const auto packed = rows_of(policy, all, false);
    EXPECT(packed == rows_of(policy, all, true));
    EXPECT(packed == rows_of(small_policy(folder.path(), with_threads(device, 2), kHeads), all, false));
    for (size_t s = 0; s < all.size(); ++s) EXPECT(rows_of(policy, {all[s]}, false).front() == packed[s]);
    Sequences reversed(all.rbegin(), all.rend());
    auto backwards = rows_of(policy, reversed, false);
    std::reverse(backwards.begin(), backwards.end());
    EXPECT(backwards == packed);
  });
}

TEST(perturbing_one_segment_leaves_the_others_bits_alone) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const Sequences all = sequences();
    const auto policy = small_policy(folder.path(), device, kHeads);
    const auto before = rows_of(policy, all, false);
    for (const size_t changed : {size_t{0}, size_t{3}, all.size() - 1}) {
      Sequences other = all;
      for (int32_t& token : other[changed]) token = (token + 13) % 97;
      const auto after = rows_of(policy, other, false);
      for (size_t s = 0; s < all.size(); ++s) EXPECT((after[s] == before[s]) == (s != changed));
      // A segment that nothing supervises has no part in the gradients either.
      auto gradients = [&](const Sequences& given) {
        const HostBatch batch = batch_of(given);
        Loss loss;
        for (size_t t = 0; t < batch.tokens.size(); ++t) loss.nll_weights.push_back(t % 3 ? 1.0f : 0.0f);
        for (int b = 0; b < batch.segments(); ++b) loss.nll_weights[batch.offsets[b]] = 0;
        std::fill(loss.nll_weights.begin() + batch.offsets[changed],
                  loss.nll_weights.begin() + batch.offsets[changed + 1], 0.0f);
        Trainer trainer(policy, {});
        trainer.accumulate(batch, loss);
        return trainer.gradients();
      };
      EXPECT(gradients(all) == gradients(other));
    }
  });
}

TEST(gradients_have_the_same_bits_on_two_threads_and_agree_over_packing_and_accumulation) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const Sequences all = sequences();
  for (const double share : {0.0, 0.3}) {
    each_device([&](const DeviceOptions& device) {
      const double tolerance = std::string(device.dtype) == "f32" ? 1e-5 : 2e-2;
      const auto policy = small_policy(folder.path(), device, kHeads, dropping(share));
      auto gradients = [&](const std::shared_ptr<Policy>& of, int parts) {
        Trainer trainer(of, {});
        for (const auto& which : dealt(all.size(), parts)) accumulate(trainer, all, which);
        return trainer.gradients();
      };
      const auto whole = gradients(policy, 1);
      EXPECT(whole == gradients(policy, 1));
      EXPECT(whole == gradients(small_policy(folder.path(), with_threads(device, 2), kHeads, dropping(share)), 1));
      // Masks go by a sequence's number in the step, so micro-batches keep the order here.
      std::vector<std::vector<int>> cuts[] = {{{0, 1, 2, 3}, {4, 5, 6, 7}}, {{0, 1}, {2, 3}, {4, 5}, {6, 7}}};
      for (const auto& cut : cuts) {
        Trainer trainer(policy, {});
        for (const auto& which : cut) accumulate(trainer, all, which);
        EXPECT_GRADIENTS(*policy, trainer.gradients(), whole, tolerance);
      }
      if (share > 0) return;
      for (const int parts : {2, 4}) EXPECT_GRADIENTS(*policy, gradients(policy, parts), whole, tolerance);
    });
  }
}

TEST(two_engines_joined_by_a_communicator_step_like_one) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const Sequences all = sequences();
  const DeviceOptions device{"cpu", "f32", "auto", 1};
  OptimizerSpec optimizer;
  optimizer.weight_decay = 0.1;
  optimizer.max_gradient_norm = 1;
  optimizer.seed = 8;
  for (const double share : {0.0, 0.3}) {
    // What each rank's parameters and gradient norms are after three steps; the gradient of the first.
    struct Run {
      std::vector<float> gradient, parameters;
      std::vector<double> norms;
    };
    auto run = [&](int ranks) {
      const auto communicators = threads_of_one_process(ranks);
      std::vector<Run> runs(ranks);
      std::vector<std::thread> threads;
      for (int r = 0; r < ranks; ++r) {
        threads.emplace_back([&, r] {
          const auto policy = small_policy(folder.path(), device, kHeads, dropping(share));
          Trainer trainer(policy, optimizer, communicators[r]);
          const std::vector<int> mine = dealt(all.size(), ranks)[r];
          for (int step = 0; step < 3; ++step) {
            accumulate(trainer, all, mine);
            if (step == 0) {
              runs[r].gradient = trainer.gradients();
              communicators[r]->all_reduce_sum(runs[r].gradient.data(), runs[r].gradient.size());
            }
            runs[r].norms.push_back(trainer.update(1e-3, static_cast<double>(mine.size())).gradient_norm);
          }
          runs[r].parameters = policy->read_parameters();
        });
      }
      for (std::thread& thread : threads) thread.join();
      return runs;
    };
    const auto one = run(1), two = run(2), again = run(2);
    const auto policy = small_policy(folder.path(), device, kHeads, dropping(share));
    EXPECT_GRADIENTS(*policy, two[0].gradient, one[0].gradient, 1e-5);
    EXPECT(two[0].parameters == two[1].parameters && two[0].norms == two[1].norms);
    EXPECT(two[0].parameters == again[0].parameters);
    EXPECT(std::fabs(two[0].norms[0] - one[0].norms[0]) <= 1e-5 * one[0].norms[0]);
    EXPECT(std::fabs(two[0].norms[2] - one[0].norms[2]) <= 1e-3 * one[0].norms[2]);
  }
}

TEST(a_communicator_sums_in_rank_order_and_broadcasts) {
  const int ranks = 3;
  const auto communicators = threads_of_one_process(ranks);
  std::vector<std::vector<float>> sums(ranks);
  std::vector<double> counts(ranks), told(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      Communicator& c = *communicators[r];
      for (int round = 0; round < 20; ++round) {
        sums[r] = {1e8f * static_cast<float>(r == 0) - 1e8f * static_cast<float>(r == 1) + static_cast<float>(r == 2),
                   static_cast<float>(r + round)};
        c.all_reduce_sum(sums[r].data(), sums[r].size());
        counts[r] = r + 0.5;
        c.all_reduce_sum(&counts[r], 1);
        told[r] = r * 10 + round;
        c.broadcast(&told[r], sizeof(double), 2);
        c.barrier();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < ranks; ++r) {
    EXPECT(sums[r] == (std::vector<float>{1, 60}));
    EXPECT_EQ(counts[r], 4.5);
    EXPECT_EQ(told[r], 39.0);
  }
  double value = 3;
  alone()->all_reduce_sum(&value, 1);
  EXPECT(value == 3 && alone()->size() == 1 && alone()->rank() == 0);
}

TEST(dropout_is_for_training_passes_and_follows_from_seed_step_and_place) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const DeviceOptions device{"cpu", "f32", "auto", 2};
  const Sequences all = sequences();
  const auto plain = small_policy(folder.path(), device, kHeads),
             policy = small_policy(folder.path(), device, kHeads, dropping(0.5));
  EXPECT(rows_of(plain, all, true) == rows_of(policy, all, true));  // read-outs that nobody trains
  auto gradient = [&](uint64_t seed, int64_t step) {
    OptimizerSpec optimizer;
    optimizer.seed = seed;
    Trainer trainer(policy, optimizer);
    const std::vector<float> zeros(policy->count(), 0.0f);
    trainer.restore(step, seed, zeros, zeros);
    accumulate(trainer, all, in_order(all.size()));
    return trainer.gradients();
  };
  EXPECT(gradient(1, 0) == gradient(1, 0));
  EXPECT(gradient(1, 0) != gradient(2, 0));
  EXPECT(gradient(1, 0) != gradient(1, 1));
  // Two equal sequences of a step have masks of their own.
  Trainer trainer(policy, {});
  PassRequest request;
  request.logprobs = true;
  const auto logprobs = trainer.forward(batch_of({all[1], all[1]}), request).logprobs;
  const auto half = logprobs.begin() + static_cast<int64_t>(all[1].size());
  EXPECT(!std::equal(logprobs.begin(), half, half));
  EXPECT(trainer.forward(batch_of({all[1], all[1]}), request).logprobs != logprobs);
  trainer.restore(0, 0, std::vector<float>(policy->count(), 0.0f), std::vector<float>(policy->count(), 0.0f));
  EXPECT(trainer.forward(batch_of({all[1], all[1]}), request).logprobs == logprobs);
}

TESTING_MAIN
