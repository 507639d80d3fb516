#include "family.h"

#include <cmath>
#include <numbers>

#include "error.h"

namespace credence {

namespace {

constexpr int kMaxLayers = 4096;

struct ProjectionNames {
  const char* name;
  const char* module;
  const char* parent;
};

// In the order of Projection.
constexpr ProjectionNames kNames[] = {
    {"q", "q_proj", "self_attn"}, {"k", "k_proj", "self_attn"}, {"v", "v_proj", "self_attn"},
    {"o", "o_proj", "self_attn"}, {"gate", "gate_proj", "mlp"}, {"up", "up_proj", "mlp"},
    {"down", "down_proj", "mlp"},
};

const ProjectionNames& names(Projection projection) { return kNames[static_cast<size_t>(projection)]; }

/// "Llama 3.1" scaling: frequencies that turn more than high_frequency_factor times over the original context stay,
/// those that turn less than low_frequency_factor times are divided by factor, those between are blended linearly in
/// the number of turns.
double llama3_frequency(double frequency, const RopeScaling& scaling) {
  const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
  if (turns < scaling.low_frequency_factor) return frequency / scaling.factor;
  if (turns > scaling.high_frequency_factor) return frequency;
  const double kept =
      (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

}  // namespace

void check_family(const Family& family, const std::string& file) {
  const char* name = file.c_str();
  if (family.layers > kMaxLayers) fail("BAD_FILE", "%s: %d layers are no model", name, family.layers);
  if (family.heads % family.kv_heads != 0)
    fail("BAD_FILE", "%s: %d heads cannot share %d key/value heads", name, family.heads, family.kv_heads);
  if (family.head_dim % 2 != 0)
    fail("UNSUPPORTED", "%s: the head size %d is odd; rotary positions need pairs", name, family.head_dim);
  if (static_cast<int64_t>(family.heads) * family.head_dim > kMaxFamilySize)
    fail("BAD_FILE", "%s: %d heads of size %d are no model", name, family.heads, family.head_dim);
  // Sizes that are possible one by one may be none together; sums over them are held in 64 bits.
  const double widths =
      2.0 * family.heads * family.head_dim + 2.0 * family.kv_heads * family.head_dim + 3.0 * family.intermediate;
  if (family.hidden * (family.layers * widths + 2.0 * family.vocabulary) > 1e15)
    fail("BAD_FILE", "%s: %d layers of width %d and %d, and a vocabulary of %d, are no model", name, family.layers,
         family.hidden, family.intermediate, family.vocabulary);
  if (!(family.norm_eps > 0) || !(family.rope_theta > 0))
    fail("BAD_FILE", "%s: the norm's epsilon (%g) and rope theta (%g) must be above 0", name, family.norm_eps,
         family.rope_theta);
  const RopeScaling& scaling = family.rope_scaling;
  if (!(scaling.factor > 0)) fail("BAD_FILE", "%s: the rope scaling factor is %g", name, scaling.factor);
  if (scaling.kind == RopeScalingKind::kLlama3 &&
      (scaling.original_context <= 0 || !(scaling.high_frequency_factor > scaling.low_frequency_factor)))
    fail(
        "BAD_FILE",
        "%s: llama3 rope scaling needs original_max_position_embeddings above 0 and high_freq_factor above low_freq_factor",
        name);
}

std::vector<double> rope_frequencies(const Family& family) {
  std::vector<double> frequencies(static_cast<size_t>(family.rotary_dims / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double& frequency = frequencies[i];
    frequency = std::pow(family.rope_theta, -2.0 * static_cast<double>(i) / family.rotary_dims);
    switch (family.rope_scaling.kind) {
      case RopeScalingKind::kNone:
        break;
      case RopeScalingKind::kLinear:
        frequency /= family.rope_scaling.factor;
        break;
      case RopeScalingKind::kLlama3:
        frequency = llama3_frequency(frequency, family.rope_scaling);
        break;
      case RopeScalingKind::kFactors:
        frequency /= static_cast<double>(family.rope_scaling.factors[i]);
        break;
    }
  }
  return frequencies;
}

const char* projection_name(Projection projection) { return names(projection).name; }
const char* projection_module(Projection projection) { return names(projection).module; }

std::string projection_path(Projection projection) {
  return std::string(names(projection).parent) + "." + names(projection).module;
}

Projection projection_from_name(const std::string& name) {
  for (const Projection projection : kProjections)
    if (name == projection_name(projection) || name == projection_module(projection)) return projection;
  fail(
      "UNSUPPORTED",
      "\"%s\" is no matrix an adapter can sit on; they are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
      name.c_str());
}

int projection_in(const Family& family, Projection projection) {
  switch (projection) {
    case Projection::kO:
      return family.query_width();
    case Projection::kDown:
      return family.intermediate;
    default:
      return family.hidden;
  }
}

int projection_out(const Family& family, Projection projection) {
  switch (projection) {
    case Projection::kQ:
      return family.query_width();
    case Projection::kK:
    case Projection::kV:
      return family.kv_width();
    case Projection::kGate:
    case Projection::kUp:
      return family.intermediate;
    default:
      return family.hidden;
  }
}

bool projection_has_bias(const Family& family, Projection projection) {
  switch (projection) {
    case Projection::kQ:
    case Projection::kK:
    case Projection::kV:
      return family.qkv_bias;
    case Projection::kO:
      return family.o_bias;
    default:
      return family.mlp_bias;
  }
}

std::vector<WeightSpec> weight_specs(const Family& family) {
  std::vector<WeightSpec> specs;
  specs.push_back({"model.embed_tokens.weight", {family.vocabulary, family.hidden}});
  for (int layer = 0; layer < family.layers; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".";
    const auto matrix = [&](Projection projection) {
      const int out = projection_out(family, projection);
      specs.push_back({block + projection_path(projection) + ".weight", {out, projection_in(family, projection)}});
      if (projection_has_bias(family, projection))
        specs.push_back({block + projection_path(projection) + ".bias", {out}});
    };
    specs.push_back({block + "input_layernorm.weight", {family.hidden}});
    for (const Projection projection : {Projection::kQ, Projection::kK, Projection::kV}) matrix(projection);
    if (family.qk_norm)
      for (const char* norm : {"q_norm", "k_norm"})
        specs.push_back({block + "self_attn." + norm + ".weight", {family.head_dim}});
    matrix(Projection::kO);
    specs.push_back({block + "post_attention_layernorm.weight", {family.hidden}});
    for (const Projection projection : {Projection::kGate, Projection::kUp, Projection::kDown}) matrix(projection);
  }
  specs.push_back({"model.norm.weight", {family.hidden}});
  if (!family.tied_head) specs.push_back({"lm_head.weight", {family.vocabulary, family.hidden}});
  return specs;
}

int64_t parameter_count(const Family& family) {
  int64_t count = 0;
  for (const WeightSpec& spec : weight_specs(family)) {
    int64_t elements = 1;
    for (const int64_t extent : spec.shape) elements *= extent;
    count += elements;
  }
  return count;
}

}  // namespace credence
