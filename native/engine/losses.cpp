#include "losses.h"

#include <algorithm>

namespace credence {

void check(const HostBatch& batch, const Loss& loss) {
  auto per_token = [&](const std::vector<float>& weights, const char* name) {
    if (!weights.empty() && weights.size() != batch.tokens.size()) {
      fail("BAD_BATCH", "%s: expected one for each of %zu tokens but received %zu", name, batch.tokens.size(),
           weights.size());
    }
  };
  per_token(loss.nll_weights, "weights");
  per_token(loss.divergence_weights, "divergence weights");
  if (loss.targets.size() != loss.read.spans.size()) {
    fail("BAD_BATCH", "targets: expected one for each of %zu spans but received %zu", loss.read.spans.size(),
         loss.targets.size());
  }
  for (const ReadSpan& span : loss.read.spans) {
    if (span.sequence < 0 || span.sequence >= batch.segments())
      fail("BAD_BATCH", "a span names sequence %d; the batch has %d", span.sequence, batch.segments());
  }
  if (!loss.closed_set) return;
  const auto& [read, labels, weights] = *loss.closed_set;
  if (labels.size() != read.rows.size() || weights.size() != read.rows.size()) {
    fail("BAD_BATCH", "closed set: expected a label and a weight for each of %zu rows but received %zu and %zu",
         read.rows.size(), labels.size(), weights.size());
  }
  for (int32_t row : read.rows) {
    if (row < 0 || row >= batch.tokens_count())
      fail("BAD_BATCH", "closed set: row %d is not one of the batch's %d", row, batch.tokens_count());
  }
  for (int32_t label : labels) {
    if (label < 0 || label >= static_cast<int32_t>(read.candidates.size()))
      fail("BAD_BATCH", "closed set: label %d is not one of the %zu candidates", label, read.candidates.size());
  }
}

Loss part_of(const HostBatch& batch, const Loss& loss, const HostBatch& part, const std::vector<int>& segments) {
  std::vector<int> place(batch.segments(), -1);
  for (size_t i = 0; i < segments.size(); ++i) place[segments[i]] = static_cast<int>(i);
  Loss out;
  auto per_token = [&](const std::vector<float>& weights) {
    std::vector<float> taken;
    for (size_t i = 0; !weights.empty() && i < segments.size(); ++i) {
      taken.insert(taken.end(), weights.begin() + batch.offsets[segments[i]],
                   weights.begin() + batch.offsets[segments[i] + 1]);
    }
    return taken;
  };
  out.nll_weights = per_token(loss.nll_weights);
  out.divergence = loss.divergence;
  out.divergence_weights = per_token(loss.divergence_weights);
  out.read.head = loss.read.head;
  for (size_t s = 0; s < loss.read.spans.size(); ++s) {
    const ReadSpan& span = loss.read.spans[s];
    if (place[span.sequence] < 0) continue;
    out.read.spans.push_back({place[span.sequence], span.from, span.to});
    out.targets.push_back(loss.targets[s]);
  }
  if (loss.closed_set) {
    const auto& [read, labels, weights] = *loss.closed_set;
    out.closed_set = {{read.candidates, {}}, {}, {}};
    for (size_t r = 0; r < read.rows.size(); ++r) {
      const int b = static_cast<int>(std::upper_bound(batch.offsets.begin(), batch.offsets.end(), read.rows[r]) -
                                     batch.offsets.begin() - 1);
      if (place[b] < 0) continue;
      out.closed_set->read.rows.push_back(part.offsets[place[b]] + read.rows[r] - batch.offsets[b]);
      out.closed_set->labels.push_back(labels[r]);
      out.closed_set->weights.push_back(weights[r]);
    }
  }
  return out;
}

namespace {

bool any(const std::vector<float>& weights) {
  return std::any_of(weights.begin(), weights.end(), [](float weight) { return weight != 0; });
}

std::vector<float> negative(std::vector<float> weights) {
  for (float& weight : weights) weight = -weight;
  return weights;
}

}  // namespace

bool reads_vocabulary(const Loss& loss) { return any(loss.nll_weights) || any(loss.divergence_weights); }

std::optional<PassRequest> request_of(const Loss& loss) {
  PassRequest request;
  request.keep = true;
  bool something = any(loss.nll_weights);
  if (!loss.read.spans.empty()) {
    request.heads.push_back(loss.read);
    request.heads.back().values = false;
    something = true;
  }
  if (loss.closed_set && any(loss.closed_set->weights)) {
    request.closed_set = loss.closed_set->read;
    request.closed_set->values = false;
    something = true;
  }
  if (any(loss.divergence_weights)) {
    std::vector<uint8_t> mask;
    for (float weight : loss.divergence_weights) mask.push_back(weight != 0);
    request.divergence = {loss.divergence, std::move(mask), false};
    something = true;
  }
  return something ? std::optional(std::move(request)) : std::nullopt;
}

Upstream upstream_of(const Loss& loss) {
  Upstream upstream;
  if (any(loss.nll_weights)) upstream.logprobs = negative(loss.nll_weights);
  if (!loss.read.spans.empty()) upstream.targets[loss.read.head] = loss.targets;
  if (loss.closed_set && any(loss.closed_set->weights)) {
    const auto& [read, labels, weights] = *loss.closed_set;
    upstream.closed_set.assign(read.rows.size() * read.candidates.size(), 0.0f);
    for (size_t r = 0; r < labels.size(); ++r)
      upstream.closed_set[r * read.candidates.size() + labels[r]] = -weights[r];
  }
  if (any(loss.divergence_weights)) upstream.divergence = loss.divergence_weights;
  return upstream;
}

}  // namespace credence
