// Losses whose sums stay on the device (kernels.h, credence_weighted_sum and credence_squared_error): a few numbers a row, added in
// order in double, so that neither threads nor how rows are cut into calls change a bit.
#pragma once

#include <math.h>

#include "backend.h"
#include "checks.h"

namespace credence::cpu {

template <class Isa>
size_t weighted_sum_workspace(const credence_weighted_sum*) {
  return 0;
}

template <class Isa>
int weighted_sum(credence_backend* backend, const credence_weighted_sum* p, void*) {
  if (int error = check_rows(backend, "weighted_sum", p->rows, p->capacity)) return error;
  const int64_t count = static_cast<int64_t>(*p->rows) * p->width;
  double sum = *p->sum;
  for (int64_t i = 0; i < count; ++i)
    if (p->weight[i] != 0) sum += static_cast<double>(p->weight[i]) * p->value[i];
  *p->sum = sum;
  return 0;
}

template <class Isa>
size_t squared_error_workspace(const credence_squared_error*) {
  return 0;
}

template <class Isa>
int squared_error(credence_backend* backend, const credence_squared_error* p, void*) {
  if (int error = check_rows(backend, "squared_error", p->rows, p->capacity)) return error;
  double sum = *p->sum;
  for (int32_t r = 0; r < *p->rows; ++r) {
    const double s = 1 / (1 + exp(-static_cast<double>(p->z[r]))), error = s - p->target[r];
    sum += error * error;
    p->dz[r] = static_cast<float>(2 * error * s * (1 - s));
  }
  *p->sum = sum;
  return 0;
}

}  // namespace credence::cpu
