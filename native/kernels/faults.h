// What can be wrong with what an operator reads, and the sentence for it: one of each for every back end. The CPU's operators see
// it at their door; a kernel on a device leaves it for the host to read.
#pragma once

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels.h"

// For the host, and for the device where there is one.
#ifdef __CUDACC__
#define CREDENCE_BOTH __host__ __device__
#else
#define CREDENCE_BOTH
#endif

namespace credence {

enum class FaultKind : int32_t {
  none,
  rows,          // a rows, room for b
  batch,         // a tokens in b segments, room for c in d
  segments,      // cu_seqlens goes from a to b at segment c
  segment_end,   // the segments hold a tokens, the batch b
  token,         // token id a at place b; the table has c rows
  target,        // row a has target b; the vocabulary has c tokens
  seen,          // row a has seen token b; the vocabulary has c tokens
  candidate,     // candidate a is token b; the vocabulary has c tokens
  span,          // span a covers no row (from b to c)
  not_numbers,   // every logit of row a is not a number
  no_page,       // segment a needs a key b; its c pages hold d
  prefix,        // segment a reads segment b, which must come before it
  earlier_keys,  // segment a reads b keys of an earlier call, whose gradients have nowhere to go
  prefix_keys,   // segment a reads b keys of segment c, which has d
};

struct Seen {
  FaultKind kind;
  int32_t a, b, c, d;
};

/// The number of rows fits the capacity.
CREDENCE_BOTH inline Seen fault_of_rows(int32_t rows, int32_t capacity) {
  return {rows < 0 || rows > capacity ? FaultKind::rows : FaultKind::none, rows, capacity, 0, 0};
}

/// Token and segment counts fit; segments are in order and end at the last token. Reads the batch's device memory.
CREDENCE_BOTH inline Seen fault_of(const credence_batch& batch) {
  const int32_t tokens = batch.counts[0], segments = batch.counts[1];
  if (tokens < 0 || tokens > batch.token_capacity || segments < 0 || segments > batch.segment_capacity)
    return {FaultKind::batch, tokens, segments, batch.token_capacity, batch.segment_capacity};
  int32_t end = 0;
  for (int32_t b = 0; b < segments; ++b) {
    const int32_t from = batch.cu_seqlens[b], to = batch.cu_seqlens[b + 1];
    if (from != end || to < end) return {FaultKind::segments, from, to, b, 0};
    end = to;
  }
  return {end == tokens ? FaultKind::none : FaultKind::segment_end, end, tokens, 0, 0};
}

// Ids and spans that an operator reads. Static: a file of one instruction set has its own.

/// Whether an id names one of `count` things.
CREDENCE_BOTH static inline bool is_one_of(int32_t id, int32_t count) { return id >= 0 && id < count; }

CREDENCE_BOTH static inline Seen fault_of_token(int32_t token, int32_t place, int32_t rows) {
  return {is_one_of(token, rows) ? FaultKind::none : FaultKind::token, token, place, rows, 0};
}
/// Below 0: the row has no target.
CREDENCE_BOTH static inline Seen fault_of_target(int32_t row, int32_t target, int32_t vocabulary) {
  return {target < vocabulary ? FaultKind::none : FaultKind::target, row, target, vocabulary, 0};
}
CREDENCE_BOTH static inline Seen fault_of_seen(int32_t row, int32_t token, int32_t vocabulary) {
  return {is_one_of(token, vocabulary) ? FaultKind::none : FaultKind::seen, row, token, vocabulary, 0};
}
CREDENCE_BOTH static inline Seen fault_of_candidate(int32_t candidate, int32_t token, int32_t vocabulary) {
  return {is_one_of(token, vocabulary) ? FaultKind::none : FaultKind::candidate, candidate, token, vocabulary, 0};
}
CREDENCE_BOTH static inline Seen fault_of_span(int32_t span, int32_t from, int32_t to) {
  return {from < to ? FaultKind::none : FaultKind::span, span, from, to, 0};
}

/// One sentence, made where it is needed; empty: there is nothing to say.
struct Words {
  char text[200];
};

[[gnu::format(printf, 1, 2)]] inline Words say(const char* format, ...) {
  Words words;
  va_list values;
  va_start(values, format);
  vsnprintf(words.text, sizeof words.text, format, values);
  va_end(values);
  return words;
}

/// What was seen, to go on after "operator: ".
inline Words words_of(const Seen& f) {
  switch (f.kind) {
    case FaultKind::none:
      return {};
    case FaultKind::rows:
      return say("%d rows, but there is room for %d", f.a, f.b);
    case FaultKind::batch:
      return say("%d tokens in %d segments, but there is room for %d in %d", f.a, f.b, f.c, f.d);
    case FaultKind::segments:
      return say("cu_seqlens goes from %d to %d at segment %d", f.a, f.b, f.c);
    case FaultKind::segment_end:
      return say("the segments hold %d tokens, the batch %d", f.a, f.b);
    case FaultKind::token:
      return say("token id %d at place %d; the table has %d rows", f.a, f.b, f.c);
    case FaultKind::target:
      return say("row %d has target %d; the vocabulary has %d tokens", f.a, f.b, f.c);
    case FaultKind::seen:
      return say("row %d has seen token %d; the vocabulary has %d tokens", f.a, f.b, f.c);
    case FaultKind::candidate:
      return say("candidate %d is token %d; the vocabulary has %d tokens", f.a, f.b, f.c);
    case FaultKind::span:
      return say("span %d covers no row (from %d to %d)", f.a, f.b, f.c);
    case FaultKind::not_numbers:
      return say("every logit of row %d is not a number; the weights or the adapter hold NaN or overflow", f.a);
    case FaultKind::no_page:
      return say("segment %d needs a key %d; its %d pages hold %d", f.a, f.b, f.c, f.d);
    case FaultKind::prefix:
      return say("segment %d reads segment %d, which must come before it", f.a, f.b);
    case FaultKind::earlier_keys:
      return say("segment %d reads %d keys of an earlier call, whose gradients have nowhere to go", f.a, f.b);
    case FaultKind::prefix_keys:
      return say("segment %d reads %d keys of segment %d, which has %d", f.a, f.b, f.c, f.d);
  }
  return say("a fault of kind %d", static_cast<int>(f.kind));
}

/// A product as a back end keeps it, for the checks below.
struct LinearArguments {
  int32_t rows, columns;
  credence_dtype dtype;
  bool transposed;                      // dY W can be done
  const credence_lora_layout* adapter;  // or null
};

/// Weights are [rows, columns] of dtype, and so is the adapter's product, if there is one; dropout can be done, and the product
/// with the transpose if `backward`. Empty: nothing is wrong.
inline Words fault_of(const LinearArguments& have, int32_t rows, int32_t columns, credence_dtype dtype,
                      const credence_dropout& dropout, bool backward) {
  if (have.rows != rows || have.columns != columns)
    return say("the weights are %d x %d; expected %d x %d", have.rows, have.columns, rows, columns);
  const credence_lora_layout* adapter = have.adapter;
  if (have.dtype != dtype || (adapter && adapter->dtype != dtype))
    return say("activations, weights and adapter must have one type, float32 or bf16");
  if (adapter && (adapter->rows != rows || adapter->columns != columns))
    return say("the adapter was made for a product of %d x %d; this one is %d x %d", adapter->rows, adapter->columns,
               rows, columns);
  if (adapter && !(dropout.p >= 0 && dropout.p < 1))
    return say("dropout is %g; expected a probability from 0, below 1", static_cast<double>(dropout.p));
  if (adapter && dropout.p > 0 && !dropout.row_key)
    return say("dropout needs row_key, which says which token each row is");
  if (backward && !have.transposed)
    return say("the weights were packed without `backward`, so there is no product with their transpose");
  return {};
}

/// What is wrong with an adapter's layout, to go on after its name; null: nothing.
inline const char* fault_of(const credence_lora_layout& layout) {
  if (layout.slices < 1 || layout.slices > CREDENCE_MAX_SLICES) return "has no slice, or more than three";
  for (int s = 0; s < layout.slices; ++s) {
    const credence_lora_slice& slice = layout.slice[s];
    if (slice.rank < 1) return "has a slice of rank 0";
    if (slice.row_begin < 0 || slice.row_end > layout.rows || slice.row_begin >= slice.row_end)
      return "has a slice whose rows are not rows of the product";
  }
  return nullptr;
}

}  // namespace credence
