// A base: the immutable weights of a decoder as a back end keeps them, shared by every policy over it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base_files.h"
#include "device.h"

namespace credence {

class Trainer;

/// The four fused products of a block; an adapter's projections are slices of them.
enum class Product { kQkv, kOut, kMlpIn, kMlpOut };
inline constexpr int kProducts = 4;
Product product_of(Projection projection);
/// The projections whose rows stand one below the other in a product, in that order.
std::vector<Projection> parts_of(Product product);
/// "model.layers.LAYER.REST": a block's tensor in the files.
std::string in_block(int layer, const std::string& rest);

/// A matrix on the device, as products read it.
class Weights {
 public:
  Weights() = default;
  ~Weights() { release(); }
  Weights(Weights&& other) noexcept { *this = std::move(other); }
  Weights& operator=(Weights&& other) noexcept;
  void pack(std::shared_ptr<Device> device, const credence_weights_source& source);
  /// From [rows, columns] float32 on the device.
  void repack(const float* master);
  const credence_weights* handle() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  void release();
  std::shared_ptr<Device> device_;
  credence_weights* handle_ = nullptr;
};

class Base {
 public:
  /// Throws Error "NO_MEMORY" saying what the weights need where the device's limit is below that.
  static std::shared_ptr<Base> open(const std::string& path, const DeviceOptions& options);
  static std::shared_ptr<Base> open(std::unique_ptr<BaseFiles> files, const DeviceOptions& options);
  /// The same weights on a dry device, packed for what this base has packed them for.
  std::shared_ptr<Base> twin() const;

  const Family& family() const { return files_->family; }
  const BaseFiles& files() const { return *files_; }
  const std::shared_ptr<Device>& device() const { return device_; }
  const credence_shape& shape() const { return shape_; }

  struct Block {
    Weights product[kProducts];
    Buffer attention_norm, mlp_norm;  // float32 [hidden]
    Buffer q_norm, k_norm;            // float32 [head_dim]; empty where the family has none
    Buffer bias[kProducts];           // float32 [the product's rows]; empty where the family has none
    bool backward = false;
  };
  const Block& block(int layer) const { return blocks_[layer]; }
  const credence_weights* embedding() const { return embedding_.handle(); }
  /// The output matrix; the embedding where the head is tied.
  const credence_weights* head() const { return family().tied_head ? embedding_.handle() : head_.handle(); }
  const float* final_norm() const { return final_norm_.f32(); }
  /// The same divided by a temperature, which divides the logits behind it: made where it is first asked for.
  const float* final_norm(double temperature);
  /// [positions, rotary_dims / 2, 2] cos, sin for positions below `positions`; grown when needed.
  const float* rotary(int positions);

  /// Packs what the backward pass through blocks [lowest, layers) needs, once.
  void prepare_backward(int lowest);
  /// The same for the output matrix.
  void prepare_head_backward();

  /// The files' matrices packed once more, for whoever goes on from them. `backward`: with what the product with the transpose needs.
  Weights pack_product(int layer, Product product, bool backward) const;
  Weights pack_embedding(bool backward) const;
  Weights pack_lm_head(bool backward) const;

  /// Gives back what grows with use and is made again when needed: the rotary table, divided norms, and the workspace.
  void trim();
  /// Bytes of that now.
  size_t trimmable() const;

  /// One pass at a time runs on a base: policies share its device and workspace.
  std::mutex& mutex() { return mutex_; }

  /// The trainer that has room for a step's activations: trainers on one base step in turn, and one room serves them all.
  std::weak_ptr<Trainer> stepping;

  /// Bytes of each token, for stop strings.
  std::vector<std::string> vocabulary_pieces;

 private:
  Base() = default;
  void load();
  void pack_block(int layer, bool backward);
  /// Norms and biases.
  void read_vectors(int layer);
  void pack_head(bool backward);

  std::shared_ptr<const BaseFiles> files_;
  std::shared_ptr<Device> device_;
  credence_shape shape_{};
  std::vector<Block> blocks_;
  Weights embedding_, head_;
  bool head_backward_ = false;
  Buffer final_norm_, rotary_;
  std::map<double, Buffer> divided_norms_;  // by temperature
  int rotary_positions_ = 0;
  std::mutex mutex_;
};

}  // namespace credence
