#include "compare.h"

#include <algorithm>
#include <cmath>

namespace credence {

namespace {

struct Logits {
  std::vector<float> values;  // [rows, vocabulary]
  int vocabulary = 0;
};

Logits logits_of(const ComparedModel& model, const std::vector<int32_t>& tokens, const DeviceOptions& device,
                 const AbortFlag* abort) {
  const auto base = Base::open(model.model, device);
  const auto policy = model.adapter.empty() ? std::make_shared<Policy>(base, std::nullopt, std::vector<HeadSpec>{})
                                            : std::make_shared<Policy>(base, model.adapter, std::vector<HeadSpec>{});
  PassRequest request;
  request.logits = true;
  const HostBatch batch = {tokens, {0, static_cast<int32_t>(tokens.size())}};
  return {Pass(policy).forward(batch, request, abort).logits, base->family().vocabulary};
}

}  // namespace

LogitDifference compare_models(const ComparedModel& source, const ComparedModel& written,
                               const std::vector<int32_t>& tokens, const DeviceOptions& device,
                               const AbortFlag* abort) {
  const Logits a = logits_of(source, tokens, device, abort), b = logits_of(written, tokens, device, abort);
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
