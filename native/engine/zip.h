// The entries of a zip archive that are stored as they are, which is how torch.save lays out its container.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "mapped_file.h"

namespace credence {

/// Both point into the mapped file.
struct ZipEntry {
  std::string_view name;
  std::string_view data;
};

/// Every entry, zip64 included. An entry that is compressed or encrypted, two of one name, and anything that lies outside
/// the file throw Error "BAD_FILE". Checksums are not computed: weights are read in place, as from safetensors.
std::vector<ZipEntry> zip_entries(const MappedFile& file);

}  // namespace credence
