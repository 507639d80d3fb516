// Dropout of an adapter's input (kernels.h, credence_dropout): what a slice keeps of X, and what of G A comes back. The mask
// is made again wherever it is needed, 32 columns at a time; scale = 1 / (1 - p) goes onto S and onto G, in float32.
#pragma once

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
    uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
    const uint64_t row = row_key[t];
    for (int i = 0; i < kLanes; ++i) {
      c0[i] = static_cast<uint32_t>(panel * kLanes + i);
      c1[i] = static_cast<uint32_t>(slice);
      c2[i] = static_cast<uint32_t>(row);
      c3[i] = static_cast<uint32_t>(row >> 32);
    }
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
      for (int i = 0; i < kLanes; ++i) {
        const uint64_t a = uint64_t{0xD2511F53} * c0[i], b = uint64_t{0xCD9E8D57} * c2[i];
        c0[i] = static_cast<uint32_t>(b >> 32) ^ c1[i] ^ k0;
        c1[i] = static_cast<uint32_t>(b);
        c2[i] = static_cast<uint32_t>(a >> 32) ^ c3[i] ^ k1;
        c3[i] = static_cast<uint32_t>(a);
      }
    for (int i = 0; i < kLanes; ++i) {
      out[i] = c0[i];
      out[kLanes + i] = c1[i];
      out[2 * kLanes + i] = c2[i];
      out[3 * kLanes + i] = c3[i];
    }
  }

  /// Rows [row0, row1) of x [T, columns] as a slice reads them, but for the scale.
  template <class T>
  void keep(int slice, const T* x, int64_t ldx, int64_t columns, int64_t row0, int64_t row1, T* kept) const {
    uint32_t random[kPanel];
    for (int64_t t = row0; t < row1; ++t)
      for (int64_t c = 0; c < columns; c += kPanel) {
        words(t, slice, c / kPanel, random);
        const T* from = x + t * ldx + c;
        T* to = kept + t * columns + c;
        const int64_t count = least(kPanel, columns - c);
        for (int64_t i = 0; i < count; ++i) to[i] = random[i] < limit ? T{} : from[i];
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
