// What the fuzz targets share. A target is one function from bytes to "nothing went wrong": libFuzzer calls it with
// inputs that it makes up (npm run fuzz), replay.cpp with those kept in corpus/ (CTest).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error.h"
#include "files_support.h"

namespace credence::fuzz {

/// Bytes that operator new has handed out so far (allocations.cpp).
size_t bytes_allocated();

#define FUZZ_REQUIRE(condition)                                                    \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (0)

/// Runs a reader of `size` bytes found below `place`. It may refuse them, by a credence::Error with one of the codes for
/// files whose message names the place; and it may allocate `base` bytes and 128 for each byte of input (the worst that
/// is meant to be: "0," is two bytes of JSON and a value of 40 in a vector that doubles).
template <typename Reader>
bool accepts(size_t size, size_t base, const std::string& place, Reader reader) {
  const size_t before = bytes_allocated();
  bool accepted = true;
  try {
    reader();
  } catch (const Error& error) {
    accepted = false;
    const std::string_view code = error.code, message = error.what();
    FUZZ_REQUIRE(code == "BAD_FILE" || code == "UNSUPPORTED" || code == "WRONG_MODEL" || code == "NO_FILE");
    if (message.find(place) == std::string_view::npos) {
      std::fprintf(stderr, "a message that does not name its file: %s\n", error.what());
      std::abort();
    }
  }
  const size_t allocated = bytes_allocated() - before;
  if (allocated > base + 128 * size) {
    std::fprintf(stderr, "%zu bytes allocated for %zu bytes of input\n", allocated, size);
    std::abort();
  }
  return accepted;
}

inline std::string_view text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

/// The input cut at its first `count - 1` zero bytes: several files in one input.
inline std::vector<std::string_view> parts(std::string_view input, size_t count) {
  std::vector<std::string_view> found;
  while (found.size() + 1 < count) {
    const size_t end = input.find('\0');
    if (end == std::string_view::npos) break;
    found.push_back(input.substr(0, end));
    input.remove_prefix(end + 1);
  }
  found.push_back(input);
  return found;
}

}  // namespace credence::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
