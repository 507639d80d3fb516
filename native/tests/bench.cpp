// credence_bench WHAT [threads] [table]: times of the CPU's operators at SmolLM2-135M's shapes, beside the peak of the same
// machine in the same process.
//   product     dense products alone: GFLOP/s and the share of peak
//   operators   the linear operators with an adapter of rank 16, forward and backward
//   launch      what a launch costs when there is next to nothing to do
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// Seconds. With one thread this process's time on a core, which other work on the machine does not change; else the clock.
bool one_thread = false;
double now() {
  if (one_thread) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Times {
  double best, median;  // seconds
};

/// As many runs as fit into a fifth of a second, at least seven, after one to warm up. On a machine that does other work the
/// median says what that left; the best is what the operator takes.
Times times_of(const std::function<void()>& body) {
  body();
  std::vector<double> times;
  for (const double start = now(); times.size() < 7 || (now() - start < 0.2 && times.size() < 2000);) {
    const double before = now();
    body();
    times.push_back(now() - before);
  }
  std::sort(times.begin(), times.end());
  return {times[0], times[times.size() / 2]};
}

/// FLOP/s of one thread in a loop of dot products that needs no memory, times the threads.
double peak(credence_dtype dtype, int threads) {
  double best = 0;
  for (int i = 0; i < 100; ++i) {
    const double before = now();
    const double work = credence_cpu_peak(dtype, 100000);  // half a millisecond: shorter than the system's time slice
    best = std::max(best, work / (now() - before));
  }
  return best * threads;
}

void line(const char* name, int rows, Times t, double flop, double top) {
  std::printf("%-26s %6d rows  best %9.3f ms  median %9.3f ms %8.1f GFLOP/s  %5.1f %% of peak\n", name, rows,
              t.best * 1e3, t.median * 1e3, flop / t.best * 1e-9, 100 * flop / t.best / top);
}

void add(Times* sum, Times t) {
  sum->best += t.best;
  sum->median += t.median;
}

credence_shape smollm2() {
  credence_shape shape = {};
  shape.hidden = 576;
  shape.intermediate = 1536;
  shape.heads = 9;
  shape.kv_heads = 3;
  shape.head_dim = shape.rotary_dim = 64;
  shape.norm = CREDENCE_RMS_NORM;
  shape.norm_eps = 1e-5f;
  shape.activation = CREDENCE_SILU;
  shape.gated = 1;
  return shape;
}

/// Weights, an adapter of rank 16 a slice, and room for what goes in and out of one linear layer.
struct Layer {
  reference::Linear p;
  Weights weights;
  Adapter adapter;

  Layer(Backend& backend, int outputs, int columns, const std::vector<int>& cuts)
      : p(make(outputs, columns, cuts)), weights(backend, p.weights, outputs, columns), adapter(backend, p) {}

  static reference::Linear make(int outputs, int columns, const std::vector<int>& cuts) {
    reference::Linear p;
    p.outputs = outputs;
    p.columns = columns;
    p.weights = normal(1, static_cast<size_t>(outputs) * columns, 0.05);
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      reference::LoraSlice slice{
          cuts[i], cuts[i + 1], 16, 2, normal(2, 16 * columns, 0.05), normal(3, 16 * (cuts[i + 1] - cuts[i]), 0.05)};
      p.slices.push_back(slice);
    }
    return p;
  }
  double flop(int rows, bool adapter_too) const {
    double sum = 2.0 * rows * p.outputs * p.columns;
    if (adapter_too)
      for (const auto& s : p.slices) sum += 2.0 * rows * s.rank * (p.columns + s.row_end - s.row_begin);
    return sum;
  }
};

#define TIME_OPERATOR(backend, operation, parameters)                                     \
  [&] {                                                                                   \
    const Memory workspace(backend, (backend).table->operation##_workspace(&parameters)); \
    return times_of([&] {                                                                 \
      if ((backend).table->operation((backend).handle, &parameters, workspace.raw())) {   \
        std::fprintf(stderr, "%s\n", (backend).table->last_error((backend).handle));      \
        std::exit(1);                                                                     \
      }                                                                                   \
    });                                                                                   \
  }()

void product(Backend& backend, double top) {
  const struct {
    const char* name;
    int outputs, columns;
  } shapes[] = {{"q|k|v    576 ->   960", 960, 576},
                {"o        576 ->   576", 576, 576},
                {"gate|up  576 ->  3072", 3072, 576},
                {"down    1536 ->   576", 576, 1536},
                {"head     576 -> 49152", 49152, 576}};
  for (const auto& shape : shapes) {
    const Layer layer(backend, shape.outputs, shape.columns, {});
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
      o.weights = layer.weights;
      o.in = in->raw();
      o.x = *x;
      o.x_out = *out;
      o.ldx = shape.outputs;
      line(shape.name, rows, TIME_OPERATOR(backend, project, o), layer.flop(rows, false), top);
    }
  }
}

