// A batch on its way to the device: segments laid end to end, without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "base.h"

namespace credence {

/// Segment b is tokens[offsets[b] .. offsets[b + 1]): a sequence, or what follows the sequence that segment prefix_of[b]
/// ends. So a prompt stands once for all its completions.
///
/// A query-only token at a segment's end reads the keys before it and is seen by nobody, itself included: the row that a
/// batch padded on the right has at a PAD token, whose key the attention mask takes away while its place is counted on.
struct HostBatch {
  std::vector<int32_t> tokens, offsets;
  std::vector<int32_t> prefix_of = {};   // [B], -1: none; empty: none at all
  std::vector<uint8_t> query_only = {};  // [T]; empty: none
  std::vector<int32_t> positions =
      {};  // [T] places for rotary, -1: as counted from the sequence's start; empty: all so

  int tokens_count() const { return static_cast<int>(tokens.size()); }
  int segments() const { return static_cast<int>(offsets.size()) - 1; }
  int length(int segment) const { return offsets[segment + 1] - offsets[segment]; }
  int prefix(int segment) const { return prefix_of.empty() ? -1 : prefix_of[segment]; }
  /// Keys in front of a segment's own.
  int keys_before(int segment) const {
    const int from = prefix(segment);
    return from < 0 ? 0 : keys_before(from) + length(from);
  }
  /// Where token t of a segment stands for rotary.
  int position(int segment, int t) const {
    return positions.empty() || positions[t] < 0 ? keys_before(segment) + t - offsets[segment] : positions[t];
  }
  /// Places of the longest sequence, its prefix included.
  int longest() const;
  bool is_query_only(int t) const { return !query_only.empty() && query_only[t]; }
  /// The row whose distribution is over token t of a segment: the one before it; -1 where there is none.
  int row_before(int segment, int t) const {
    if (t > offsets[segment]) return t - 1;
    return prefix(segment) < 0 ? -1 : offsets[prefix(segment) + 1] - 1;
  }
  /// These segments as a batch of their own; in rising order and with their prefixes.
  HostBatch take(const std::vector<int>& segments) const;
  /// Segments that go through a pass together, at most `tokens` where they can be cut: a prefix stays with its readers.
  std::vector<std::vector<int>> passes(int tokens) const;
  /// Throws Error "BAD_BATCH" unless offsets rise from 0 to the number of tokens, each segment has a token and, with its
  /// prefix, fits the context, a prefix stands before its readers and has keys alone, query-only tokens stand at the end
  /// of their segment and see the keys that a window lets them see at their place, every other token is where it is
  /// counted, and every id is in the vocabulary.
  void check(const Family& family) const;

 private:
  void check_query_only(const Family& family, int segment) const;
};

/// Where a head reads: the mean over rows [from, to) of a sequence; one row where to = from + 1.
struct ReadSpan {
  int sequence = 0, from = 0, to = 0;
};

/// A batch's index arrays on the device.
class DeviceBatch {
 public:
  explicit DeviceBatch(std::shared_ptr<Device> device);

  /// Pages are numbered from 0; a segment shares the full ones of its prefix. Returns the number of pages.
  int upload(const HostBatch& batch);
  /// key_start[b] keys are in the pages already; page_table [B, pages_per_segment].
  void upload(const HostBatch& batch, const std::vector<int32_t>& key_start, const std::vector<int32_t>& page_table,
              int pages_per_segment);

  /// Room for batches up to this size, told as the capacity of every later one: memory and workspace do not vary with
  /// what a batch holds.
  void reserve(int tokens, int segments, int pages_per_segment);

  /// Later batches are told to be at most this large, within what is reserved.
  void narrow(int tokens, int segments) {
    most_tokens_ = tokens;
    most_segments_ = segments;
  }

  credence_batch view() const { return view_; }
  /// [1] the number of tokens, and how many there may be.
  const int32_t* rows() const { return view_.counts; }
  int capacity() const { return view_.token_capacity; }

 private:
  Buffer counts_, tokens_, cu_seqlens_, positions_, key_start_, page_table_, prefix_of_, query_only_;
  int most_tokens_ = 0, most_segments_ = 0;
  credence_batch view_{};
};

}  // namespace credence
