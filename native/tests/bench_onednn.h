// oneDNN's packed product as a yardstick for the engine's: found when the drivers are configured, or said to be missing.
#pragma once

#include <memory>
#include <string>

namespace credence::yardstick {

/// y [rows, outputs] float32 = x [rows, columns] W^T, with the weights in the layout that oneDNN chooses for them.
class OneDnnProduct {
 public:
  /// Null where it cannot be had, with the reason in `why`.
  static std::unique_ptr<OneDnnProduct> open(int rows, int outputs, int columns, bool bf16, std::string* why);
  virtual ~OneDnnProduct() = default;
  virtual void run() = 0;
};

/// "2.6.3"; empty where it was not found.
std::string onednn_version();
void onednn_threads(int threads);

}  // namespace credence::yardstick
