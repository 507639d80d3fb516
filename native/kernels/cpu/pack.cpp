// Packing: float32 in, panels out (pack.h). Runs at load and after an optimiser step.
#include "pack.h"

#include <string.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "../faults.h"
#include "memory.h"

namespace credence::cpu {

namespace {

bf16 narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

float as(float value, float) { return value; }
bf16 as(float value, bf16) { return narrow(value); }

// Steps [k0, k1) of one panel at `panel`, whose outputs are o0 .. o0 + 31 of `outputs` and whose inputs are [0, inputs):
// element (o, k) is get(o, k), zero outside. k0 is even; k1 may be one past `inputs`, for the second half of an odd pair.
// 16 steps at a time: whichever way the matrix lies, both sides stay in L1.
template <class T, class Get>
void fill_panel(T* panel, int64_t o0, int64_t outputs, int64_t k0, int64_t k1, int64_t inputs, const Get& get) {
  constexpr credence_dtype dtype = sizeof(T) == 2 ? CREDENCE_BF16 : CREDENCE_F32;
  const int count = static_cast<int>(std::min<int64_t>(kPanel, outputs - o0));
  const int64_t end = std::min(k1, inputs);
  for (int64_t first = k0; first < end; first += 16) {
    const int64_t last = std::min(first + 16, end);
    for (int o = 0; o < count; ++o)
      for (int64_t k = first; k < last; ++k) panel[panel_element(dtype, o, k)] = as(get(o0 + o, k), T{});
    for (int o = count; o < kPanel; ++o)
      for (int64_t k = first; k < last; ++k) panel[panel_element(dtype, o, k)] = T{};
  }
  for (int64_t k = std::max(k0, end); k < k1; ++k)
    for (int o = 0; o < kPanel; ++o) panel[panel_element(dtype, o, k)] = T{};
}

template <class Get>
void fill_panel(credence_dtype dtype, void* panel, int64_t o0, int64_t outputs, int64_t k0, int64_t k1, int64_t inputs,
                const Get& get) {
  if (dtype == CREDENCE_BF16) fill_panel(static_cast<bf16*>(panel), o0, outputs, k0, k1, inputs, get);
  else fill_panel(static_cast<float*>(panel), o0, outputs, k0, k1, inputs, get);
}

size_t element_bytes(credence_dtype dtype) { return dtype == CREDENCE_BF16 ? 2 : 4; }

void* at(credence_dtype dtype, void* data, int64_t element) {
  return static_cast<char*>(data) + static_cast<size_t>(element) * element_bytes(dtype);
}

int64_t even(credence_dtype dtype, int64_t k) { return dtype == CREDENCE_BF16 ? (k + 1) / 2 * 2 : k; }

template <class Get>
void fill_panels(credence_backend* backend, credence_dtype dtype, void* data, int64_t outputs, int64_t inputs,
                 const Get& get) {
  backend->pool.parallel(panels_of(outputs), [&](int64_t p, int) {
    fill_panel(dtype, at(dtype, data, p * panel_elements(dtype, inputs)), p * kPanel, outputs, 0, even(dtype, inputs),
               inputs, get);
  });
}

// Rows [row, row + 32) of a matrix (fewer at its end), `values`, into both sets of panels. Rows are outputs of one and inputs of
// the other; row is a multiple of 32.
void fill_rows(credence_weights* w, int64_t row, const float* values) {
  const int64_t columns = w->columns, rows = w->rows, end = std::min<int64_t>(row + kPanel, rows);
  fill_panel(w->dtype, at(w->dtype, w->panels, row / kPanel * panel_elements(w->dtype, columns)), row, rows, 0,
             even(w->dtype, columns), columns, [&](int64_t r, int64_t c) { return values[(r - row) * columns + c]; });
  if (!w->transposed) return;
  for (int64_t p = 0; p < panels_of(columns); ++p)
    fill_panel(w->dtype, at(w->dtype, w->transposed, p * panel_elements(w->dtype, rows)), p * kPanel, columns, row,
               end == rows ? even(w->dtype, rows) : end, rows,
               [&](int64_t c, int64_t r) { return values[(r - row) * columns + c]; });
}

// Which inputs a panel of outputs meets: the union over the slices it holds rows of.
template <class Outputs, class Inputs>
void plan_ranges(const credence_lora_layout& layout, int64_t outputs, const Outputs& of_slice,
                 const Inputs& inputs_of_slice, RangedPanels* panels, std::vector<PanelRange>* ranges) {
  panels->panels = panels_of(outputs);
  panels->elements = 0;
  for (int64_t p = 0; p < panels->panels; ++p) {
    int32_t begin = 0, end = 0;
    for (int s = 0; s < layout.slices; ++s) {
      const auto [first, last] = of_slice(s);
      if (first >= std::min<int64_t>((p + 1) * kPanel, outputs) || last <= p * kPanel) continue;
      const auto [low, high] = inputs_of_slice(s);
      begin = end == 0 ? low : std::min(begin, low);
      end = std::max(end, high);
    }
    ranges->push_back({begin, end - begin, panels->elements});
    panels->elements += panel_elements(layout.dtype, end - begin);
  }
}

template <class Get>
void fill_ranges(credence_backend* backend, credence_dtype dtype, const RangedPanels& panels, int64_t outputs,
                 const Get& get) {
  backend->pool.parallel(panels.panels, [&](int64_t p, int) {
    const PanelRange range = panels.ranges[p];
    fill_panel(dtype, at(dtype, panels.data, range.offset), p * kPanel, outputs, 0, even(dtype, range.count),
               range.count, [&](int64_t o, int64_t k) { return get(o, range.begin + k); });
  });
}

}  // namespace

void free_weights(credence_backend* backend, credence_weights* weights) {
  if (!weights) return;
  release(backend, weights->panels);
  release(backend, weights->transposed);
  delete weights;
}

credence_weights* pack(credence_backend* backend, const credence_weights_source* source) {
  if (source->rows < 1 || source->columns < 1) {
    fail(backend, "a matrix of %d x %d cannot be packed", source->rows, source->columns);
    return nullptr;
  }
  auto* weights = new (std::nothrow) credence_weights{source->rows, source->columns, source->dtype, nullptr, nullptr};
  const size_t strip = static_cast<size_t>(kPanel) * source->columns;  // what a thread reads at a time
  const std::unique_ptr<float[]> strips(new (std::nothrow) float[backend->pool.threads() * strip]);
  if (!weights || !strips) {
    fail(backend, "not enough memory to pack a matrix of %d x %d", source->rows, source->columns);
    delete weights;
    return nullptr;
  }
  const auto bytes = [&](int64_t outputs, int64_t inputs) {
    return static_cast<size_t>(panels_of(outputs) * panel_elements(source->dtype, inputs)) *
           element_bytes(source->dtype);
  };
  weights->panels = allocate(backend, bytes(source->rows, source->columns), MemoryUse::kWeights);
  if (source->backward)
    weights->transposed = allocate(backend, bytes(source->columns, source->rows), MemoryUse::kWeights);
  if (!weights->panels || (source->backward && !weights->transposed)) {
    free_weights(backend, weights);
    return nullptr;
  }
  if (backend->dry) return weights;
  backend->pool.parallel(panels_of(source->rows), [&](int64_t panel, int thread) {
    const int32_t row = static_cast<int32_t>(panel * kPanel), count = std::min<int32_t>(kPanel, source->rows - row);
    float* values = strips.get() + thread * strip;
    source->read(source->context, row, count, values);
    fill_rows(weights, row, values);
  });
  return weights;
}

int repack(credence_backend* backend, credence_weights* weights, const float* master) {
  if (backend->dry) return 0;
  backend->pool.parallel(panels_of(weights->rows), [&](int64_t panel, int) {
    fill_rows(weights, panel * kPanel, master + panel * kPanel * weights->columns);
  });
  return 0;
}

void free_lora(credence_backend* backend, credence_lora* lora) {
  if (!lora) return;
  release(backend, lora->a);
  release(backend, lora->a_transposed);
  for (RangedPanels* panels : {&lora->b, &lora->b_transposed}) {
    release(backend, panels->ranges);
    release(backend, panels->data);
  }
  delete lora;
}

credence_lora* pack_lora(credence_backend* backend, const credence_lora_layout* layout, const float* parameters) {
  if (const char* reason = fault_of(*layout)) {
    fail(backend, "the adapter's layout for a product of %d x %d %s", layout->rows, layout->columns, reason);
    return nullptr;
  }
  auto* lora = new (std::nothrow) credence_lora{};
  if (!lora) {
    fail(backend, "not enough memory for an adapter");
    return nullptr;
  }
  lora->layout = *layout;
  for (int s = 0; s < layout->slices; ++s) {
    lora->first_rank[s] = lora->ranks;
    lora->ranks += layout->slice[s].rank;
  }
  const credence_dtype dtype = layout->dtype;
  const size_t bytes = element_bytes(dtype);
  const auto rows_of = [&](int s) {
    return std::pair<int32_t, int32_t>(layout->slice[s].row_begin, layout->slice[s].row_end);
  };
  const auto ranks_of = [&](int s) {
    return std::pair<int32_t, int32_t>(lora->first_rank[s], lora->first_rank[s] + layout->slice[s].rank);
  };
  std::vector<PanelRange> ranges, ranges_transposed;
  plan_ranges(*layout, layout->rows, rows_of, ranks_of, &lora->b, &ranges);
  plan_ranges(*layout, lora->ranks, ranks_of, rows_of, &lora->b_transposed, &ranges_transposed);
  const auto take = [&](int64_t count, size_t each) {
    return allocate(backend, static_cast<size_t>(count) * each, MemoryUse::kAdapters);
  };
  lora->b.ranges = static_cast<PanelRange*>(take(lora->b.panels, sizeof(PanelRange)));
  lora->b_transposed.ranges = static_cast<PanelRange*>(take(lora->b_transposed.panels, sizeof(PanelRange)));
  lora->a = take(panels_of(lora->ranks) * panel_elements(dtype, layout->columns), bytes);
  lora->a_transposed = take(panels_of(layout->columns) * panel_elements(dtype, lora->ranks), bytes);
  lora->b.data = take(lora->b.elements, bytes);
  lora->b_transposed.data = take(lora->b_transposed.elements, bytes);
  if (!lora->b.ranges || !lora->b_transposed.ranges || !lora->a || !lora->a_transposed || !lora->b.data ||
      !lora->b_transposed.data) {
    free_lora(backend, lora);
    return nullptr;
  }
  if (backend->dry) return lora;
  std::copy(ranges.begin(), ranges.end(), lora->b.ranges);
  std::copy(ranges_transposed.begin(), ranges_transposed.end(), lora->b_transposed.ranges);
  repack_lora(backend, lora, parameters);
  return lora;
}

int repack_lora(credence_backend* backend, credence_lora* lora, const float* parameters) {
  if (backend->dry) return 0;
  const credence_lora_layout& layout = lora->layout;
  const auto slice_of_rank = [&](int64_t r) {
    int s = layout.slices - 1;
    while (r < lora->first_rank[s]) --s;
    return s;
  };
  const auto a = [&](int64_t r, int64_t k) {
    const int s = slice_of_rank(r);
    return parameters[layout.slice[s].a + (r - lora->first_rank[s]) * layout.columns + k];
  };
  const auto b = [&](int64_t row, int64_t r) {  // scale B
    const int s = slice_of_rank(r);
    const credence_lora_slice& slice = layout.slice[s];
    if (row < slice.row_begin || row >= slice.row_end) return 0.0f;
    return slice.scale * parameters[slice.b + (row - slice.row_begin) * slice.rank + (r - lora->first_rank[s])];
  };
  fill_panels(backend, layout.dtype, lora->a, lora->ranks, layout.columns, a);
  fill_panels(backend, layout.dtype, lora->a_transposed, layout.columns, lora->ranks,
              [&](int64_t k, int64_t r) { return a(r, k); });
  fill_ranges(backend, layout.dtype, lora->b, layout.rows, b);
  fill_ranges(backend, layout.dtype, lora->b_transposed, lora->ranks,
              [&](int64_t r, int64_t row) { return b(row, r); });
  return 0;
}

}  // namespace credence::cpu
