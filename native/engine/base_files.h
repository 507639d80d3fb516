// The files of a base: a Hugging Face folder or a GGUF, behind Hugging Face names and float32.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "family.h"

namespace credence {

/// Weights of a decoder, memory-mapped. Opening checks that every weight of the family is there with its shape and that
/// there are no others; reading checks for NaN and infinity. Reading is const and may happen on several threads.
class BaseFiles {
 public:
  /// A folder with config.json and safetensors (one file or sharded), or a .gguf file. Where `shape_alone` is enough, a
  /// folder may have config.json and no weights: then `files` is empty and nothing can be read.
  static std::unique_ptr<BaseFiles> open(const std::string& path, bool shape_alone = false);
  /// Random weights of a family behind no file: a model of any size to measure. Matrices are even in +-0.05, norms are 1.
  static std::unique_ptr<BaseFiles> random(const Family& family);
  virtual ~BaseFiles() = default;

  /// As given to open.
  std::string path;
  Family family;
  /// Every file the weights come from, in name order.
  std::vector<std::string> files;
  /// How most of the matrices' elements are stored: "BF16", "Q4_1".
  std::string storage_type;

  /// Names are Hugging Face's, e.g. "model.layers.0.self_attn.q_proj.weight". A head that is tied is not a weight;
  /// one that is stored and differs from the embedding is not tied, whatever config.json says.
  bool has(const std::string& name) const;
  const std::vector<int64_t>& shape(const std::string& name) const;
  /// The whole weight, row-major.
  void read(const std::string& name, float* out) const;
  /// Rows [first, first + count) of a matrix, or elements of a vector.
  void read_rows(const std::string& name, int64_t first, int64_t count, float* out) const;

 protected:
  /// rows are inside the weight.
  virtual void load(const WeightSpec& weight, int64_t first, int64_t count, float* out) const = 0;
  /// The file that holds the weight, for messages.
  virtual const std::string& file_of(const std::string& name) const = 0;

 private:
  void list_weights();
  const WeightSpec& spec(const std::string& name) const;
  std::vector<WeightSpec> specs_;  // sorted by name
};

/// How a GGUF calls a weight: "model.layers.3.self_attn.q_proj.weight" is "blk.3.attn_q.weight".
std::string gguf_name(const std::string& name);

}  // namespace credence
