// Reading without learning: a batch of any size, cut into passes.
#pragma once

#include "pass.h"

namespace credence {

/// What one forward pass over the whole batch would give, to the bit; memory is bounded by PassSize and the device's limit.
PassResult read_batch(const std::shared_ptr<Policy>& policy, const HostBatch& batch, const PassRequest& request,
                      const AbortFlag* abort = nullptr);

}  // namespace credence
