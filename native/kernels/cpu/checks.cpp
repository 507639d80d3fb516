#include "checks.h"

namespace credence::cpu {

int check(credence_backend* backend, const char* name, const Seen& seen) {
  return seen.kind == FaultKind::none ? 0 : fail(backend, "%s: %s", name, words_of(seen).text);
}

int check_rows(credence_backend* backend, const char* name, const int32_t* rows, int32_t capacity) {
  return check(backend, name, fault_of_rows(*rows, capacity));
}

int check_linear(credence_backend* backend, const char* name, const credence_weights* weights,
                 const credence_lora* lora, int32_t rows, int32_t columns, credence_dtype dtype,
                 const credence_dropout& dropout, bool backward) {
  const LinearArguments have = {weights->rows, weights->columns, weights->dtype, weights->transposed != nullptr,
                                lora ? &lora->layout : nullptr};
  const Words wrong = fault_of(have, rows, columns, dtype, dropout, backward);
  return *wrong.text ? fail(backend, "%s: %s", name, wrong.text) : 0;
}

int check_batch(credence_backend* backend, const char* name, const credence_batch& batch) {
  return check(backend, name, fault_of(batch));
}

}  // namespace credence::cpu
