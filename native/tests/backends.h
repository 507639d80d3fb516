// What operator tests share: every CPU table this machine runs in both types (or the CUDA kernels executed on the CPU), memory of
// a back end with conversions, random numbers that the type can hold, and comparisons.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/half.h"
#include "kernels/kernels.h"
#include "testing.h"

namespace credence::testing {

/// An open back end and the activation type a test runs in.
struct Backend {
  const credence_table* table;
  credence_dtype dtype;
  credence_backend* handle;

  Backend(const credence_table* t, credence_dtype type, int threads, int device = 0) : table(t), dtype(type) {
    char error[256] = "";
    handle = table->open(device, threads, error, sizeof error);
    if (!handle) throw std::runtime_error(error);
  }
  ~Backend() { table->close(handle); }
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  bool bf16() const { return dtype == CREDENCE_BF16; }
  /// Half a unit in the last place of the type.
  double epsilon() const { return bf16() ? 1.0 / 256 : 1.0 / (1 << 24); }
  std::string name() const { return std::string(table->isa) + (bf16() ? " bf16" : " float32"); }
  /// Executed so slowly that a test of many numbers takes fewer of them.
  bool slow() const { return is_emulated(table) || std::string(table->isa) == "scalar"; }
  /// Executed more slowly still, under a sanitizer: what smaller cases show is left to them.
  bool brief() const { return is_emulated(table) && std::getenv("CREDENCE_SANITIZED"); }
  /// Whether an operator refused, at once or, where only the device can see why, when it is waited for.
  bool refused(int status) const { return status != 0 || table->synchronise(handle) != 0; }
};

/// body(backend) for every table that runs here and both types, or for the one that is named; a failure says which. What is a
/// number of threads elsewhere is another order of warps in the emulation. The thread sanitizer sees the best table alone: every
/// table shares memory between threads in the same way.
inline void each_backend(int threads, const std::function<void(Backend&)>& body) {
  int32_t count = 0;
  const credence_table* const* tables = credence_cpu_tables(&count);
  const credence_table* const named[] = {named_table()};
  if (named[0]) tables = named, count = 1;
#if defined(__SANITIZE_THREAD__)
  while (count > 1 && tables[0]->unavailable()) ++tables, --count;
  count = 1;
#endif
  const int device = is_emulated(named[0]) ? (threads - 1 + first_order()) % 3 : 0;
  for (int32_t i = 0; i < count; ++i) {
    if (tables[i]->unavailable()) continue;
    for (credence_dtype dtype : {CREDENCE_F32, CREDENCE_BF16}) {
      Backend backend(tables[i], dtype, threads, device);
      const int before = state().failures;
      body(backend);
      if (state().failures != before)
        std::printf("    with %s, %d threads, device %d\n", backend.name().c_str(), threads, device);
    }
  }
}

/// Numbers on the device: float32, the activation type, or integers.
class Memory {
 public:
  Memory(Backend& backend, size_t bytes) : backend_(&backend), bytes_(bytes) {
    data_ = backend.table->alloc(backend.handle, std::max<size_t>(bytes, 1));
    if (!data_) throw std::runtime_error(backend.table->last_error(backend.handle));
    backend.table->fill(backend.handle, data_, 0xff, bytes);  // float32 and bf16 NaN: what nobody wrote shows
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { backend_->table->free(backend_->handle, data_); }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  operator float*() const { return as<float>(); }
  operator const int32_t*() const { return as<int32_t>(); }
  void* raw() const { return data_; }
  size_t bytes() const { return bytes_; }

  template <typename T>
  std::vector<T> read(size_t count) const {
    std::vector<T> out(count);
    backend_->table->read(backend_->handle, out.data(), data_, count * sizeof(T));
    return out;
  }
  /// All of it as doubles, stored in the activation type or in float32.
  std::vector<double> act() const {
    if (!backend_->bf16()) return floats();
    const auto bits = read<uint16_t>(bytes_ / 2);
    std::vector<double> out;
    for (uint16_t x : bits) out.push_back(bf16_to_float(x));
    return out;
  }
  std::vector<double> floats() const {
    const auto values = read<float>(bytes_ / 4);
    return {values.begin(), values.end()};
  }
  std::vector<uint8_t> bits() const { return read<uint8_t>(bytes_); }

 private:
  Backend* backend_;
  size_t bytes_;
  void* data_;
};

using MemoryPointer = std::unique_ptr<Memory>;

template <typename T>
MemoryPointer on_device(Backend& backend, const std::vector<T>& values) {
  auto memory = std::make_unique<Memory>(backend, values.size() * sizeof(T));
  backend.table->write(backend.handle, memory->raw(), values.data(), values.size() * sizeof(T));
  return memory;
}

inline MemoryPointer floats_on_device(Backend& backend, const std::vector<double>& values) {
  return on_device(backend, std::vector<float>(values.begin(), values.end()));
}

inline MemoryPointer act_on_device(Backend& backend, const std::vector<double>& values) {
  if (!backend.bf16()) return floats_on_device(backend, values);
  std::vector<uint16_t> bits;
  for (double x : values) bits.push_back(float_to_bf16(static_cast<float>(x)));
  return on_device(backend, bits);
}

inline MemoryPointer act_space(Backend& backend, size_t count) {
  return std::make_unique<Memory>(backend, count * (backend.bf16() ? 2 : 4));
}
inline MemoryPointer float_space(Backend& backend, size_t count) {
  return std::make_unique<Memory>(backend, count * 4);
}

/// A matrix [rows, columns] as the back end keeps it.
class Weights {
 public:
  Weights(Backend& backend, const std::vector<double>& values, int rows, int columns)
      : backend_(&backend), values_(values), columns_(columns) {
    const credence_weights_source source{rows, columns, backend.dtype, 1, 1, &read, this};
    weights_ = backend.table->pack(backend.handle, &source);
    if (!weights_) throw std::runtime_error(backend.table->last_error(backend.handle));
  }
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;
  ~Weights() { backend_->table->free_weights(backend_->handle, weights_); }
  operator const credence_weights*() const { return weights_; }

