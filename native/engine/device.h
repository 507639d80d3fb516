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
  std::string device = "auto";  // "auto", "cpu", "cuda"; for tests "cuda-emulated"
  std::string dtype = "auto";   // "auto", "f32", "bf16"
  std::string isa = "auto";     // "auto" or a table's instruction set
  int threads = 0;              // 0: as many as there are cores
  size_t max_memory = 0;        // bytes of device memory that are kept to; 0: no limit
  bool dry = false;             // counts memory, computes nothing (kernels.h, open_dry)
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
  /// Nothing is computed here: a pass leaves its memory in the ledger and zeros in what it reads out.
  bool dry() const { return dry_; }
  /// A dry device of the same table and type, without a limit.
  std::shared_ptr<Device> twin() const;
  size_t max_memory() const { return max_memory_; }
  size_t scratch_bytes() const { return scratch_bytes_; }
  const void* scratch_address() const { return scratch_; }
  /// Gives the workspace back; the next launch takes what it needs.
  void drop_scratch();
  credence_memory memory(bool restart_peak = false) const { return table_->memory(backend_, restart_peak); }
  size_t act_bytes() const { return dtype_ == CREDENCE_BF16 ? 2 : 4; }
  int threads() const { return threads_; }
  /// Why "auto" did not take CUDA, where somebody may have expected it; else empty.
  const std::string& why_not_cuda() const { return why_not_cuda_; }

  /// Runs an operator with the shared workspace, grown when needed; a failure throws Error "KERNEL" with its reason.
#define CREDENCE_LAUNCH(name) \
  void name(const credence_##name& p) { launch(table_->name##_workspace, table_->name, p, #name); }
  CREDENCE_OPERATORS(CREDENCE_LAUNCH)
#undef CREDENCE_LAUNCH

  void check(int status, const char* what) const;

 private:
  Device() = default;
  static std::shared_ptr<Device> open_on(const credence_table* table, const DeviceOptions& options,
                                         const std::string& why_not_cuda);
  void start();
  template <class P>
  void launch(size_t (*workspace)(const P*), int (*run)(credence_backend*, const P*, void*), const P& p,
              const char* name) {
    if (!run) fail("NO_OPERATOR", "%s has no operator \"%s\" for %s", table_->name, name, table_->isa);
    void* const space = scratch(workspace ? workspace(&p) : 0);
    if (!dry_) check(run(backend_, &p, space), name);
  }
  void* scratch(size_t bytes);

  const credence_table* table_ = nullptr;
  credence_backend* backend_ = nullptr;
  credence_dtype dtype_ = CREDENCE_F32;
  int threads_ = 1;
  size_t max_memory_ = 0;
  bool dry_ = false;
  std::string why_not_cuda_;
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

/// The CPU's table for "auto" or an instruction set by name; Error "NO_DEVICE" with the reason where it cannot run.
const credence_table& cpu_table(const std::string& isa);

/// How the CPU's tables stand on this machine: instruction set and, where it cannot run, why.
struct IsaStatus {
  std::string isa, unavailable;
};
std::vector<IsaStatus> cpu_isas();

/// Why `device: "cuda"` cannot be had; empty if it can.
std::string cuda_unavailable();

}  // namespace credence
