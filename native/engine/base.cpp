#include "base.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <utility>

namespace credence {

Product product_of(Projection projection) {
  switch (projection) {
    case Projection::kQ:
    case Projection::kK:
    case Projection::kV:
      return Product::kQkv;
    case Projection::kO:
      return Product::kOut;
    case Projection::kGate:
    case Projection::kUp:
      return Product::kMlpIn;
    case Projection::kDown:
      return Product::kMlpOut;
  }
  return Product::kMlpOut;
}

std::vector<Projection> parts_of(Product product) {
  std::vector<Projection> parts;
  for (const Projection projection : kProjections)
    if (product_of(projection) == product) parts.push_back(projection);
  return parts;
}

std::string in_block(int layer, const std::string& rest) {
  return "model.layers." + std::to_string(layer) + "." + rest;
}

Weights& Weights::operator=(Weights&& other) noexcept {
  if (this != &other) {
    release();
    device_ = std::move(other.device_);
    handle_ = std::exchange(other.handle_, nullptr);
  }
  return *this;
}

void Weights::pack(std::shared_ptr<Device> device, const credence_weights_source& source) {
  release();
  device_ = std::move(device);
  handle_ = device_->table().pack(device_->backend(), &source);
  if (!handle_) fail("NO_MEMORY", "no memory for the weights: %s", device_->table().last_error(device_->backend()));
}

void Weights::repack(const float* master) {
  device_->check(device_->table().repack(device_->backend(), handle_, master), "repack");
}

void Weights::release() {
  if (handle_) device_->table().free_weights(device_->backend(), handle_);
  handle_ = nullptr;
}

namespace {

/// Rows of matrices that stand one below the other. An exception must not cross the table: the first is kept and thrown after.
struct StackedReader {
  const BaseFiles* files;
  std::vector<std::pair<std::string, int>> parts;  // name, rows
  int columns;
  std::mutex mutex;  // of error: threads read at once
  std::exception_ptr error;

  static void read(void* context, int32_t row, int32_t count, float* out) {
    auto* self = static_cast<StackedReader*>(context);
    try {
      for (const auto& [name, rows] : self->parts) {
        const int take = std::min(count, rows - row);
        if (take > 0) {
          self->files->read_rows(name, row, take, out);
          out += static_cast<int64_t>(take) * self->columns;
          row += take;
          count -= take;
        }
        row -= rows;
        if (!count) break;
      }
    } catch (...) {
      const std::lock_guard lock(self->mutex);
      if (!self->error) self->error = std::current_exception();
    }
  }
};

Weights pack(const std::shared_ptr<Device>& device, const BaseFiles& files,
             std::vector<std::pair<std::string, int>> parts, int columns, bool backward, bool gatherable) {
  StackedReader reader{&files, std::move(parts), columns, {}, nullptr};
  credence_weights_source source{};
  for (const auto& part : reader.parts) source.rows += part.second;
  source.columns = columns;
  source.dtype = device->dtype();
  source.backward = backward;
  source.gatherable = gatherable;
  source.read = &StackedReader::read;
  source.context = &reader;
  Weights weights;
  weights.pack(device, source);
  if (reader.error) std::rethrow_exception(reader.error);
  return weights;
}

Buffer vector_of(const std::shared_ptr<Device>& device, const BaseFiles& files, const std::string& name, int width) {
  std::vector<float> values(width);
  if (!device->dry()) files.read(name, values.data());
  Buffer buffer(device);
  buffer.upload(values);
  return buffer;
}

credence_shape shape_of(const Family& f) {
  credence_shape shape{};
  shape.hidden = f.hidden;
  shape.intermediate = f.intermediate;
  shape.heads = f.heads;
  shape.kv_heads = f.kv_heads;
  shape.head_dim = f.head_dim;
  shape.rotary_dim = f.rotary_dims;
  shape.norm = f.norm == NormKind::kRms ? CREDENCE_RMS_NORM : CREDENCE_LAYER_NORM;
  shape.norm_eps = static_cast<float>(f.norm_eps);
  shape.activation = f.activation == Activation::kSilu   ? CREDENCE_SILU
                     : f.activation == Activation::kGelu ? CREDENCE_GELU
                                                         : CREDENCE_GELU_TANH;
  shape.gated = f.gated_mlp;
  shape.qk_norm = f.qk_norm;
  shape.qkv_layout = CREDENCE_QKV_STACKED;
  return shape;
}

}  // namespace

std::shared_ptr<Base> Base::open(const std::string& path, const DeviceOptions& options) {
  return open(BaseFiles::open(path, options.dry), options);
}

std::shared_ptr<Base> Base::open(std::unique_ptr<BaseFiles> files, const DeviceOptions& options) {
  std::shared_ptr<Base> base(new Base());
  base->files_ = std::move(files);
  base->device_ = Device::open(options);
  if (options.max_memory && !options.dry) {
    const size_t need = base->twin()->device()->memory().peak;
    if (need > options.max_memory) {
      fail("NO_MEMORY",
           "%s: its weights take %zu bytes here; the limit is %zu. Allow more memory, or use a smaller model",
           base->files_->path.c_str(), need, options.max_memory);
    }
  }
  base->load();
  return base;
}

std::shared_ptr<Base> Base::twin() const {
  std::shared_ptr<Base> base(new Base());
  base->files_ = files_;
  base->device_ = device_->twin();
  base->load();
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    if (blocks_[layer].backward) base->pack_block(static_cast<int>(layer), true);
  }
  if (head_backward_) base->pack_head(true);
  return base;
}

