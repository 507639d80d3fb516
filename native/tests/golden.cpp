// credence_golden DIR [--device cpu|cuda|cuda-emulated] [--dtype f32|bf16] [--isa ISA] [--threads N] [--write OUT] [--complete]:
// the golden driver where there is no Node. Exit status 1 if a quantity exceeds its bound (with --complete also if a file was
// skipped), 77 if the machine lacks the instruction set or the device.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "native/engine/device.h"
#include "native/engine/error.h"
#include "native/engine/golden.h"

int main(int argc, char** argv) {
  credence::GoldenOptions options;
  options.device.dtype = "f32";
  bool complete = false;
  for (int i = 1; i < argc; ++i) {
    auto value = [&](const char* flag) -> const char* {
      return std::strcmp(argv[i], flag) == 0 && i + 1 < argc ? argv[++i] : nullptr;
    };
    if (const char* device = value("--device")) {
      options.device.device = device;
    } else if (const char* dtype = value("--dtype")) {
      options.device.dtype = dtype;
    } else if (const char* isa = value("--isa")) {
      options.device.isa = isa;
    } else if (const char* threads = value("--threads")) {
      options.device.threads = std::atoi(threads);
    } else if (const char* out = value("--write")) {
      options.write = out;
    } else if (std::strcmp(argv[i], "--complete") == 0) {
      complete = true;
    } else if (argv[i][0] != '-' && options.directory.empty()) {
      options.directory = argv[i];
    } else {
      std::fprintf(stderr,
                   "usage: %s DIR [--device cpu|cuda|cuda-emulated] [--dtype f32|bf16] [--isa ISA] [--threads N] "
                   "[--write OUT] [--complete]\n",
                   argv[0]);
      return 2;
    }
  }
  for (const credence::IsaStatus& status : credence::cpu_isas()) {
    if (status.isa != options.device.isa || status.unavailable.empty()) continue;
    std::printf("%s: %s\n", status.isa.c_str(), status.unavailable.c_str());
    return 77;
  }
  try {
    const credence::Json result = credence::golden(options);
    std::puts(result.text(2).c_str());
    return result.at("failed").as_integer() || (complete && result.at("skipped").size()) ? 1 : 0;
  } catch (const credence::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.code == "NO_DEVICE" ? 77 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
