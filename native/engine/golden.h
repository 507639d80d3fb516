// The golden driver: compares the engine with a folder of reference tensors.
//
// DIR holds one folder a model (config.json, weights, adapter/, batch.json) and, per subject, NAME.safetensors with in.* and
// out.* and NAME.json with settings and expected numbers; beside them a `gguf` folder, and `ppo` with that arithmetic alone. In float32 an error is the largest
// |got - expected| of a tensor over its largest |expected|; in bf16 the quantities of bfloat16.json must stay within twice the
// rms and the largest error that the stock computation has in bfloat16.
#pragma once

#include <string>

#include "device.h"
#include "json.h"

namespace credence {

struct GoldenOptions {
  std::string directory;
  DeviceOptions device;  // dtype f32 or bf16
  std::string write;     // where to leave what was computed, under the same names; empty: nowhere
};

/// {"models": {MODEL: {QUANTITY: {error, bound, ok}}}, "skipped": [...], "failed": n}. Every file that is neither compared nor
/// read as an input is named in `skipped`.
Json golden(const GoldenOptions& options);

}  // namespace credence
