// Launches that come again and again on other content of the same memory: recorded, and replayed from then on, where a back end has
// that (kernels.h, `record`).
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "device.h"

namespace credence {

class Recorded {
 public:
  explicit Recorded(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  ~Recorded() { forget(); }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;

  /// What `body` launches. The first time with a key it runs as it is, which takes what workspace it needs and lets products be
  /// chosen; the second time it is recorded; then it is replayed. Under one key it launches the same on the same memory, and
  /// neither writes nor reads.
  void run(int key, const std::function<void()>& body);

 private:
  void forget();

  std::shared_ptr<Device> device_;
  std::map<int, credence_graph*> graphs_;  // null: has run once
  const void* scratch_ = nullptr;          // the workspace that the recordings point to
};

}  // namespace credence
