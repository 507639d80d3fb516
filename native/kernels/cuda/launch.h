// How a kernel is launched: every launch is checked, and a grid of nothing is no launch.
#pragma once

#include <tuple>

#include "backend.h"

namespace credence::cuda {

/// The kernel over the grid with the arguments, on the back end's stream; 0, or 1 with the reason in last_error.
template <class... Parameters, class... Arguments>
int launch(Backend& backend, const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
           Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  if (grid.y > 65535 || grid.z > 65535)
    return fail(backend, "%s: a grid of %u x %u x %u is more than the device takes", name, grid.x, grid.y, grid.z);
  if (int error = check(backend, cudaSetDevice(backend.device), name)) return error;
#ifdef CREDENCE_EMULATE
  emulation::enqueue(backend.stream, [=] {
    emulation::launch(name, kernel, grid, block, shared, static_cast<Parameters>(arguments)...);
  });
  return 0;
#else
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared > 48 << 10) {  // more has to be asked for
    const auto status =
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (int error = check(backend, status, name)) return error;
  }
  std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  const auto status = std::apply(
      [&](auto&... value) {
        void* addresses[] = {&value..., nullptr};  // never empty
        return cudaLaunchKernel(function, grid, block, addresses, shared, backend.stream);
      },
      values);
  return check(backend, status, name);
#endif
}

/// Blocks of `threads` that cover `count`.
inline dim3 blocks_of(int64_t count, int threads) { return dim3(static_cast<unsigned>(ceil_div(count, threads))); }

/// body.template operator()<T>() with the type that dtype names.
template <class Body>
int with_type(credence_dtype dtype, const Body& body) {
  if (dtype == CREDENCE_BF16) return body.template operator()<__nv_bfloat16>();
  return body.template operator()<float>();
}

}  // namespace credence::cuda