void operators(Backend& backend, double top) {
  const credence_shape shape = smollm2();
  const Layer qkv(backend, 960, 576, {0, 576, 768, 960}), out(backend, 576, 576, {0, 576}),
      gate_up(backend, 3072, 576, {0, 1536, 3072}), down(backend, 576, 1536, {0, 576});
  std::vector<double> turns;
  for (int position = 0; position < 2048; ++position)
    for (int i = 0; i < 32; ++i)
      for (double part : {std::cos(position * std::pow(1e4, -i / 32.0)), std::sin(position * std::pow(1e4, -i / 32.0))})
        turns.push_back(part);
  const auto rotary = floats_on_device(backend, turns), ones = floats_on_device(backend, std::vector<double>(576, 1.0));
  Times forward, backward;
  for (int rows : {2048, 256, 64, 1}) {
    const size_t n = rows;
    const auto count = on_device(backend, std::vector<int32_t>{rows, 1}),
               x = floats_on_device(backend, normal(4, n * 576));
    const auto h = act_on_device(backend, normal(5, n * 576)), u = act_on_device(backend, normal(6, n * 3072));
    const auto a = act_on_device(backend, normal(7, n * 1536)), s = act_on_device(backend, normal(8, n * 48));
    const auto da = act_on_device(backend, normal(9, n * 1536)),
               inv = floats_on_device(backend, std::vector<double>(n, 1.0));
    const auto dx = floats_on_device(backend, normal(10, n * 576)), q = act_on_device(backend, normal(11, n * 576));
    const auto k = act_on_device(backend, normal(12, n * 192)), v = act_on_device(backend, normal(13, n * 192));
    std::vector<int32_t> steps(n), table;
    for (int i = 0; i < rows; ++i) steps[i] = i;
    for (int i = 0; i < (rows + 63) / 64; ++i) table.push_back(i);
    const auto positions = on_device(backend, steps), ends = on_device(backend, std::vector<int32_t>{0, rows});
    const auto key_start = one(backend, 0), page_table = on_device(backend, table);
    const Memory pages(backend, table.size() * backend.table->page_bytes(&shape, backend.dtype));

    credence_attention_input i = {};
    i.batch = {rows,       1,          static_cast<int32_t>(table.size()),
               *count,     nullptr,    *ends,
               *positions, *key_start, *page_table,
               nullptr,    nullptr};
    i.shape = shape;
    i.dtype = backend.dtype;
    i.x = *x;
    i.ldx = 576;
    i.norm_weight = *ones;
    i.qkv = qkv.weights;
    i.lora = qkv.adapter;
    i.rotary = *rotary;
    i.pages = pages.raw();
    i.h = h->raw();
    i.q = q->raw();
    i.k = k->raw();
    i.v = v->raw();
    i.inv_rms = *inv;
    i.s = s->raw();
    Times seconds = TIME_OPERATOR(backend, attention_input, i);
    double flop = qkv.flop(rows, true);
    const double base_flop =
        qkv.flop(rows, false) + out.flop(rows, false) + gate_up.flop(rows, false) + down.flop(rows, false);
    line("attention_input", rows, seconds, flop, top);
    forward = seconds;

    const auto projection = [&](const char* name, const Layer& layer, const MemoryPointer& in,
                                const MemoryPointer& din) {
      credence_project o = {};
      o.rows = *count;
      o.capacity = rows;
      o.dtype = backend.dtype;
      o.weights = layer.weights;
      o.lora = layer.adapter;
      o.in = in->raw();
      o.x = *x;
      o.x_out = *x;
      o.ldx = 576;
      o.s = s->raw();
      const Times one_way = TIME_OPERATOR(backend, project, o);
      line(name, rows, one_way, layer.flop(rows, true), top);
      add(&forward, one_way);
      flop += layer.flop(rows, true);
      if (rows == 1) return;
      credence_project_backward b = {};
      b.rows = *count;
      b.capacity = rows;
      b.dtype = backend.dtype;
      b.weights = layer.weights;
      b.lora = layer.adapter;
      b.in = in->raw();
      b.s = s->raw();
      b.dx = *dx;
      b.lddx = 576;
      b.din = din->raw();
      b.gradients = layer.adapter.gradients();
      const Times back = TIME_OPERATOR(backend, project_backward, b);
      line((std::string(name) + " backward").c_str(), rows, back, 2 * layer.flop(rows, true) - layer.flop(rows, false),
           top);
      add(&backward, back);
    };
    backward = {0, 0};
    projection("project o", out, q, h);

    credence_mlp_input m = {};
    m.rows = *count;
    m.capacity = rows;
    m.shape = shape;
    m.dtype = backend.dtype;
    m.x = *x;
    m.ldx = 576;
    m.norm_weight = *ones;
    m.weights = gate_up.weights;
    m.lora = gate_up.adapter;
    m.h = h->raw();
    m.u = u->raw();
    m.a = a->raw();
    m.inv_rms = *inv;
    m.s = s->raw();
    seconds = TIME_OPERATOR(backend, mlp_input, m);
    line("mlp_input", rows, seconds, gate_up.flop(rows, true), top);
    add(&forward, seconds);
    flop += gate_up.flop(rows, true);
    projection("project down", down, a, da);
    line("all four forward", rows, forward, flop, top);
    if (rows == 1) continue;

    credence_mlp_input_backward b = {};
    b.rows = *count;
    b.capacity = rows;
    b.shape = shape;
    b.dtype = backend.dtype;
    b.x = *x;
    b.ldx = b.lddx = 576;
    b.norm_weight = *ones;
    b.inv_rms = *inv;
    b.weights = gate_up.weights;
    b.lora = gate_up.adapter;
    b.h = h->raw();
    b.u = u->raw();
    b.s = s->raw();
    b.da = da->raw();
    b.dx = *dx;
    b.gradients = gate_up.adapter.gradients();
    seconds = TIME_OPERATOR(backend, mlp_input_backward, b);
    line("mlp_input backward", rows, seconds, 2 * gate_up.flop(rows, true) - gate_up.flop(rows, false), top);
    add(&backward, seconds);

    credence_attention_input_backward d = {};
    d.batch = i.batch;
    d.shape = shape;
    d.dtype = backend.dtype;
    d.x = *x;
    d.ldx = d.lddx = 576;
    d.norm_weight = *ones;
    d.inv_rms = *inv;
    d.qkv = qkv.weights;
    d.lora = qkv.adapter;
    d.rotary = *rotary;
    d.h = h->raw();
    d.s = s->raw();
    d.dq = q->raw();
    d.dk = k->raw();
    d.dv = v->raw();
    d.dx = *dx;
    d.gradients = qkv.adapter.gradients();
    seconds = TIME_OPERATOR(backend, attention_input_backward, d);
    line("attention_input backward", rows, seconds, 2 * qkv.flop(rows, true) - qkv.flop(rows, false), top);
    add(&backward, seconds);
    line("all four backward", rows, backward, 2 * flop - base_flop, top);
  }
}

