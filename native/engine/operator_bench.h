// What the measurements of single operators share: SmolLM2-135M's shapes, memory, packed matrices, batches, and the line each
// leaves.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench_operators.h"

namespace credence::operator_bench {

constexpr int kHidden = 576, kIntermediate = 1536, kHeads = 9, kKvHeads = 3, kHeadDim = 64;
constexpr int kQuery = kHeads * kHeadDim, kKeys = kKvHeads * kHeadDim, kQkv = kQuery + 2 * kKeys, kRank = 16;

inline credence_shape smollm2() {
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
inline void fill(float* out, size_t count, float scale, uint32_t seed = 1) {
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

/// Segments of these lengths whose keys begin at `before`, each on pages of its own.
inline credence_batch batch_of(Room* room, const std::vector<int>& lengths, int vocabulary, int before = 0) {
  const int segments = static_cast<int>(lengths.size()), longest = *std::max_element(lengths.begin(), lengths.end());
  const int pages = (before + longest + CREDENCE_PAGE - 1) / CREDENCE_PAGE;
  std::vector<int32_t> ids, ends = {0}, positions, table;
  for (const int length : lengths) {
    for (int t = 0; t < length; ++t) positions.push_back(before + t);
    ends.push_back(ends.back() + length);
  }
  const int count = ends.back();
  for (int t = 0; t < count; ++t) ids.push_back(static_cast<int32_t>(t * 7919LL % vocabulary));
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

/// [positions, dims / 2, 2] cos, sin at a base of 10,000.
inline const float* rotary_of(Room* room, int positions, int dims) {
  std::vector<float> turns;
  for (int position = 0; position < positions; ++position)
    for (int i = 0; i < dims / 2; ++i) {
      const double angle = position * std::pow(1e4, -2.0 * i / dims);
      turns.push_back(static_cast<float>(std::cos(angle)));
      turns.push_back(static_cast<float>(std::sin(angle)));
    }
  return room->numbers(turns);
}

struct OperatorBench {
  std::shared_ptr<Device> device;
  int tokens;
  Timer timer;
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
            bool float32 = false, BareProduct product = {}) {
    const RunTimes t = timer(body);
    lines.push_back({name, shape, t.best, t.median, flop, bytes, float32, t.low, t.high, product});
  }
  static std::string rows_of(int64_t rows) { return std::to_string(rows) + (rows == 1 ? " row" : " rows"); }

  // A batch of `count` tokens in `segments` segments of equal length whose keys begin at `before`.
  credence_batch batch(Room* room, int count, int segments, int before = 0) const {
    return batch_of(room, std::vector<int>(segments, count / segments), vocabulary(), before);
  }
  void* pages(Room* room, const credence_batch& b) const {
    const credence_shape shape = smollm2();
    return room->space(device->table().page_bytes(&shape, device->dtype()) * b.segment_capacity * b.pages_per_segment);
  }
  const float* rotary(Room* room, int positions) const { return rotary_of(room, positions, kHeadDim); }
  /// Query-key pairs of segments of a length.
  static double causal_pairs(int segments, int length) { return segments * (length * (length + 1.0) / 2); }

  /// What is moved around one product: weights once, rows in and out.
  double linear_bytes(const Layer& layer, double rows, double in, double out) const {
    return layer.parameters * act() + rows * (in + out);
  }
  void one_projection(Room* room, const Layer& layer, int rows, int columns, const char* which);
};

}  // namespace credence::operator_bench
