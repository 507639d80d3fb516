#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "error.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CREDENCE_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define CREDENCE_ADDRESS_SANITIZER
#endif
#ifdef CREDENCE_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace credence {

namespace {

#ifdef CREDENCE_ADDRESS_SANITIZER
/// The system fills a mapping's last page with zeros. A sanitized build forbids them: who reads there reads beyond the
/// file.
size_t to_page_end(size_t size) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return (page - size % page) % page;
}
void forbid_rest_of_page(const uint8_t* data, size_t size) {
  ASAN_POISON_MEMORY_REGION(data + size, to_page_end(size));
}
void allow_rest_of_page(const uint8_t* data, size_t size) {
  ASAN_UNPOISON_MEMORY_REGION(data + size, to_page_end(size));
}
#else
void forbid_rest_of_page(const uint8_t*, size_t) {}
void allow_rest_of_page(const uint8_t*, size_t) {}
#endif

/// A file descriptor that closes itself.
struct Descriptor {
  int number;
  explicit Descriptor(const std::string& path) : number(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (number < 0) fail("NO_FILE", "cannot open %s: %s", path.c_str(), std::strerror(errno));
  }
  ~Descriptor() { ::close(number); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  size_t size(const std::string& path) const {
    struct stat status{};
    if (::fstat(number, &status) != 0) fail("NO_FILE", "cannot read %s: %s", path.c_str(), std::strerror(errno));
    if (S_ISDIR(status.st_mode)) fail("NO_FILE", "cannot read %s: it is a folder", path.c_str());
    return static_cast<size_t>(status.st_size);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(path);
  size_ = file.size(path);
  if (size_ == 0) return;  // mmap refuses an empty range
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (address == MAP_FAILED) fail("NO_FILE", "cannot map %s: %s", path.c_str(), std::strerror(errno));
  data_ = static_cast<const uint8_t*>(address);
  forbid_rest_of_page(data_, size_);
}

MappedFile::~MappedFile() {
  if (!data_) return;
  allow_rest_of_page(data_, size_);
  ::munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::string read_file(const std::string& path) {
  const Descriptor file(path);
  std::string text(file.size(path), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.number, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("NO_FILE", "cannot read %s: %s", path.c_str(), std::strerror(errno));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

bool file_exists(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && !S_ISDIR(status.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

}  // namespace credence
