// The machine under the engine: its name and what it can do at best.
#pragma once

#include <string>

namespace credence {

std::string cpu_name();

/// Measured now, on this many threads: multiply-adds count two; reading is from memory far larger than the caches.
struct Peaks {
  double f32_gflops = 0, bf16_gflops = 0, read_gbs = 0;
};
/// Of an instruction set of the CPU's tables; "auto": the best this machine has. Without a bf16 dot product a product in bf16
/// is made of float32's multiply-adds, and so is its peak.
Peaks measure_peaks(int threads, const std::string& isa = "auto");

/// The clock that work on so many threads is timed with, in seconds: of one thread this process's time on a core, which
/// other work on the machine does not change; else the time of day.
double work_seconds(int threads);

/// Highest resident memory of this process so far, in bytes.
long peak_memory();

}  // namespace credence