 private:
  static void read(void* context, int32_t row, int32_t count, float* out) {
    const auto* self = static_cast<const Weights*>(context);
    const size_t columns = self->columns_;
    for (size_t i = 0; i < count * columns; ++i) out[i] = static_cast<float>(self->values_[row * columns + i]);
  }

  Backend* backend_;
  const std::vector<double>& values_;
  size_t columns_;
  credence_weights* weights_;
};

/// Normal numbers, rounded to bf16: exact in both types.
inline std::vector<double> normal(uint64_t seed, size_t count, double deviation = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> draw(0, deviation);
  std::vector<double> out(count);
  for (double& x : out) x = bf16_to_float(float_to_bf16(static_cast<float>(draw(random))));
  return out;
}

/// Runs one operator with the workspace it asks for, filled with NaN.
#define RUN_OPERATOR(backend, operation, parameters)                                                                   \
  do {                                                                                                                 \
    const auto& run_parameters = (parameters);                                                                         \
    const ::credence::testing::Memory run_workspace(backend, (backend).table->operation##_workspace(&run_parameters)); \
    if ((backend).table->operation((backend).handle, &run_parameters, run_workspace.raw()))                            \
      ::credence::testing::report(__FILE__, __LINE__, (backend).table->last_error((backend).handle));                  \
  } while (0)

/// The largest |got - expected| is at most `tolerance` times the largest |expected| (or 1e-3 where that is smaller).
inline void expect_close(const std::vector<double>& got, const std::vector<double>& expected, double tolerance,
                         const char* what, const char* file, int line) {
  if (got.size() != expected.size()) {
    report(file, line, std::string(what) + ": " + show(got.size()) + " numbers, expected " + show(expected.size()));
    return;
  }
  double scale = 1e-3, worst = -1;
  size_t at = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isfinite(expected[i])) scale = std::max(scale, std::fabs(expected[i]));
    const double error = got[i] == expected[i] ? 0 : std::fabs(got[i] - expected[i]);
    if (!(error <= worst)) {  // a NaN counts as the worst, and stays
      worst = std::isnan(error) ? INFINITY : error;
      at = i;
    }
  }
  if (!(worst <= tolerance * scale))
    report(file, line,
           std::string(what) + "[" + show(at) + "] is " + show(got[at]) + ", expected " + show(expected[at]) + " (" +
               show(worst / scale) + " of the largest, bound " + show(tolerance) + ")");
}
#define EXPECT_CLOSE(got, expected, tolerance) \
  ::credence::testing::expect_close(got, expected, tolerance, #got, __FILE__, __LINE__)

/// d loss / d x[i] by central differences is gradient[i], for a sample of i.
inline void expect_gradient(std::vector<double>& x, const std::vector<double>& gradient,
                            const std::function<double()>& loss, const char* what, const char* file, int line) {
  std::vector<double> numeric, analytic;
  const size_t stride = std::max<size_t>(1, x.size() / 40);
  for (size_t i = 0; i < x.size(); i += stride) {
    const double kept = x[i], step = 1e-5;
    x[i] = kept + step;
    const double up = loss();
    x[i] = kept - step;
    const double down = loss();
    x[i] = kept;
    numeric.push_back((up - down) / (2 * step));
    analytic.push_back(gradient[i]);
  }
  expect_close(analytic, numeric, 1e-7, what, file, line);
}
#define EXPECT_GRADIENT(x, gradient, loss) \
  ::credence::testing::expect_gradient(x, gradient, loss, #gradient, __FILE__, __LINE__)

inline double inner(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace credence::testing
