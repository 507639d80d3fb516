// A back end in use: its table, its memory, its workspace. Everything above speaks to kernels through this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "error.h"
#include "native/kernels/kernels.h"

namespace credence {

struct DeviceOptions {
  std::string device = "auto";  // "auto", "cpu", "cuda"
  std::string dtype = "auto";   // "auto", "f32", "bf16"
  std::string isa = "auto";     // "auto" or a table's instruction set
  int threads = 0;              // 0: as many as there are cores
};

class Device {
 public:
  /// Throws Error "NO_DEVICE" with the reason where what is asked for cannot be had; only "auto" chooses.
  static std::shared_ptr<Device> open(const DeviceOptions& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const credence_table& table() const { return *table_; }
  credence_backend* backend() const { return backend_; }
  credence_dtype dtype() const { return dtype_; }
  size_t act_bytes() const { return dtype_ == CREDENCE_BF16 ? 2 : 4; }
  int threads() const { return threads_; }

  /// Runs an operator with the shared workspace, grown when needed; a failure throws Error "KERNEL" with its reason.
#define CREDENCE_LAUNCH(name) \
  void name(const credence_##name& p) { launch(table_->name##_workspace, table_->name, p, #name); }
  CREDENCE_OPERATORS(CREDENCE_LAUNCH)
#undef CREDENCE_LAUNCH

  void check(int status, const char* what) const;

 private:
  Device() = default;
  template <class P>
  void launch(size_t (*workspace)(const P*), int (*run)(credence_backend*, const P*, void*), const P& p,
              const char* name) {
    if (!run) fail("NO_OPERATOR", "%s has no operator \"%s\" for %s", table_->name, name, table_->isa);
    check(run(backend_, &p, scratch(workspace ? workspace(&p) : 0)), name);
  }
  void* scratch(size_t bytes);

  const credence_table* table_ = nullptr;
  credence_backend* backend_ = nullptr;
  credence_dtype dtype_ = CREDENCE_F32;
  int threads_ = 1;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
};

/// Device memory. Growing does not keep the content.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  Buffer(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)) { reserve(bytes); }
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void reserve(size_t bytes);
  void write(const void* host, size_t bytes, size_t offset = 0);
  void read(void* host, size_t bytes, size_t offset = 0) const;
  void zero();
  template <class T>
  void upload(const std::vector<T>& values) {
    reserve(values.size() * sizeof(T));
    if (!values.empty()) write(values.data(), values.size() * sizeof(T));
  }
  template <class T>
  std::vector<T> download(size_t count) const {
    std::vector<T> out(count);
    if (count) read(out.data(), count * sizeof(T));
    return out;
  }
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  float* f32() const { return as<float>(); }
  int32_t* i32() const { return as<int32_t>(); }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void release();
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// How the CPU's tables stand on this machine: instruction set and, where it cannot run, why.
struct IsaStatus {
  std::string isa, unavailable;
};
std::vector<IsaStatus> cpu_isas();

}  // namespace credence
