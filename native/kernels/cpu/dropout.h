// Dropout of an adapter's input (kernels.h, credence_dropout): what a slice keeps of X, and what of G A comes back. The mask
// is made again wherever it is needed, 32 columns at a time; scale = 1 / (1 - p) goes onto S and onto G, in float32.
#pragma once

#include <string.h>

#include "arena.h"
#include "linear.h"

namespace credence::cpu {

template <class Isa>
struct DropoutMask {
  uint64_t key;
  const uint64_t* row_key;
  uint32_t limit;  // words below it drop their element
  float scale;

  explicit DropoutMask(const credence_dropout& d)
      : key(d.key),
        row_key(d.row_key),
        limit(static_cast<uint32_t>(static_cast<double>(d.p) * 4294967296.0)),
        scale(static_cast<float>(1 / (1 - static_cast<double>(d.p)))) {}

  /// The words of 32 columns of row t: eight counters side by side, so that word w of all of them is columns 8 w .. 8 w + 7.
  void words(int64_t t, int slice, int64_t panel, uint32_t (&out)[kPanel]) const {
    constexpr int kLanes = 8;
    using Lanes [[gnu::vector_size(8 * kLanes)]] = uint64_t;  // 32 bits of each count: products need the room
    using Words [[gnu::vector_size(4 * kLanes)]] = uint32_t;
    const uint64_t row = row_key[t], low = 0xffffffff;
    const Lanes none = {}, each = {0, 1, 2, 3, 4, 5, 6, 7};
    Lanes c0 = each + static_cast<uint64_t>(panel * kLanes), c1 = none + static_cast<uint64_t>(slice);
    Lanes c2 = none + (row & low), c3 = none + (row >> 32);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      const Lanes a = c0 * uint64_t{0xD2511F53}, b = c2 * uint64_t{0xCD9E8D57};
      c0 = (b >> 32) ^ c1 ^ k0;
      c1 = b & low;
      c2 = (a >> 32) ^ c3 ^ k1;
      c3 = a & low;
    }
    const Words w[4] = {__builtin_convertvector(c0, Words), __builtin_convertvector(c1, Words),
                        __builtin_convertvector(c2, Words), __builtin_convertvector(c3, Words)};
    memcpy(out, w, sizeof w);
  }

  static float kept(float x, bool keeps) { return keeps ? x : 0.0f; }
  static bf16 kept(bf16 x, bool keeps) { return {keeps ? x.bits : uint16_t{0}}; }

  /// Rows [row0, row1) of x [T, columns] as a slice reads them, but for the scale.
  template <class T>
  void keep(int slice, const T* x, int64_t ldx, int64_t columns, int64_t row0, int64_t row1, T* out) const {
    uint32_t random[kPanel];
    for (int64_t t = row0; t < row1; ++t) {
      const T* from = x + t * ldx;
      T* to = out + t * columns;
      int64_t c = 0;
      for (; c + kPanel <= columns; c += kPanel) {
        words(t, slice, c / kPanel, random);
        for (int i = 0; i < kPanel; ++i) to[c + i] = kept(from[c + i], random[i] >= limit);
      }
      if (c == columns) continue;
      words(t, slice, c / kPanel, random);
      for (int64_t i = 0; c + i < columns; ++i) to[c + i] = kept(from[c + i], random[i] >= limit);
    }
  }
};

/// The adapter's share of dX under dropout: sum over slices of mask (G A). Without dropout it adds nothing: G A is then a
/// segment of dX's own product.
template <class Isa, class T>
struct DroppedTail {
  int slices = 0;
  DropoutMask<Isa> mask{credence_dropout{}};
  Product<T> product[CREDENCE_MAX_SLICES];

  /// body(tile, ld) with what of rows x 32 columns the slices give added.
  template <class Body>
  void with(int64_t row, int64_t rows, int64_t panel, const float* tile, int64_t ld, const Body& body) const {
    if (!slices) return body(tile, ld);
    alignas(64) float sum[Isa::kTileRows * kPanel], part[Isa::kTileRows * kPanel];
    for (int64_t r = 0; r < rows; ++r)
      for (int i = 0; i < kPanel; ++i) sum[r * kPanel + i] = tile[r * ld + i];
    for (int s = 0; s < slices; ++s) {
      tile_of<Isa>(product[s], row, rows, panel, 1, part, kPanel);
      uint32_t random[kPanel];
      for (int64_t r = 0; r < rows; ++r) {
        mask.words(row + r, s, panel, random);
        for (int i = 0; i < kPanel; ++i) sum[r * kPanel + i] += random[i] < mask.limit ? 0.0f : part[r * kPanel + i];
      }
    }
    body(sum, kPanel);
  }
};

}  // namespace credence::cpu
