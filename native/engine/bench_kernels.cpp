#include "bench_kernels.h"

#include <algorithm>
#include <random>

#include "bench.h"
#include "operator_bench.h"

namespace credence {

using operator_bench::batch_of;
using operator_bench::Layer;
using operator_bench::Room;
using operator_bench::rotary_of;

namespace {

struct Model {
  const char* name;
  int hidden, intermediate, heads, kv_heads, head_dim;

  int query() const { return heads * head_dim; }
  int keys() const { return kv_heads * head_dim; }
  int qkv() const { return query() + 2 * keys(); }
  credence_shape shape() const {
    credence_shape out = operator_bench::smollm2();
    out.hidden = hidden;
    out.intermediate = intermediate;
    out.heads = heads;
    out.kv_heads = kv_heads;
    out.head_dim = out.rotary_dim = head_dim;
    return out;
  }
};
constexpr Model kSmall = {"SmolLM2-135M", 576, 1536, 9, 3, 64}, kLarge = {"Llama-3-8B", 4096, 14336, 32, 8, 128};

enum class Fused { kQkv, kOut, kMlpIn, kMlpOut };
constexpr Fused kFused[] = {Fused::kQkv, Fused::kOut, Fused::kMlpIn, Fused::kMlpOut};
const char* name_of(Fused product) {
  constexpr const char* kNames[] = {"q|k|v", "o", "gate|up", "down"};
  return kNames[static_cast<int>(product)];
}

ProductCase case_of(const Model& m, Fused product, int rows) {
  switch (product) {
    case Fused::kQkv:
      return {m.name, name_of(product), rows, m.qkv(), m.hidden};
    case Fused::kOut:
      return {m.name, name_of(product), rows, m.hidden, m.query()};
    case Fused::kMlpIn:
      return {m.name, name_of(product), rows, 2 * m.intermediate, m.hidden};
    case Fused::kMlpOut:
      break;
  }
  return {m.name, name_of(product), rows, m.hidden, m.intermediate};
}

std::vector<int> cuts_of(const Model& m, Fused product) {
  if (product == Fused::kQkv) return {0, m.query(), m.query() + m.keys(), m.qkv()};
  if (product == Fused::kMlpIn) return {0, m.intermediate, 2 * m.intermediate};
  return {0, m.hidden};
}

/// The operators of one fused product, with memory of their own.
class FusedRun final : public ProductRun {
 public:
  FusedRun(std::shared_ptr<Device> device, const Model& model, Fused product, int rows)
      : device_(std::move(device)),
        room_(device_),
        model_(model),
        product_(product),
        rows_(rows),
        layer_(device_, &room_, case_of(model, product, rows).outputs, case_of(model, product, rows).columns,
               cuts_of(model, product)) {
    const size_t n = rows;
    count_ = room_.number(rows);
    x_ = room_.floats(n * model.hidden);
    weight_ = room_.same(model.hidden, 1);
    inv_rms_ = room_.same(n, 1);
    s_ = room_.act(n * 3 * operator_bench::kRank);
    const bool norm = product == Fused::kQkv || product == Fused::kMlpIn;
    in_ = room_.act(n * (norm ? model.hidden : case_of(model, product, rows).columns));
    if (product == Fused::kQkv) {
      const int length = std::min(rows, 512);
      batch_ = batch_of(&room_, std::vector<int>(rows / length, length), 49152);
      const credence_shape shape = model.shape();
      pages_ = room_.space(device_->table().page_bytes(&shape, device_->dtype()) * batch_.segment_capacity *
                           batch_.pages_per_segment);
      rotary_ = rotary_of(&room_, length, model.head_dim);
      q_ = room_.act(n * model.query());
      k_ = room_.act(n * model.keys());
      v_ = room_.act(n * model.keys());
    } else if (product == Fused::kMlpIn) {
      u_ = room_.act(n * 2 * model.intermediate);
      a_ = room_.act(n * model.intermediate);
    }
  }

  void run() override { forward(false); }

