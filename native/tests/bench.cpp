// credence_bench WHAT [--threads N] [--isa ISA] [--dtype f32|bf16]: the CPU's kernels, with no Node in sight.
//   kernels     what `credence bench kernels` measures: GFLOP/s, GB/s and the share of the peak that binds it, a line each;
//               --only products|lora|attention|operators, --tokens N
//   onednn      the products beside oneDNN's packed ones, in turn: --rounds 5, --only MODEL, --tokens N; one JSON document
//   launch      what a launch costs when there is next to nothing to do
//   --list      no measurement: a line for each operator and each table that has it, and one for its bench line, with a tab
//               between; docs/kernels.md is made from it
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "bench_onednn.h"
#include "engine/bench.h"
#include "engine/bench_kernels.h"
#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

void kernels(const BenchOptions& options) {
  const Json measured = bench("kernels", options);
  const Json& peaks = measured.at("peaks");
  std::printf("%s %s, %lld threads; float32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, reading %.1f GB/s\n",
              measured.at("isa").as_string().c_str(), measured.at("dtype").as_string().c_str(),
              static_cast<long long>(measured.at("threads").as_integer()), peaks.at("f32Gflops").as_number(),
              peaks.at("bf16Gflops").as_number(), peaks.at("readGBs").as_number());
  for (const Json& l : measured.at("lora").as_array()) {
    std::printf("%-24s %-42s bare %9.3f ms  adapted %9.3f ms  %+.1f %%\n", "four products",
                l.at("pass").as_string().c_str(), l.at("ms_bare").as_number(), l.at("ms_adapted").as_number(),
                100 * l.at("overhead").as_number());
  }
  for (const Json& l : measured.at("kernels").as_array()) {
    std::printf("%-24s %-42s best %9.3f ms  median %9.3f ms %8.1f GFLOP/s %7.1f GB/s  %5.1f %% of peak %s\n",
                l.at("kernel").as_string().c_str(), l.at("shape").as_string().c_str(), l.at("ms_best").as_number(),
                l.at("ms_median").as_number(), l.at("gflops").as_number(), l.at("gbs").as_number(),
                100 * l.at("share_of_peak").as_number(), l.at("bound").as_string().c_str());
  }
}

/// Best of as many runs as fit into 0.1 s, one at least. Runs that are short warm up first: the other side ran before.
double best_run(const std::function<void()>& body) {
  const auto seconds = [&] {
    const auto start = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  double best = seconds();
  if (best < 0.1) best = seconds();
  for (double spent = best; spent < 0.1;) {
    const double took = seconds();
    best = std::min(best, took);
    spent += took;
  }
  return best;
}

void onednn(const BenchOptions& options, int rounds) {
  const auto device = Device::open(options.device);
  const bool bf16 = device->dtype() == CREDENCE_BF16;
  yardstick::onednn_threads(device->threads());
  Json out = Json::object(), list = Json::array();
  for (const ProductCase& c : product_cases(options.tokens)) {
    if (!options.only.empty() && options.only != c.model) continue;
    Json row = Json::object();
    row.set("product", c.model + " " + c.product);
    row.set("rows", c.rows);
    row.set("columns", c.columns);
    row.set("outputs", c.outputs);
    std::string why;
    const auto theirs = yardstick::OneDnnProduct::open(c.rows, c.outputs, c.columns, bf16, &why);
    const auto ours = open_product(device, c);
    std::vector<double> peer, own;
    for (int round = 0; round < rounds; ++round) {
      if (theirs) peer.push_back(best_run([&] { theirs->run(); }));
      own.push_back(best_run([&] { ours->run(); }));
    }
    const double gflop = 2e-9 * c.rows * c.outputs * c.columns;
    row.set("credence_gflops", gflop / median_of(own));
    if (theirs) {
      row.set("onednn_gflops", gflop / median_of(peer));
      row.set("ratio", median_of(peer) / median_of(own));
    } else {
      row.set("missing", why);
    }
    list.as_array().push_back(std::move(row));
  }
  out.set("onednn", yardstick::onednn_version());
  out.set("isa", device->table().isa);
  out.set("dtype", bf16 ? "bf16" : "f32");
  out.set("threads", device->threads());
  out.set("rounds", rounds);
  out.set("products", std::move(list));
  out.set("peaks", peaks_document(measure_peaks(device->threads(), device->table().isa)));
  out.set("lacks", lacks_of(*device));
  std::printf("%s\n", out.text().c_str());
}

void launch(const DeviceOptions& options) {
  const auto device = Device::open(options);
  Backend backend(&device->table(), device->dtype(), device->threads());
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
    const Memory workspace(backend, backend.table->norm_workspace(&o));
    const RunTimes t = times_of(device->threads(), 0.2, [&] {
      if (backend.table->norm(backend.handle, &o, workspace.raw()))
        fail("KERNEL", "%s", backend.table->last_error(backend.handle));
    });
    std::printf("norm of %d rows of %d: %.2f us\n", rows, width, t.median * 1e6);
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
  BenchOptions options;
  options.device.device = "cpu";
  int rounds = 5;
  std::string what;
  for (int i = 1; i < argc; ++i) {
    const auto value = [&](const char* flag) -> const char* {
      return std::strcmp(argv[i], flag) == 0 && i + 1 < argc ? argv[++i] : nullptr;
    };
    if (const char* threads = value("--threads")) options.device.threads = std::atoi(threads);
    else if (const char* isa = value("--isa")) options.device.isa = isa;
    else if (const char* dtype = value("--dtype")) options.device.dtype = dtype;
    else if (const char* only = value("--only")) options.only = only;
    else if (const char* tokens = value("--tokens")) options.tokens = std::atoi(tokens);
    else if (const char* number = value("--rounds")) rounds = std::max(1, std::atoi(number));
    else if (what.empty()) what = argv[i];
    else what = "more than one";
  }
  try {
    if (what == "kernels") kernels(options);
    else if (what == "onednn") onednn(options, rounds);
    else if (what == "launch") launch(options.device);
    else if (what == "--list") list();
    else {
      std::fprintf(stderr,
                   "usage: %s kernels|onednn|launch|--list [--threads N] [--isa ISA] [--dtype f32|bf16] [--only WHAT] "
                   "[--tokens N] [--rounds N]\n",
                   argv[0]);
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
