// Products by cuBLASLt, which is opened at run time: a machine without it learns why, nothing links it.
//
// One algorithm for each (N, K, layout) and range of M, never split over K. At load the ranges' algorithms are run on check rows:
// a row must have the same bits for M = 1, 7, 64, 4096, alone and with the tail of K that an adapter takes. Where the ranges
// differ, the algorithm of the largest M runs all of them; where that differs from itself too, it is said on standard error.
// No GPU has run this file yet (docs/measurements/cuda.md).
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

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

/// What a choice of algorithm depends on beside M.
struct Layout {
  int64_t outputs, inputs, ldx, ldw, ldy;
  int32_t dtype, y_dtype, x_transposed, w_transposed, add, alignment;
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

int choice_of(Backend& backend, const Product& p, cublasLtMatmulAlgo_t* out) {
  const Layout key = {p.outputs, p.inputs,       p.ldx,          p.ldw, p.ldy,          p.dtype,
                      p.y_dtype, p.x_transposed, p.w_transposed, p.add, alignment_of(p)};
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

/// The first row of X W^T for M rows, as bytes.
int first_row(Backend& backend, Product p, int64_t rows, std::vector<float>* out) {
  p.rows = rows;
  if (int error = product(backend, p)) return error;
  out->resize(static_cast<size_t>(p.outputs));
  if (int error = cuda::check(
          backend,
          cudaMemcpyAsync(out->data(), p.y, out->size() * sizeof(float), cudaMemcpyDeviceToHost, backend.stream),
          "check rows"))
    return error;
  ++backend.host_synchronisations;
  return cuda::check(backend, cudaStreamSynchronize(backend.stream), "check rows");
}

/// Whether a row has the same bits for every M; an error is 2.
int rows_agree(Backend& backend, const Product& p) {
  std::vector<float> alone, among;
  if (first_row(backend, p, 1, &alone)) return 2;
  for (const int64_t rows : {7, 64, 4096}) {
    if (first_row(backend, p, rows, &among)) return 2;
    if (memcmp(alone.data(), among.data(), alone.size() * sizeof(float)) != 0) return 0;
  }
  return 1;
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

int blas_choose(Backend& backend, int64_t outputs, int64_t inputs, int64_t ld, credence_dtype dtype) {
  // Rows and weights that repeat nowhere near: x[m][k] depends on k alone, so that every row is the first one.
  const int64_t most = kRangeRows[kRanges - 1], width = inputs + kSlot;
  const size_t bytes = element_bytes(dtype);
  std::vector<uint8_t> row(static_cast<size_t>(width) * bytes), matrix(static_cast<size_t>(outputs * ld) * bytes);
  const auto fill = [&](std::vector<uint8_t>& to, uint32_t state) {
    for (size_t i = 0; i < to.size() / bytes; ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = static_cast<float>(static_cast<int32_t>(state >> 8 & 0xffff) - 0x8000) / 0x8000;
      if (dtype == CREDENCE_BF16) {
        const __nv_bfloat16 narrow = __float2bfloat16(value);
        memcpy(&to[i * bytes], &narrow, bytes);
      } else {
        memcpy(&to[i * bytes], &value, bytes);
      }
    }
  };
  fill(row, 1);
  fill(matrix, 2);
  std::vector<uint8_t> rows;
  for (int64_t m = 0; m < most; ++m) rows.insert(rows.end(), row.begin(), row.end());
  void* const x = allocate(backend, rows.size());
  void* const w = allocate(backend, matrix.size());
  void* const y = allocate(backend, static_cast<size_t>(most * round_up(outputs, 8)) * sizeof(float));
  int status = x && w && y ? 0 : 1;
  const auto send = [&](void* to, const std::vector<uint8_t>& from) {
    return cuda::check(backend, cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, backend.stream),
                       "check rows");
  };
  if (!status) status = send(x, rows) || send(w, matrix);
  for (const bool tail : {false, true}) {
    if (status) break;
    Product p{most, outputs, inputs + (tail ? kSlot : 0), dtype, x, width};
    p.w = w;
    p.ldw = ld;
    p.y = y;
    p.ldy = round_up(outputs, 8);
    int agree = rows_agree(backend, p);
    if (agree == 0) {
      const Layout key = {p.outputs, p.inputs, p.ldx, p.ldw, p.ldy,          p.dtype,
                          p.y_dtype, false,    false, false, alignment_of(p)};
      backend.blas->choices[key].one = true;
      agree = rows_agree(backend, p);
      if (agree == 0)
        fprintf(
            stderr,
            "credence: cuBLASLt gives a row of a product of %lld x %lld other bits in other batches; what is scored "
            "while sampling must be scored again\n",
            static_cast<long long>(outputs), static_cast<long long>(inputs));
    }
    if (agree == 2) status = 1;
  }
  for (void* piece : {x, w, y}) release(backend, piece);
  return status;
}

}  // namespace credence::cuda
