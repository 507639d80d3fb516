// A base's weights, or a policy's own in their place, with an adapter merged into them and the vocabulary cut or grown: what is
// written as a new model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adapter_files.h"
#include "base_files.h"

namespace credence {

/// Adds s B A to rows [first, first + count) of a projection's matrix: rows[count, in], float32 throughout.
void add_product(const AdapterConfig& config, const AdapterPair& pair, int64_t first, int64_t count, float* rows);

/// W + s B A of one projection, [out, in].
std::vector<float> merged_projection(const BaseFiles& base, const Adapter& adapter, int layer, Projection projection);

/// Weights read a block of rows at a time, so that a model of any size passes through a small buffer. The base and the
/// adapter must outlive this object, and so must `own`.
class MergedWeights {
 public:
  /// `adapter` may be null, and so may `own`: a policy's own weights, which stand in for the base's of the same names. `vocabulary`
  /// 0: the base's own. Rows of the embedding and of an untied head beyond the base's are the mean of the rows that there are.
  MergedWeights(const BaseFiles& base, const Adapter* adapter, int vocabulary = 0, const TensorFile* own = nullptr);

  const BaseFiles& base() const { return base_; }
  /// The base's family with the vocabulary asked for.
  const Family& family() const { return family_; }
  /// Rows [first, first + count) of a matrix, or elements of a vector, by their Hugging Face name.
  void read_rows(const std::string& name, int64_t first, int64_t count, float* out) const;

 private:
  struct Mean {
    std::string name;
    std::vector<float> row;
  };
  /// Of the file that has the weight.
  void read_source(const std::string& name, int64_t first, int64_t count, float* out) const;
  void read_vocabulary_rows(const std::string& name, int64_t first, int64_t count, float* out) const;
  std::vector<float> mean_row(const std::string& name) const;

  const BaseFiles& base_;
  const Adapter* adapter_;
  const TensorFile* own_;
  Family family_;
  std::vector<Mean> means_;
};

}  // namespace credence
