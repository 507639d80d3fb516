// credence_gpu_bench: times of the CUDA back end's operators at the shapes of Llama-3-8B (and a vocabulary of 128,256), beside what
// the same process measures of the device: bytes that a copy moves, operations of a bare product. Each line is the median and
// the 10th and 90th percentile of 20 runs after two to warm up, timed by events, L2 overwritten before each. Where there is no
// device it says why and ends with 77.
#include <cstdio>
#include <cstring>

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

constexpr int kRuns = 20, kWarmUp = 2;

struct Times {
  double median, low, high;  // milliseconds
};

class Clock {
 public:
  explicit Clock(Backend& backend) : backend_(backend), scrub_(backend, size_t{256} << 20) {}

  template <class Body>
  Times of(const Body& body) {
    const credence_table& t = *backend_.table;
    std::vector<double> all;
    for (int i = 0; i < kWarmUp + kRuns; ++i) {
      t.fill(backend_.handle, scrub_.raw(), i, scrub_.bytes());
      credence_event* const from = t.event(backend_.handle);
      body();
      credence_event* const to = t.event(backend_.handle);
      const double ms = t.elapsed_ms(backend_.handle, from, to);
      t.free_event(backend_.handle, from);
      t.free_event(backend_.handle, to);
      if (i >= kWarmUp) all.push_back(ms);
    }
    if (t.synchronise(backend_.handle)) throw std::runtime_error(t.last_error(backend_.handle));
    std::sort(all.begin(), all.end());
    return {all[kRuns / 2], all[kRuns / 10], all[kRuns - 1 - kRuns / 10]};
  }

 private:
  Backend& backend_;
  Memory scrub_;  // larger than any L2
};

/// One line: `amount` is bytes or operations, `peak` the same a second.
void line(const char* name, const char* shape, const Backend& backend, Times t, double amount, bool bytes,
          double peak) {
  const double rate = amount / (t.median * 1e-3);
  std::printf("%-16s %-28s %-8s median %9.4f ms  p10 %9.4f  p90 %9.4f  %8.1f %s", name, shape,
              backend.bf16() ? "bf16" : "float32", t.median, t.low, t.high, rate * (bytes ? 1e-9 : 1e-12),
              bytes ? "GB/s   " : "TFLOP/s");
  if (peak > 0) std::printf("  %5.1f %% of the %s", 100 * rate / peak, bytes ? "copy" : "bare product");
  std::printf("\n");
}

