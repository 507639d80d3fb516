// The engine on two tables: what it computes on the CUDA kernels, executed on the CPU, is what it computes on the CPU's own.
#define CREDENCE_EMULATE
#include <cmath>

#include "engine/trainer.h"
#include "engine_support.h"
#include "kernels/cuda/backend.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// Why there are no emulated kernels here, or nothing.
std::string missing() {
  const char* reason = nullptr;
  const credence_table* table = credence_cuda_emulated_table(&reason);
  if (!table) return reason;
  const char* why = table->unavailable();
  return why ? why : "";
}

/// A step of fine-tuning on sequences of its own.
struct Step {
  HostBatch batch;
  Loss loss;
  double count = 0;
};

Step step_of(std::mt19937& random) {
  Step step;
  std::vector<std::vector<int32_t>> sequences;
  for (const int length : {1 + static_cast<int>(random() % 30), 66, 3})
    sequences.push_back(random_tokens(random, length));
  step.batch = batch_of(sequences);
  for (size_t t = 0; t < step.batch.tokens.size(); ++t) step.loss.nll_weights.push_back(t % 3 ? 1.0f : 0.0f);
  for (int b = 0; b < step.batch.segments(); ++b) step.loss.nll_weights[step.batch.offsets[b]] = 0;
  for (float weight : step.loss.nll_weights) step.count += weight;
  return step;
}

struct Told {
  double loss, norm;
};

std::vector<Told> train(const std::string& folder, const DeviceOptions& device, int steps) {
  OptimizerSpec optimizer;
  optimizer.max_gradient_norm = 1;
  Trainer trainer(small_policy(folder, device), optimizer);
  std::mt19937 random(29);
  std::vector<Told> told;
  for (int i = 0; i < steps; ++i) {
    const Step step = step_of(random);
    const double loss = trainer.accumulate(step.batch, step.loss) / step.count;
    told.push_back({loss, trainer.update(2e-3, step.count)});
  }
  return told;
}

}  // namespace

TEST(fifty_steps_of_fine_tuning_agree_with_the_cpu) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  const int steps = std::getenv("CREDENCE_SANITIZED") ? 3 : 50;
  const auto cpu = train(folder.path(), {"cpu", "f32", "auto", 1}, steps);
  const auto cuda = train(folder.path(), {"cuda-emulated", "f32", "auto", 1}, steps);
  for (int i = 0; i < steps; ++i) {
    const double loss = std::fabs(cuda[i].loss / cpu[i].loss - 1), norm = std::fabs(cuda[i].norm / cpu[i].norm - 1);
    if (!(loss <= 1e-4) || !(norm <= 1e-4))
      report(__FILE__, __LINE__,
             "step " + show(i) + ": loss " + show(cuda[i].loss) + " and norm " + show(cuda[i].norm) + ", on the CPU " +
                 show(cpu[i].loss) + " and " + show(cpu[i].norm));
  }
}

// The host waits where it is told something: the losses of a pass, and the gradient's norm.
TEST(a_step_waits_for_the_device_once_a_pass_and_once_for_the_norm) {
  if (const std::string why = missing(); !why.empty()) SKIP(why);
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cuda-emulated", "f32", "auto", 1});
  const cuda::Backend& backend = cuda::of(policy->base()->device()->backend());
  Trainer trainer(policy, {});
  std::mt19937 random(29);
  for (int passes : {1, 3}) {
    const int64_t before = backend.host_synchronisations;
    double count = 0;
    for (int i = 0; i < passes; ++i) {
      const Step step = step_of(random);
      trainer.accumulate(step.batch, step.loss);
      count += step.count;
    }
    trainer.update(1e-3, count);
    EXPECT_EQ(backend.host_synchronisations - before, passes + 1);
  }
}

TESTING_MAIN
