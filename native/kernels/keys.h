// Where a batch's keys lie in its pages (kernels.h, credence_batch): one rule for every back end, each of which walks tokens in its own
// way. Read on the host or on the device.
#pragma once

#include "faults.h"

namespace credence {

CREDENCE_BOTH static inline bool is_key(const credence_batch& batch, int32_t t) {
  return !batch.query_only || !batch.query_only[t];
}

/// The segment of this batch whose keys stand before b's own; -1: none.
CREDENCE_BOTH static inline int32_t prefix_of(const credence_batch& batch, int32_t b) {
  return batch.prefix_of ? batch.prefix_of[b] : -1;
}

CREDENCE_BOTH static inline Seen fault_of_prefix(const credence_batch& batch, int32_t b) {
  const int32_t prefix = prefix_of(batch, b);
  return {prefix >= b ? FaultKind::prefix : FaultKind::none, b, prefix, 0, 0};
}

/// Key `key` of segment b, counted from the sequence's start, has a page.
CREDENCE_BOTH static inline Seen fault_of_key(const credence_batch& batch, int32_t b, int32_t key) {
  return {key / CREDENCE_PAGE >= batch.pages_per_segment ? FaultKind::no_page : FaultKind::none, b, key,
          batch.pages_per_segment, batch.pages_per_segment * CREDENCE_PAGE};
}

/// Segment b has `own` keys of its own, and its prefix `before` in all: they have room, and backward their gradients a place.
CREDENCE_BOTH static inline Seen fault_of_keys(const credence_batch& batch, int32_t b, int32_t own, int32_t before,
                                               bool backward) {
  const int32_t shared = batch.key_start[b], prefix = prefix_of(batch, b);
  if (shared + own > batch.pages_per_segment * CREDENCE_PAGE) return fault_of_key(batch, b, shared + own - 1);
  if (backward && prefix < 0 && shared > 0) return {FaultKind::earlier_keys, b, shared, 0, 0};
  if (backward && prefix >= 0 && shared > before) return {FaultKind::prefix_keys, b, shared, prefix, before};
  return {};
}

/// Where a token's key goes; slot -1: nowhere. clear: the rest of the page after it has never been written.
struct KeyPlace {
  int32_t page, slot, clear;
};

CREDENCE_BOTH static inline KeyPlace place_of_key(const credence_batch& batch, int32_t b, int32_t key) {
  return {batch.page_table[static_cast<int64_t>(b) * batch.pages_per_segment + key / CREDENCE_PAGE],
          key % CREDENCE_PAGE, 0};
}

/// Whether this batch began the page that segment b's key `last` lies in: not one that an earlier call began, but one that begins
/// with keys of a prefix of this batch.
CREDENCE_BOTH static inline bool begins_page(const credence_batch& batch, int32_t b, int32_t last) {
  const int32_t shared = batch.key_start[b];
  const int32_t first = prefix_of(batch, b) >= 0 ? shared / CREDENCE_PAGE * CREDENCE_PAGE : shared;
  return last / CREDENCE_PAGE * CREDENCE_PAGE >= first;
}

/// What of segment b's prefix ends inside a page and goes in front of b's own keys: the first `slots` of page `from` into page `to`.
/// slots 0: nothing. A page that holds no key of b's own is copied whole. Segments in order: a prefix may have one.
struct PrefixEnd {
  int32_t from, to, slots;
};

CREDENCE_BOTH static inline PrefixEnd prefix_end(const credence_batch& batch, int32_t b) {
  const int32_t shared = batch.key_start[b], prefix = prefix_of(batch, b), slots = shared % CREDENCE_PAGE;
  if (prefix < 0 || prefix >= b || slots == 0) return {};
  const int32_t* const table = batch.page_table + shared / CREDENCE_PAGE;
  const int32_t from = table[static_cast<int64_t>(prefix) * batch.pages_per_segment],
                to = table[static_cast<int64_t>(b) * batch.pages_per_segment];
  return {from, to, from == to ? 0 : slots};  // one page: b has nothing of its own to stand beside it
}

}  // namespace credence
