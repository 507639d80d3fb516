// A batch on its way to the device: segments laid end to end, without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "base.h"

namespace credence {

/// Sequence b is tokens[offsets[b] .. offsets[b + 1]).
struct HostBatch {
  std::vector<int32_t> tokens, offsets;

  int tokens_count() const { return static_cast<int>(tokens.size()); }
  int segments() const { return static_cast<int>(offsets.size()) - 1; }
  int length(int segment) const { return offsets[segment + 1] - offsets[segment]; }
  /// The row whose distribution is over token t of a segment: the one before it; -1 where there is none.
  int row_before(int segment, int t) const { return t > offsets[segment] ? t - 1 : -1; }
  /// Throws Error "BAD_BATCH" unless offsets rise from 0 to the number of tokens, each segment has a token and fits the
  /// context, and every id is in the vocabulary.
  void check(const Family& family) const;
};

/// Where a head reads: the mean over rows [from, to) of a sequence; one row where to = from + 1.
struct ReadSpan {
  int sequence = 0, from = 0, to = 0;
};

/// A batch's index arrays on the device.
class DeviceBatch {
 public:
  explicit DeviceBatch(std::shared_ptr<Device> device);

  /// Each segment begins at key 0, on pages of its own, numbered from 0. Returns the number of pages.
  int upload(const HostBatch& batch);
  /// key_start[b] keys are in the pages already; page_table [B, pages_per_segment].
  void upload(const HostBatch& batch, const std::vector<int32_t>& key_start, const std::vector<int32_t>& page_table,
              int pages_per_segment);

  credence_batch view() const { return view_; }
  /// [1] the number of tokens.
  const int32_t* rows() const { return view_.counts; }
  int tokens() const { return view_.token_capacity; }

 private:
  Buffer counts_, tokens_, cu_seqlens_, positions_, key_start_, page_table_;
  credence_batch view_{};
};

}  // namespace credence
