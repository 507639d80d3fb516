// A page holds the keys and values of 64 consecutive tokens of one layer. Per page, per kv head, in elements:
//   float32  K [head_dim][64]            lane = key slot           then V [64][head_dim]           lane = dimension
//   bf16     K [key_dims / 2][64][2]     pairs along head_dim      then V [64 / 2][head_dim][2]    pairs along keys
// key_dims is head_dim, in bf16 rounded up to even; the padding is zero. Slots that were never written read as zero: whoever
// writes a segment's last key zeroes the rest of the page if the batch began that page.
#pragma once

#include <stdint.h>

#include "backend.h"

namespace credence::cpu {

struct PageLayout {
  int32_t head_dim, key_dims, kv_heads;
  int64_t head_stride;  // elements of one head: keys and values
  int64_t page_stride;  // elements of one page
};

static inline PageLayout page_layout(const credence_shape& shape, credence_dtype dtype) {
  PageLayout layout;
  layout.head_dim = shape.head_dim;
  layout.key_dims = dtype == CREDENCE_BF16 ? (shape.head_dim + 1) / 2 * 2 : shape.head_dim;
  layout.kv_heads = shape.kv_heads;
  layout.head_stride = static_cast<int64_t>(CREDENCE_PAGE) * (layout.key_dims + layout.head_dim);
  layout.page_stride = layout.head_stride * shape.kv_heads;
  return layout;
}

/// First element of K of a head of a page.
static inline int64_t page_keys(const PageLayout& layout, int64_t page, int head) {
  return page * layout.page_stride + head * layout.head_stride;
}

/// First element of V of a head of a page.
static inline int64_t page_values(const PageLayout& layout, int64_t page, int head) {
  return page_keys(layout, page, head) + static_cast<int64_t>(CREDENCE_PAGE) * layout.key_dims;
}

/// Element (slot, dimension) inside a head's K.
static inline int64_t key_element(credence_dtype dtype, int slot, int dim) {
  return dtype == CREDENCE_BF16 ? (dim / 2 * CREDENCE_PAGE + slot) * 2 + dim % 2 : dim * CREDENCE_PAGE + slot;
}

/// Element (slot, dimension) inside a head's V.
static inline int64_t value_element(credence_dtype dtype, int head_dim, int slot, int dim) {
  return dtype == CREDENCE_BF16 ? (slot / 2 * head_dim + dim) * 2 + slot % 2 : slot * head_dim + dim;
}

}  // namespace credence::cpu
