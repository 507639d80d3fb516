// A fuzz target without a fuzzer: every file of the folders named goes through it once. Any compiler builds it.
#include <algorithm>
#include <filesystem>

#include "engine/mapped_file.h"
#include "fuzz.h"

int main(int argc, char** argv) {
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i)
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    std::printf("%s\n", file.c_str());
    std::fflush(stdout);  // the last line names the input that ends the process
    const std::string bytes = credence::read_file(file);
    // Memory of exactly this size, which a sanitizer can watch to the byte.
    const std::vector<uint8_t> input(bytes.begin(), bytes.end());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu inputs\n", files.size());
  return files.empty() ? 1 : 0;
}
