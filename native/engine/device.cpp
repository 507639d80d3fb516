#include "device.h"

#include <thread>
#include <utility>

#include "native/kernels/cuda_library.h"

namespace credence {

namespace {

/// Why the engine cannot run on a table of CUDA kernels; empty if it can.
std::string why_not(const credence_table* table, const char* reason) {
  if (!table) return reason;
  if (const char* why = table->unavailable()) return why;
  std::string lacking;
#define CREDENCE_LACKS(name) \
  if (!table->name) lacking.append(lacking.empty() ? "" : ", ").append(#name);
  CREDENCE_OPERATORS(CREDENCE_LACKS)
#undef CREDENCE_LACKS
  return lacking.empty()
             ? ""
             : std::string(table->isa).append(" is here, but there are no kernels yet for ").append(lacking);
}

/// The table of a device that is named.
const credence_table* named(const DeviceOptions& options) {
  const char* reason = nullptr;
  if (options.device == "cuda" || options.device == "cuda-emulated") {
    const credence_table* table =
        options.device == "cuda" ? credence_cuda_table(&reason) : credence_cuda_emulated_table(&reason);
    const std::string why = why_not(table, reason);
    if (!why.empty()) fail("NO_DEVICE", "device %s: %s. Use device cpu or auto", options.device.c_str(), why.c_str());
    return table;
  }
  if (options.device != "cpu")
    fail("BAD_OPTION", "device: expected auto, cpu or cuda but received \"%s\"", options.device.c_str());
  return &cpu_table(options.isa);
}

/// Whether bf16 is what "auto" chooses: where it has an instruction of its own it is more than twice as fast as float32.
bool has_bf16(const credence_table& table) {
  return std::string(table.name) != "cpu" || std::string(table.isa) == "avx512bf16";
}

}  // namespace

std::shared_ptr<Device> Device::open(const DeviceOptions& options) {
  if (options.device != "auto") return open_on(named(options), options, "");
  const char* reason = nullptr;
  const credence_table* const cuda = credence_cuda_table(&reason);
  std::string why = why_not(cuda, reason);
  if (why.empty()) {
    try {
      return open_on(cuda, options, "");
    } catch (const Error& error) {
      // What a device lacks may show only when it is opened: a library of its own, memory.
      if (error.code != "NO_DEVICE") throw;
      why = error.what();
    }
  }
  return open_on(&cpu_table(options.isa), options, cuda_may_be_meant() ? why : "");
}

std::shared_ptr<Device> Device::open_on(const credence_table* table, const DeviceOptions& options,
                                        const std::string& why_not_cuda) {
  std::shared_ptr<Device> device(new Device());
  device->table_ = table;
  device->why_not_cuda_ = why_not_cuda;
  if (options.dtype == "f32") {
    device->dtype_ = CREDENCE_F32;
  } else if (options.dtype == "bf16") {
    device->dtype_ = CREDENCE_BF16;
  } else if (options.dtype == "auto") {
    device->dtype_ = has_bf16(*device->table_) ? CREDENCE_BF16 : CREDENCE_F32;
  } else {
    fail("BAD_OPTION", "dtype: expected auto, f32 or bf16 but received \"%s\"", options.dtype.c_str());
  }
  if (options.threads < 0 || options.threads > 1024) {
    fail("BAD_OPTION", "threads: expected 1 to 1024, or 0 for all cores, but received %d", options.threads);
  }
  device->threads_ = options.threads ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  device->max_memory_ = options.max_memory;
  device->dry_ = options.dry;
  device->start();
  return device;
}

void Device::start() {
  char error[512] = "";
  backend_ = dry_ ? table_->open_dry(error, sizeof(error)) : table_->open(0, threads_, error, sizeof(error));
  if (!backend_) fail("NO_DEVICE", "device %s: %s", table_->name, error);
  if (!dry_) table_->limit(backend_, max_memory_);  // a dry device tells how far beyond the limit it would go
}

std::shared_ptr<Device> Device::twin() const {
  std::shared_ptr<Device> device(new Device());
  device->table_ = table_;
  device->dtype_ = dtype_;
  device->threads_ = threads_;
  device->dry_ = true;
  device->start();
  return device;
}

Device::~Device() {
  if (!backend_) return;
  drop_scratch();
  table_->close(backend_);
}

void Device::check(int status, const char* what) const {
  if (status) fail("KERNEL", "%s: %s", what, table_->last_error(backend_));
}

void Device::drop_scratch() {
  if (scratch_) table_->free(backend_, scratch_);
  scratch_ = nullptr;
  scratch_bytes_ = 0;
}

void* Device::scratch(size_t bytes) {
  if (bytes > scratch_bytes_) {
    drop_scratch();
    scratch_ = table_->alloc(backend_, bytes);
    if (!scratch_) fail("NO_MEMORY", "no %zu bytes of workspace: %s", bytes, table_->last_error(backend_));
    scratch_bytes_ = bytes;
  }
  return scratch_;
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    release();
    device_ = std::move(other.device_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void Buffer::reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  release();
  data_ = device_->table().alloc(device_->backend(), bytes);
  if (!data_) {
    fail("NO_MEMORY", "no %zu bytes of memory: %s. Use a smaller batch or a shorter context", bytes,
         device_->table().last_error(device_->backend()));
  }
  bytes_ = bytes;
}

void Buffer::write(const void* host, size_t bytes, size_t offset) {
  device_->check(device_->table().write(device_->backend(), as<char>() + offset, host, bytes), "write");
}

void Buffer::read(void* host, size_t bytes, size_t offset) const {
  device_->check(device_->table().read(device_->backend(), host, as<char>() + offset, bytes), "read");
}

void Buffer::zero() {
  if (data_) device_->check(device_->table().fill(device_->backend(), data_, 0, bytes_), "fill");
}

void Buffer::release() {
  if (data_) device_->table().free(device_->backend(), data_);
  data_ = nullptr;
  bytes_ = 0;
}

const credence_table& cpu_table(const std::string& isa) {
  int32_t count = 0;
  const credence_table* const* tables = credence_cpu_tables(&count);
  std::string have;
  for (int32_t i = 0; i < count; ++i) {
    const char* why = tables[i]->unavailable();
    if (isa == tables[i]->isa) {
      if (why) fail("NO_DEVICE", "instruction set %s: %s", tables[i]->isa, why);
      return *tables[i];
    }
    if (isa == "auto" && !why) return *tables[i];
    have += std::string(have.empty() ? "" : ", ") + tables[i]->isa;
  }
  fail("NO_DEVICE", "no table of kernels for instruction set \"%s\"; this build has %s", isa.c_str(), have.c_str());
}

std::string cuda_unavailable() {
  const char* reason = nullptr;
  const credence_table* table = credence_cuda_table(&reason);
  return why_not(table, reason);
}

std::vector<IsaStatus> cpu_isas() {
  int32_t count = 0;
  const credence_table* const* tables = credence_cpu_tables(&count);
  std::vector<IsaStatus> out;
  for (int32_t i = 0; i < count; ++i) {
    const char* why = tables[i]->unavailable();
    out.push_back({tables[i]->isa, why ? why : ""});
  }
  return out;
}

}  // namespace credence
