// Random numbers by counter: a number depends on its key alone, never on what was drawn before it.
#pragma once

#include <array>
#include <cstdint>

namespace credence {

/// Philox4x32-10 (Salmon et al. 2011): four 32-bit words from a 128-bit counter and a 64-bit key.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

/// [0, 1) with 53 bits, keyed by (key, stream, index).
inline double counter_uniform(uint64_t key, uint64_t stream, uint64_t index) {
  const auto words = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                             static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                            key);
  return ((uint64_t{words[0]} << 21) ^ (words[1] >> 11)) * 0x1p-53;
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
