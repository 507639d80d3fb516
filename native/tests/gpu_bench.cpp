// credence_gpu_bench [DEVICE]: times of the CUDA back end's operators, beside what the same process measures of the device: bytes
// that a copy moves, operations of a bare product of cuBLASLt. First at the shapes of Llama-3-8B (and a vocabulary of 128,256),
// then every operator at SmolLM2-135M's. Each line is the median and the 10th and 90th percentile of 20 runs after two to warm up,
// timed by events, L2 overwritten before each. Where there is no device it says why and ends with 77.
//   DEVICE   cuda, or cuda-emulated: small shapes, run once; that the code runs, no figures
#include <cstdio>
#include <cstring>

#include "engine/bench_operators.h"
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Sizes {
  int rows, hidden, intermediate, vocabulary, scored;
  int64_t parameters;  // an adapter of rank 16 on all seven projections
  int64_t square;      // of the product that the peak is measured with
  size_t copied, scrubbed;
  int tokens;  // SmolLM2's micro-batch
  int runs, warm_up;
};
constexpr Sizes kDevice = {8192, 4096, 14336, 128256, 2048, 41943040, 8192, size_t{512} << 20, size_t{256} << 20,
                           2048, 20,   2};
constexpr Sizes kEmulated = {8, 48, 64, 96, 4, 4096, 32, size_t{1} << 16, size_t{1} << 16, 64, 1, 0};

class Clock {
 public:
  Clock(const credence_table& table, credence_backend* handle, const Sizes& sizes)
      : t_(table), handle_(handle), sizes_(sizes), scrub_(t_.alloc(handle, sizes.scrubbed)) {
    if (!scrub_) throw std::runtime_error(t_.last_error(handle));
  }
  ~Clock() { t_.free(handle_, scrub_); }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  RunTimes operator()(const std::function<void()>& body) const {
    std::vector<double> seconds;
    for (int i = 0; i < sizes_.warm_up + sizes_.runs; ++i) {
      t_.fill(handle_, scrub_, i, sizes_.scrubbed);  // larger than any L2
      credence_event* const from = t_.event(handle_);
      body();
      credence_event* const to = t_.event(handle_);
      const double ms = t_.elapsed_ms(handle_, from, to);
      t_.free_event(handle_, from);
      t_.free_event(handle_, to);
      if (i >= sizes_.warm_up) seconds.push_back(ms * 1e-3);
    }
    if (t_.synchronise(handle_)) throw std::runtime_error(t_.last_error(handle_));
    return run_times(std::move(seconds));
  }

 private:
  const credence_table& t_;
  credence_backend* handle_;
  const Sizes& sizes_;
  void* scrub_;
};

/// What the device does in this process: operations a second of a bare product, bytes a second of a copy (read and written).
struct DevicePeaks {
  double product[2] = {}, copy = 0;  // product by credence_dtype
};

/// Median of cuBLASLt alone on a product of these sizes.
RunTimes bare(Backend& backend, const Clock& clock, const BareProduct& p) {
  const auto zeros = [&](int64_t count, bool act) {
    auto memory =
        act ? act_space(backend, static_cast<size_t>(count)) : float_space(backend, static_cast<size_t>(count));
    backend.table->fill(backend.handle, memory->raw(), 0, memory->bytes());
    return memory;
  };
  const auto x = zeros(p.m * p.k, true), w = zeros(p.n * p.k, true), y = zeros(p.m * p.n, false);
  return clock([&] {
    if (backend.table->bare_product(backend.handle, p.m, p.n, p.k, backend.dtype, x->raw(), w->raw(), *y))
      throw std::runtime_error(backend.table->last_error(backend.handle));
  });
}

void print(const OperatorLine& l, credence_dtype dtype, const DevicePeaks& peaks, const RunTimes* alone) {
  const credence_dtype product = l.float32 ? CREDENCE_F32 : dtype;
  const double by_product = l.flop / peaks.product[product], by_copy = l.bytes / peaks.copy;
  const bool moves = by_copy > by_product;
  std::printf("%-24s %-32s %-8s median %9.4f ms  p10 %9.4f  p90 %9.4f  %8.1f %-7s  %5.1f %% of the %s", l.name.c_str(),
              l.shape.c_str(), product == CREDENCE_BF16 ? "bf16" : "float32", l.median * 1e3, l.low * 1e3, l.high * 1e3,
              (moves ? l.bytes * 1e-9 : l.flop * 1e-12) / l.median, moves ? "GB/s" : "TFLOP/s",
              100 * std::max(by_product, by_copy) / l.median, moves ? "copy" : "product");
  if (alone) std::printf("; bare product %9.4f ms", alone->median * 1e3);
  std::printf("\n");
}

