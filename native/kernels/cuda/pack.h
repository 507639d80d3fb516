// Weights and adapters as products read them (backend.h, Weights and Lora).
#pragma once

#include "backend.h"

namespace credence::cuda {

Weights* pack(Backend& backend, const credence_weights_source& source);
int repack(Backend& backend, Weights& weights, const float* master);
void free_weights(Backend& backend, Weights* weights);
Lora* pack_lora(Backend& backend, const credence_lora_layout& layout, const float* parameters);
int repack_lora(Backend& backend, Lora& lora, const float* parameters);
void free_lora(Backend& backend, Lora* lora);

}  // namespace credence::cuda