void launch(Backend& backend) {
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

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int threads = argc > 2 ? std::atoi(argv[2]) : static_cast<int>(std::thread::hardware_concurrency());
  one_thread = threads == 1;
  const std::string isa = argc > 3 ? argv[3] : "";
  if (what != "product" && what != "operators" && what != "launch") {
    std::fprintf(stderr, "usage: credence_bench product|operators|launch [threads] [scalar|avx512bf16]\n");
    return 2;
  }
  int32_t count = 0;
  const credence_table* const* tables = credence_cpu_tables(&count);
  const credence_table* table = nullptr;
  for (int32_t i = count - 1; i >= 0; --i)
    if (!tables[i]->unavailable() && (isa.empty() || isa == tables[i]->isa)) table = tables[i];
  if (!table) {
    std::fprintf(stderr, "there is no table \"%s\" that runs on this machine\n", isa.c_str());
    return 1;
  }
  const credence_dtype dtype = std::strcmp(table->isa, "scalar") ? CREDENCE_BF16 : CREDENCE_F32;
  Backend backend(table, dtype, threads);
  const double top = peak(dtype, threads);
  std::printf("%s, %d threads, peak %.0f GFLOP/s\n", backend.name().c_str(), threads, top * 1e-9);
  if (what == "product") product(backend, top);
  if (what == "operators") operators(backend, top);
  if (what == "launch") launch(backend);
  return 0;
}
