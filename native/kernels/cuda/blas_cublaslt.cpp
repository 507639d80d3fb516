// Products by cuBLASLt, which is opened at run time: a machine without it learns why, nothing links it.
//
// One algorithm for each (N, K) and range of M, never split over K, with the tail of K that an adapter takes and without it. That
// rows have the same bits in every range is checked when a matrix of a size is first packed (check_rows.h).
// No GPU has run this file yet (docs/measurements/cuda.md).
#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>

#include "blas.h"
#include "memory.h"

namespace credence::cuda {

namespace {

constexpr size_t kWorkspace = size_t{32} << 20;
constexpr const char* kLibrary = "libcublasLt.so.13";
constexpr int64_t kRangeEnds[] = {16, 128, 1024, INT64_MAX};  // of M
constexpr int64_t kRangeRows[] = {8, 64, 512, 4096};          // what a range is chosen for
constexpr int kRanges = 4;

// clang-format off: a list, not calls
#define CREDENCE_CUBLASLT(X)                                                                  \
  X(cublasLtCreate) X(cublasLtDestroy) X(cublasLtMatmul) X(cublasLtMatmulDescCreate)          \
  X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute) X(cublasLtMatrixLayoutCreate) \
  X(cublasLtMatrixLayoutDestroy) X(cublasLtMatmulPreferenceCreate)                            \
  X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute)                  \
  X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmulAlgoConfigGetAttribute)                   \
  X(cublasLtGetStatusString)
// clang-format on

struct Library {
  void* handle = nullptr;
#define CREDENCE_SYMBOL(name) decltype(&::name) name = nullptr;
  CREDENCE_CUBLASLT(CREDENCE_SYMBOL)
#undef CREDENCE_SYMBOL
};

/// What a choice of algorithm depends on beside M. K without the tail; distances of rows by what they are multiples of.
struct Layout {
  int64_t outputs, inputs;
  int32_t dtype, y_dtype, x_transposed, w_transposed, alignment;
  auto operator<=>(const Layout&) const = default;
};

struct Choice {
  cublasLtMatmulAlgo_t algorithm[kRanges];
  bool chosen[kRanges] = {};
  bool one = false;  // the last range's algorithm runs all of them
};

int range_of(int64_t rows) {
  int range = 0;
  while (rows > kRangeEnds[range]) ++range;
  return range;
}

/// The largest power of two up to 16 that all addresses and rows are multiples of, in bytes.
int32_t alignment_of(const Product& p) {
  const auto bytes = static_cast<int64_t>(element_bytes(p.dtype)),
             y_bytes = static_cast<int64_t>(element_bytes(p.y_dtype));
  const uintptr_t all = reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.w) |
                        reinterpret_cast<uintptr_t>(p.y) | static_cast<uintptr_t>(p.ldx * bytes) |
                        static_cast<uintptr_t>(p.ldw * bytes) | static_cast<uintptr_t>(p.ldy * y_bytes) | 16;
  return static_cast<int32_t>(all & -all);
}

cudaDataType_t type_of(credence_dtype dtype) { return dtype == CREDENCE_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

}  // namespace

struct Blas {
  Library library;
  cublasLtHandle_t handle = nullptr;
  std::mutex mutex;
  std::map<Layout, Choice> choices;
};

