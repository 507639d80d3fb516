// What a policy owns of its base: float32 masters at the beginning of its flat buffer, and matrices packed from them. A pass reads
// them in the place of the base's own, which stay as they are for whoever shares them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base.h"
#include "tensor_file.h"

namespace credence {

/// A tensor of a policy's flat buffer.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t count() const;
};

/// Parameters that may have a learning rate and a weight decay of their own. They lie together in the flat buffer, in this order.
enum class Group { kEmbeddings, kLmHead, kNorms, kBiases, kProjections, kAdapter, kHeads };
inline constexpr Group kGroups[] = {Group::kEmbeddings,  Group::kLmHead,  Group::kNorms, Group::kBiases,
                                    Group::kProjections, Group::kAdapter, Group::kHeads};
/// "embeddings", "lmHead", "norms", "biases", "projections", "adapter", "heads".
const char* group_name(Group group);

/// [begin, end) of the flat buffer, not empty.
struct GroupRange {
  Group group;
  int64_t begin, end;
};

/// Which of its base's numbers a policy has as its own.
struct OwnedSpec {
  /// The table of tokens; where the head is tied it is the head too, and has the gradients of both.
  bool embeddings = false;
  /// The output matrix of an untied head.
  bool lm_head = false;
  /// The weights of every norm: before attention and MLP, of q and k, and the last.
  bool norms = false;
  /// The matrices of all seven in every block, and the biases of those that have one.
  bool projections = false;
  bool any() const { return embeddings || lm_head || norms || projections; }
};

/// The group of a tensor of a model's file, by its Hugging Face name.
Group group_of(const std::string& name);

/// What a file of a policy's own weights holds, by its tensors' names; of none throws Error "BAD_FILE".
OwnedSpec owned_in(const TensorFile& file);

class Owned {
 public:
  /// Offsets into the flat buffer; -1: the base's own is read.
  struct Block {
    int64_t attention_norm = -1, mlp_norm = -1, q_norm = -1, k_norm = -1;
    int64_t bias[kProducts] = {-1, -1, -1, -1}, product[kProducts] = {-1, -1, -1, -1};
  };

  Owned() = default;
  /// Throws Error "BAD_OPTION" where lm_head alone is asked for of a base whose head is tied.
  Owned(const Base& base, const OwnedSpec& spec);

  const OwnedSpec& spec() const { return spec_; }
  /// Hugging Face's names, in the order of the flat buffer.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<GroupRange>& groups() const { return groups_; }
  int64_t count() const { return parameters_.empty() ? 0 : parameters_.back().offset + parameters_.back().count(); }
  const Block& block(int layer) const { return blocks_[layer]; }
  int64_t embedding() const { return embedding_; }
  /// The embedding's where the head is tied.
  int64_t head() const { return head_; }
  int64_t final_norm() const { return final_norm_; }

  /// The base's numbers, into a flat buffer on the host.
  void read(const Base& base, float* values) const;
  /// Packs the matrices.
  void pack(const Base& base, const float* masters);
  /// The same memory from masters that have changed.
  void repack(const float* masters);
  /// Packs once what the product with the transpose needs: of the projections, or of the head.
  void prepare_backward(const Base& base, const float* masters);
  void prepare_head_backward(const Base& base, const float* masters);
  /// Prepares what `other` has prepared.
  void prepare_as(const Owned& other, const Base& base, const float* masters);

  /// Null where the base's is read.
  const credence_weights* product(int layer, Product product) const;
  const credence_weights* embedding_weights() const { return embedding_weights_.handle(); }
  const credence_weights* head_weights(bool tied) const {
    return tied ? embedding_weights_.handle() : head_weights_.handle();
  }

 private:
  void pack_products(const Base& base, const float* masters, bool backward);
  void pack_head(const Base& base, const float* masters, bool backward);

  OwnedSpec spec_;
  std::vector<Parameter> parameters_;
  std::vector<GroupRange> groups_;
  std::vector<Block> blocks_;
  int64_t embedding_ = -1, head_ = -1, final_norm_ = -1;
  std::vector<Weights> products_;  // [layers * kProducts], or empty
  Weights embedding_weights_, head_weights_;
  bool backward_ = false, head_backward_ = false;
};

}  // namespace credence
