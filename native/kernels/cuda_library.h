// The one function that a library of CUDA kernels exports, and the only thing that the engine looks for in it.
#pragma once

#include "kernels.h"

extern "C" {

/// The back end's table, or null and why there is none: a table of another version is of no use to the caller. Whether it runs
/// on this machine its unavailable() says.
typedef const credence_table* (*credence_open_library)(int32_t version, const char** reason);
#define CREDENCE_OPEN_LIBRARY "credence_backend_v4"
}

namespace credence {

/// Where the package of CUDA kernels has its library, or null if it is not installed: told before the library is asked for, by
/// whoever knows packages. It is looked at after a build of one's own.
void set_cuda_package(const char* name, const char* library);

/// Whether somebody may expect CUDA here: NVIDIA's driver has a device, or a library was named or installed.
bool cuda_may_be_meant();

}  // namespace credence