namespace {

int check(Backend& backend, cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return 0;
  return fail(backend, "cuBLASLt, %s: %s", what, backend.blas->library.cublasLtGetStatusString(status));
}

/// The descriptors of one product. cuBLASLt counts columns first, so its product is Y^T = W X^T: m = N, n = M.
class Descriptors {
 public:
  Descriptors(Backend& backend, const Product& p) : library_(backend.blas->library) {
    const Library& l = library_;
    const cublasOperation_t op_w = p.w_transposed ? CUBLAS_OP_N : CUBLAS_OP_T,
                            op_x = p.x_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    error_ =
        check(backend, l.cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description") ||
        check(backend, l.cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSA, &op_w, sizeof op_w),
              "description") ||
        check(backend, l.cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSB, &op_x, sizeof op_x),
              "description") ||
        layout(backend, &w_, p.dtype, p.w_transposed ? p.outputs : p.inputs, p.w_transposed ? p.inputs : p.outputs,
               p.ldw) ||
        layout(backend, &x_, p.dtype, p.x_transposed ? p.rows : p.inputs, p.x_transposed ? p.inputs : p.rows, p.ldx) ||
        layout(backend, &y_, p.y_dtype, p.outputs, p.rows, p.ldy);
  }
  ~Descriptors() {
    for (cublasLtMatrixLayout_t matrix : {w_, x_, y_})
      if (matrix) library_.cublasLtMatrixLayoutDestroy(matrix);
    if (product_) library_.cublasLtMatmulDescDestroy(product_);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  int error() const { return error_; }

  /// The first algorithm that does not split K.
  int choose(Backend& backend, int32_t alignment, cublasLtMatmulAlgo_t* out) const {
    const Library& l = library_;
    cublasLtMatmulPreference_t preference = nullptr;
    if (int error = check(backend, l.cublasLtMatmulPreferenceCreate(&preference), "preference")) return error;
    const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(l.cublasLtMatmulPreferenceDestroy)> owned(
        preference, l.cublasLtMatmulPreferenceDestroy);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      return check(backend, l.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                   "preference");
    };
    const size_t workspace = kWorkspace;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE, bytes = static_cast<uint32_t>(alignment);
    if (set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace) ||
        set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction) ||
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes) ||
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes) ||
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes) ||
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes))
      return 1;
    cublasLtMatmulHeuristicResult_t results[32];
    int count = 0;
    if (int error = check(backend,
                          l.cublasLtMatmulAlgoGetHeuristic(backend.blas->handle, product_, w_, x_, y_, y_, preference,
                                                           32, results, &count),
                          "choice of an algorithm"))
      return error;
    for (int i = 0; i < count; ++i) {
      int32_t splits = 0;
      size_t written = 0;
      l.cublasLtMatmulAlgoConfigGetAttribute(&results[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits, sizeof splits,
                                             &written);
      if (results[i].state != CUBLAS_STATUS_SUCCESS || splits > 1) continue;
      *out = results[i].algo;
      return 0;
    }
    return fail(backend, "cuBLASLt has no algorithm for this product that does not split K");
  }

  int run(Backend& backend, const Product& p, const cublasLtMatmulAlgo_t& algorithm) const {
    const float beta = p.add ? 1 : 0;
    return check(backend,
                 library_.cublasLtMatmul(backend.blas->handle, product_, &p.alpha, p.w, w_, p.x, x_, &beta, p.y, y_,
                                         p.y, y_, &algorithm, backend.blas_workspace, kWorkspace, backend.stream),
                 "product");
  }

 private:
  int layout(Backend& backend, cublasLtMatrixLayout_t* out, credence_dtype dtype, int64_t rows, int64_t columns,
             int64_t ld) {
    return check(backend,
                 library_.cublasLtMatrixLayoutCreate(out, type_of(dtype), static_cast<uint64_t>(rows),
                                                     static_cast<uint64_t>(columns), ld),
                 "layout");
  }

  const Library& library_;
  int error_ = 0;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, x_ = nullptr, y_ = nullptr;
};

Layout layout_of(const Product& p) {
  return {p.outputs, p.inputs - p.tail, p.dtype, p.y_dtype, p.x_transposed, p.w_transposed, alignment_of(p)};
}

int choice_of(Backend& backend, const Product& p, cublasLtMatmulAlgo_t* out) {
  const Layout key = layout_of(p);
  const std::lock_guard lock(backend.blas->mutex);
  Choice& choice = backend.blas->choices[key];
  const int range = choice.one ? kRanges - 1 : range_of(p.rows);
  if (!choice.chosen[range]) {
    Product typical = p;
    // Sums over rows have their length in K, not in M: they are chosen for as they are.
    if (!p.x_transposed) typical.rows = kRangeRows[range];
    const Descriptors d(backend, typical);
    if (d.error() || d.choose(backend, key.alignment, &choice.algorithm[range])) return 1;
    choice.chosen[range] = true;
  }
  *out = choice.algorithm[range];
  return 0;
}

}  // namespace

size_t blas_workspace_bytes() { return kWorkspace; }

Blas* blas_open(Backend& backend) {
  auto blas = std::make_unique<Blas>();
  Library& l = blas->library;
  l.handle = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!l.handle) {
    fail(backend,
         "cuBLASLt cannot be opened (%s). It comes with the CUDA toolkit 13, or as the package nvidia-cublas of "
         "Python's index; its folder belongs into LD_LIBRARY_PATH",
         dlerror());
    return nullptr;
  }
#define CREDENCE_SYMBOL(name)                                          \
  l.name = reinterpret_cast<decltype(l.name)>(dlsym(l.handle, #name)); \
  if (!l.name) {                                                       \
    fail(backend, "%s has no function %s", kLibrary, #name);           \
    dlclose(l.handle);                                                 \
    return nullptr;                                                    \
  }
  CREDENCE_CUBLASLT(CREDENCE_SYMBOL)
#undef CREDENCE_SYMBOL
  if (const cublasStatus_t status = l.cublasLtCreate(&blas->handle); status != CUBLAS_STATUS_SUCCESS) {
    fail(backend, "cuBLASLt cannot start: %s", l.cublasLtGetStatusString(status));
    dlclose(l.handle);
    return nullptr;
  }
  return blas.release();
}

void blas_close(Blas* blas) {
  blas->library.cublasLtDestroy(blas->handle);
  dlclose(blas->library.handle);
  delete blas;
}

int product(Backend& backend, const Product& p) {
  if (p.rows == 0 || p.outputs == 0) return 0;
  cublasLtMatmulAlgo_t algorithm;
  if (choice_of(backend, p, &algorithm)) return 1;
  const Descriptors d(backend, p);
  return d.error() ? 1 : d.run(backend, p, algorithm);
}

void blas_use_one(Backend& backend, const Product& p) {
  const std::lock_guard lock(backend.blas->mutex);
  backend.blas->choices[layout_of(p)].one = true;
}

}  // namespace credence::cuda
