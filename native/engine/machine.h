// The machine under the engine: its name and what it can do at best.
#pragma once

#include <string>

namespace credence {

std::string cpu_name();

/// Measured now, on this many threads: multiply-adds count two; reading is from memory far larger than the caches.
struct Peaks {
  double f32_gflops = 0, bf16_gflops = 0, read_gbs = 0;
};
Peaks measure_peaks(int threads);

/// Highest resident memory of this process so far, in bytes.
long peak_memory();

}  // namespace credence
