// Which device this is, and why it cannot be used where it cannot. machine.cpp asks CUDA, emulation/machine.cpp knows.
#pragma once

namespace credence::cuda {

const char* device_name();  // "cuda", "cuda-emulated"
const char* device_isa();
const char* unavailable();  // null if there is a device, else what is missing

}  // namespace credence::cuda
