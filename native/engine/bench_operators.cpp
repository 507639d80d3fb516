#include "bench_operators.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <deque>
#include <utility>

namespace credence {

namespace {

constexpr int kHidden = 576, kIntermediate = 1536, kHeads = 9, kKvHeads = 3, kHeadDim = 64;
constexpr int kQuery = kHeads * kHeadDim, kKeys = kKvHeads * kHeadDim, kQkv = kQuery + 2 * kKeys, kRank = 16;

credence_shape smollm2() {
  credence_shape shape = {};
  shape.hidden = kHidden;
  shape.intermediate = kIntermediate;
  shape.heads = kHeads;
  shape.kv_heads = kKvHeads;
  shape.head_dim = shape.rotary_dim = kHeadDim;
  shape.norm = CREDENCE_RMS_NORM;
  shape.norm_eps = 1e-5f;
  shape.activation = CREDENCE_SILU;
  shape.gated = 1;
  return shape;
}

/// Even numbers in (-scale, scale), cheap: what is measured does not depend on them.
void fill(float* out, size_t count, float scale, uint32_t seed = 1) {
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    out[i] = scale * (static_cast<float>(seed >> 8) * 0x1p-23f - 1);
  }
}

/// Device memory of one measurement.
class Room {
 public:
  explicit Room(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  float* floats(size_t count, float scale = 1) {
    std::vector<float> values(count);
    fill(values.data(), count, scale);
    return hold(values)->f32();
  }
  float* same(size_t count, float value) { return hold(std::vector<float>(count, value))->f32(); }
  void* act(size_t count, float scale = 1) {
    if (device_->dtype() == CREDENCE_F32) return floats(count, scale);
    std::vector<float> values(count);
    fill(values.data(), count, scale);
    std::vector<uint16_t> upper(count);
    for (size_t i = 0; i < count; ++i) upper[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    return hold(upper)->as<void>();
  }
  template <class T>
  T* numbers(const std::vector<T>& values) {
    return hold(values)->template as<T>();
  }
  int32_t* number(int32_t value) { return numbers(std::vector<int32_t>{value}); }
  void* space(size_t bytes) {
    held_.emplace_back(device_, bytes);
    held_.back().zero();
    return held_.back().as<void>();
  }

 private:
  template <class T>
  Buffer* hold(const std::vector<T>& values) {
    held_.emplace_back(device_);
    held_.back().upload(values);
    return &held_.back();
  }
  std::shared_ptr<Device> device_;
  std::deque<Buffer> held_;
};

/// A packed matrix.
class Matrix {
 public:
  Matrix(std::shared_ptr<Device> device, int rows, int columns) : device_(std::move(device)), columns_(columns) {
    const credence_weights_source source = {rows, columns, device_->dtype(), 1, 1, &read, this};
    packed_ = device_->table().pack(device_->backend(), &source);
    device_->check(packed_ == nullptr, "pack");
  }
  ~Matrix() { device_->table().free_weights(device_->backend(), packed_); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  operator const credence_weights*() const { return packed_; }

 private:
  static void read(void* self, int32_t row, int32_t count, float* out) {
    fill(out, static_cast<size_t>(count) * static_cast<const Matrix*>(self)->columns_, 0.05f, row + 1);
  }
  std::shared_ptr<Device> device_;
  int columns_;
  credence_weights* packed_ = nullptr;
};

/// A linear layer with an adapter of rank 16 on each of its slices [cuts[i], cuts[i + 1]).
struct Layer {
  Matrix weights;
  credence_lora* lora = nullptr;
  float* gradients;
  double base_flop, lora_flop;  // a row
  double parameters;

  Layer(const std::shared_ptr<Device>& d, Room* room, int rows, int columns, const std::vector<int>& cuts)
      : weights(d, rows, columns), device(d) {
    credence_lora_layout layout = {};
    layout.rows = rows;
    layout.columns = columns;
    layout.dtype = d->dtype();
    int64_t at = 0;
    lora_flop = 0;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const int64_t b = at + kRank * columns;
      layout.slice[layout.slices++] = {cuts[i], cuts[i + 1], kRank, 2.0f, at, b};
      at = b + static_cast<int64_t>(cuts[i + 1] - cuts[i]) * kRank;
      lora_flop += 2.0 * kRank * (columns + cuts[i + 1] - cuts[i]);
    }
    lora = d->table().pack_lora(d->backend(), &layout, room->floats(at, 0.05f));
    d->check(lora == nullptr, "pack_lora");
    gradients = room->same(at, 0);
    base_flop = 2.0 * rows * columns;
    parameters = static_cast<double>(rows) * columns;
  }
  ~Layer() { device->table().free_lora(device->backend(), lora); }
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

 private:
  std::shared_ptr<Device> device;
};

struct OperatorBench {
  std::shared_ptr<Device> device;
  int tokens;
  double seconds;
  std::vector<OperatorLine> lines;

  // One member function an operator, of its name: an operator without one does not compile.
#define CREDENCE_BENCH(name) void name();
  CREDENCE_OPERATORS(CREDENCE_BENCH)
#undef CREDENCE_BENCH

  /// SmolLM2's 49,152 for a micro-batch of 2,048; fewer where the lines are only to exist.
  int vocabulary() const { return 24 * tokens; }
  double act() const { return static_cast<double>(device->act_bytes()); }

  template <class Body>
  void line(const char* name, const std::string& shape, double flop, double bytes, const Body& body,
            bool float32 = false) {
    const RunTimes t = times_of(device->threads(), seconds, body);
    lines.push_back({name, shape, t.best, t.median, flop, bytes, float32});
  }
  static std::string rows_of(int64_t rows) { return std::to_string(rows) + (rows == 1 ? " row" : " rows"); }

  // A batch of `count` tokens in `segments` segments of equal length whose keys begin at `before`.
  credence_batch batch(Room* room, int count, int segments, int before = 0) const {
    const int length = count / segments, pages = (before + length + CREDENCE_PAGE - 1) / CREDENCE_PAGE;
    std::vector<int32_t> ids, ends, positions, table;
    for (int t = 0; t < count; ++t) {
      ids.push_back(static_cast<int32_t>(t * 7919LL % vocabulary()));
      positions.push_back(before + t % length);
    }
    for (int b = 0; b <= segments; ++b) ends.push_back(b * length);
    for (int i = 0; i < segments * pages; ++i) table.push_back(i);
    credence_batch out = {};
    out.token_capacity = count;
    out.segment_capacity = segments;
    out.pages_per_segment = pages;
    out.counts = room->numbers(std::vector<int32_t>{count, segments});
    out.tokens = room->numbers(ids);
    out.cu_seqlens = room->numbers(ends);
    out.positions = room->numbers(positions);
    out.key_start = room->numbers(std::vector<int32_t>(segments, before));
    out.page_table = room->numbers(table);
    return out;
  }
  void* pages(Room* room, const credence_batch& b) const {
    const credence_shape shape = smollm2();
    return room->space(device->table().page_bytes(&shape, device->dtype()) * b.segment_capacity * b.pages_per_segment);
  }
  const float* rotary(Room* room, int positions) const {
    std::vector<float> turns;
    for (int position = 0; position < positions; ++position)
      for (int i = 0; i < kHeadDim / 2; ++i) {
        const double angle = position * std::pow(1e4, -2.0 * i / kHeadDim);
        turns.push_back(static_cast<float>(std::cos(angle)));
        turns.push_back(static_cast<float>(std::sin(angle)));
      }
    return room->numbers(turns);
  }
  /// Query-key pairs of segments of a length.
  static double causal_pairs(int segments, int length) { return segments * (length * (length + 1.0) / 2); }

  /// What is moved around one product: weights once, rows in and out.
  double linear_bytes(const Layer& layer, double rows, double in, double out) const {
    return layer.parameters * act() + rows * (in + out);
  }
  void one_projection(Room* room, const Layer& layer, int rows, int columns, const char* which);
};

// ----------------------------------------------------------------------------------------------------------------- blocks

void OperatorBench::embed() {
  Room room(device);
  const Matrix table(device, vocabulary(), kHidden);
  const int rows = 8 * tokens;
  credence_embed p = {};
  p.batch = batch(&room, rows, 1);
  p.table = table;
  p.scale = 1;
  p.x = room.same(static_cast<size_t>(rows) * kHidden, 0);
  p.ldx = kHidden;
  line("embed", rows_of(rows), 0, rows * (kHidden * (act() + 4)), [&] { device->embed(p); });
}

void OperatorBench::norm() {
  Room room(device);
  const int rows = 8 * tokens;
  const size_t n = static_cast<size_t>(rows) * kHidden;
  credence_norm p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.dtype = device->dtype();
  p.eps = 1e-5f;
  p.x = room.floats(n);
  p.ldx = p.ldy = kHidden;
  p.weight = room.same(kHidden, 1);
  p.y = room.act(n);
  line("norm", rows_of(rows), 0, n * (4 + act()), [&] { device->norm(p); });
}

void OperatorBench::norm_backward() {
  Room room(device);
  const int rows = 8 * tokens;
  const size_t n = static_cast<size_t>(rows) * kHidden;
  credence_norm_backward p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.eps = 1e-5f;
  p.x = room.floats(n);
  p.ldx = p.lddx = p.lddy = kHidden;
  p.weight = room.same(kHidden, 1);
  p.dy = room.floats(n);
  p.dx = room.same(n, 0);
  line("norm_backward", rows_of(rows), 0, n * 16.0, [&] { device->norm_backward(p); }, true);
}

void OperatorBench::attention_input() {
  for (int rows : {tokens, 1}) {
    Room room(device);
    const Layer layer(device, &room, kQkv, kHidden, {0, kQuery, kQuery + kKeys, kQkv});
    const size_t n = rows;
    credence_attention_input p = {};
    p.batch = batch(&room, rows, rows < 4 ? 1 : 4);
    p.shape = smollm2();
    p.dtype = device->dtype();
    p.x = room.floats(n * kHidden);
    p.ldx = kHidden;
    p.norm_weight = room.same(kHidden, 1);
    p.qkv = layer.weights;
    p.lora = layer.lora;
    p.rotary = rotary(&room, tokens);
    p.pages = pages(&room, p.batch);
    p.h = room.act(n * kHidden);
    p.q = room.act(n * kQuery);
    p.k = room.act(n * kKeys);
    p.v = room.act(n * kKeys);
    p.inv_rms = room.same(n, 1);
    p.s = room.act(n * 3 * kRank);
    line("attention_input", rows_of(rows), rows * (layer.base_flop + layer.lora_flop),
         linear_bytes(layer, rows, 4 * kHidden, kQkv * act()), [&] { device->attention_input(p); });
  }
}

void OperatorBench::attention_input_backward() {
  Room room(device);
  const Layer layer(device, &room, kQkv, kHidden, {0, kQuery, kQuery + kKeys, kQkv});
  const size_t n = tokens;
  credence_attention_input_backward p = {};
  p.batch = batch(&room, tokens, 4);
  p.shape = smollm2();
  p.dtype = device->dtype();
  p.x = room.floats(n * kHidden);
  p.ldx = p.lddx = kHidden;
  p.norm_weight = room.same(kHidden, 1);
  p.inv_rms = room.same(n, 1);
  p.qkv = layer.weights;
  p.lora = layer.lora;
  p.rotary = rotary(&room, tokens);
  p.h = room.act(n * kHidden);
  p.s = room.act(n * 3 * kRank);
  p.dq = room.act(n * kQuery);
  p.dk = room.act(n * kKeys);
  p.dv = room.act(n * kKeys);
  p.dx = room.same(n * kHidden, 0);
  p.gradients = layer.gradients;
  line("attention_input_backward", rows_of(tokens), tokens * (layer.base_flop + 2 * layer.lora_flop),
       linear_bytes(layer, tokens, kQkv * act(), 12 * kHidden), [&] { device->attention_input_backward(p); });
}

void OperatorBench::attention() {
  const struct {
    int count, segments, before;
    std::string shape;
    double pairs;
  } cases[] = {{tokens, 4, 0, "4 x " + std::to_string(tokens / 4) + " tokens", causal_pairs(4, tokens / 4)},
               {4, 4, tokens / 4 - 1, "4 rows, " + std::to_string(tokens / 4) + " keys", 1.0 * tokens}};
  for (const auto& c : cases) {
    Room room(device);
    const size_t n = c.count;
    credence_attention p = {};
    p.batch = batch(&room, c.count, c.segments, c.before);
    p.shape = smollm2();
    p.dtype = device->dtype();
    p.scale = 0.125f;
    p.q = room.act(n * kQuery);
    p.pages = pages(&room, p.batch);
    p.o = room.act(n * kQuery);
    p.lse = room.same(n * kHeads, 0);
    const double keys = static_cast<double>(c.segments) * (c.before + c.count / c.segments);
    line("attention", c.shape, 4.0 * kQuery * c.pairs, (2.0 * n * kQuery + 2 * keys * kKeys) * act(),
         [&] { device->attention(p); });
  }
}

void OperatorBench::attention_backward() {
  Room room(device);
  const size_t n = tokens;
  credence_attention_backward p = {};
  p.batch = batch(&room, tokens, 4);
  p.shape = smollm2();
  p.dtype = device->dtype();
  p.scale = 0.125f;
  p.q = room.act(n * kQuery);
  p.k = room.act(n * kKeys);
  p.v = room.act(n * kKeys);
  p.o = room.act(n * kQuery);
  p.lse = room.same(n * kHeads, 8);
  p.d_o = room.act(n * kQuery);
  p.dq = room.act(n * kQuery);
  p.dk = room.act(n * kKeys);
  p.dv = room.act(n * kKeys);
  line("attention_backward", "4 x " + std::to_string(tokens / 4) + " tokens",
       10.0 * kQuery * causal_pairs(4, tokens / 4), n * (4.0 * kQuery + 4 * kKeys) * act(),
       [&] { device->attention_backward(p); });
}

void OperatorBench::one_projection(Room* room, const Layer& layer, int rows, int columns, const char* which) {
  const size_t n = rows;
  credence_project p = {};
  p.rows = room->number(rows);
  p.capacity = rows;
  p.dtype = device->dtype();
  p.weights = layer.weights;
  p.lora = layer.lora;
  p.in = room->act(n * columns);
  p.x = p.x_out = room->floats(n * kHidden);
  p.ldx = kHidden;
  p.s = room->act(n * kRank);
  line("project", std::string(which) + ", " + rows_of(rows), rows * (layer.base_flop + layer.lora_flop),
       linear_bytes(layer, rows, columns * act(), 8 * kHidden), [&] { device->project(p); });
}

void OperatorBench::project() {
  for (int rows : {tokens, 1}) {
    Room room(device);
    const Layer o(device, &room, kHidden, kQuery, {0, kHidden}),
        down(device, &room, kHidden, kIntermediate, {0, kHidden});
    one_projection(&room, o, rows, kQuery, "o");
    one_projection(&room, down, rows, kIntermediate, "down");
  }
}

void OperatorBench::project_backward() {
  Room room(device);
  const size_t n = tokens;
  const Layer layer(device, &room, kHidden, kIntermediate, {0, kHidden});
  credence_project_backward p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.dtype = device->dtype();
  p.weights = layer.weights;
  p.lora = layer.lora;
  p.in = room.act(n * kIntermediate);
  p.s = room.act(n * kRank);
  p.dx = room.floats(n * kHidden);
  p.lddx = kHidden;
  p.din = room.act(n * kIntermediate);
  p.gradients = layer.gradients;
  line("project_backward", "down, " + rows_of(tokens), tokens * (layer.base_flop + 2 * layer.lora_flop),
       linear_bytes(layer, tokens, 4 * kHidden, 2 * kIntermediate * act()), [&] { device->project_backward(p); });
}

void OperatorBench::mlp_input() {
  for (int rows : {tokens, 1}) {
    Room room(device);
    const size_t n = rows;
    const Layer layer(device, &room, 2 * kIntermediate, kHidden, {0, kIntermediate, 2 * kIntermediate});
    credence_mlp_input p = {};
    p.rows = room.number(rows);
    p.capacity = rows;
    p.shape = smollm2();
    p.dtype = device->dtype();
    p.x = room.floats(n * kHidden);
    p.ldx = kHidden;
    p.norm_weight = room.same(kHidden, 1);
    p.weights = layer.weights;
    p.lora = layer.lora;
    p.h = room.act(n * kHidden);
    p.u = rows > 1 ? room.act(n * 2 * kIntermediate) : nullptr;  // a token that is decoded keeps nothing
    p.a = room.act(n * kIntermediate);
    p.inv_rms = room.same(n, 1);
    p.s = room.act(n * 2 * kRank);
    line("mlp_input", rows_of(rows), rows * (layer.base_flop + layer.lora_flop),
         linear_bytes(layer, rows, 4 * kHidden, (p.u ? 3 : 1) * kIntermediate * act()), [&] { device->mlp_input(p); });
  }
}

void OperatorBench::mlp_input_backward() {
  Room room(device);
  const size_t n = tokens;
  const Layer layer(device, &room, 2 * kIntermediate, kHidden, {0, kIntermediate, 2 * kIntermediate});
  credence_mlp_input_backward p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.shape = smollm2();
  p.dtype = device->dtype();
  p.x = room.floats(n * kHidden);
  p.ldx = p.lddx = kHidden;
  p.norm_weight = room.same(kHidden, 1);
  p.inv_rms = room.same(n, 1);
  p.weights = layer.weights;
  p.lora = layer.lora;
  p.h = room.act(n * kHidden);
  p.u = room.act(n * 2 * kIntermediate);
  p.s = room.act(n * 2 * kRank);
  p.da = room.act(n * kIntermediate);
  p.dx = room.same(n * kHidden, 0);
  p.gradients = layer.gradients;
  line("mlp_input_backward", rows_of(tokens), tokens * (layer.base_flop + 2 * layer.lora_flop),
       linear_bytes(layer, tokens, 3 * kIntermediate * act(), 12 * kHidden), [&] { device->mlp_input_backward(p); });
}

void OperatorBench::embed_backward() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_embed_backward p = {};
  p.batch = batch(&room, rows, 1);
  p.width = kHidden;
  p.scale = 1;
  p.dx = room.floats(static_cast<size_t>(rows) * kHidden);
  p.lddx = kHidden;
  p.dtable = room.same(static_cast<size_t>(vocabulary()) * kHidden, 0);
  line("embed_backward", rows_of(rows), 0, rows * (12.0 * kHidden), [&] { device->embed_backward(p); }, true);
}

// -------------------------------------------------------------------------------------------------------------- read-outs

void OperatorBench::token_logprobs() {
  Room room(device);
  const Matrix head(device, vocabulary(), kHidden);
  const int rows = tokens / 8;
  std::vector<int32_t> targets(rows);
  for (int r = 0; r < rows; ++r) targets[r] = static_cast<int32_t>(r * 7919LL % vocabulary());
  credence_token_logprobs p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.vocabulary = vocabulary();
  p.dtype = device->dtype();
  p.weights = head;
  p.h = room.act(static_cast<size_t>(rows) * kHidden);
  p.ldh = p.lddh = kHidden;
  p.targets = room.numbers(targets);
  p.logprob = room.same(rows, 0);
  const double product = 2.0 * rows * kHidden * vocabulary(), weights = 1.0 * vocabulary() * kHidden * act();
  line("token_logprobs", rows_of(rows), product, weights, [&] { device->token_logprobs(p); });
  p.d_logprob = room.same(rows, -1);
  p.dh = room.same(static_cast<size_t>(rows) * kHidden, 0);
  line("token_logprobs", rows_of(rows) + " and back", 2 * product, 2 * weights, [&] { device->token_logprobs(p); });
}

void OperatorBench::closed_set() {
  Room room(device);
  const Matrix head(device, vocabulary(), kHidden);
  const int rows = tokens / 2, candidates = 4;
  credence_closed_set p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.candidates_count = candidates;
  p.dtype = device->dtype();
  p.weights = head;
  p.h = room.act(static_cast<size_t>(rows) * kHidden);
  p.ldh = p.lddh = kHidden;
  p.candidates = room.numbers(std::vector<int32_t>{330, 378, 340, 422});
  p.logprob = room.same(static_cast<size_t>(rows) * candidates, 0);
  p.d_logprob = room.same(static_cast<size_t>(rows) * candidates, -1);
  p.dh = room.same(static_cast<size_t>(rows) * kHidden, 0);
  line("closed_set", rows_of(rows) + ", 4 candidates, and back", 4.0 * rows * kHidden * candidates,
       rows * kHidden * (act() + 4), [&] { device->closed_set(p); });
}

void OperatorBench::divergence() {
  Room room(device);
  const Matrix head(device, vocabulary(), kHidden);
  const int rows = tokens / 32;
  const size_t n = static_cast<size_t>(rows) * kHidden;
  credence_divergence p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.vocabulary = vocabulary();
  p.dtype = device->dtype();
  p.weights = p.weights_other = head;
  p.h = room.act(n);
  p.h_other = room.act(n, 0.5f);
  p.ldh = p.ldh_other = p.lddh = kHidden;
  p.divergence = room.same(rows, 0);
  p.upstream = room.same(rows, 1);
  p.dh = room.same(n, 0);
  line("divergence", rows_of(rows) + " and back", 6.0 * rows * kHidden * vocabulary(),
       3.0 * vocabulary() * kHidden * act(), [&] { device->divergence(p); });
}

void OperatorBench::sample() {
  const Matrix head(device, vocabulary(), kHidden);
  for (int rows : {16, 1}) {
    Room room(device);
    std::vector<double> uniform(rows);
    for (int r = 0; r < rows; ++r) uniform[r] = (r + 0.5) / rows;
    credence_sample p = {};
    p.rows = room.number(rows);
    p.capacity = rows;
    p.width = kHidden;
    p.vocabulary = vocabulary();
    p.dtype = device->dtype();
    p.weights = head;
    p.h = room.act(static_cast<size_t>(rows) * kHidden);
    p.ldh = kHidden;
    p.temperature = room.same(rows, 0.7f);
    p.top_k = room.numbers(std::vector<int32_t>(rows, 50));
    p.top_p = room.same(rows, 0.95f);
    p.repetition = room.same(rows, 1);
    p.uniform = room.numbers(uniform);
    p.token = room.numbers(std::vector<int32_t>(rows));
    p.logprob = room.same(rows, 0);
    line("sample", rows_of(rows) + ", top-k 50, top-p 0.95", 2.0 * rows * kHidden * vocabulary(),
         1.0 * vocabulary() * kHidden * act(), [&] { device->sample(p); });
  }
}

credence_pool spans_of(Room* room, int rows) {
  const int spans = rows / 64;
  std::vector<int32_t> from, to;
  for (int s = 0; s < spans; ++s) from.push_back(64 * s), to.push_back(64 * (s + 1));
  credence_pool p = {};
  p.rows = room->number(spans);
  p.capacity = spans;
  p.width = kHidden;
  p.from = room->numbers(from);
  p.to = room->numbers(to);
  p.ldx = p.lddx = kHidden;
  return p;
}

void OperatorBench::pool() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_pool p = spans_of(&room, rows);
  p.x = room.floats(static_cast<size_t>(rows) * kHidden);
  p.y = room.same(static_cast<size_t>(p.capacity) * kHidden, 0);
  line("pool", rows_of(rows) + " in spans of 64", 0, 4.0 * rows * kHidden, [&] { device->pool(p); }, true);
}

void OperatorBench::pool_backward() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_pool p = spans_of(&room, rows);
  p.dy = room.floats(static_cast<size_t>(p.capacity) * kHidden);
  p.dx = room.same(static_cast<size_t>(rows) * kHidden, 0);
  line(
      "pool_backward", rows_of(rows) + " in spans of 64", 0, 8.0 * rows * kHidden, [&] { device->pool_backward(p); },
      true);
}

