#include "policy.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "random.h"

namespace credence {

Lora& Lora::operator=(Lora&& other) noexcept {
  if (this != &other) {
    release();
    device_ = std::move(other.device_);
    handle_ = std::exchange(other.handle_, nullptr);
    ranks = other.ranks;
  }
  return *this;
}

void Lora::pack(std::shared_ptr<Device> device, const credence_lora_layout& layout, const float* parameters) {
  release();
  device_ = std::move(device);
  ranks = 0;
  for (int i = 0; i < layout.slices; ++i) ranks += layout.slice[i].rank;
  handle_ = device_->table().pack_lora(device_->backend(), &layout, parameters);
  if (!handle_) fail("NO_MEMORY", "no memory for the adapter: %s", device_->table().last_error(device_->backend()));
}

void Lora::repack(const float* parameters) {
  if (handle_) device_->check(device_->table().repack_lora(device_->backend(), handle_, parameters), "repack_lora");
}

void Lora::release() {
  if (handle_) device_->table().free_lora(device_->backend(), handle_);
  handle_ = nullptr;
}

Policy::Policy(std::shared_ptr<Base> base, const std::optional<AdapterSpec>& adapter,
               const std::vector<HeadSpec>& heads, const OwnedSpec& owned)
    : base_(std::move(base)) {
  if (adapter) adapter_ = adapter->config;
  lay_out(heads, owned);
  std::vector<float> values(count_, 0.0f);
  initialise(adapter ? std::optional(adapter->seed) : std::nullopt, values);
  finish(values);
}

Policy::Policy(std::shared_ptr<Base> base, const std::string& directory, const std::vector<HeadSpec>& heads,
               const OwnedSpec& owned)
    : base_(std::move(base)) {
  const Adapter loaded = load_adapter(directory, base_->family(), base_->files().path);
  adapter_ = loaded.config;
  lay_out(heads, owned);
  std::vector<float> values(count_, 0.0f);
  initialise(std::nullopt, values);
  size_t i = 0;
  for (const AdapterPair& pair : loaded.pairs) {
    std::copy(pair.a.begin(), pair.a.end(), values.begin() + adapter_parameters_.at(i++).offset);
    std::copy(pair.b.begin(), pair.b.end(), values.begin() + adapter_parameters_.at(i++).offset);
  }
  if (i != adapter_parameters_.size()) {
    fail("BAD_FILE", "%s: adapter_model.safetensors holds %zu tensors; adapter_config.json names %zu",
         directory.c_str(), i, adapter_parameters_.size());
  }
  finish(values);
}

std::shared_ptr<Policy> Policy::twin(std::shared_ptr<Base> base) const {
  std::vector<HeadSpec> heads;
  for (const Head& head : heads_) heads.push_back(head.spec);
  const auto adapter = adapter_ ? std::optional(AdapterSpec{*adapter_, 0}) : std::nullopt;
  auto twin = std::make_shared<Policy>(std::move(base), adapter, heads, owned_.spec());
  twin->owned_.prepare_as(owned_, *twin->base_, twin->parameters());
  return twin;
}

const Head& Policy::head(const std::string& name) const {
  for (const Head& head : heads_) {
    if (head.spec.name == name) return head;
  }
  std::string have;
  for (const Head& head : heads_) have += (have.empty() ? "" : ", ") + head.spec.name;
  fail("BAD_OPTION", "no head \"%s\"; this policy has %s", name.c_str(), have.empty() ? "none" : have.c_str());
}

void Policy::lay_out(const std::vector<HeadSpec>& heads, const OwnedSpec& owned) {
  const Family& f = base_->family();
  owned_ = Owned(*base_, owned);
  count_ = owned_.count();
  auto add = [&](std::vector<Parameter>& to, std::string name, std::vector<int64_t> shape) {
    to.push_back({std::move(name), std::move(shape), count_});
    count_ += to.back().count();
    return to.back().offset;
  };
  lowest_ = owned.embeddings || owned.norms || owned.projections ? 0 : f.layers;
  loras_.resize(static_cast<size_t>(f.layers) * kProducts);
  if (adapter_) {
    if (adapter_->r < 1 || adapter_->r > 1024)
      fail("BAD_OPTION", "adapter rank: expected 1 to 1024 but received %d", adapter_->r);
    if (!(adapter_->dropout >= 0 && adapter_->dropout < 1))
      fail("BAD_OPTION", "adapter dropout: expected a number from 0, below 1, but received %g", adapter_->dropout);
    if (adapter_->targets.empty())
      fail("BAD_OPTION", "adapter targets: expected at least one projection but received none");
    std::vector<Projection> targets;
    for (Projection p : kProjections) {
      if (std::count(adapter_->targets.begin(), adapter_->targets.end(), p)) targets.push_back(p);
    }
    adapter_->targets = targets;
    std::vector<int> layers;
    if (adapter_->layers) {
      layers = *adapter_->layers;
      std::sort(layers.begin(), layers.end());
      for (int layer : layers) {
        if (layer < 0 || layer >= f.layers)
          fail("BAD_OPTION", "adapter layers: %d is not one of the model's %d blocks", layer, f.layers);
      }
    } else {
      for (int layer = 0; layer < f.layers; ++layer) layers.push_back(layer);
    }
    for (int layer : layers) {
      for (Projection p : kProjections) {
        if (!adapter_->adapts(layer, p)) continue;
        lowest_ = std::min(lowest_, layer);
        add(adapter_parameters_, adapter_tensor_name(layer, p, 'A'), {adapter_->r, projection_in(f, p)});
        add(adapter_parameters_, adapter_tensor_name(layer, p, 'B'), {projection_out(f, p), adapter_->r});
      }
    }
  }
  for (const HeadSpec& spec : heads) {
    Head head{spec, {}};
    for (const Head& other : heads_) {
      if (other.spec.name == spec.name) fail("BAD_OPTION", "heads: two heads are called \"%s\"", spec.name.c_str());
    }
    if (head.spec.layer < 0) head.spec.layer = f.layers;
    if (head.spec.layer > f.layers) {
      fail("BAD_OPTION", "head %s reads depth %d; the model has depths 0 to %d", spec.name.c_str(), spec.layer,
           f.layers);
    }
    std::vector<int> widths = spec.widths;
    widths.push_back(spec.outputs);
    int in = f.hidden;
    for (size_t i = 0; i < widths.size(); ++i) {
      if (widths[i] < 1) fail("BAD_OPTION", "head %s: width %d is not positive", spec.name.c_str(), widths[i]);
      // PyTorch's names: a lone Linear, or a Sequential whose odd places are the ReLUs.
      const std::string name = spec.widths.empty() ? spec.name : spec.name + "." + std::to_string(2 * i);
      HeadLayer layer{in, widths[i], 0, 0};
      layer.weight = add(head_parameters_, name + ".weight", {widths[i], in});
      layer.bias = spec.bias ? add(head_parameters_, name + ".bias", {widths[i]}) : -1;
      head.layers.push_back(layer);
      in = widths[i];
    }
    heads_.push_back(std::move(head));
  }
}

void Policy::initialise(std::optional<uint64_t> adapter_seed, std::vector<float>& values) const {
  if (base_->device()->dry()) return;
  owned_.read(*base_, values.data());
  auto uniform = [&](const Parameter& parameter, double bound, uint64_t seed, uint64_t index) {
    for (int64_t i = 0; i < parameter.count(); ++i) {
      values[parameter.offset + i] = static_cast<float>((2 * counter_uniform(seed, index, i) - 1) * bound);
    }
  };
  if (adapter_seed) {
    for (size_t i = 0; i < adapter_parameters_.size(); i += 2) {
      // Kaiming-uniform with a = sqrt(5): bound = sqrt(6 / (1 + 5) / fan_in).
      uniform(adapter_parameters_[i], 1 / std::sqrt(static_cast<double>(adapter_parameters_[i].shape[1])),
              *adapter_seed, i);
    }
  }
  size_t at = 0;
  for (size_t h = 0; h < heads_.size(); ++h) {
    const HeadSpec& spec = heads_[h].spec;
    for (size_t i = 0; i < heads_[h].layers.size(); ++i, at += spec.bias ? 2 : 1) {
      if (!spec.seed) continue;
      const double bound = 1 / std::sqrt(static_cast<double>(heads_[h].layers[i].in));
      uniform(head_parameters_[at], bound, *spec.seed, 2 * i + (h << 32));
      if (spec.bias) uniform(head_parameters_[at + 1], bound, *spec.seed, 2 * i + 1 + (h << 32));
    }
  }
}

void Policy::finish(const std::vector<float>& values) {
  const Family& f = base_->family();
  const auto& device = base_->device();
  parameters_ = Buffer(device, std::max<size_t>(values.size(), 1) * sizeof(float));
  if (!values.empty()) parameters_.write(values.data(), values.size() * sizeof(float));
  owned_.pack(*base_, parameters_.f32());
  for (size_t i = 0; i < adapter_parameters_.size();) {
    // The layer's tensors stand in the order of kProjections, so a product's slices are neighbours.
    const int layer =
        std::stoi(adapter_parameters_[i].name.substr(std::string("base_model.model.model.layers.").size()));
    for (int product = 0; product < kProducts; ++product) {
      credence_lora_layout layout{};
      layout.dtype = device->dtype();
      for (Projection p : kProjections) {
        if (static_cast<int>(product_of(p)) != product) continue;
        const int rows = projection_out(f, p);
        if (adapter_->adapts(layer, p)) {
          layout.slice[layout.slices++] = {layout.rows,
                                           layout.rows + rows,
                                           adapter_->r,
                                           static_cast<float>(adapter_->scale()),
                                           adapter_parameters_[i].offset,
                                           adapter_parameters_[i + 1].offset};
          i += 2;
        }
        layout.rows += rows;
        layout.columns = projection_in(f, p);
      }
      if (layout.slices) loras_[layer * kProducts + product].pack(device, layout, parameters_.f32());
    }
  }
}

const Lora* Policy::lora(int layer, Product product) const {
  const Lora& lora = loras_[layer * kProducts + static_cast<int>(product)];
  return lora.handle() ? &lora : nullptr;
}

void Policy::prepare_backward() {
  if (owned_.spec().projections) owned_.prepare_backward(*base_, parameters());
  else base_->prepare_backward(lowest_);
}

void Policy::prepare_head_backward() {
  if (owned_.head() >= 0) owned_.prepare_head_backward(*base_, parameters());
  else base_->prepare_head_backward();
}

std::vector<Parameter> Policy::all_parameters() const {
  std::vector<Parameter> all;
  for (const std::vector<Parameter>* list : {&owned_.parameters(), &adapter_parameters_, &head_parameters_})
    all.insert(all.end(), list->begin(), list->end());
  return all;
}

std::vector<GroupRange> Policy::groups() const {
  std::vector<GroupRange> groups = owned_.groups();
  const auto add = [&](Group group, const std::vector<Parameter>& list) {
    if (!list.empty()) groups.push_back({group, list.front().offset, list.back().offset + list.back().count()});
  };
  add(Group::kAdapter, adapter_parameters_);
  add(Group::kHeads, head_parameters_);
  return groups;
}

void Policy::repack() {
  owned_.repack(parameters_.f32());
  for (Lora& lora : loras_) lora.repack(parameters_.f32());
}

void Policy::set_parameters(const std::vector<NamedTensor>& tensors) {
  const std::vector<Parameter> known = all_parameters();
  for (const NamedTensor& tensor : tensors) {
    const auto found =
        std::find_if(known.begin(), known.end(), [&](const Parameter& p) { return p.name == tensor.name; });
    if (found == known.end()) fail("WRONG_MODEL", "tensor \"%s\" is not one of this policy's", tensor.name.c_str());
    if (found->shape != tensor.shape) {
      fail("WRONG_MODEL", "tensor \"%s\" has shape %s; this policy's has %s. Was it made for another model?",
           tensor.name.c_str(), shape_text(tensor.shape).c_str(), shape_text(found->shape).c_str());
    }
    require_finite(tensor.data.data(), tensor.data.size(), "the tensors given", tensor.name);
    parameters_.write(tensor.data.data(), tensor.data.size() * sizeof(float), found->offset * sizeof(float));
  }
  repack();
}

void Policy::load_owned(const TensorFile& file) {
  for (const Parameter& parameter : owned_.parameters()) {
    if (!file.find(parameter.name)) {
      fail("WRONG_MODEL", "%s has no tensor %s, which the model has. Was it made for another model?",
           file.path().c_str(), parameter.name.c_str());
    }
  }
  for (const TensorView& tensor : file.tensors()) {
    const auto known = std::find_if(owned_.parameters().begin(), owned_.parameters().end(),
                                    [&](const Parameter& parameter) { return parameter.name == tensor.name; });
    if (known == owned_.parameters().end() || known->shape != tensor.shape) {
      fail("WRONG_MODEL", "%s: tensor %s %s is not one of the model's. Was it made for another model?",
           file.path().c_str(), tensor.name.c_str(), shape_text(tensor.shape).c_str());
    }
    if (base_->device()->dry()) continue;
    const std::vector<float> values = tensor.floats();
    require_finite(values.data(), values.size(), file.path(), tensor.name);
    parameters_.write(values.data(), values.size() * sizeof(float), known->offset * sizeof(float));
  }
  repack();
}

Adapter Policy::adapter() const {
  Adapter out{*adapter_, {}};
  const std::vector<float> values = read_parameters();
  size_t i = 0;
  auto next = [&] {
    const Parameter& p = adapter_parameters_[i++];
    return std::vector<float>(values.begin() + p.offset, values.begin() + p.offset + p.count());
  };
  for (int layer = 0; layer < base_->family().layers; ++layer) {
    for (Projection p : kProjections) {
      if (!adapter_->adapts(layer, p)) continue;
      AdapterPair pair{layer, p, {}, {}};
      pair.a = next();
      pair.b = next();
      out.pairs.push_back(std::move(pair));
    }
  }
  return out;
}

const credence_weights* WeightsOf::product(int layer, Product product) const {
  const credence_weights* owned = policy_ ? policy_->owned().product(layer, product) : nullptr;
  return owned ? owned : base_.block(layer).product[static_cast<int>(product)].handle();
}

const credence_weights* WeightsOf::embedding() const {
  const credence_weights* owned = policy_ ? policy_->owned().embedding_weights() : nullptr;
  return owned ? owned : base_.embedding();
}

const credence_weights* WeightsOf::head() const {
  const credence_weights* owned = policy_ ? policy_->owned().head_weights(base_.family().tied_head) : nullptr;
  return owned ? owned : base_.head();
}

const float* WeightsOf::attention_norm(int layer) const {
  return vector(own(&Owned::Block::attention_norm, layer), base_.block(layer).attention_norm.f32());
}

const float* WeightsOf::mlp_norm(int layer) const {
  return vector(own(&Owned::Block::mlp_norm, layer), base_.block(layer).mlp_norm.f32());
}

const float* WeightsOf::q_norm(int layer) const {
  return vector(own(&Owned::Block::q_norm, layer), base_.block(layer).q_norm.f32());
}

const float* WeightsOf::k_norm(int layer) const {
  return vector(own(&Owned::Block::k_norm, layer), base_.block(layer).k_norm.f32());
}

const float* WeightsOf::bias(int layer, Product product) const {
  const int i = static_cast<int>(product);
  return vector(policy_ ? policy_->owned().block(layer).bias[i] : -1, base_.block(layer).bias[i].f32());
}

const float* WeightsOf::final_norm() const {
  return vector(policy_ ? policy_->owned().final_norm() : -1, base_.final_norm());
}

}  // namespace credence
