// Opens the libraries of CUDA kernels when they are asked for: libcredence_cuda.so, and the same kernels executed on the CPU
// for tests. Each is looked for where CREDENCE_CUDA_LIBRARY says (the first of the two), beside this binary, in the folder
// above it, and in the package that set_cuda_package names (the first).
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <mutex>
#include <string>
#include <vector>

#include "cuda_library.h"
#include "kernels.h"

namespace {

struct Opened {
  std::once_flag once;
  const credence_table* table = nullptr;
  std::string reason;
};

struct Package {
  std::string name, library;
};

Package& package() {
  static Package told;
  return told;
}

std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&credence_cuda_table), &info) || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

void open(Opened* opened, const std::string& name, const char* named, const Package& packed, const char* build) {
  const std::string folder = own_folder();
  void* library = nullptr;
  if (named) {
    library = dlopen(named, RTLD_NOW | RTLD_LOCAL);
    if (!library) opened->reason = std::string("CREDENCE_CUDA_LIBRARY: ") + dlerror();
  } else {
    std::vector<std::string> paths = {folder + "/" + name, folder + "/../" + name};
    if (!packed.library.empty()) paths.push_back(packed.library);
    for (const std::string& path : paths) {
      library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library) break;
      const std::string words = dlerror();
      // A library that is there and cannot be opened says more than one that is not there.
      if (opened->reason.empty() || words.find("No such file") == std::string::npos) opened->reason = words;
    }
    if (!library && opened->reason.find("No such file") != std::string::npos) {
      opened->reason = name + " is not beside " + folder;
      if (!packed.name.empty()) opened->reason += ", and the package " + packed.name + " is not installed";
      opened->reason += std::string("; ") + build;
      if (!packed.name.empty()) opened->reason += ", npm install " + packed.name + " brings it";
    }
  }
  if (!library) return;
  const auto get = reinterpret_cast<credence_open_library>(dlsym(library, CREDENCE_OPEN_LIBRARY));
  if (!get) {
    opened->reason = name + " has no function " CREDENCE_OPEN_LIBRARY "; build it from the same source";
    return;
  }
  const char* why = nullptr;
  opened->table = get(CREDENCE_TABLE_VERSION, &why);
  opened->reason = opened->table ? "" : why;
}

const credence_table* result(const Opened& opened, const char** reason) {
  if (reason) *reason = opened.table ? nullptr : opened.reason.c_str();
  return opened.table;
}

}  // namespace

void credence::set_cuda_package(const char* name, const char* library) { package() = {name, library ? library : ""}; }

bool credence::cuda_may_be_meant() {
  return access("/dev/nvidiactl", F_OK) == 0 || getenv("CREDENCE_CUDA_LIBRARY") || !package().library.empty();
}

const credence_table* credence_cuda_table(const char** reason) {
  static Opened opened;
  std::call_once(opened.once, open, &opened, "libcredence_cuda.so", getenv("CREDENCE_CUDA_LIBRARY"), package(),
                 "npm run build:cuda builds it");
  return result(opened, reason);
}

const credence_table* credence_cuda_emulated_table(const char** reason) {
  static Opened opened;
  std::call_once(opened.once, open, &opened, "libcredence_cuda_emulated.so", nullptr, Package{},
                 "a build with CREDENCE_TESTS=ON has it, on x86-64");
  return result(opened, reason);
}
