#include "batch.h"

#include <algorithm>

namespace credence {

void HostBatch::check_query_only(const Family& family, int b) const {
  if (query_only.empty() && positions.empty()) return;
  int keys = keys_before(b);
  for (int t = offsets[b]; t < offsets[b + 1]; ++t) {
    const int counted = keys_before(b) + t - offsets[b], place = position(b, t);
    if (!is_query_only(t)) {
      ++keys;
      if (t > offsets[b] && is_query_only(t - 1))
        fail("BAD_BATCH", "sequence %d: token %d follows a query-only token; those stand at the end", b,
             t - offsets[b]);
      if (place != counted) {
        fail("BAD_BATCH", "sequence %d: token %d has place %d; only query-only tokens may stand elsewhere than counted",
             b, t - offsets[b], place);
      }
      continue;
    }
    if (!keys) fail("BAD_BATCH", "sequence %d begins with a query-only token, which sees nothing", b);
    if (place < keys || place >= family.context) {
      fail("BAD_BATCH", "sequence %d: a query-only token at place %d; expected one from %d on in a context of %d", b,
           place, keys, family.context);
    }
    for (const int window : family.windows) {
      if (window > 0 && place >= window) {
        fail("BAD_BATCH",
             "sequence %d: a query-only token at place %d of a model that sees %d tokens back. Padded rows longer than "
             "the window cannot be reproduced: read the last real token instead",
             b, place, window);
      }
    }
  }
}

void HostBatch::check(const Family& family) const {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != tokens_count()) {
    fail("BAD_BATCH", "offsets: expected to run from 0 to the number of tokens, %d", tokens_count());
  }
  if (!prefix_of.empty() && static_cast<int>(prefix_of.size()) != segments()) {
    fail("BAD_BATCH", "prefix_of: expected one for each of %d sequences but received %zu", segments(),
         prefix_of.size());
  }
  if (!query_only.empty() && query_only.size() != tokens.size()) {
    fail("BAD_BATCH", "query_only: expected one for each of %d tokens but received %zu", tokens_count(),
         query_only.size());
  }
  if (!positions.empty() && positions.size() != tokens.size()) {
    fail("BAD_BATCH", "positions: expected one for each of %d tokens but received %zu", tokens_count(),
         positions.size());
  }
  for (int b = 0; b < segments(); ++b) {
    if (length(b) < 1) fail("BAD_BATCH", "sequence %d has no tokens", b);
    if (prefix(b) < -1 || prefix(b) >= b) {
      fail("BAD_BATCH", "prefix_of: sequence %d reads sequence %d; a prefix stands before its readers", b, prefix(b));
    }
    const int keys = keys_before(b) + length(b);
    if (keys > family.context) {
      fail("TOO_LONG", "sequence %d has %d tokens; the model's context is %d. Shorten it, or choose a truncation", b,
           keys, family.context);
    }
    if (prefix(b) >= 0 && is_query_only(offsets[prefix(b) + 1] - 1))
      fail("BAD_BATCH", "sequence %d goes on from sequence %d, which ends in a query-only token", b, prefix(b));
    check_query_only(family, b);
  }
  for (int32_t token : tokens) {
    if (token < 0 || token >= family.vocabulary) {
      fail("BAD_BATCH", "token id %d is not in the vocabulary of %d. Is this the model's own tokenizer?", token,
           family.vocabulary);
    }
  }
}

int HostBatch::longest() const {
  int out = 0;
  for (int b = 0; b < segments(); ++b) {
    out = std::max(out, position(b, offsets[b + 1] - 1) + 1);
    for (int t = offsets[b]; !positions.empty() && t < offsets[b + 1]; ++t) out = std::max(out, positions[t] + 1);
  }
  return out;
}

HostBatch HostBatch::take(const std::vector<int>& segments) const {
  HostBatch out;
  std::vector<int32_t> place(this->segments(), -1);
  out.offsets.push_back(0);
  for (size_t i = 0; i < segments.size(); ++i) {
    const int b = segments[i];
    place[b] = static_cast<int32_t>(i);
    const auto add = [&](const auto& from, auto& to) {
      if (!from.empty()) to.insert(to.end(), from.begin() + offsets[b], from.begin() + offsets[b + 1]);
    };
    add(tokens, out.tokens);
    add(query_only, out.query_only);
    add(positions, out.positions);
    out.offsets.push_back(out.tokens_count());
    if (!prefix_of.empty()) out.prefix_of.push_back(prefix(b) < 0 ? -1 : place[prefix(b)]);
  }
  return out;
}