#define TIME(operation, parameters)                                                       \
  [&] {                                                                                   \
    const Memory workspace(backend, backend.table->operation##_workspace(&(parameters))); \
    return clock([&] {                                                                    \
      if (backend.table->operation(backend.handle, &(parameters), workspace.raw()))       \
        throw std::runtime_error(backend.table->last_error(backend.handle));              \
    });                                                                                   \
  }()

DevicePeaks measure(Backend& f32, Backend& bf16, const Sizes& z) {
  DevicePeaks peaks;
  for (Backend* backend : {&f32, &bf16}) {
    const Clock clock(*backend->table, backend->handle, z);
    const RunTimes t = bare(*backend, clock, {z.square, z.square, z.square});
    const double flop = 2.0 * static_cast<double>(z.square * z.square * z.square);
    peaks.product[backend->dtype] = flop / t.best;
    std::printf("product  %lld cubed, %s: %.1f TFLOP/s\n", static_cast<long long>(z.square),
                backend->bf16() ? "bf16" : "float32", flop / t.best * 1e-12);
  }
  const Clock clock(*f32.table, f32.handle, z);
  const Memory from(f32, z.copied), to(f32, z.copied);
  const RunTimes t = clock([&] { f32.table->copy(f32.handle, to.raw(), from.raw(), z.copied); });
  peaks.copy = 2.0 * static_cast<double>(z.copied) / t.best;
  std::printf("copy     %zu bytes: %.1f GB/s\n", z.copied, peaks.copy * 1e-9);
  return peaks;
}

void large_shapes(Backend& backend, const Sizes& z, const DevicePeaks& peaks) {
  const Clock clock(*backend.table, backend.handle, z);
  const double act = backend.bf16() ? 2 : 4;
  const auto zeros = [&](int64_t count) {
    auto memory = float_space(backend, static_cast<size_t>(count));
    backend.table->fill(backend.handle, memory->raw(), 0, memory->bytes());
    return memory;
  };
  const auto say = [&](const char* name, const std::string& shape, const RunTimes& t, double flop, double bytes,
                       bool float32 = false, const RunTimes* alone = nullptr) {
    print({name, shape, t.best, t.median, flop, bytes, float32, t.low, t.high, {}}, backend.dtype, peaks, alone);
  };
  const int64_t elements = int64_t{z.rows} * z.hidden;
  const std::string rows_by = std::to_string(z.rows) + " x " + std::to_string(z.hidden);
  const auto rows = one(backend, z.rows);
  {
    const auto x = zeros(elements), weight = zeros(z.hidden);
    const auto y = act_space(backend, static_cast<size_t>(elements));
    credence_norm o = {};
    o.rows = *rows, o.capacity = z.rows, o.width = z.hidden, o.dtype = backend.dtype, o.eps = 1e-5f;
    o.x = *x, o.ldx = o.ldy = z.hidden, o.weight = *weight, o.y = y->raw();
    say("norm", rows_by, TIME(norm, o), 0, static_cast<double>(elements) * (4 + act));
  }
  if (!backend.bf16()) {
    const int64_t n = z.parameters;
    const auto p = zeros(n), m = zeros(n), v = zeros(n), g = zeros(n), norm = zeros(1);
    const credence_adamw update{0, n, *p, *m, *v, *g, *norm, 1, 1, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1};
    say("adamw", std::to_string(n), TIME(adamw, update), 0, static_cast<double>(n) * 28, true);
    const credence_gradient_norm sum{n, *g, *norm};
    say("gradient_norm", std::to_string(n), TIME(gradient_norm, sum), 0, static_cast<double>(n) * 4, true);
  }
  for (const int columns : {z.hidden, z.intermediate}) {
    const RunTimes alone = bare(backend, clock, {z.rows, z.hidden, columns});
    for (const bool adapted : {false, true}) {
      reference::Linear layer;
      layer.rows = z.rows, layer.outputs = z.hidden, layer.columns = columns;
      layer.weights = normal(1, static_cast<size_t>(z.hidden) * columns, 0.02);
      if (adapted)
        layer.slices = {
            {0, z.hidden, 16, 2, normal(2, size_t{16} * columns, 0.02), normal(3, size_t{16} * z.hidden, 0.02)}};
      const Weights weights(backend, layer.weights, z.hidden, columns);
      const Adapter adapter(backend, layer);
      const auto in = act_on_device(backend, normal(4, static_cast<size_t>(z.rows) * columns)), x = zeros(elements);
      credence_project o = {};
      o.rows = *rows, o.capacity = z.rows, o.dtype = backend.dtype, o.weights = weights, o.lora = adapter;
      o.in = in->raw(), o.x = o.x_out = *x, o.ldx = z.hidden;
      const double flop =
          2.0 * z.rows * (z.hidden * static_cast<double>(columns) + (adapted ? 16.0 * (z.hidden + columns) : 0));
      say(adapted ? "project, rank 16" : "project", rows_by + " x " + std::to_string(columns), TIME(project, o), flop,
          z.rows * (columns * act + 8.0 * z.hidden) + z.hidden * static_cast<double>(columns) * act, false, &alone);
    }
  }
  const int width = z.hidden / 4;
  const auto values = normal(1, static_cast<size_t>(z.vocabulary) * width, 0.02);
  const Weights weights(backend, values, z.vocabulary, width);
  const auto scored = one(backend, z.scored),
             h = act_on_device(backend, normal(2, static_cast<size_t>(z.scored) * width));
  const auto targets = zeros(z.scored), logprob = zeros(z.scored), entropy = zeros(z.scored);
  credence_token_logprobs o = {};
  o.rows = *scored, o.capacity = z.scored, o.width = width, o.vocabulary = z.vocabulary, o.dtype = backend.dtype;
  o.weights = weights, o.h = h->raw(), o.ldh = width, o.targets = *targets, o.logprob = *logprob, o.entropy = *entropy;
  const RunTimes alone = bare(backend, clock, {z.scored, z.vocabulary, width});
  say("token_logprobs", std::to_string(z.scored) + " x " + std::to_string(width) + " x " + std::to_string(z.vocabulary),
      TIME(token_logprobs, o), 2.0 * z.scored * width * z.vocabulary, static_cast<double>(z.vocabulary) * width * act,
      false, &alone);
}

void every_operator(Backend& backend, const char* name, const Sizes& z, const DevicePeaks& peaks) {
  DeviceOptions options;
  options.device = name;
  options.dtype = backend.bf16() ? "bf16" : "f32";
  const auto device = Device::open(options);
  const Clock clock(device->table(), device->backend(), z), own(*backend.table, backend.handle, z);
  for (const OperatorLine& line :
       bench_operators(device, z.tokens, [&clock](const auto& body) { return clock(body); })) {
    if (line.product.m == 0) {
      print(line, backend.dtype, peaks, nullptr);
      continue;
    }
    const RunTimes alone = bare(backend, own, line.product);
    print(line, backend.dtype, peaks, &alone);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "cuda";
  if (argc > 2 || (name != "cuda" && name != "cuda-emulated")) {
    std::fprintf(stderr, "usage: %s [cuda|cuda-emulated]\n", argv[0]);
    return 2;
  }
  const char* reason = nullptr;
  const credence_table* table = name == "cuda" ? credence_cuda_table(&reason) : credence_cuda_emulated_table(&reason);
  if (table && table->unavailable()) reason = table->unavailable();
  if (reason) {
    std::printf("no device: %s\n", reason);
    return 77;
  }
  const Sizes& sizes = is_emulated(table) ? kEmulated : kDevice;
  try {
    Backend f32(table, CREDENCE_F32, 1), bf16(table, CREDENCE_BF16, 1);
    std::printf("%s\n", table->isa);
    const DevicePeaks peaks = measure(f32, bf16, sizes);
    for (Backend* backend : {&bf16, &f32}) large_shapes(*backend, sizes, peaks);
    for (Backend* backend : {&bf16, &f32}) every_operator(*backend, name.c_str(), sizes, peaks);
    for (Backend* backend : {&bf16, &f32})
      if (const char* differ = table->rows_differ(backend->handle)) std::printf("rows differ: %s\n", differ);
  } catch (const Error& error) {
    std::printf("not measured: %s\n", error.what());
    return error.code == "NO_DEVICE" ? 77 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
