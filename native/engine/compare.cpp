#include "compare.h"

#include <algorithm>
#include <cmath>

namespace credence {

namespace {

struct Logits {
  std::vector<float> values;  // [rows, vocabulary]
  int vocabulary = 0;
};

std::shared_ptr<Policy> opened(const ComparedModel& model, const DeviceOptions& device) {
  const auto base = Base::open(model.model, device);
  const auto weights = model.weights.empty() ? nullptr : TensorFile::open(model.weights);
  const OwnedSpec owned = weights ? owned_in(*weights) : OwnedSpec();
  auto policy = model.adapter.empty() ? std::make_shared<Policy>(base, std::nullopt, std::vector<HeadSpec>{}, owned)
                                      : std::make_shared<Policy>(base, model.adapter, std::vector<HeadSpec>{}, owned);
  if (weights) policy->load_owned(*weights);
  return policy;
}

/// The tokens as sequences of at most `context` each.
Logits logits_of(const ComparedModel& model, const std::vector<int32_t>& tokens, int context,
                 const DeviceOptions& device, const AbortFlag* abort) {
  const auto policy = opened(model, device);
  PassRequest request;
  request.logits = true;
  HostBatch batch = {tokens, {0}};
  for (size_t at = 0; at < tokens.size();) {
    at += std::min(static_cast<size_t>(context), tokens.size() - at);
    batch.offsets.push_back(static_cast<int32_t>(at));
  }
  return {Pass(policy).forward(batch, request, abort).logits, policy->base()->family().vocabulary};
}

int context_of(const ComparedModel& model, DeviceOptions device) {
  device.dry = true;
  return Base::open(model.model, device)->family().context;
}

}  // namespace

LogitDifference compare_models(const ComparedModel& source, const ComparedModel& written,
                               const std::vector<int32_t>& tokens, const DeviceOptions& device,
                               const AbortFlag* abort) {
  // A format can leave a model a shorter context than it had: a GGUF of Mistral ends where its window does.
  const int context = std::max(1, std::min(context_of(source, device), context_of(written, device)));
  const Logits a = logits_of(source, tokens, context, device, abort);
  const Logits b = logits_of(written, tokens, context, device, abort);
  const int shared = std::min(a.vocabulary, b.vocabulary);
  LogitDifference difference;
  difference.rows = static_cast<int>(tokens.size());
  for (size_t row = 0; row < tokens.size(); ++row) {
    const float* x = a.values.data() + row * static_cast<size_t>(a.vocabulary);
    const float* y = b.values.data() + row * static_cast<size_t>(b.vocabulary);
    for (int i = 0; i < shared; ++i) {
      const double gap = std::fabs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
      difference.largest_difference = std::max(difference.largest_difference, std::isnan(gap) ? HUGE_VAL : gap);
      difference.largest_logit = std::max(difference.largest_logit, static_cast<double>(std::fabs(x[i])));
    }
    difference.same_choice += std::max_element(x, x + shared) - x == std::max_element(y, y + shared) - y;
  }
  return difference;
}

}  // namespace credence
