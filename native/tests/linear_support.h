// What the tests of the linear operators share: an adapter on the device and in the reference, and the bound on bf16.
#pragma once

#include "backends.h"
#include "kernels/reference/linear.h"

namespace credence::testing {

inline double to_bf16(double x) { return bf16_to_float(float_to_bf16(static_cast<float>(x))); }

/// The rounding of a back end's activations.
inline reference::Round stored(const Backend& backend) { return backend.bf16() ? &to_bf16 : &reference::exact; }

/// The error is at most twice that of the same computation done plainly with activations rounded to the type; in float32,
/// where that is nothing, at most 2e-5 of the largest number.
inline void expect_twice_plain(const Backend& backend, const std::vector<double>& got, const std::vector<double>& exact,
                               const std::vector<double>& plain, const char* what, const char* file, int line) {
  double largest = 1e-3, off = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest, std::fabs(exact[i]));
    off = std::max(off, std::fabs(plain[i] - exact[i]));
  }
  expect_close(got, exact, backend.bf16() ? 2 * off / largest + 2e-5 : 2e-5, what, file, line);
}
#define EXPECT_TWICE_PLAIN(backend, got, exact, plain) \
  ::credence::testing::expect_twice_plain(backend, got, exact, plain, #got, __FILE__, __LINE__)

/// Slices of ranks 1, 5 and 3 in turn, or of one rank, over rows [0, outputs) cut at the given places; every other one is left out
/// if `gaps`.
inline std::vector<reference::LoraSlice> slices(uint64_t seed, int columns, const std::vector<int>& cuts,
                                                bool gaps = false, int rank = 0) {
  std::vector<reference::LoraSlice> all;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    if (gaps && i % 2) continue;
    reference::LoraSlice slice;
    slice.row_begin = cuts[i];
    slice.row_end = cuts[i + 1];
    constexpr int kRanks[] = {1, 5, 3};
    slice.rank = rank ? rank : kRanks[(i + cuts.size()) % 3];
    slice.scale = 0.75;
    slice.a = normal(seed + 2 * i, static_cast<size_t>(slice.rank) * columns, 0.2);
    slice.b = normal(seed + 2 * i + 1, static_cast<size_t>(slice.row_end - slice.row_begin) * slice.rank, 0.3);
    all.push_back(slice);
  }
  return all;
}

/// The adapter of a reference layer as a back end keeps it, with a gradient buffer that does not start at 0.
class Adapter {
 public:
  Adapter(Backend& backend, const reference::Linear& p) : backend_(&backend), slices_(p.slices) {
    if (slices_.empty()) return;
    credence_lora_layout layout = {};
    layout.rows = p.outputs;
    layout.columns = p.columns;
    layout.dtype = backend.dtype;
    std::vector<double> flat(5);  // offsets need not begin at 0
    for (const reference::LoraSlice& s : slices_) {
      credence_lora_slice& slice = layout.slice[layout.slices++];
      slice = {s.row_begin, s.row_end, s.rank, static_cast<float>(s.scale), static_cast<int64_t>(flat.size()), 0};
      flat.insert(flat.end(), s.a.begin(), s.a.end());
      slice.b = static_cast<int64_t>(flat.size());
      flat.insert(flat.end(), s.b.begin(), s.b.end());
      ranks_ += s.rank;
    }
    layout_ = layout;
    const auto parameters = floats_on_device(backend, flat);
    gradients_ = floats_on_device(backend, std::vector<double>(flat.size(), kBefore));
    lora_ = backend.table->pack_lora(backend.handle, &layout, *parameters);
    if (!lora_) throw std::runtime_error(backend.table->last_error(backend.handle));
  }
  ~Adapter() { backend_->table->free_lora(backend_->handle, lora_); }
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  operator const credence_lora*() const { return lora_; }
  float* gradients() const { return gradients_ ? gradients_->as<float>() : nullptr; }
  int ranks() const { return ranks_; }
  /// What was added to the gradient buffer.
  std::vector<double> gradient_values() const {
    std::vector<double> all = gradients_->floats();
    for (double& g : all) g -= kBefore;
    return all;
  }

  /// The gradients against the reference's.
  void expect_gradients(const reference::LinearGradients& exact, const reference::LinearGradients& plain) const {
    if (!lora_) return;
    const std::vector<double> all = gradient_values();
    for (size_t i = 0; i < slices_.size(); ++i) {
      const auto part = [&](int64_t at, size_t count) { return std::vector<double>(&all[at], &all[at] + count); };
      const std::vector<double> da = part(layout_.slice[i].a, exact.da[i].size());
      const std::vector<double> db = part(layout_.slice[i].b, exact.db[i].size());
      EXPECT_TWICE_PLAIN(*backend_, da, exact.da[i], plain.da[i]);
      EXPECT_TWICE_PLAIN(*backend_, db, exact.db[i], plain.db[i]);
    }
  }

 private:
  static constexpr double kBefore = 1.0 / 1024;  // little, so that it takes no digits of a small gradient
  Backend* backend_;
  std::vector<reference::LoraSlice> slices_;
  credence_lora_layout layout_ = {};
  MemoryPointer gradients_;
  credence_lora* lora_ = nullptr;
  int ranks_ = 0;
};

/// Dropout of a layer's adapter: p, and keys of rows that use all their bits.
inline reference::Dropout dropout(double p, int rows) {
  reference::Dropout d;
  d.p = p;
  d.key = 0x9e3779b97f4a7c15;
  for (int t = 0; t < rows; ++t) d.row_key.push_back((uint64_t{7} << 40) + 3 * static_cast<uint64_t>(t));
  return d;
}

/// The same for a back end. It must outlive the launch.
class DropoutOnDevice {
 public:
  DropoutOnDevice(Backend& backend, const reference::Dropout& d)
      : keys_(on_device(backend, d.row_key)), dropout_{static_cast<float>(d.p), d.key, keys_->as<uint64_t>()} {}
  operator const credence_dropout&() const { return dropout_; }

 private:
  MemoryPointer keys_;
  credence_dropout dropout_;
};

/// Any subset of gradients may be asked for: each of `outputs`, which `all` has and which began at 0, has the same bits when it
/// is the only one. run(parameters) runs the operator.
template <typename Parameters>
void expect_each_alone(Backend& backend, const Parameters& all,
                       const std::vector<std::pair<float * Parameters::*, const Memory*>>& outputs,
                       const std::function<void(const Parameters&)>& run) {
  for (const auto& [output, whole] : outputs) {
    Parameters one = all;
    one.gradients = nullptr;
    for (const auto& [other, memory] : outputs) one.*other = nullptr;
    const auto alone = floats_on_device(backend, std::vector<double>(whole->bytes() / sizeof(float)));
    one.*output = *alone;
    run(one);
    EXPECT(alone->bits() == whole->bits());
  }
}

inline MemoryPointer one(Backend& backend, int32_t value) { return on_device(backend, std::vector<int32_t>{value}); }

}  // namespace credence::testing
