#include "merge.h"

#include <algorithm>

#include "error.h"

namespace credence {

namespace {

std::string projection_weight(int layer, Projection projection) {
  return "model.layers." + std::to_string(layer) + "." + projection_path(projection) + ".weight";
}

/// Whether a row of the weight stands for a token.
bool is_vocabulary_matrix(const std::string& name) {
  return name == "model.embed_tokens.weight" || name == "lm_head.weight";
}

}  // namespace

void add_product(const AdapterConfig& config, const AdapterPair& pair, int64_t first, int64_t count, float* rows) {
  const int64_t rank = config.r, width = static_cast<int64_t>(pair.a.size()) / rank;
  const float scale = static_cast<float>(config.scale());
  std::vector<float> product(static_cast<size_t>(width));
  for (int64_t row = 0; row < count; ++row) {
    std::fill(product.begin(), product.end(), 0.0f);
    const float* b = pair.b.data() + (first + row) * rank;
    for (int64_t k = 0; k < rank; ++k) {
      const float* a = pair.a.data() + k * width;
      for (int64_t j = 0; j < width; ++j) product[static_cast<size_t>(j)] += b[k] * a[j];
    }
    float* out = rows + row * width;
    for (int64_t j = 0; j < width; ++j) out[j] += scale * product[static_cast<size_t>(j)];
  }
}

std::vector<float> merged_projection(const BaseFiles& base, const Adapter& adapter, int layer, Projection projection) {
  const std::string name = projection_weight(layer, projection);
  const std::vector<int64_t>& shape = base.shape(name);
  std::vector<float> merged(static_cast<size_t>(shape[0] * shape[1]));
  MergedWeights(base, &adapter).read_rows(name, 0, shape[0], merged.data());
  return merged;
}

MergedWeights::MergedWeights(const BaseFiles& base, const Adapter* adapter, int vocabulary, const TensorFile* own)
    : base_(base), adapter_(adapter), own_(own), family_(base.family) {
  for (const TensorView& tensor : own ? own->tensors() : std::vector<TensorView>()) {
    if (!base.has(tensor.name) || base.shape(tensor.name) != tensor.shape) {
      fail("WRONG_MODEL", "%s: tensor %s %s is not one of %s. Was it made for another model?", own->path().c_str(),
           tensor.name.c_str(), shape_text(tensor.shape).c_str(), base.path.c_str());
    }
  }
  if (vocabulary == 0) return;
  if (vocabulary < 1) fail("BAD_OPTION", "a vocabulary of %d tokens is none", vocabulary);
  for (const int id : family_.eos)
    if (id >= vocabulary)
      fail("BAD_OPTION", "a vocabulary of %d tokens would lose token %d, which ends an answer", vocabulary, id);
  if (family_.bos >= vocabulary)
    fail("BAD_OPTION", "a vocabulary of %d tokens would lose token %d, which begins a text", vocabulary, family_.bos);
  family_.vocabulary = vocabulary;
  if (vocabulary <= base.family.vocabulary) return;
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    if (base.has(name)) means_.push_back({name, mean_row(name)});
}

void MergedWeights::read_source(const std::string& name, int64_t first, int64_t count, float* out) const {
  const TensorView* own = own_ ? own_->find(name) : nullptr;
  if (!own) return base_.read_rows(name, first, count, out);
  own->read_rows(first, count, out);
  require_finite(out, static_cast<size_t>(count * own->elements() / own->shape.front()), own_->path(), name);
}

void MergedWeights::read_rows(const std::string& name, int64_t first, int64_t count, float* out) const {
  if (is_vocabulary_matrix(name)) return read_vocabulary_rows(name, first, count, out);
  read_source(name, first, count, out);
  if (!adapter_) return;
  for (const AdapterPair& pair : adapter_->pairs)
    if (name == projection_weight(pair.layer, pair.projection)) add_product(adapter_->config, pair, first, count, out);
}

void MergedWeights::read_vocabulary_rows(const std::string& name, int64_t first, int64_t count, float* out) const {
  if (first < 0 || count < 0 || first + count > family_.vocabulary)
    fail("BAD_FILE", "weight %s has %d rows, not rows %lld to %lld", name.c_str(), family_.vocabulary,
         static_cast<long long>(first), static_cast<long long>(first + count));
  const int64_t old = std::clamp<int64_t>(base_.family.vocabulary - first, 0, count);
  if (old > 0) read_source(name, first, old, out);
  for (const Mean& mean : means_) {
    if (mean.name != name) continue;
    for (int64_t row = old; row < count; ++row)
      std::copy(mean.row.begin(), mean.row.end(), out + row * static_cast<int64_t>(mean.row.size()));
  }
}

std::vector<float> MergedWeights::mean_row(const std::string& name) const {
  constexpr int64_t kBlock = 64;
  const int64_t rows = base_.shape(name)[0], width = base_.shape(name)[1];
  std::vector<double> sum(static_cast<size_t>(width));
  std::vector<float> block(static_cast<size_t>(kBlock * width));
  for (int64_t first = 0; first < rows; first += kBlock) {
    const int64_t count = std::min(kBlock, rows - first);
    read_source(name, first, count, block.data());
    for (int64_t i = 0; i < count * width; ++i) sum[static_cast<size_t>(i % width)] += block[static_cast<size_t>(i)];
  }
  std::vector<float> mean(static_cast<size_t>(width));
  for (size_t j = 0; j < mean.size(); ++j) mean[j] = static_cast<float>(sum[j] / static_cast<double>(rows));
  return mean;
}

}  // namespace credence
