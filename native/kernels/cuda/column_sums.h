// Sums over rows:  out[c] += sum over r of value(r, c), in a fixed order: runs of 128 rows, then the runs one after the other.
#pragma once

#include "device.h"
#include "launch.h"

namespace credence::cuda {

constexpr int kSumRows = 128, kSumColumns = 128;

/// Floats of workspace that column_sums needs.
inline int64_t column_sums_floats(int64_t rows, int64_t columns) { return ceil_div(rows, kSumRows) * columns; }

template <class Value>
__global__ void __launch_bounds__(kSumColumns) sum_runs_of_rows(Value value, const int32_t* rows, int32_t capacity,
                                                                int32_t per_row, int32_t columns, float* parts) {
  const int column = static_cast<int>(blockIdx.x * kSumColumns + threadIdx.x);
  if (column >= columns) return;
  const int64_t count = static_cast<int64_t>(min(max(*rows, 0), capacity)) * per_row;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kSumRows, end = min(begin + kSumRows, count);
  float sum = 0;
  for (int64_t r = begin; r < end; ++r) sum += value(r, column);
  parts[static_cast<int64_t>(blockIdx.y) * columns + column] = sum;
}

__global__ void add_runs(const float* parts, int32_t runs, int32_t columns, float* out);

/// value: a functor of the device. Each of the `capacity` rows is `per_row` of value's.
template <class Value>
int column_sums(Backend& backend, const char* name, const Value& value, const int32_t* rows, int32_t capacity,
                int32_t per_row, int32_t columns, float* parts, float* out) {
  const auto runs = static_cast<unsigned>(ceil_div(static_cast<int64_t>(capacity) * per_row, kSumRows));
  const dim3 blocks = blocks_of(columns, kSumColumns);
  if (int error = launch(backend, name, &sum_runs_of_rows<Value>, dim3(blocks.x, runs), dim3(kSumColumns), 0, value,
                         rows, capacity, per_row, columns, parts))
    return error;
  return launch(backend, name, &add_runs, blocks, dim3(kSumColumns), 0, parts, static_cast<int32_t>(runs), columns,
                out);
}

}  // namespace credence::cuda
