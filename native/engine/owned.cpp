#include "owned.h"

#include <algorithm>
#include <unordered_map>

namespace credence {

int64_t Parameter::count() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

const char* group_name(Group group) {
  switch (group) {
    case Group::kEmbeddings:
      return "embeddings";
    case Group::kLmHead:
      return "lmHead";
    case Group::kNorms:
      return "norms";
    case Group::kBiases:
      return "biases";
    case Group::kProjections:
      return "projections";
    case Group::kAdapter:
      return "adapter";
    case Group::kHeads:
      return "heads";
  }
  return "heads";
}

Group group_of(const std::string& name) {
  if (name == "model.embed_tokens.weight") return Group::kEmbeddings;
  if (name == "lm_head.weight") return Group::kLmHead;
  if (name.ends_with("norm.weight")) return Group::kNorms;
  return name.ends_with(".bias") ? Group::kBiases : Group::kProjections;
}

namespace {

bool asked_for(const OwnedSpec& spec, Group group) {
  switch (group) {
    case Group::kEmbeddings:
      return spec.embeddings;
    case Group::kLmHead:
      return spec.lm_head;
    case Group::kNorms:
      return spec.norms;
    case Group::kBiases:
    case Group::kProjections:
      return spec.projections;
    default:
      return false;
  }
}

}  // namespace

OwnedSpec owned_in(const TensorFile& file) {
  OwnedSpec spec;
  for (const TensorView& tensor : file.tensors()) {
    switch (group_of(tensor.name)) {
      case Group::kEmbeddings:
        spec.embeddings = true;
        break;
      case Group::kLmHead:
        spec.lm_head = true;
        break;
      case Group::kNorms:
        spec.norms = true;
        break;
      default:
        spec.projections = true;
    }
  }
  if (!spec.any()) fail("BAD_FILE", "%s: no tensors", file.path().c_str());
  return spec;
}

Owned::Owned(const Base& base, const OwnedSpec& spec) : spec_(spec) {
  const Family& f = base.family();
  if (spec.lm_head && f.tied_head && !spec.embeddings) {
    fail("BAD_OPTION", "train.lmHead: the head of %s is its embedding. Train the embeddings, which are both",
         base.files().path.c_str());
  }
  const std::vector<WeightSpec> weights = weight_specs(f);
  std::unordered_map<std::string, int64_t> offsets;
  int64_t count = 0;
  for (const Group group : kGroups) {
    const int64_t begin = count;
    for (const WeightSpec& weight : weights) {
      if (!asked_for(spec, group) || group_of(weight.name) != group) continue;
      parameters_.push_back({weight.name, weight.shape, count});
      offsets[weight.name] = count;
      count += parameters_.back().count();
    }
    if (count > begin) groups_.push_back({group, begin, count});
  }
  const auto at = [&](const std::string& name) {
    const auto found = offsets.find(name);
    return found == offsets.end() ? -1 : found->second;
  };
  embedding_ = at("model.embed_tokens.weight");
  head_ = f.tied_head ? embedding_ : at("lm_head.weight");
  final_norm_ = at("model.norm.weight");
  blocks_.resize(f.layers);
  for (int layer = 0; layer < f.layers; ++layer) {
    Block& block = blocks_[layer];
    block.attention_norm = at(in_block(layer, "input_layernorm.weight"));
    block.mlp_norm = at(in_block(layer, "post_attention_layernorm.weight"));
    block.q_norm = at(in_block(layer, "self_attn.q_norm.weight"));
    block.k_norm = at(in_block(layer, "self_attn.k_norm.weight"));
    for (int i = 0; i < kProducts; ++i) {
      // The parts of a product are neighbours in the flat buffer: their rows are its rows.
      const std::string first = in_block(layer, projection_path(parts_of(static_cast<Product>(i)).front()));
      block.product[i] = at(first + ".weight");
      block.bias[i] = at(first + ".bias");
    }
  }
}

void Owned::read(const Base& base, float* values) const {
  for (const Parameter& parameter : parameters_) base.files().read(parameter.name, values + parameter.offset);
}

void Owned::pack(const Base& base, const float* masters) {
  const bool tied = base.family().tied_head;
  if (spec_.projections) pack_products(base, masters, false);
  if (embedding_ >= 0) {
    embedding_weights_ = base.pack_embedding(false);
    embedding_weights_.repack(masters + embedding_);
  }
  if (head_ >= 0 && !tied) pack_head(base, masters, false);
}

void Owned::pack_products(const Base& base, const float* masters, bool backward) {
  products_.resize(blocks_.size() * kProducts);
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    for (int i = 0; i < kProducts; ++i) {
      Weights& weights = products_[layer * kProducts + i];
      weights = base.pack_product(static_cast<int>(layer), static_cast<Product>(i), backward);
      weights.repack(masters + blocks_[layer].product[i]);
    }
  }
  backward_ = backward;
}

void Owned::pack_head(const Base& base, const float* masters, bool backward) {
  Weights& weights = base.family().tied_head ? embedding_weights_ : head_weights_;
  weights = base.family().tied_head ? base.pack_embedding(backward) : base.pack_lm_head(backward);
  weights.repack(masters + head_);
  head_backward_ = backward;
}

void Owned::repack(const float* masters) {
  for (size_t i = 0; i < products_.size(); ++i)
    products_[i].repack(masters + blocks_[i / kProducts].product[i % kProducts]);
  if (embedding_weights_) embedding_weights_.repack(masters + embedding_);
  if (head_weights_) head_weights_.repack(masters + head_);
}

void Owned::prepare_backward(const Base& base, const float* masters) {
  if (!backward_) pack_products(base, masters, true);
}

void Owned::prepare_head_backward(const Base& base, const float* masters) {
  if (!head_backward_) pack_head(base, masters, true);
}

void Owned::prepare_as(const Owned& other, const Base& base, const float* masters) {
  if (other.backward_) prepare_backward(base, masters);
  if (other.head_backward_) prepare_head_backward(base, masters);
}

const credence_weights* Owned::product(int layer, Product product) const {
  return products_.empty() ? nullptr : products_[layer * kProducts + static_cast<int>(product)].handle();
}

}  // namespace credence
