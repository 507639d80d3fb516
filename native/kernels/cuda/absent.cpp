// The CUDA back end where there is none: no table, and the reason. `credence doctor` prints it, and `--device cuda` fails
// with it.
#include "native/kernels/kernels.h"

const credence_table* credence_cuda_table(const char** reason) {
  if (reason) *reason = "this version of Credence has kernels for the CPU only";
  return nullptr;
}
