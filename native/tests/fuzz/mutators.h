// Mutations that know a format's shape, in turn with libFuzzer's own.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#ifdef CREDENCE_FUZZER
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t room);

namespace credence::fuzz {

/// Mutates the header of a safetensors file or the data behind it and keeps the first eight bytes right: without them
/// nearly every input that grows or shrinks ends at the check of the header's length. One time in eight the bytes as
/// they stand. Returns the new size.
inline size_t mutate_safetensors(uint8_t* data, size_t size, size_t room, unsigned seed) {
  uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data, 8);
  if (size < 8 || length > size - 8 || seed % 8 == 0) return LLVMFuzzerMutate(data, size, room);
  std::vector<uint8_t> header(data + 8, data + 8 + length), tensors(data + 8 + length, data + size);
  std::vector<uint8_t>& part = seed % 8 < 6 ? header : tensors;
  const size_t before = part.size(), free = room - size;
  if (before + free == 0) return size;
  part.resize(before + free);
  part.resize(LLVMFuzzerMutate(part.data(), before, part.size()));
  length = header.size();
  std::memcpy(data, &length, 8);
  if (!header.empty()) std::memcpy(data + 8, header.data(), header.size());
  if (!tensors.empty()) std::memcpy(data + 8 + header.size(), tensors.data(), tensors.size());
  return 8 + header.size() + tensors.size();
}

/// Puts another number in the place of one of a JSON text; every other time, libFuzzer's own.
inline size_t mutate_json(uint8_t* data, size_t size, size_t room, unsigned seed) {
  constexpr const char* kNumbers[] = {"0",     "1",         "-1",         "2",   "3",    "0.5",  "1e308",
                                      "65536", "268435456", "2147483648", "1e9", "null", "true", "9223372036854775807"};
  std::vector<std::pair<size_t, size_t>> found;  // where a number begins, how long it is
  const auto is_part = [](uint8_t c) { return (c >= '0' && c <= '9') || c == '.' || c == '-'; };
  for (size_t at = 0; at < size; ++at) {
    size_t length = 0;
    while (at + length < size && is_part(data[at + length])) ++length;
    if (length) found.emplace_back(at, length);
    at += length;
  }
  if (found.empty() || seed % 2 == 0) return LLVMFuzzerMutate(data, size, room);
  const auto [at, length] = found[seed / 2 % found.size()];
  const std::string number = kNumbers[seed / 64 % std::size(kNumbers)];
  if (size - length + number.size() > room) return LLVMFuzzerMutate(data, size, room);
  std::memmove(data + at + number.size(), data + at + length, size - at - length);
  std::memcpy(data + at, number.data(), number.size());
  return size - length + number.size();
}

}  // namespace credence::fuzz
#endif