void Base::load() {
  const Family& f = family();
  shape_ = shape_of(f);
  blocks_.resize(f.layers);
  for (int layer = 0; layer < f.layers; ++layer) {
    pack_block(layer, false);
    read_vectors(layer);
  }
  final_norm_ = vector_of(device_, *files_, "model.norm.weight", f.hidden);
  embedding_ = pack_embedding(false);
  if (!f.tied_head) pack_head(false);
}

Weights Base::pack_product(int layer, Product product, bool backward) const {
  const Family& f = family();
  const std::vector<Projection> projections = parts_of(product);
  std::vector<std::pair<std::string, int>> parts;
  for (Projection p : projections)
    parts.emplace_back(in_block(layer, projection_path(p)) + ".weight", projection_out(f, p));
  return pack(device_, *files_, std::move(parts), projection_in(f, projections.front()), backward, false);
}

Weights Base::pack_embedding(bool backward) const {
  return pack(device_, *files_, {{"model.embed_tokens.weight", family().vocabulary}}, family().hidden, backward, true);
}

Weights Base::pack_lm_head(bool backward) const {
  return pack(device_, *files_, {{"lm_head.weight", family().vocabulary}}, family().hidden, backward, false);
}

void Base::pack_block(int layer, bool backward) {
  Block& block = blocks_[layer];
  for (int i = 0; i < kProducts; ++i) block.product[i] = pack_product(layer, static_cast<Product>(i), backward);
  block.backward = backward;
}

void Base::read_vectors(int layer) {
  const Family& f = family();
  Block& block = blocks_[layer];
  auto read = [&](const std::string& name, int width) {
    return vector_of(device_, *files_, in_block(layer, name), width);
  };
  block.attention_norm = read("input_layernorm.weight", f.hidden);
  block.mlp_norm = read("post_attention_layernorm.weight", f.hidden);
  if (f.qk_norm) {
    block.q_norm = read("self_attn.q_norm.weight", f.head_dim);
    block.k_norm = read("self_attn.k_norm.weight", f.head_dim);
  }
  for (int i = 0; i < kProducts; ++i) {
    std::vector<float> bias;
    for (Projection p : parts_of(static_cast<Product>(i))) {
      if (!projection_has_bias(f, p)) continue;
      bias.resize(bias.size() + projection_out(f, p));
      if (device_->dry()) continue;
      files_->read(in_block(layer, projection_path(p)) + ".bias", bias.data() + bias.size() - projection_out(f, p));
    }
    if (bias.empty()) continue;
    block.bias[i] = Buffer(device_);
    block.bias[i].upload(bias);
  }
}

void Base::pack_head(bool backward) {
  if (family().tied_head) embedding_ = pack_embedding(backward);
  else head_ = pack_lm_head(backward);
  head_backward_ = backward;
}

void Base::prepare_backward(int lowest) {
  for (int layer = std::max(0, lowest); layer < family().layers; ++layer) {
    if (!blocks_[layer].backward) pack_block(layer, true);
  }
}

void Base::prepare_head_backward() {
  if (!head_backward_) pack_head(true);
}

void Base::trim() {
  rotary_ = Buffer();
  rotary_positions_ = 0;
  divided_norms_.clear();
  device_->drop_scratch();
}

size_t Base::trimmable() const {
  size_t bytes = rotary_.bytes() + device_->scratch_bytes();
  for (const auto& [temperature, norm] : divided_norms_) bytes += norm.bytes();
  return bytes;
}

const float* Base::final_norm(double temperature) {
  if (temperature == 1) return final_norm();
  if (!(temperature > 0 && std::isfinite(temperature)))
    fail("BAD_OPTION", "temperature of log-probabilities: expected above 0 but received %g", temperature);
  const auto [place, made] = divided_norms_.try_emplace(temperature, device_);
  if (made) {
    std::vector<float> weight(family().hidden);
    if (!device_->dry()) files_->read("model.norm.weight", weight.data());
    for (float& each : weight) each = static_cast<float>(each / temperature);
    place->second.upload(weight);
  }
  return place->second.f32();
}

const float* Base::rotary(int positions) {
  if (positions > rotary_positions_) {
    positions = std::max(positions, std::min(family().context, std::max(512, 2 * positions)));
    const std::vector<double> frequencies = rope_frequencies(family());
    std::vector<float> table;
    table.reserve(static_cast<size_t>(positions) * frequencies.size() * 2);
    for (int position = 0; position < positions; ++position) {
      for (double frequency : frequencies) {
        table.push_back(static_cast<float>(std::cos(position * frequency)));
        table.push_back(static_cast<float>(std::sin(position * frequency)));
      }
    }
    if (!rotary_) rotary_ = Buffer(device_);
    rotary_.upload(table);
    rotary_positions_ = positions;
  }
  return rotary_.f32();
}

}  // namespace credence
