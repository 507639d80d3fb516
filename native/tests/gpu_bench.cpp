// credence_gpu_bench [DEVICE]: times of the CUDA back end's operators, beside what the same process measures of the device: bytes
// that a copy moves, operations of a bare product of cuBLASLt. First at the shapes of Llama-3-8B (and a vocabulary of 128,256),
// attention also over many lengths and with heads of 64, decoding with its keys whole and split; then every operator at
// SmolLM2-135M's. Each line is the median and the 10th and 90th percentile of 20 runs after two to warm up,
// timed by events, L2 overwritten before each. Where there is no device it says why and ends with 77.
//   DEVICE   cuda, or cuda-emulated: small shapes, run once; that the code runs, no figures
#include <array>
#include <cstdio>
#include <cstring>

#include "engine/operator_bench.h"
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Sizes {
  int rows, hidden, intermediate, vocabulary, scored;
  int64_t parameters;  // an adapter of rank 16 on all seven projections
  int64_t square;      // of the product that the peak is measured with
  size_t copied, scrubbed;
  int tokens;                  // SmolLM2's micro-batch
  int heads;                   // of attention, four to a kv head; its batches have `rows` tokens
  std::array<int, 3> lengths;  // of a batch's segments
  std::array<int, 2> decoded;  // keys of the sequences that are decoded, one alone and `together`
  int together;
  int runs, warm_up;
};
constexpr Sizes kDevice = {.rows = 8192,
                           .hidden = 4096,
                           .intermediate = 14336,
                           .vocabulary = 128256,
                           .scored = 2048,
                           .parameters = 41943040,
                           .square = 8192,
                           .copied = size_t{512} << 20,
                           .scrubbed = size_t{256} << 20,
                           .tokens = 2048,
                           .heads = 32,
                           .lengths = {512, 2048, 8192},
                           .decoded = {2048, 8192},
                           .together = 64,
                           .runs = 20,
                           .warm_up = 2};
constexpr Sizes kEmulated = {.rows = 8,
                             .hidden = 48,
                             .intermediate = 64,
                             .vocabulary = 96,
                             .scored = 4,
                             .parameters = 4096,
                             .square = 32,
                             .copied = size_t{1} << 16,
                             .scrubbed = size_t{1} << 16,
                             .tokens = 64,
                             .heads = 4,
                             .lengths = {2, 4, 8},
                             .decoded = {65, 300},
                             .together = 2,
                             .runs = 1,
                             .warm_up = 0};

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
    const credence_adamw update{0, n, *p, *m, *v, *g, *norm, 1, 1, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1, nullptr};
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

// Forward and backward over segments of one length and over many short ones, all of about as many tokens; then decoding, one
// sequence and 64, with its keys whole and split.
void attention_shapes(const char* name, const Sizes& z, const DevicePeaks& peaks) {
  using namespace operator_bench;
  DeviceOptions options;
  options.device = name;
  options.dtype = "bf16";
  const auto device = Device::open(options);
  const Clock clock(device->table(), device->backend(), z);
  const int kv_heads = z.heads / 4;
  const auto say = [&](const char* what, const std::string& shape, const RunTimes& t, double flop, double bytes) {
    print({what, shape, t.best, t.median, flop, bytes, false, t.low, t.high, {}}, CREDENCE_BF16, peaks, nullptr);
  };
  for (const int d : {64, 128}) {
    credence_shape shape = {};
    shape.heads = z.heads, shape.kv_heads = kv_heads, shape.head_dim = d;
    const double q_width = 1.0 * z.heads * d, kv_width = 1.0 * kv_heads * d;
    const auto operands = [&](Room* room, const credence_batch& batch) {
      credence_attention p = {};
      const auto n = static_cast<size_t>(batch.token_capacity * q_width);
      p.batch = batch, p.shape = shape, p.dtype = device->dtype();
      p.scale = static_cast<float>(1 / std::sqrt(d));
      p.q = room->act(n), p.o = room->act(n);
      p.pages = room->space(device->table().page_bytes(&shape, device->dtype()) * batch.segment_capacity *
                            batch.pages_per_segment);
      p.lse = room->same(static_cast<size_t>(batch.token_capacity) * z.heads, 8);
      return p;
    };
    std::vector<std::pair<std::string, std::vector<int>>> batches;
    for (const int length : z.lengths)
      batches.emplace_back(std::to_string(z.rows / length) + " x " + std::to_string(length),
                           std::vector<int>(z.rows / length, length));
    std::vector<int> ragged;
    for (int i = 0; i < std::max(z.rows * 300 / 8192, 3); ++i) ragged.push_back(1 + i * 37 % 53);
    batches.emplace_back(std::to_string(ragged.size()) + " of 1 to 53", ragged);
    for (const auto& [lengths, segments] : batches) {
      Room room(device);
      const credence_attention p = operands(&room, batch_of(&room, segments, 97));
      double pairs = 0;
      for (const int length : segments) pairs += length * (length + 1.0) / 2;
      const double tokens = p.batch.token_capacity;
      const std::string what = lengths + ", heads of " + std::to_string(d);
      say("attention", what, clock([&] { device->attention(p); }), 4 * q_width * pairs,
          2 * tokens * (2 * q_width + 2 * kv_width));
      const auto kv = static_cast<size_t>(tokens * kv_width), n = static_cast<size_t>(tokens * q_width);
      const credence_attention_backward back{p.batch,     shape,        p.dtype,      p.scale,     0,
                                             p.q,         room.act(kv), room.act(kv), p.o,         p.lse,
                                             room.act(n), room.act(n),  room.act(kv), room.act(kv)};
      say("attention_backward", what, clock([&] { device->attention_backward(back); }), 10 * q_width * pairs,
          2 * tokens * (4 * q_width + 4 * kv_width));
    }
    for (const int keys : z.decoded)
      for (const int sequences : {1, z.together}) {
        Room room(device);
        credence_attention p = operands(&room, batch_of(&room, std::vector<int>(sequences, 1), 97, keys - 1));
        for (const int split : {0, 1}) {
          p.split_keys = split;
          say("attention",
              std::to_string(sequences) + " x " + std::to_string(keys) + " keys" + (split ? " split, " : ", ") +
                  std::to_string(d),
              clock([&] { device->attention(p); }), 4 * q_width * sequences * keys,
              2 * sequences * (2 * q_width + 2.0 * keys * kv_width));
        }
      }
  }
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
    attention_shapes(name.c_str(), sizes, peaks);
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
