// A model as files that other programs load: a Hugging Face folder of safetensors, or a GGUF.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "gguf.h"
#include "json.h"
#include "merge.h"
#include "pass.h"

namespace credence {

/// A metadata value of a GGUF that this writes: the tokenizer, the chat template, names.
using GgufField = std::variant<bool, uint32_t, std::string, std::vector<int32_t>, std::vector<std::string>>;

struct WrittenModel {
  /// Names inside the folder, or of the one file.
  std::vector<std::string> files;
  uint64_t bytes = 0;
  /// What a user should know: matrices that kept another type, a context that was shortened.
  std::vector<std::string> notes;
};

/// Writes config.json and model.safetensors into a folder that is there, or as many model-0000k-of-0000n.safetensors as
/// keep each within `shard_bytes` (a larger tensor has its own) and their index. dtype is F32, F16 or BF16; what F16
/// cannot hold is an error. Every weight is read again and compared, here and for a GGUF.
WrittenModel write_folder(const MergedWeights& weights, const std::string& folder, Dtype dtype, uint64_t shard_bytes,
                          const AbortFlag* abort = nullptr);

/// Writes a GGUF as llama.cpp reads it: matrices of `type` (F32, F16, BF16, Q8_0 or Q4_0), vectors F32, a Llama's q and
/// k rows interleaved, no output matrix where it is the embedding.
WrittenModel write_gguf(const MergedWeights& weights, const std::string& path, GgufType type,
                        const std::vector<std::pair<std::string, GgufField>>& fields, const AbortFlag* abort = nullptr);

/// config.json of a family in the words of transformers 4, which 5 reads too. What they cannot say throws Error
/// "UNSUPPORTED".
Json config_json(const Family& family, Dtype dtype);

/// Throws Error "BAD_FILE" naming what differs unless two families compute the same.
void require_same_family(const Family& written, const Family& expected, const std::string& path);

/// Throws Error "NOT_THE_SAME" unless a weight that was written, read again, is its source's within what storing it as
/// `type` rounds.
void require_rounded(const MergedWeights& source, const BaseFiles& written, const WeightSpec& spec, GgufType type,
                     const AbortFlag* abort = nullptr);

/// Numbers as a GGUF stores them. F32, F16, BF16, Q8_0 and Q4_0; count is a whole number of blocks.
void quantise(GgufType type, const float* values, int64_t count, uint8_t* out);

}  // namespace credence
