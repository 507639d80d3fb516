// Weights and adapters as the product reads them: panels of 32 outputs.
//   float32  [panels][columns][32]                one k a step
//   bf16     [panels][(columns + 1) / 2][32][2]   two k a step
// Outputs are padded to 32 and, in bf16, columns to an even number; the padding is zero.
// No vector code here: every instruction set reads the same panels.
#pragma once

#include <stdint.h>

#include "backend.h"

namespace credence::cpu {

constexpr int kPanel = 32;

static inline int64_t panels_of(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }
/// Elements of one panel over `columns`.
static inline int64_t panel_elements(credence_dtype dtype, int64_t columns) {
  return kPanel * (dtype == CREDENCE_BF16 ? (columns + 1) / 2 * 2 : columns);
}
/// Where output o (of 32), column k stands in a panel.
static inline int64_t panel_element(credence_dtype dtype, int64_t o, int64_t k) {
  return dtype == CREDENCE_BF16 ? (k / 2 * kPanel + o) * 2 + k % 2 : k * kPanel + o;
}

/// A run of inputs that one panel reads: of a second, short product behind the first (an adapter's tail), or of a product
/// whose other inputs meet zeros.
struct PanelRange {
  int32_t begin, count;  // inputs
  int64_t offset;        // elements, of the panel's weights
};

/// Panels that read different runs of their inputs. Runs of neighbouring slices are one run: a panel that holds rows of two
/// slices reads both, with zeros where they do not belong.
struct RangedPanels {
  int64_t panels = 0, elements = 0;
  PanelRange* ranges = nullptr;  // [panels]
  void* data = nullptr;
};

}  // namespace credence::cpu

struct credence_weights {
  int32_t rows, columns;
  credence_dtype dtype;
  void* panels;      // outputs = rows, inputs = columns: Y = X W^T
  void* transposed;  // outputs = columns, inputs = rows: dX = dY W; null unless asked for
};

struct credence_lora {
  credence_lora_layout layout;
  int32_t ranks;                             // of all slices: the width of S
  int32_t first_rank[CREDENCE_MAX_SLICES];   // where a slice's columns of S begin
  void* a;                                   // panels, outputs = ranks, inputs = columns: S = X A^T
  void* a_transposed;                        // panels, outputs = columns, inputs = ranks: the tail G A of dX
  credence::cpu::RangedPanels b;             // outputs = rows, inputs = ranks: the tail scale S B^T of Y
  credence::cpu::RangedPanels b_transposed;  // outputs = ranks, inputs = rows: G = scale dY B
};

namespace credence::cpu {

credence_weights* pack(credence_backend* backend, const credence_weights_source* source);
int repack(credence_backend* backend, credence_weights* weights, const float* master);
void free_weights(credence_backend* backend, credence_weights* weights);
credence_lora* pack_lora(credence_backend* backend, const credence_lora_layout* layout, const float* parameters);
int repack_lora(credence_backend* backend, credence_lora* lora, const float* parameters);
void free_lora(credence_backend* backend, credence_lora* lora);

}  // namespace credence::cpu
