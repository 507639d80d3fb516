// The one exception of the native side: a stable code for programs, a sentence for people.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

namespace credence {

/// Codes used by the files of a model: "NO_FILE" (absent or unreadable), "BAD_FILE" (damaged, or not what its name
/// says), "UNSUPPORTED" (well formed, but asks for arithmetic this engine does not do), "WRONG_MODEL" (fits another
/// base).
struct Error : std::runtime_error {
  std::string code;
  Error(std::string error_code, const std::string& message)
      : std::runtime_error(message), code(std::move(error_code)) {}
};

/// Throws Error with a message in the manner of printf.
[[noreturn]] __attribute__((format(printf, 2, 3))) inline void fail(const char* code, const char* format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, arguments);
  va_end(arguments);
  std::string message(length > 0 ? static_cast<size_t>(length) : 0, '\0');
  std::vsnprintf(message.data(), message.size() + 1, format, again);
  va_end(again);
  throw Error(code, message);
}

}  // namespace credence
