#include "../machine.h"

namespace credence::cuda {

const char* device_name() { return "cuda-emulated"; }
const char* device_isa() { return "cuda-emulated"; }

const char* unavailable() {
#if defined(__SANITIZE_THREAD__)
  return "the thread sanitizer does not follow the emulation's threads, which are fibers of one";
#else
  return nullptr;
#endif
}

}  // namespace credence::cuda
