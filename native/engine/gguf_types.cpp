// How a GGUF stores numbers. The arithmetic is float32 in the order written here, without fused multiply-add: that
// order is what the format's other readers do, and the fixtures are compared exactly.
#include <cstring>

#include "error.h"
#include "gguf.h"
#include "half.h"

namespace credence {

namespace {

uint16_t u16_at(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
float f16_at(const uint8_t* p) { return f16_to_float(u16_at(p)); }

void f32_block(const uint8_t* block, float* out) { std::memcpy(out, block, sizeof(float)); }
void f16_block(const uint8_t* block, float* out) { *out = f16_at(block); }
void bf16_block(const uint8_t* block, float* out) { *out = bf16_to_float(u16_at(block)); }

// Blocks of 32: a float16 scale d, then (Q*_1) a float16 minimum m, then (Q5) one high bit each, then the low four
// bits: byte j holds elements j and j + 16. Value: d (q - middle) or d q + m.

void q8_0_block(const uint8_t* block, float* out) {
  const float d = f16_at(block);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(block[2 + j]));
}

void q4_0_block(const uint8_t* block, float* out) {
  const float d = f16_at(block);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block[2 + j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block[2 + j] >> 4) - 8);
  }
}

void q4_1_block(const uint8_t* block, float* out) {
  const float d = f16_at(block), m = f16_at(block + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block[4 + j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block[4 + j] >> 4) + m;
  }
}

/// The five-bit number of element j (0..31): its low bits from `low`, its high bit from `high`.
int five_bits(const uint8_t* high, const uint8_t* low, int j) {
  const int nibble = j < 16 ? low[j] & 15 : low[j - 16] >> 4;
  return nibble | ((high[j / 8] >> (j % 8)) & 1) << 4;
}

void q5_0_block(const uint8_t* block, float* out) {
  const float d = f16_at(block);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(five_bits(block + 2, block + 6, j) - 16);
}

void q5_1_block(const uint8_t* block, float* out) {
  const float d = f16_at(block), m = f16_at(block + 2);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(five_bits(block + 4, block + 8, j)) + m;
}

// Blocks of 256 in 8 parts of 32, each with a 6-bit scale and a 6-bit minimum, packed in 12 bytes: parts 0-3 in the low
// six bits of bytes 0-3 (scale) and 4-7 (minimum); parts 4-7 have their low four bits in bytes 8-11 (scale low, minimum
// high nibble) and their top two bits in the top two bits of bytes 0-3 and 4-7. Value: d scale q - dmin minimum.

struct PartScale {
  float scale, minimum;
};

