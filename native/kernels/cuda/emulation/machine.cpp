#include "../machine.h"

namespace credence::cuda {

const char* device_name() { return "cuda-emulated"; }
const char* device_isa() { return "cuda-emulated"; }

const char* unavailable() { return nullptr; }

}  // namespace credence::cuda
