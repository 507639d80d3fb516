#include "checks.h"

namespace credence::cpu {

int check_rows(credence_backend* backend, const char* name, const int32_t* rows, int32_t capacity) {
  if (*rows < 0 || *rows > capacity)
    return fail(backend, "%s: %d rows, but there is room for %d", name, *rows, capacity);
  return 0;
}

int check_linear(credence_backend* backend, const char* name, const credence_weights* weights,
                 const credence_lora* lora, int32_t rows, int32_t columns, credence_dtype dtype,
                 const credence_dropout& dropout, bool backward) {
  if (weights->rows != rows || weights->columns != columns)
    return fail(backend, "%s: the weights are %d x %d; expected %d x %d", name, weights->rows, weights->columns, rows,
                columns);
  if (weights->dtype != dtype || (lora && lora->layout.dtype != dtype))
    return fail(backend, "%s: activations, weights and adapter must have one type, float32 or bf16", name);
  if (lora && (lora->layout.rows != rows || lora->layout.columns != columns))
    return fail(backend, "%s: the adapter was made for a product of %d x %d; this one is %d x %d", name,
                lora->layout.rows, lora->layout.columns, rows, columns);
  if (lora && !(dropout.p >= 0 && dropout.p < 1))
    return fail(backend, "%s: dropout is %g; expected a probability from 0, below 1", name,
                static_cast<double>(dropout.p));
  if (lora && dropout.p > 0 && !dropout.row_key)
    return fail(backend, "%s: dropout needs row_key, which says which token each row is", name);
  if (backward && !weights->transposed)
    return fail(backend, "%s: the weights were packed without `backward`, so there is no product with their transpose",
                name);
  return 0;
}

int check_batch(credence_backend* backend, const char* name, const credence_batch& batch) {
  const int32_t tokens = batch.counts[0], segments = batch.counts[1];
  if (tokens < 0 || tokens > batch.token_capacity || segments < 0 || segments > batch.segment_capacity)
    return fail(backend, "%s: %d tokens in %d segments, but there is room for %d in %d", name, tokens, segments,
                batch.token_capacity, batch.segment_capacity);
  int32_t end = 0;
  for (int32_t b = 0; b < segments; ++b) {
    if (batch.cu_seqlens[b] != end || batch.cu_seqlens[b + 1] < end)
      return fail(backend, "%s: cu_seqlens goes from %d to %d at segment %d", name, batch.cu_seqlens[b],
                  batch.cu_seqlens[b + 1], b);
    end = batch.cu_seqlens[b + 1];
  }
  if (end != tokens) return fail(backend, "%s: the segments hold %d tokens, the batch %d", name, end, tokens);
  return 0;
}

}  // namespace credence::cpu
