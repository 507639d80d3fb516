// A model that was just written, read again weight by weight.
#include <algorithm>
#include <cmath>

#include "error.h"
#include "model_writer.h"

namespace credence {

namespace {

constexpr int64_t kBlock = int64_t{1} << 20;

/// How far a type may leave a number: a share of the largest magnitude of its block (of the number itself, where each is
/// stored on its own), and what remains below the smallest normal float16.
struct Rounding {
  int block;
  double relative, absolute;
};

Rounding rounding_of(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return {1, 0, 0};
    case GgufType::kF16:
      return {1, 0x1p-11, 0x1p-25};
    case GgufType::kBF16:
      return {1, 0x1p-8, 0};
    case GgufType::kQ8_0:  // half a step of 1/127, and the scale's own rounding
      return {32, 0.5 / 127 + 0x1p-11, 127 * 0x1p-25};
    case GgufType::kQ4_0:  // the far end of the range is a whole step of 1/8 away
      return {32, 1.0 / 8 + 0x1p-10, 8 * 0x1p-25};
    default:
      fail("BAD_OPTION", "%s is not written", gguf_type_name(static_cast<uint32_t>(type)).c_str());
  }
}

}  // namespace

void require_rounded(const MergedWeights& source, const BaseFiles& written, const WeightSpec& spec, GgufType type,
                     const AbortFlag* abort) {
  const Rounding rounding = rounding_of(type);
  const bool matrix = spec.shape.size() > 1;
  const int64_t rows = spec.shape.front(), width = matrix ? spec.shape.back() : 1;
  const int64_t step = matrix ? std::max<int64_t>(1, kBlock / width) : rows;
  std::vector<float> expected, found;
  for (int64_t first = 0; first < rows; first += step) {
    check_abort(abort);
    const int64_t count = std::min(step, rows - first);
    expected.resize(static_cast<size_t>(count * width));
    found.resize(expected.size());
    source.read_rows(spec.name, first, count, expected.data());
    written.read_rows(spec.name, first, count, found.data());
    for (size_t at = 0; at < expected.size(); at += static_cast<size_t>(rounding.block)) {
      const size_t end = std::min(expected.size(), at + static_cast<size_t>(rounding.block));
      float largest = 0;
      for (size_t i = at; i < end; ++i) largest = std::max(largest, std::fabs(expected[i]));
      const double allowed = rounding.relative * static_cast<double>(largest) + rounding.absolute;
      for (size_t i = at; i < end; ++i)
        if (!(std::fabs(static_cast<double>(found[i]) - static_cast<double>(expected[i])) <= allowed))
          fail(
              "NOT_THE_SAME",
              "%s: weight %s has %g where its source has %g: further than %s rounds. Nothing was kept; the disk or the "
              "memory may be failing",
              written.path.c_str(), spec.name.c_str(), static_cast<double>(found[i]), static_cast<double>(expected[i]),
              gguf_type_name(static_cast<uint32_t>(type)).c_str());
    }
  }
}

}  // namespace credence
