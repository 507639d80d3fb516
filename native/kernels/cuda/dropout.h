// Dropout of an adapter's input (kernels.h, credence_dropout): the mask is made again wherever it is needed.
#pragma once

#include "../kernels.h"
#include "device.h"

namespace credence::cuda {

/// The words of the columns c, c + 8, c + 16, c + 24 of 32, where c < 8: what one counter of Philox gives.
struct DropoutWords {
  uint32_t word[4];
};

/// The first of the columns of a group.
__device__ __forceinline__ int32_t dropout_column(int64_t group) {
  return static_cast<int32_t>(group / 8 * 32 + group % 8);
}

struct DropoutMask {
  uint64_t key;
  const uint64_t* row_key;
  uint32_t limit;  // words below it drop their element

  explicit DropoutMask(const credence_dropout& d)
      : key(d.key), row_key(d.row_key), limit(static_cast<uint32_t>(static_cast<double>(d.p) * 4294967296.0)) {}

  /// Philox4x32-10 (Salmon et al. 2011) at the counter (group, slice, row_key[t]).
  __device__ DropoutWords words(int64_t t, int32_t slice, int64_t group) const {
    uint32_t c0 = static_cast<uint32_t>(group), c1 = static_cast<uint32_t>(slice);
    uint32_t c2 = static_cast<uint32_t>(row_key[t]), c3 = static_cast<uint32_t>(row_key[t] >> 32);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      const uint32_t a_low = c0 * 0xD2511F53u, a_high = __umulhi(c0, 0xD2511F53u);
      const uint32_t b_low = c2 * 0xCD9E8D57u, b_high = __umulhi(c2, 0xCD9E8D57u);
      c0 = b_high ^ c1 ^ k0;
      c1 = b_low;
      c2 = a_high ^ c3 ^ k1;
      c3 = a_low;
    }
    return {{c0, c1, c2, c3}};
  }
};

}  // namespace credence::cuda
