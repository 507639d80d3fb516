#include "fit.h"

#include <algorithm>

namespace credence {

std::vector<PassSize> pass_sizes(bool may_recompute) {
  std::vector<PassSize> out;
  for (const bool recompute : {false, true}) {
    if (recompute && !may_recompute) break;
    for (int tokens = PassSize().tokens; tokens >= 64; tokens /= 2) out.push_back({tokens, recompute});
  }
  return out;
}

Rehearsal::Rehearsal(const Policy& policy) : policy_(policy.twin(policy.base()->twin())) {
  policy.base()->trim();
  const size_t own = policy_->base()->device()->memory().current, all = policy.base()->device()->memory().current;
  others_ = all > own ? all - own : 0;
}

size_t Rehearsal::peak(const std::function<void()>& body) const {
  policy_->base()->trim();
  const auto& device = policy_->base()->device();
  device->memory(true);
  body();
  return device->memory().peak + others_;
}

size_t Rehearsal::rest() const { return policy_->base()->device()->memory().current + others_; }

void fail_limit(const char* call, size_t least, size_t limit, const std::string& way_out) {
  fail("NO_MEMORY", "%s needs %zu bytes at least; the limit is %zu. Allow that much, or %s", call, least, limit,
       way_out.c_str());
}

}  // namespace credence
