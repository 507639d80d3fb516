// Files written once from front to back and forced to the disk. Whoever writes renames the file to its name afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace credence {

class FileWriter {
 public:
  /// A new file; throws Error "FILE" where there is one already or it cannot be made.
  explicit FileWriter(const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  /// Throws Error "DISK_FULL" or "FILE".
  void write(const void* data, size_t bytes);
  void write(const std::string& text) { write(text.data(), text.size()); }
  /// Zeros up to a multiple of `alignment`.
  void pad(size_t alignment);
  uint64_t written() const { return written_; }
  /// Waits until all of it is on the disk. A file that was not finished is removed.
  void finish();

 private:
  void flush();
  void check(bool ok) const;

  std::string path_;
  int descriptor_ = -1;
  bool finished_ = false;
  uint64_t written_ = 0;
  std::vector<uint8_t> buffer_;
};

}  // namespace credence
