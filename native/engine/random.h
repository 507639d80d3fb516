// Random numbers by counter: a number depends on its key alone, never on what was drawn before it.
#pragma once

#include <cstdint>

#include "kernels/philox.h"

namespace credence {

/// [0, 1) with 53 bits, keyed by (key, stream, index).
inline double counter_uniform(uint64_t key, uint64_t stream, uint64_t index) {
  const auto words = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                             static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                            key);
  return ((uint64_t{words[0]} << 21) ^ (words[1] >> 11)) * 0x1p-53;
}

/// A key that follows from another and two numbers, and tells nothing of keys from other numbers.
inline uint64_t mixed(uint64_t key, uint64_t a, uint32_t b) {
  const auto words = philox({static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), b, 0x6d6978}, key);
  return uint64_t{words[0]} << 32 | words[1];
}

/// FNV-1a over token ids, mixed: what keys a prompt's samples.
inline uint64_t token_hash(const int32_t* tokens, int64_t count) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int64_t i = 0; i < count; ++i) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash ^= (static_cast<uint32_t>(tokens[i]) >> shift) & 0xff;
      hash *= 0x100000001b3;
    }
  }
  return hash;
}

}  // namespace credence
