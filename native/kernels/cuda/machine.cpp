#include "machine.h"

#include <stdio.h>

#include <string>

#include "cuda.h"

namespace credence::cuda {

namespace {

constexpr int kLeastMajor = 8;  // sm_80: bf16 products and cp.async

/// What the first device is; `missing` is empty if it can be used.
struct Machine {
  std::string isa = "none", missing;
};

Machine ask() {
  Machine machine;
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (driver == 0) {
    machine.missing = "there is no NVIDIA driver (libcuda.so.1); CUDA " + version(runtime) + " needs one";
  } else if (status == cudaErrorInsufficientDriver) {
    machine.missing =
        "the NVIDIA driver is for CUDA " + version(driver) + "; these kernels need CUDA " + version(runtime);
  } else if (status != cudaSuccess) {
    machine.missing = std::string("CUDA finds no device: ") + cudaGetErrorString(status);
  } else if (count == 0) {
    machine.missing = "CUDA finds no device";
  }
  if (!machine.missing.empty()) return machine;
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, 0); error != cudaSuccess) {
    machine.missing = std::string("the device does not say what it is: ") + cudaGetErrorString(error);
    return machine;
  }
  machine.isa = "sm_" + std::to_string(properties.major * 10 + properties.minor) + (properties.major == 9 ? "a" : "");
  if (properties.major < kLeastMajor)
    machine.missing = std::string(properties.name) + " is " + machine.isa + "; the kernels need sm_80 or later";
  return machine;
}

const Machine& machine() {
  static const Machine asked = ask();
  return asked;
}

}  // namespace

const char* device_name() { return "cuda"; }
const char* device_isa() { return machine().isa.c_str(); }
const char* unavailable() { return machine().missing.empty() ? nullptr : machine().missing.c_str(); }

}  // namespace credence::cuda