void OperatorBench::dense() {
  Room room(device);
  const int out = 256;
  credence_dense p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.in = kHidden;
  p.out = out;
  p.activation = CREDENCE_RELU;
  p.x = room.floats(static_cast<size_t>(tokens) * kHidden);
  p.weight = room.floats(static_cast<size_t>(out) * kHidden);
  p.bias = room.same(out, 0);
  p.y = room.same(static_cast<size_t>(tokens) * out, 0);
  line(
      "dense", rows_of(tokens) + ", 576 to 256", 2.0 * tokens * kHidden * out,
      4.0 * (tokens * (kHidden + out) + kHidden * out), [&] { device->dense(p); }, true);
}

void OperatorBench::dense_backward() {
  Room room(device);
  const int out = 256;
  credence_dense_backward p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.in = kHidden;
  p.out = out;
  p.activation = CREDENCE_RELU;
  p.x = room.floats(static_cast<size_t>(tokens) * kHidden);
  p.weight = room.floats(static_cast<size_t>(out) * kHidden);
  p.y = room.same(static_cast<size_t>(tokens) * out, 1);
  p.dy = room.floats(static_cast<size_t>(tokens) * out);
  p.dweight = room.same(static_cast<size_t>(out) * kHidden, 0);
  p.dbias = room.same(out, 0);
  p.dx = room.same(static_cast<size_t>(tokens) * kHidden, 0);
  line(
      "dense_backward", rows_of(tokens) + ", 576 to 256", 4.0 * tokens * kHidden * out,
      4.0 * (tokens * (2 * kHidden + out) + 2 * kHidden * out), [&] { device->dense_backward(p); }, true);
}

