#include "batch.h"

#include <algorithm>

namespace credence {

void HostBatch::check(const Family& family) const {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != tokens_count()) {
    fail("BAD_BATCH", "offsets: expected to run from 0 to the number of tokens, %d", tokens_count());
  }
  for (int b = 0; b < segments(); ++b) {
    if (length(b) < 1) fail("BAD_BATCH", "sequence %d has no tokens", b);
    if (length(b) > family.context) {
      fail("TOO_LONG", "sequence %d has %d tokens; the model's context is %d. Shorten it, or choose a truncation", b,
           length(b), family.context);
    }
  }
  for (int32_t token : tokens) {
    if (token < 0 || token >= family.vocabulary) {
      fail("BAD_BATCH", "token id %d is not in the vocabulary of %d. Is this the model's own tokenizer?", token,
           family.vocabulary);
    }
  }
}

DeviceBatch::DeviceBatch(std::shared_ptr<Device> device)
    : counts_(device),
      tokens_(device),
      cu_seqlens_(device),
      positions_(device),
      key_start_(device),
      page_table_(device) {}

int DeviceBatch::upload(const HostBatch& batch) {
  int longest = 1;
  for (int b = 0; b < batch.segments(); ++b)
    longest = std::max(longest, (batch.length(b) + CREDENCE_PAGE - 1) / CREDENCE_PAGE);
  std::vector<int32_t> table(static_cast<size_t>(batch.segments()) * longest, -1);
  int page = 0;
  for (int b = 0; b < batch.segments(); ++b) {
    for (int i = 0; i * CREDENCE_PAGE < batch.length(b); ++i) table[static_cast<size_t>(b) * longest + i] = page++;
  }
  upload(batch, std::vector<int32_t>(batch.segments(), 0), table, longest);
  return page;
}

void DeviceBatch::upload(const HostBatch& batch, const std::vector<int32_t>& key_start,
                         const std::vector<int32_t>& page_table, int pages_per_segment) {
  std::vector<int32_t> positions(batch.tokens.size());
  for (int b = 0; b < batch.segments(); ++b) {
    for (int t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) positions[t] = key_start[b] + t - batch.offsets[b];
  }
  counts_.upload(std::vector<int32_t>{batch.tokens_count(), batch.segments()});
  tokens_.upload(batch.tokens);
  cu_seqlens_.upload(batch.offsets);
  positions_.upload(positions);
  key_start_.upload(key_start);
  page_table_.upload(page_table);
  view_ = {batch.tokens_count(), batch.segments(), pages_per_segment, counts_.i32(), tokens_.i32(), cu_seqlens_.i32(),
           positions_.i32(),     key_start_.i32(), page_table_.i32(), nullptr,       nullptr};
}

}  // namespace credence