  void forward(bool adapted) {
    const credence_lora* lora = adapted ? layer_.lora : nullptr;
    void* const s = adapted ? s_ : nullptr;
    if (product_ == Fused::kQkv) {
      credence_attention_input p = {};
      p.batch = batch_;
      p.shape = model_.shape();
      p.dtype = device_->dtype();
      p.x = x_;
      p.ldx = model_.hidden;
      p.norm_weight = weight_;
      p.qkv = layer_.weights;
      p.lora = lora;
      p.rotary = rotary_;
      p.pages = pages_;
      p.h = in_;
      p.q = q_;
      p.k = k_;
      p.v = v_;
      p.inv_rms = inv_rms_;
      p.s = s;
      device_->attention_input(p);
    } else if (product_ == Fused::kMlpIn) {
      credence_mlp_input p = {};
      p.rows = count_;
      p.capacity = rows_;
      p.shape = model_.shape();
      p.dtype = device_->dtype();
      p.x = x_;
      p.ldx = model_.hidden;
      p.norm_weight = weight_;
      p.weights = layer_.weights;
      p.lora = lora;
      p.h = in_;
      p.u = u_;
      p.a = a_;
      p.inv_rms = inv_rms_;
      p.s = s;
      device_->mlp_input(p);
    } else {
      credence_project p = {};
      p.rows = count_;
      p.capacity = rows_;
      p.dtype = device_->dtype();
      p.weights = layer_.weights;
      p.lora = lora;
      p.in = in_;
      p.x = p.x_out = x_;
      p.ldx = model_.hidden;
      p.s = s;
      device_->project(p);
    }
  }

  void backward(bool adapted) {
    const credence_lora* lora = adapted ? layer_.lora : nullptr;
    const void* const s = adapted ? s_ : nullptr;
    float* const gradients = adapted ? layer_.gradients : nullptr;
    if (product_ == Fused::kQkv) {
      credence_attention_input_backward p = {};
      p.batch = batch_;
      p.shape = model_.shape();
      p.dtype = device_->dtype();
      p.x = x_;
      p.ldx = p.lddx = model_.hidden;
      p.norm_weight = weight_;
      p.inv_rms = inv_rms_;
      p.qkv = layer_.weights;
      p.lora = lora;
      p.rotary = rotary_;
      p.h = in_;
      p.s = s;
      p.dq = q_;
      p.dk = k_;
      p.dv = v_;
      p.dx = gradient_of_x();
      p.gradients = gradients;
      device_->attention_input_backward(p);
    } else if (product_ == Fused::kMlpIn) {
      credence_mlp_input_backward p = {};
      p.rows = count_;
      p.capacity = rows_;
      p.shape = model_.shape();
      p.dtype = device_->dtype();
      p.x = x_;
      p.ldx = p.lddx = model_.hidden;
      p.norm_weight = weight_;
      p.inv_rms = inv_rms_;
      p.weights = layer_.weights;
      p.lora = lora;
      p.h = in_;
      p.u = u_;
      p.s = s;
      p.da = a_;
      p.dx = gradient_of_x();
      p.gradients = gradients;
      device_->mlp_input_backward(p);
    } else {
      credence_project_backward p = {};
      p.rows = count_;
      p.capacity = rows_;
      p.dtype = device_->dtype();
      p.weights = layer_.weights;
      p.lora = lora;
      p.in = in_;
      p.s = s;
      p.dx = x_;
      p.lddx = model_.hidden;
      p.din = gradient_of_in();
      p.gradients = gradients;
      device_->project_backward(p);
    }
  }

 private:
  float* gradient_of_x() {
    if (!dx_) dx_ = room_.same(static_cast<size_t>(rows_) * model_.hidden, 0);
    return dx_;
  }
  void* gradient_of_in() {
    if (!din_) din_ = room_.act(static_cast<size_t>(rows_) * case_of(model_, product_, rows_).columns);
    return din_;
  }

