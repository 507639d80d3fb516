#include "family.h"

#include <cmath>
#include <numbers>

#include "error.h"

namespace credence {

namespace {

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

std::vector<WeightSpec> weight_specs(const Family& family) {
  std::vector<WeightSpec> specs;
  specs.push_back({"model.embed_tokens.weight", {family.vocabulary, family.hidden}});
  for (int layer = 0; layer < family.layers; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".";
    const auto matrix = [&](Projection projection) {
      specs.push_back({block + projection_path(projection) + ".weight",
                       {projection_out(family, projection), projection_in(family, projection)}});
    };
    specs.push_back({block + "input_layernorm.weight", {family.hidden}});
    for (const Projection projection : {Projection::kQ, Projection::kK, Projection::kV, Projection::kO})
      matrix(projection);
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
