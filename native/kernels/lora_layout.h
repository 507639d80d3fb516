// What every back end asks of an adapter's layout before it packs one.
#pragma once

#include "kernels.h"

namespace credence {

/// What is wrong with a layout, to go on after its name; null: nothing.
inline const char* fault_of(const credence_lora_layout& layout) {
  if (layout.slices < 1 || layout.slices > CREDENCE_MAX_SLICES) return "has no slice, or more than three";
  for (int s = 0; s < layout.slices; ++s) {
    const credence_lora_slice& slice = layout.slice[s];
    if (slice.rank < 1) return "has a slice of rank 0";
    if (slice.row_begin < 0 || slice.row_end > layout.rows || slice.row_begin >= slice.row_end)
      return "has a slice whose rows are not rows of the product";
  }
  return nullptr;
}

}  // namespace credence
