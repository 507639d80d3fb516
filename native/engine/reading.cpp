#include "reading.h"

#include <algorithm>

#include "fit.h"

namespace credence {

namespace {

/// The spans of segments that have a place in the part; `places` says which of all spans they were.
std::vector<ReadSpan> spans_of(const std::vector<ReadSpan>& spans, const std::vector<int>& place,
                               std::vector<size_t>& places) {
  std::vector<ReadSpan> out;
  for (size_t s = 0; s < spans.size(); ++s) {
    const ReadSpan& span = spans[s];
    if (span.sequence < 0 || span.sequence >= static_cast<int>(place.size()))
      fail("BAD_BATCH", "a span names sequence %d; the batch has %zu", span.sequence, place.size());
    if (place[span.sequence] < 0) continue;
    places.push_back(s);
    out.push_back({place[span.sequence], span.from, span.to});
  }
  return out;
}

/// Rows of `width` numbers to their places in `to`.
void scatter(const std::vector<float>& from, const std::vector<size_t>& places, size_t spans, std::vector<float>& to) {
  if (places.empty()) return;
  const size_t width = from.size() / places.size();
  to.resize(spans * width);
  for (size_t i = 0; i < places.size(); ++i)
    std::copy_n(from.begin() + i * width, width, to.begin() + places[i] * width);
}

PassResult read_in(const std::shared_ptr<Policy>& policy, const HostBatch& batch, const PassRequest& request,
                   int tokens, const AbortFlag* abort) {
  Pass pass(policy);
  PassResult all;
  for (const std::vector<int>& segments : batch.passes(tokens)) {
    const HostBatch some = batch.take(segments);
    std::vector<int> place(batch.segments(), -1);
    std::vector<size_t> token_places;  // of the part's tokens in the batch
    for (size_t i = 0; i < segments.size(); ++i) {
      place[segments[i]] = static_cast<int>(i);
      for (int t = batch.offsets[segments[i]]; t < batch.offsets[segments[i] + 1]; ++t) token_places.push_back(t);
    }
    PassRequest part = request;
    std::vector<size_t> places, row_places;
    part.spans = spans_of(request.spans, place, places);
    std::vector<std::vector<size_t>> head_places(request.heads.size());
    for (size_t h = 0; h < request.heads.size(); ++h)
      part.heads[h].spans = spans_of(request.heads[h].spans, place, head_places[h]);
    if (request.closed_set) {
      part.closed_set->rows.clear();
      for (size_t r = 0; r < request.closed_set->rows.size(); ++r) {
        const auto found = std::lower_bound(token_places.begin(), token_places.end(), request.closed_set->rows[r]);
        if (found == token_places.end() || *found != static_cast<size_t>(request.closed_set->rows[r])) continue;
        row_places.push_back(r);
        part.closed_set->rows.push_back(static_cast<int32_t>(found - token_places.begin()));
      }
    }
    const auto masked = [&](const std::vector<uint8_t>& mask, std::vector<uint8_t>& of_part) {
      of_part.clear();
      for (size_t t : token_places) of_part.push_back(mask[t]);
    };
    if (!request.mask.empty()) masked(request.mask, part.mask);
    if (request.divergence) masked(request.divergence->mask, part.divergence->mask);
    if (request.values) masked(request.values->mask, part.values->mask);
    const PassResult result = pass.forward(some, part, abort);
    for (const auto numbers : {&PassResult::logprobs, &PassResult::entropy, &PassResult::logits, &PassResult::hidden,
                               &PassResult::divergence, &PassResult::values}) {
      if (!(result.*numbers).empty()) scatter(result.*numbers, token_places, batch.tokens.size(), all.*numbers);
    }
    if (request.closed_set) scatter(result.closed_set, row_places, request.closed_set->rows.size(), all.closed_set);
    scatter(result.collected, places, request.spans.size(), all.collected);
    for (size_t h = 0; h < request.heads.size(); ++h) {
      const HeadRead& head = request.heads[h];
      scatter(result.heads.at(head.head), head_places[h], head.spans.size(), all.heads[head.head]);
    }
  }
  return all;
}

}  // namespace

PassResult read_batch(const std::shared_ptr<Policy>& policy, const HostBatch& batch, const PassRequest& request,
                      const AbortFlag* abort) {
  batch.check(policy->base()->family());
  if (request.closed_set) {
    for (int32_t row : request.closed_set->rows) {
      if (row < 0 || row >= batch.tokens_count())
        fail("BAD_BATCH", "closed set: row %d is not one of the batch's %d", row, batch.tokens_count());
    }
  }
  const auto one_a_token = [&](const std::vector<uint8_t>& mask, const char* name) {
    if (mask.size() == batch.tokens.size()) return;
    fail("BAD_BATCH", "%s: expected one for each of %zu tokens but received %zu", name, batch.tokens.size(),
         mask.size());
  };
  if (!request.mask.empty()) one_a_token(request.mask, "mask");
  if (request.divergence) one_a_token(request.divergence->mask, "divergence.mask");
  if (request.values) one_a_token(request.values->mask, "values.mask");
  const size_t limit = policy->base()->device()->max_memory();
  if (!limit) return read_in(policy, batch, request, PassSize().tokens, abort);
  const Rehearsal rehearsal(*policy);
  size_t least = SIZE_MAX;
  for (const PassSize& size : pass_sizes(false)) {
    const size_t need = rehearsal.peak([&] { read_in(rehearsal.policy(), batch, request, size.tokens, nullptr); });
    if (need <= limit) return read_in(policy, batch, request, size.tokens, abort);
    least = std::min(least, need);
  }
  fail_limit("reading this batch", least, limit, "use shorter sequences");
}

}  // namespace credence
