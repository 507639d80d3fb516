// Where a back end keeps an element of a key or a value: its own business, and a test's that looks into a page.
#pragma once

#include "backends.h"
#include "kernels/cpu/page.h"
#include "kernels/cuda/page.h"

namespace credence::testing {

inline int64_t page_element(const Backend& backend, const credence_shape& shape, int page, int head, int slot, int dim,
                            bool key) {
  if (std::string_view(backend.table->name) != "cpu")
    return (key ? cuda::page_key(shape, page, head, slot) : cuda::page_value(shape, page, head, slot)) + dim;
  const cpu::PageLayout layout = cpu::page_layout(shape, backend.dtype);
  return key ? cpu::page_keys(layout, page, head) + cpu::key_element(backend.dtype, slot, dim)
             : cpu::page_values(layout, page, head) + cpu::value_element(backend.dtype, shape.head_dim, slot, dim);
}

}  // namespace credence::testing