#define RUN_BENCH(clock, backend, operation, parameters)                                    \
  [&] {                                                                                     \
    const Memory workspace(backend, (backend).table->operation##_workspace(&(parameters))); \
    return (clock).of([&] {                                                                 \
      if ((backend).table->operation((backend).handle, &(parameters), workspace.raw()))     \
        throw std::runtime_error((backend).table->last_error((backend).handle));            \
    });                                                                                     \
  }()

void bench(Backend& backend) {
  constexpr int kRows = 8192, kHidden = 4096, kIntermediate = 14336, kVocabulary = 128256;
  constexpr int64_t kParameters = 41943040;  // an adapter of rank 16 on all seven projections
  const double act = backend.bf16() ? 2 : 4;
  Clock clock(backend);
  const auto zeros = [&](size_t count) {
    auto memory = float_space(backend, count);
    backend.table->fill(backend.handle, memory->raw(), 0, memory->bytes());
    return memory;
  };
  double copied;
  {
    const auto from = zeros(size_t{1} << 27), to = zeros(size_t{1} << 27);
    const Times t = clock.of([&] { backend.table->copy(backend.handle, to->raw(), from->raw(), from->bytes()); });
    copied = 2.0 * static_cast<double>(from->bytes()) / (t.median * 1e-3);
    line("copy", "512 MiB", backend, t, 2.0 * static_cast<double>(from->bytes()), true, 0);
  }
  {
    const auto rows = one(backend, kRows), x = zeros(size_t{kRows} * kHidden), weight = zeros(kHidden);
    const auto y = act_space(backend, size_t{kRows} * kHidden);
    credence_norm o = {};
    o.rows = *rows, o.capacity = kRows, o.width = kHidden, o.dtype = backend.dtype, o.eps = 1e-5f;
    o.x = *x, o.ldx = o.ldy = kHidden, o.weight = *weight, o.y = y->raw();
    line("norm", "8192 x 4096", backend, RUN_BENCH(clock, backend, norm, o), kRows * kHidden * (4.0 + act), true,
         copied);
  }
  {
    const auto p = zeros(kParameters), m = zeros(kParameters), v = zeros(kParameters), g = zeros(kParameters),
               norm = zeros(1);
    const credence_adamw update{0, kParameters, *p, *m, *v, *g, *norm, 1, 1, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1};
    line("adamw", "41.9 million", backend, RUN_BENCH(clock, backend, adamw, update), kParameters * 28.0, true, copied);
    const credence_gradient_norm sum{kParameters, *g, *norm};
    line("gradient_norm", "41.9 million", backend, RUN_BENCH(clock, backend, gradient_norm, sum), kParameters * 4.0,
         true, copied);
  }
  double bare = 0;
  for (const auto& [name, columns] :
       {std::pair{"o     8192 x 4096 x 4096", kHidden}, {"down  8192 x 4096 x 14336", kIntermediate}})
    for (const bool adapted : {false, true}) {
      reference::Linear layer;
      layer.rows = kRows, layer.outputs = kHidden, layer.columns = columns;
      layer.weights = normal(1, static_cast<size_t>(kHidden) * columns, 0.02);
      if (adapted) {
        layer.slices = {
            {0, kHidden, 16, 2, normal(2, size_t{16} * columns, 0.02), normal(3, size_t{16} * kHidden, 0.02)}};
      }
      const Weights weights(backend, layer.weights, kHidden, columns);
      const Adapter adapter(backend, layer);
      const auto rows = one(backend, kRows),
                 in = act_on_device(backend, normal(4, static_cast<size_t>(kRows) * columns)),
                 x = zeros(size_t{kRows} * kHidden);
      credence_project o = {};
      o.rows = *rows, o.capacity = kRows, o.dtype = backend.dtype, o.weights = weights, o.lora = adapter;
      o.in = in->raw(), o.x = o.x_out = *x, o.ldx = kHidden;
      const Times t = RUN_BENCH(clock, backend, project, o);
      const double flop = 2.0 * kRows * kHidden * columns;
      if (!adapted) bare = flop / (t.median * 1e-3);
      line(adapted ? "project + r 16" : "project", name, backend, t, flop, false, adapted ? bare : 0);
    }
  {
    constexpr int kScored = 2048;
    const auto values = normal(1, static_cast<size_t>(kVocabulary) * 1024, 0.02);
    const Weights weights(backend, values, kVocabulary, 1024);
    const auto rows = one(backend, kScored), h = act_on_device(backend, normal(2, size_t{kScored} * 1024));
    const auto targets = zeros(kScored), logprob = zeros(kScored), entropy = zeros(kScored);
    credence_token_logprobs o = {};
    o.rows = *rows, o.capacity = kScored, o.width = 1024, o.vocabulary = kVocabulary, o.dtype = backend.dtype;
    o.weights = weights, o.h = h->raw(), o.ldh = 1024, o.targets = *targets, o.logprob = *logprob, o.entropy = *entropy;
    line("token_logprobs", "2048 x 1024 x 128256", backend, RUN_BENCH(clock, backend, token_logprobs, o),
         2.0 * kScored * 1024 * kVocabulary, false, bare);
  }
}

}  // namespace

int main() {
  const char* reason = nullptr;
  const credence_table* table = credence_cuda_table(&reason);
  if (table && table->unavailable()) reason = table->unavailable();
  if (reason) {
    std::printf("no device: %s\n", reason);
    return 77;
  }
  try {
    std::printf("%s\n", table->isa);
    for (const credence_dtype dtype : {CREDENCE_BF16, CREDENCE_F32}) {
      Backend backend(table, dtype, 1);
      bench(backend);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
