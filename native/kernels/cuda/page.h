// A page holds the keys and values of 64 consecutive tokens of one layer. Per page, per kv head, in elements:
//   K [64][head_dim], then V [64][head_dim]     a row is a key's, as attention copies it into shared memory
// Slots that were never written read as zero: whoever writes a segment's last key zeroes the rest of the page if the batch
// began that page.
#pragma once

#include <stdint.h>

#include "../faults.h"

namespace credence::cuda {

/// The first element of a slot of K of a head of a page.
CREDENCE_BOTH inline int64_t page_key(const credence_shape& shape, int64_t page, int32_t head, int32_t slot) {
  return ((page * shape.kv_heads + head) * 2 * CREDENCE_PAGE + slot) * shape.head_dim;
}
/// The same of V.
CREDENCE_BOTH inline int64_t page_value(const credence_shape& shape, int64_t page, int32_t head, int32_t slot) {
  return page_key(shape, page, head, CREDENCE_PAGE + slot);
}
inline int64_t page_elements(const credence_shape& shape) {
  return int64_t{2} * CREDENCE_PAGE * shape.kv_heads * shape.head_dim;
}

}  // namespace credence::cuda