std::vector<std::vector<int>> HostBatch::passes(int limit) const {
  std::vector<std::vector<int>> families, out;
  std::vector<int> family(segments()), size;
  for (int b = 0; b < segments(); ++b) {
    family[b] = prefix(b) < 0 ? static_cast<int>(families.size()) : family[prefix(b)];
    if (prefix(b) < 0) {
      families.emplace_back();
      size.push_back(0);
    }
    families[family[b]].push_back(b);
    size[family[b]] += length(b);
  }
  int held = 0;
  for (size_t f = 0; f < families.size(); ++f) {
    if (out.empty() || held + size[f] > limit) {
      out.emplace_back();
      held = 0;
    }
    held += size[f];
    out.back().insert(out.back().end(), families[f].begin(), families[f].end());
  }
  for (auto& together : out) std::sort(together.begin(), together.end());
  return out;
}

DeviceBatch::DeviceBatch(std::shared_ptr<Device> device)
    : counts_(device),
      tokens_(device),
      cu_seqlens_(device),
      positions_(device),
      key_start_(device),
      page_table_(device),
      prefix_of_(device),
      query_only_(device) {}

void DeviceBatch::reserve(int tokens, int segments, int pages_per_segment) {
  most_tokens_ = tokens;
  most_segments_ = segments;
  counts_.reserve(2 * sizeof(int32_t));
  tokens_.reserve(tokens * sizeof(int32_t));
  positions_.reserve(tokens * sizeof(int32_t));
  cu_seqlens_.reserve((segments + 1) * sizeof(int32_t));
  key_start_.reserve(segments * sizeof(int32_t));
  page_table_.reserve(static_cast<size_t>(segments) * pages_per_segment * sizeof(int32_t));
}

int DeviceBatch::upload(const HostBatch& batch) {
  const int segments = batch.segments();
  std::vector<int32_t> key_start(segments);
  int width = 1;
  for (int b = 0; b < segments; ++b) {
    key_start[b] = batch.keys_before(b);
    width = std::max(width, (key_start[b] + batch.length(b) + CREDENCE_PAGE - 1) / CREDENCE_PAGE);
  }
  std::vector<int32_t> table(static_cast<size_t>(segments) * width, -1);
  int page = 0;
  for (int b = 0; b < segments; ++b) {
    int32_t* const own = &table[static_cast<size_t>(b) * width];
    const int shared = key_start[b] / CREDENCE_PAGE;
    if (shared) std::copy_n(&table[static_cast<size_t>(batch.prefix(b)) * width], shared, own);
    for (int i = shared; i * CREDENCE_PAGE < key_start[b] + batch.length(b); ++i) own[i] = page++;
  }
  upload(batch, key_start, table, width);
  return page;
}

void DeviceBatch::upload(const HostBatch& batch, const std::vector<int32_t>& key_start,
                         const std::vector<int32_t>& page_table, int pages_per_segment) {
  std::vector<int32_t> positions(batch.tokens.size());
  for (int b = 0; b < batch.segments(); ++b) {
    for (int t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      const bool told = !batch.positions.empty() && batch.positions[t] >= 0;
      positions[t] = told ? batch.positions[t] : key_start[b] + t - batch.offsets[b];
    }
  }
  counts_.upload(std::vector<int32_t>{batch.tokens_count(), batch.segments()});
  tokens_.upload(batch.tokens);
  cu_seqlens_.upload(batch.offsets);
  positions_.upload(positions);
  key_start_.upload(key_start);
  page_table_.upload(page_table);
  prefix_of_.upload(batch.prefix_of);
  query_only_.upload(batch.query_only);
  view_ = {std::max(batch.tokens_count(), most_tokens_),
           std::max(batch.segments(), most_segments_),
           pages_per_segment,
           counts_.i32(),
           tokens_.i32(),
           cu_seqlens_.i32(),
           positions_.i32(),
           key_start_.i32(),
           page_table_.i32(),
           batch.query_only.empty() ? nullptr : query_only_.as<uint8_t>(),
           batch.prefix_of.empty() ? nullptr : prefix_of_.i32()};
}

}  // namespace credence
