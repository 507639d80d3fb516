// The instructions of ptx.h as their definitions say them. A copy that nobody waited for is not there: cp_async_wait brings it.
#pragma once

#include <vector>

#include "language.h"

namespace credence::cuda::ptx {

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Factors {
    const uint32_t *a, *b;
  };
  const Factors mine = {a, b};  // lanes wait for each other, so what they point to stays
  const uint64_t* all = emulation::exchange(~0u, reinterpret_cast<uint64_t>(&mine));
  const auto of = [&](int lane) { return reinterpret_cast<const Factors*>(all[lane]); };
  const auto half = [](uint32_t pair, int which) { return __uint_as_float((which ? pair >> 16 : pair) << 16); };
  const int lane = emulation::current->lane;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const uint32_t x = of(row % 8 * 4 + k % 8 / 2)->a[row / 8 + k / 8 * 2], y = of(column * 4 + k % 8 / 2)->b[k / 8];
      sum += half(x, k % 2) * half(y, k % 2);
    }
    c[i] = sum;
  }
  emulation::exchanged(~0u);
}

inline void ldmatrix4(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulation::die("ldmatrix reads a row that is not aligned to 16 bytes");
  const uint64_t* all = emulation::exchange(~0u, reinterpret_cast<uint64_t>(row));
  const int lane = emulation::current->lane;
  for (int j = 0; j < 4; ++j) memcpy(&r[j], reinterpret_cast<const char*>(all[j * 8 + lane / 4]) + lane % 4 * 4, 4);
  emulation::exchanged(~0u);
}

inline void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulation::die("ldmatrix reads a row that is not aligned to 16 bytes");
  const uint64_t* all = emulation::exchange(~0u, reinterpret_cast<uint64_t>(row));
  const int lane = emulation::current->lane;
  for (int j = 0; j < 4; ++j) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i)
      memcpy(&pair[i], reinterpret_cast<const char*>(all[j * 8 + lane % 4 * 2 + i]) + lane / 4 * 2, 2);
    memcpy(&r[j], pair, 4);
  }
  emulation::exchanged(~0u);
}

inline uint32_t pack_bf16(float low, float high) {
  return __float2bfloat16(low).bits | static_cast<uint32_t>(__float2bfloat16(high).bits) << 16;
}

struct Copy {
  void* to;
  const void* from;
};
/// Copies on their way, the oldest group first; of the running thread alone.
struct Copies {
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};
inline Copies& copies() {
  static Copies of[1024];
  const emulation::Thread& t = *emulation::current;
  const auto& [x, y, z] = t.index;
  return of[x + t.block_size.x * (y + t.block_size.y * z)];
}

inline void cp_async16(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    emulation::die("cp.async copies from or to an address that is not aligned to 16 bytes");
  copies().open.push_back({shared, global});
}
inline void cp_async_commit() {
  Copies& c = copies();
  c.groups.push_back(std::move(c.open));
  c.open.clear();
}
template <int Pending>
void cp_async_wait() {
  Copies& c = copies();
  while (c.groups.size() > Pending) {
    for (const Copy& copy : c.groups.front()) memcpy(copy.to, copy.from, 16);
    c.groups.erase(c.groups.begin());
  }
}

}  // namespace credence::cuda::ptx
