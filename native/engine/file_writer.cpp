#include "file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.h"

namespace credence {

namespace {
constexpr size_t kBuffer = size_t{1} << 20;
}

FileWriter::FileWriter(const std::string& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  check(descriptor_ >= 0);
  buffer_.reserve(kBuffer);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!finished_) ::unlink(path_.c_str());
}

void FileWriter::check(bool ok) const {
  if (ok) return;
  const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  fail(full ? "DISK_FULL" : "FILE", "cannot write %s: %s", path_.c_str(),
       full ? "the disk is full. Free some space and start again" : std::strerror(errno));
}

void FileWriter::write(const void* data, size_t bytes) {
  const auto* from = static_cast<const uint8_t*>(data);
  written_ += bytes;
  while (bytes > 0) {
    const size_t part = std::min(bytes, kBuffer - buffer_.size());
    buffer_.insert(buffer_.end(), from, from + part);
    from += part, bytes -= part;
    if (buffer_.size() == kBuffer) flush();
  }
}

void FileWriter::pad(size_t alignment) {
  const std::string zeros((alignment - written_ % alignment) % alignment, '\0');
  write(zeros);
}

void FileWriter::flush() {
  for (size_t at = 0; at < buffer_.size();) {
    const ssize_t wrote = ::write(descriptor_, buffer_.data() + at, buffer_.size() - at);
    if (wrote < 0 && errno == EINTR) continue;
    check(wrote >= 0);
    at += static_cast<size_t>(wrote);
  }
  buffer_.clear();
}

void FileWriter::finish() {
  flush();
  check(::fsync(descriptor_) == 0);
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  check(closed == 0);
  finished_ = true;
}

}  // namespace credence