  std::shared_ptr<Device> device_;
  Room room_;
  const Model model_;
  const Fused product_;
  const int rows_;
  Layer layer_;
  int32_t* count_ = nullptr;
  float *x_ = nullptr, *weight_ = nullptr, *inv_rms_ = nullptr, *dx_ = nullptr;
  void *s_ = nullptr, *in_ = nullptr, *pages_ = nullptr, *q_ = nullptr, *k_ = nullptr, *v_ = nullptr, *u_ = nullptr,
       *a_ = nullptr, *din_ = nullptr;
  const float* rotary_ = nullptr;
  credence_batch batch_ = {};
};

/// What a product moves at least: its weights once, rows in and rows out as activations.
double least_bytes(const ProductCase& c, double act) {
  return act * (static_cast<double>(c.outputs) * c.columns + static_cast<double>(c.rows) * (c.outputs + c.columns));
}

std::string shape_of(const ProductCase& c) {
  return c.model + " " + c.product + ", " + std::to_string(c.rows) + " x " + std::to_string(c.columns) + " x " +
         std::to_string(c.outputs);
}

}  // namespace

const std::vector<std::string>& kernel_groups() {
  static const std::vector<std::string> groups = {"products", "lora", "attention", "operators"};
  return groups;
}

std::vector<ProductCase> product_cases(int tokens) {
  std::vector<ProductCase> out;
  for (const int rows : {tokens, tokens / 8, tokens / 128, 1})  // the last two as in decoding
    for (const Fused product : kFused) out.push_back(case_of(kSmall, product, std::max(1, rows)));
  for (const int rows : {tokens, tokens / 8})
    for (const Fused product : kFused) out.push_back(case_of(kLarge, product, rows));
  return out;
}

std::unique_ptr<ProductRun> open_product(const std::shared_ptr<Device>& device, const ProductCase& which) {
  for (const Model& model : {kSmall, kLarge})
    for (const Fused product : kFused)
      if (which.model == model.name && which.product == name_of(product))
        return std::make_unique<FusedRun>(device, model, product, which.rows);
  fail("BAD_OPTION", "no product \"%s %s\"", which.model.c_str(), which.product.c_str());
}

std::vector<OperatorLine> bench_products(const std::shared_ptr<Device>& device, int tokens, double seconds) {
  std::vector<OperatorLine> lines;
  for (const ProductCase& c : product_cases(tokens)) {
    if (seconds == 0 && c.model == kLarge.name) continue;  // lines that are only to exist need not be large
    const auto product = open_product(device, c);
    const RunTimes t = times_of(device->threads(), seconds, [&] { product->run(); });
    lines.push_back({"product", shape_of(c), t.best, t.median, 2.0 * c.rows * c.outputs * c.columns,
                     least_bytes(c, static_cast<double>(device->act_bytes())), false});
  }
  return lines;
}

std::vector<AdapterLine> bench_adapter(const std::shared_ptr<Device>& device, int tokens, double seconds) {
  AdapterLine forward = {"forward", tokens, 0, 0}, backward = {"backward", tokens, 0, 0};
  for (const Fused product : kFused) {
    FusedRun run(device, kSmall, product, tokens);
    const auto best = [&](const auto& body) { return times_of(device->threads(), seconds, body).best; };
    forward.bare += best([&] { run.forward(false); });
    forward.adapted += best([&] { run.forward(true); });
    backward.bare += best([&] { run.backward(false); });
    backward.adapted += best([&] { run.backward(true); });
  }
  return {forward, backward};
}

std::vector<OperatorLine> bench_attention(const std::shared_ptr<Device>& device, int tokens, double seconds) {
  std::vector<OperatorLine> lines;
  const auto measure = [&](const Model& m, const std::vector<int>& lengths, const std::string& what) {
    Room room(device);
    const credence_shape shape = m.shape();
    const credence_batch batch = batch_of(&room, lengths, 49152);
    const size_t n = batch.token_capacity;
    double pairs = 0;
    for (const double length : lengths) pairs += length * (length + 1) / 2;
    const double act = static_cast<double>(device->act_bytes());
    const std::string name = what + ", head size " + std::to_string(m.head_dim);
    void *q = room.act(n * m.query()), *o = room.act(n * m.query());
    float* lse = room.same(n * m.heads, 8);
    {
      credence_attention p = {};
      p.batch = batch;
      p.shape = shape;
      p.dtype = device->dtype();
      p.scale = 0.125f;
      p.q = q;
      p.pages = room.space(device->table().page_bytes(&shape, device->dtype()) * batch.segment_capacity *
                           batch.pages_per_segment);
      p.o = o;
      p.lse = lse;
      const RunTimes t = times_of(device->threads(), seconds, [&] { device->attention(p); });
      lines.push_back({"attention", name, t.best, t.median, 4.0 * m.query() * pairs,
                       static_cast<double>(n) * (2.0 * m.query() + 2 * m.keys()) * act, false});
    }
    credence_attention_backward p = {};
    p.batch = batch;
    p.shape = shape;
    p.dtype = device->dtype();
    p.scale = 0.125f;
    p.q = q;
    p.k = room.act(n * m.keys());
    p.v = room.act(n * m.keys());
    p.o = o;
    p.lse = lse;
    p.d_o = room.act(n * m.query());
    p.dq = room.act(n * m.query());
    p.dk = room.act(n * m.keys());
    p.dv = room.act(n * m.keys());
    const RunTimes t = times_of(device->threads(), seconds, [&] { device->attention_backward(p); });
    lines.push_back({"attention_backward", name, t.best, t.median, 10.0 * m.query() * pairs,
                     static_cast<double>(n) * (4.0 * m.query() + 4 * m.keys()) * act, false});
  };
  constexpr Model kWide = {"", 512, 1536, 4, 1, 128};  // some 512 wide as well, so that the lines compare
  for (const Model& model : {kSmall, kWide})
    for (const int length : {tokens / 4, tokens, 4 * tokens})
      measure(model, std::vector<int>(std::max(1, tokens / length), length),
              std::to_string(std::max(1, tokens / length)) + " x " + std::to_string(length) + " tokens");
  std::mt19937 random(1234);
  std::vector<int> lengths(64);
  for (int& length : lengths) length = 40 + static_cast<int>(random() % 161);
  measure(kSmall, lengths, "64 segments of 40 to 200 tokens");
  return lines;
}

Json bench_kernel_lines(const BenchOptions& options) {
  const std::vector<std::string>& groups = kernel_groups();
  if (!options.only.empty() && std::find(groups.begin(), groups.end(), options.only) == groups.end())
    fail("BAD_OPTION", "only: \"%s\" is not one of products, lora, attention and operators", options.only.c_str());
  const auto wanted = [&](const char* group) { return options.only.empty() || options.only == group; };
  const double seconds = options.tokens < 1024 ? 0 : 0.2;
  const auto device = Device::open(options.device);
  if (options.tokens < 64 || options.tokens % 64)
    fail("BAD_OPTION", "tokens: expected a multiple of 64 but received %d", options.tokens);
  std::vector<OperatorLine> lines;
  std::vector<AdapterLine> adapter;
  const auto add = [&](std::vector<OperatorLine> more) { lines.insert(lines.end(), more.begin(), more.end()); };
  if (wanted("products")) add(bench_products(device, options.tokens, seconds));
  if (wanted("lora")) adapter = bench_adapter(device, options.tokens, seconds);
  if (wanted("attention")) add(bench_attention(device, options.tokens, seconds));
  if (wanted("operators")) add(bench_operators(device, options.tokens, seconds));

  const Peaks peaks = measure_peaks(device->threads(), device->table().isa);
  Json out = Json::object(), list = Json::array(), overhead = Json::array();
  out.set("engine", "credence");
  out.set("isa", device->table().isa);
  out.set("dtype", device->dtype() == CREDENCE_BF16 ? "bf16" : "f32");
  out.set("threads", device->threads());
  out.set("tokens", options.tokens);
  out.set("peaks", peaks_document(peaks));
  out.set("lacks", lacks_of(*device));
  for (const AdapterLine& line : adapter) {
    Json row = Json::object();
    row.set("pass", line.pass);
    row.set("rows", line.rows);
    row.set("ms_bare", line.bare * 1e3);
    row.set("ms_adapted", line.adapted * 1e3);
    row.set("overhead", line.adapted / line.bare - 1);
    overhead.as_array().push_back(std::move(row));
  }
  out.set("lora", std::move(overhead));
  for (const OperatorLine& line : lines) {
    const PeakShare share = peak_share(line, peaks, device->dtype());
    Json row = Json::object();
    row.set("kernel", line.name);
    row.set("shape", line.shape);
    row.set("ms_best", line.best * 1e3);
    row.set("ms_median", line.median * 1e3);
    row.set("gflops", line.flop / line.best * 1e-9);
    row.set("gbs", line.bytes / line.best * 1e-9);
    row.set("share_of_peak", share.share);
    row.set("bound", share.memory ? "memory" : "product");
    list.as_array().push_back(std::move(row));
  }
  out.set("kernels", std::move(list));
  return out;
}

}  // namespace credence
