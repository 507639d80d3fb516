// credence_bench WHAT [--threads N] [--isa ISA] [--dtype f32|bf16]: times of the CPU's operators at SmolLM2-135M's shapes, beside
// the peaks of the same machine in the same process.
//   product     dense products alone: GFLOP/s and the share of peak
//   operators   each operator of the contract: GFLOP/s, GB/s and the share of the peak that binds it
//   launch      what a launch costs when there is next to nothing to do
//   --list      no measurement: a line for each operator and each table that has it, and one for its bench line, with a tab
//               between; docs/kernels.md is made from it
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "engine/bench_operators.h"
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

void line(const char* name, int rows, RunTimes t, double flop, double top) {
  std::printf("%-26s %6d rows  best %9.3f ms  median %9.3f ms %8.1f GFLOP/s  %5.1f %% of peak\n", name, rows,
              t.best * 1e3, t.median * 1e3, flop / t.best * 1e-9, 100 * flop / t.best / top);
}

#define TIME_OPERATOR(backend, operation, parameters)                                     \
  [&] {                                                                                   \
    const Memory workspace(backend, (backend).table->operation##_workspace(&parameters)); \
    return times_of(threads, 0.2, [&] {                                                   \
      if ((backend).table->operation((backend).handle, &parameters, workspace.raw())) {   \
        std::fprintf(stderr, "%s\n", (backend).table->last_error((backend).handle));      \
        std::exit(1);                                                                     \
      }                                                                                   \
    });                                                                                   \
  }()

void product(Backend& backend, int threads, double top) {
  const struct {
    const char* name;
    int outputs, columns;
  } shapes[] = {{"q|k|v    576 ->   960", 960, 576},
                {"o        576 ->   576", 576, 576},
                {"gate|up  576 ->  3072", 3072, 576},
                {"down    1536 ->   576", 576, 1536},
                {"head     576 -> 49152", 49152, 576}};
  for (const auto& shape : shapes) {
    const std::vector<double> values = normal(1, static_cast<size_t>(shape.outputs) * shape.columns, 0.05);
    const Weights weights(backend, values, shape.outputs, shape.columns);
    for (int rows : {2048, 256, 64, 12, 1}) {
      if (shape.outputs > 10000 && rows > 256)
        continue;  // the operator writes its outputs: the read-outs of the head do not
      const auto count = one(backend, rows),
                 in = act_on_device(backend, normal(4, static_cast<size_t>(rows) * shape.columns));
      const auto x = floats_on_device(backend, std::vector<double>(static_cast<size_t>(rows) * shape.outputs));
      const auto out = float_space(backend, static_cast<size_t>(rows) * shape.outputs);
      credence_project o = {};
      o.rows = *count;
      o.capacity = rows;
      o.dtype = backend.dtype;
      o.weights = weights;
      o.in = in->raw();
      o.x = *x;
      o.x_out = *out;
      o.ldx = shape.outputs;
      line(shape.name, rows, TIME_OPERATOR(backend, project, o), 2.0 * rows * shape.outputs * shape.columns, top);
    }
  }
}

void launch(Backend& backend, int threads) {
  const int width = 64;
  for (int rows : {1, 512}) {  // one item, which the caller does; two, which wake a thread
    const auto count = one(backend, rows), x = floats_on_device(backend, normal(1, static_cast<size_t>(rows) * width));
    const auto weight = floats_on_device(backend, normal(2, width));
    credence_norm o = {};
    o.rows = *count;
    o.capacity = rows;
    o.width = width;
    o.dtype = backend.dtype;
    o.x = *x;
    o.ldx = o.ldy_f32 = width;
    o.weight = *weight;
    o.y_f32 = *x;
    std::printf("norm of %d rows of %d: %.2f us\n", rows, width, TIME_OPERATOR(backend, norm, o).median * 1e6);
  }
}

void operators(const DeviceOptions& options) {
  const auto device = Device::open(options);
  const std::vector<OperatorLine> lines = bench_operators(device, 2048, 0.2);
  const Peaks peaks = measure_peaks(device->threads(), device->table().isa);
  std::printf("float32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, reading %.1f GB/s\n", peaks.f32_gflops, peaks.bf16_gflops,
              peaks.read_gbs);
  for (const OperatorLine& l : lines) {
    const PeakShare share = peak_share(l, peaks, device->dtype());
    std::printf("%-24s %-30s best %9.3f ms  median %9.3f ms %8.1f GFLOP/s %7.1f GB/s  %5.1f %% of peak %s\n",
                l.name.c_str(), l.shape.c_str(), l.best * 1e3, l.median * 1e3, l.flop / l.best * 1e-9,
                l.bytes / l.best * 1e-9, 100 * share.share, share.memory ? "reading" : "product");
  }
}

void list() {
  int32_t count = 0;
  const credence_table* const* tables = credence_cpu_tables(&count);
  for (int32_t i = 0; i < count; ++i) {
#define CREDENCE_LIST(name) \
  if (tables[i]->name) std::printf("%s\t%s\n", #name, tables[i]->isa);
    CREDENCE_OPERATORS(CREDENCE_LIST)
#undef CREDENCE_LIST
  }
  const char* reason = nullptr;  // what is compiled for a GPU is what the emulation executes
  if (const credence_table* cuda = credence_cuda_emulated_table(&reason)) {
#define CREDENCE_LIST(name) \
  if (cuda->name) std::printf("%s\tcuda\n", #name);
    CREDENCE_OPERATORS(CREDENCE_LIST)
#undef CREDENCE_LIST
  }
#define CREDENCE_LIST(name) std::printf("%s\tbench\n", #name);
  CREDENCE_OPERATORS(CREDENCE_LIST)  // each is a member of the bench: without one it does not compile
#undef CREDENCE_LIST
}

}  // namespace

int main(int argc, char** argv) {
  DeviceOptions options;
  options.device = "cpu";
  std::string what;
  for (int i = 1; i < argc; ++i) {
    const auto value = [&](const char* flag) -> const char* {
      return std::strcmp(argv[i], flag) == 0 && i + 1 < argc ? argv[++i] : nullptr;
    };
    if (const char* threads = value("--threads")) options.threads = std::atoi(threads);
    else if (const char* isa = value("--isa")) options.isa = isa;
    else if (const char* dtype = value("--dtype")) options.dtype = dtype;
    else if (what.empty()) what = argv[i];
    else what = "more than one";
  }
  if (what != "product" && what != "operators" && what != "launch" && what != "--list") {
    std::fprintf(stderr, "usage: %s product|operators|launch|--list [--threads N] [--isa ISA] [--dtype f32|bf16]\n",
                 argv[0]);
    return 2;
  }
  if (what == "--list") {
    list();
    return 0;
  }
  try {
    const auto device = Device::open(options);
    const int threads = device->threads();
    std::printf("%s %s, %d threads\n", device->table().isa, device->dtype() == CREDENCE_BF16 ? "bf16" : "float32",
                threads);
    if (what == "operators") {
      operators(options);
      return 0;
    }
    Backend backend(&device->table(), device->dtype(), threads);
    const Peaks peaks = measure_peaks(threads, device->table().isa);
    if (what == "product") product(backend, threads, 1e9 * (backend.bf16() ? peaks.bf16_gflops : peaks.f32_gflops));
    if (what == "launch") launch(backend, threads);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
