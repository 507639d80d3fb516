#include "zip.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_set>

#include "error.h"

namespace credence {

namespace {

constexpr uint32_t kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50, kDirectory = 0x02014b50,
                   kLocal = 0x04034b50;
constexpr size_t kEndBytes = 22, kLocatorBytes = 20, kEnd64Bytes = 56, kDirectoryBytes = 46, kLocalBytes = 30;

class Archive {
 public:
  explicit Archive(const MappedFile& file) : file_(file) {}

  std::vector<ZipEntry> read() {
    size_t count = 0, bytes = 0, at = 0;
    find_directory(count, bytes, at);
    if (at > file_.size() || bytes > file_.size() - at) damaged("its directory lies outside the file");
    if (count > bytes / kDirectoryBytes) damaged("its directory has too few bytes for its entries");
    const size_t end = at + bytes;
    std::vector<ZipEntry> entries;
    std::unordered_set<std::string_view> names;
    for (size_t i = 0; i < count; ++i) {
      if (kDirectoryBytes > end - at || number<uint32_t>(at) != kDirectory) damaged("an entry of its directory is cut");
      const size_t name_bytes = number<uint16_t>(at + 28), extra = number<uint16_t>(at + 30),
                   comment = number<uint16_t>(at + 32);
      if (name_bytes + extra + comment > end - at - kDirectoryBytes) damaged("an entry of its directory is cut");
      const ZipEntry entry = read_entry(at, name_bytes, extra);
      if (!names.insert(entry.name).second) damaged("two entries have one name");
      entries.push_back(entry);
      at += kDirectoryBytes + name_bytes + extra + comment;
    }
    return entries;
  }

 private:
  template <typename T>
  T number(size_t at) const {
    T value;
    std::memcpy(&value, file_.data() + at, sizeof value);
    return value;
  }

  [[noreturn]] void damaged(const char* what) const {
    fail("BAD_FILE", "%s: not a whole zip archive: %s. Copy or download the file again", file_.path().c_str(), what);
  }

  /// The end record is the last thing in the file but for a comment of at most 65535 bytes.
  void find_directory(size_t& count, size_t& bytes, size_t& at) const {
    if (file_.size() < kEndBytes) damaged("it is cut short");
    const size_t last = file_.size() - kEndBytes, first = last > 65535 ? last - 65535 : 0;
    size_t end = last;
    while (number<uint32_t>(end) != kEnd) {
      if (end == first) damaged("it is cut short");
      --end;
    }
    count = number<uint16_t>(end + 10), bytes = number<uint32_t>(end + 12), at = number<uint32_t>(end + 16);
    if (end < kLocatorBytes || number<uint32_t>(end - kLocatorBytes) != kLocator64) return;
    const uint64_t record = number<uint64_t>(end - kLocatorBytes + 8);
    if (record > file_.size() - kEnd64Bytes || file_.size() < kEnd64Bytes || number<uint32_t>(record) != kEnd64)
      damaged("its zip64 record is missing");
    count = number<uint64_t>(record + 32), bytes = number<uint64_t>(record + 40), at = number<uint64_t>(record + 48);
  }

  ZipEntry read_entry(size_t at, size_t name_bytes, size_t extra) const {
    uint64_t packed = number<uint32_t>(at + 20), whole = number<uint32_t>(at + 24), local = number<uint32_t>(at + 42);
    read_zip64(at + kDirectoryBytes + name_bytes, extra, whole, packed, local);
    const std::string_view name(reinterpret_cast<const char*>(file_.data()) + at + kDirectoryBytes, name_bytes);
    if (number<uint16_t>(at + 10) != 0 || packed != whole || (number<uint16_t>(at + 8) & 1))
      damaged("an entry is compressed or encrypted, which torch.save does not do");
    if (local > file_.size() || kLocalBytes > file_.size() - local || number<uint32_t>(local) != kLocal)
      damaged("an entry is not where its directory says");
    const size_t skip = kLocalBytes + number<uint16_t>(local + 26) + number<uint16_t>(local + 28);
    if (skip > file_.size() - local || whole > file_.size() - local - skip) damaged("an entry lies outside the file");
    return {name, {reinterpret_cast<const char*>(file_.data()) + local + skip, static_cast<size_t>(whole)}};
  }

  /// The extra field of kind 1 holds, in this order, the numbers that are all ones in the entry itself.
  void read_zip64(size_t at, size_t bytes, uint64_t& whole, uint64_t& packed, uint64_t& local) const {
    const size_t end = at + bytes;
    while (end - at >= 4) {
      const size_t kind = number<uint16_t>(at), length = number<uint16_t>(at + 2);
      at += 4;
      if (length > end - at) damaged("an extra field is cut");
      size_t next = at;
      at += length;
      if (kind != 1) continue;
      for (uint64_t* value : {&whole, &packed, &local}) {
        if (*value != 0xffffffffu) continue;
        if (at - next < 8) damaged("a zip64 field is cut");
        *value = number<uint64_t>(next);
        next += 8;
      }
    }
  }

  const MappedFile& file_;
};

}  // namespace

std::vector<ZipEntry> zip_entries(const MappedFile& file) { return Archive(file).read(); }

}  // namespace credence
