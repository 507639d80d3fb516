// Files, read only: mapped for weights, whole for text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace credence {

/// A file mapped into memory for as long as this object lives. Pages are shared with other processes and dropped
/// under pressure. (A file that someone shortens meanwhile ends the process, as with any mapping.)
class MappedFile {
 public:
  /// Throws Error "NO_FILE" naming the file and the system's reason.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

/// The whole file as bytes.
std::string read_file(const std::string& path);

bool file_exists(const std::string& path);
bool is_directory(const std::string& path);

}  // namespace credence