// -------------------------------------------------------------------------------------------------------------- optimiser

void OperatorBench::gradient_norm() {
  Room room(device);
  credence_gradient_norm p = {};
  p.count = 8192LL * tokens;
  p.g = room.floats(p.count);
  p.norm = room.same(1, 0);
  line(
      "gradient_norm", std::to_string(p.count) + " numbers", 0, 4.0 * p.count, [&] { device->gradient_norm(p); }, true);
}

void OperatorBench::adamw() {
  Room room(device);
  credence_adamw p = {};
  p.end = 2048LL * tokens;
  p.p = room.floats(p.end);
  p.m = room.same(p.end, 0);
  p.v = room.same(p.end, 0);
  p.g = room.floats(p.end);
  p.gradient_scale = 1;
  p.lr = 1e-4;
  p.beta1 = 0.9;
  p.beta2 = 0.999;
  p.eps = 1e-8;
  p.weight_decay = 0.01;
  p.step = 1;
  line("adamw", std::to_string(p.end) + " numbers", 0, 28.0 * p.end, [&] { device->adamw(p); }, true);
}

void OperatorBench::advantage() {
  Room room(device);
  const int count = 64 * tokens, segments = count / 256;
  std::vector<int32_t> ends, starts;
  for (int b = 0; b <= segments; ++b) ends.push_back(256 * b);
  for (int b = 0; b < segments; ++b) starts.push_back(64);
  credence_advantage p = {};
  p.counts = room.numbers(std::vector<int32_t>{count, segments});
  p.token_capacity = count;
  p.segment_capacity = segments;
  p.cu_seqlens = room.numbers(ends);
  p.completion_start = room.numbers(starts);
  p.logprob = room.floats(count);
  p.ref_logprob = room.floats(count);
  p.value = room.floats(count);
  p.score = room.floats(segments);
  p.kl_coefficient = 0.05f;
  p.gamma = 1;
  p.lambda = 0.95f;
  p.kl_estimator = 1;
  p.reward = room.same(count, 0);
  p.advantage = room.same(count, 0);
  p.returns = room.same(count, 0);
  p.moments = room.numbers(std::vector<double>(3));
  line("advantage", std::to_string(segments) + " x 256 tokens", 0, 24.0 * count, [&] { device->advantage(p); }, true);
}

}  // namespace

RunTimes times_of(int threads, double seconds, const std::function<void()>& body) {
  body();
  std::vector<double> times;
  for (const double start = work_seconds(threads); times.size() < 3 || work_seconds(threads) - start < seconds;) {
    const double before = work_seconds(threads);
    body();
    times.push_back(work_seconds(threads) - before);
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

std::vector<OperatorLine> bench_operators(const std::shared_ptr<Device>& device, int tokens, double seconds) {
  if (tokens < 64 || tokens % 64) fail("BAD_OPTION", "tokens: expected a multiple of 64 but received %d", tokens);
  OperatorBench bench{device, tokens, seconds, {}};
#define CREDENCE_BENCH(name) bench.name();
  CREDENCE_OPERATORS(CREDENCE_BENCH)
#undef CREDENCE_BENCH
  return std::move(bench.lines);
}

PeakShare peak_share(const OperatorLine& line, const Peaks& peaks, credence_dtype dtype) {
  const double rate = line.float32 || dtype == CREDENCE_F32 ? peaks.f32_gflops : peaks.bf16_gflops;
  const double product = line.flop / (rate * 1e9), memory = line.bytes / (peaks.read_gbs * 1e9);
  return {std::max(product, memory) / line.best, memory > product};
}

}  // namespace credence
