// Keeping to a limit of memory: what a call would take is told by running it on a dry twin, never by a formula beside it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "policy.h"

namespace credence {

/// How a batch is cut and what its passes keep.
struct PassSize {
  int tokens = 1024;       // of a pass at most; one sequence at least
  bool recompute = false;  // keep the blocks' inputs only (PassRequest::recompute)
  bool operator==(const PassSize&) const = default;
};

/// Sizes in the order they are tried: smaller passes first, recomputation only where none of them fits.
std::vector<PassSize> pass_sizes(bool may_recompute);

/// A policy's twin on a dry device, and what else lives on the policy's own device now.
class Rehearsal {
 public:
  explicit Rehearsal(const Policy& policy);
  const std::shared_ptr<Policy>& policy() const { return policy_; }
  /// Peak of the device's memory if `body` ran there as it runs on the twin.
  size_t peak(const std::function<void()>& body) const;
  /// Bytes the device would hold now with nothing left over from earlier calls.
  size_t rest() const;

 private:
  std::shared_ptr<Policy> policy_;
  size_t others_ = 0;
};

/// Throws Error "NO_MEMORY": the call needs `least` at its smallest, and `way_out` says what would need less.
[[noreturn]] void fail_limit(const char* call, size_t least, size_t limit, const std::string& way_out);

}  // namespace credence