PartScale part_scale(const uint8_t* block, int part) {
  const float d = f16_at(block), dmin = f16_at(block + 2);
  const uint8_t* packed = block + 4;
  int scale, minimum;
  if (part < 4) {
    scale = packed[part] & 63;
    minimum = packed[part + 4] & 63;
  } else {
    scale = (packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4;
    minimum = (packed[part + 4] >> 4) | (packed[part] >> 6) << 4;
  }
  return {d * static_cast<float>(scale), dmin * static_cast<float>(minimum)};
}

// Byte l of the p-th 32 bytes holds element l of part 2p (low nibble) and of part 2p + 1 (high nibble).
void q4_k_block(const uint8_t* block, float* out) {
  const uint8_t* low = block + 16;
  for (int part = 0; part < 8; ++part) {
    const auto [scale, minimum] = part_scale(block, part);
    for (int l = 0; l < 32; ++l) {
      const int q = (low[32 * (part / 2) + l] >> (4 * (part % 2))) & 15;
      out[32 * part + l] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// As Q4_K, with 32 bytes of fifth bits before: bit `part` of byte l belongs to element l of that part.
void q5_k_block(const uint8_t* block, float* out) {
  const uint8_t* high = block + 16;
  const uint8_t* low = block + 48;
  for (int part = 0; part < 8; ++part) {
    const auto [scale, minimum] = part_scale(block, part);
    for (int l = 0; l < 32; ++l) {
      const int q = ((low[32 * (part / 2) + l] >> (4 * (part % 2))) & 15) | ((high[l] >> part) & 1) << 4;
      out[32 * part + l] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// 256 six-bit numbers less 32 in two halves of 128: low nibbles (64 bytes a half), top two bits (32 bytes a half), 16
// signed scales of 16 elements each, then d. In a half, quarter k (32 elements) has its low bits in bytes 32 (k % 2) +
// l, low nibble for k < 2, and its top bits at bit 2 k of byte l.
void q6_k_block(const uint8_t* block, float* out) {
  const float d = f16_at(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = block + 64 * half;
    const uint8_t* high = block + 128 + 32 * half;
    const uint8_t* scales = block + 192 + 8 * half;
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int l = 0; l < 32; ++l) {
        const int nibble = (low[32 * (quarter % 2) + l] >> (4 * (quarter / 2))) & 15;
        const int q = (nibble | ((high[l] >> (2 * quarter)) & 3) << 4) - 32;
        const float scale = d * static_cast<float>(static_cast<int8_t>(scales[2 * quarter + l / 16]));
        out[128 * half + 32 * quarter + l] = scale * static_cast<float>(q);
      }
  }
}

constexpr GgufTypeInfo kTypes[] = {
    {GgufType::kF32, "F32", 1, 4, f32_block},        {GgufType::kF16, "F16", 1, 2, f16_block},
    {GgufType::kQ4_0, "Q4_0", 32, 18, q4_0_block},   {GgufType::kQ4_1, "Q4_1", 32, 20, q4_1_block},
    {GgufType::kQ5_0, "Q5_0", 32, 22, q5_0_block},   {GgufType::kQ5_1, "Q5_1", 32, 24, q5_1_block},
    {GgufType::kQ8_0, "Q8_0", 32, 34, q8_0_block},   {GgufType::kQ4_K, "Q4_K", 256, 144, q4_k_block},
    {GgufType::kQ5_K, "Q5_K", 256, 176, q5_k_block}, {GgufType::kQ6_K, "Q6_K", 256, 210, q6_k_block},
    {GgufType::kBF16, "BF16", 1, 2, bf16_block},
};

// The format's numbering, with null where a number was given up.
constexpr const char* kNames[] = {
    "F32",    "F16",   "Q4_0",  "Q4_1",   nullptr, nullptr, "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
    "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
    "BF16",   nullptr, nullptr, nullptr,  "TQ1_0", "TQ2_0", nullptr,   nullptr,  nullptr,   "MXFP4",
};

}  // namespace

const GgufTypeInfo* gguf_type_info(uint32_t type) {
  for (const GgufTypeInfo& info : kTypes)
    if (static_cast<uint32_t>(info.type) == type) return &info;
  return nullptr;
}

std::string gguf_type_name(uint32_t type) {
  if (type < std::size(kNames) && kNames[type]) return kNames[type];
  return "type " + std::to_string(type);
}

void dequantise_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* out) {
  const int64_t width = tensor.width();
  if (first < 0 || count < 0 || first > tensor.rows() - count)
    fail("BAD_FILE", "tensor %s has %lld rows, not rows %lld to %lld", tensor.name.c_str(),
         static_cast<long long>(tensor.rows()), static_cast<long long>(first), static_cast<long long>(first + count));
  const GgufTypeInfo& type = *tensor.type;
  const int64_t blocks = count * (width / type.elements);
  const uint8_t* block = tensor.data + first * (width / type.elements) * type.bytes;
  if (blocks == 0) return;
  switch (type.type) {
    case GgufType::kF32:
      std::memcpy(out, block, static_cast<size_t>(blocks) * sizeof(float));
      return;
    case GgufType::kF16:
      for (int64_t i = 0; i < blocks; ++i) out[i] = f16_at(block + 2 * i);
      return;
    case GgufType::kBF16:
      for (int64_t i = 0; i < blocks; ++i) out[i] = bf16_to_float(u16_at(block + 2 * i));
      return;
    default:
      for (int64_t i = 0; i < blocks; ++i) type.dequantise(block + i * type.bytes, out + i * type.elements);
  }
}

}  // namespace credence
