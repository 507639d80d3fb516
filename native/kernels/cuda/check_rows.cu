// The check of rows: W of numbers that repeat nowhere, X whose rows are all the same, so that every row of the product has to be.
#include "check_rows.h"

#include <stdio.h>

#include <algorithm>

#include "blas.h"
#include "device.h"
#include "launch.h"
#include "memory.h"
#ifdef CREDENCE_EMULATE
#include "emulation/planted.h"
#endif

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kBatches[] = {7, 64, 4096};
// What the largest batch is cut to: a vocabulary's products are over chunks of fewer rows anyway (vocabulary.cu).
constexpr int64_t kResultBytes = int64_t{512} << 20;

// Numbers in [-1, 1) that begin again after `period`.
template <class T>
__global__ void fill_numbers(T* to, int64_t count, int64_t period) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count) return;
  uint32_t h = static_cast<uint32_t>(at % period) * 2654435761u + 1;
  h = (h ^ h >> 15) * 0x2c1b3c6du;
  h ^= h >> 12;
  to[at] = to_act<T>(static_cast<float>(static_cast<int32_t>(h >> 8 & 0xffff) - 0x8000) / 0x8000);
}

// *differ = 1 if a row of y [rows, ld] has other bits than `alone`.
template <class Bits>
__global__ void compare_rows(const Bits* y, int64_t ld, int64_t rows, int64_t outputs, const Bits* alone,
                             int32_t* differ) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < rows * outputs && y[at / outputs * ld + at % outputs] != alone[at % outputs]) *differ = 1;
}

/// Scratch of a check, given back with it.
class Piece {
 public:
  Piece(Backend& backend, int64_t bytes) : backend_(backend), data_(allocate(backend, static_cast<size_t>(bytes))) {}
  ~Piece() { release(backend_, data_); }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;
  void* get() const { return data_; }

 private:
  Backend& backend_;
  void* data_;
};

int fill_with_numbers(Backend& backend, credence_dtype dtype, void* to, int64_t count, int64_t period) {
  return with_type(dtype, [&]<class T>() {
    return launch(backend, "check rows", &fill_numbers<T>, blocks_of(count, kThreads), dim3(kThreads), 0,
                  static_cast<T*>(to), count, period);
  });
}

template <class Bits>
int compare(Backend& backend, const Product& p, const void* alone, void* differ) {
  return launch(backend, "check rows", &compare_rows<Bits>, blocks_of(p.rows * p.outputs, kThreads), dim3(kThreads), 0,
                static_cast<const Bits*>(p.y), p.ldy, p.rows, p.outputs, static_cast<const Bits*>(alone),
                static_cast<int32_t*>(differ));
}

/// *differ: 0, or the number of rows of a batch in which a row has other bits than alone.
int batches_differ(Backend& backend, Product p, int64_t most, void* alone, void* flag, int64_t* differ) {
  const size_t bytes = element_bytes(p.y_dtype);
  *differ = 0;
  for (const int64_t rows : kBatches) {
    Product one = p;
    one.rows = 1;
    one.y = alone;
    p.rows = std::min(rows, most);
    int error = product(backend, one) || product(backend, p) ||
                check(backend, cudaMemsetAsync(flag, 0, sizeof(int32_t), backend.stream), "check rows");
    if (!error)
      error = bytes == 2 ? compare<uint16_t>(backend, p, alone, flag) : compare<uint32_t>(backend, p, alone, flag);
    int32_t found = 0;
    if (error ||
        check(backend, cudaMemcpyAsync(&found, flag, sizeof found, cudaMemcpyDeviceToHost, backend.stream),
              "check rows") ||
        wait_for_stream(backend, "check rows"))
      return 1;
    if (found) {
      *differ = p.rows;
      return 0;
    }
  }
  return 0;
}

}  // namespace

int check_rows(Backend& backend, const CheckedSizes& sizes, void* w, int64_t ldw) {
#ifdef CREDENCE_EMULATE
  // Its sums are in order for every M; the check would take most of a test's time.
  if (emulation::planted_products() == emulation::PlantedProducts::kNone) return 0;
#endif
  if (std::find(backend.checked.begin(), backend.checked.end(), sizes) != backend.checked.end()) return 0;
  const int64_t bytes = static_cast<int64_t>(element_bytes(sizes.dtype)),
                y_bytes = static_cast<int64_t>(element_bytes(sizes.y_dtype));
  const int64_t ldx = sizes.inputs + sizes.tail, ldy = round_up(sizes.outputs, 8);
  const int64_t most = std::clamp<int64_t>(kResultBytes / (ldy * y_bytes), kBatches[1], kBatches[2]);
  const Piece x(backend, most * ldx * bytes), y(backend, most * ldy * y_bytes), alone(backend, ldy * y_bytes),
      flag(backend, sizeof(int32_t));
  if (!x.get() || !y.get() || !alone.get() || !flag.get()) return 1;
  backend.checked.push_back(sizes);
  if (backend.dry) return 0;
  if (fill_with_numbers(backend, sizes.dtype, w, sizes.outputs * ldw, sizes.outputs * ldw) ||
      fill_with_numbers(backend, sizes.dtype, x.get(), most * ldx, ldx))
    return 1;
  Product p{most, sizes.outputs, ldx, sizes.dtype, x.get(), ldx};
  p.w = w;
  p.ldw = ldw;
  p.y = y.get();
  p.ldy = ldy;
  p.y_dtype = sizes.y_dtype;
  int64_t differ = 0;
  for (const bool one : {false, true}) {
    if (one) blas_use_one(backend, p);
    // With the tail first: the algorithm is chosen for what is longest.
    for (const int64_t tail : {sizes.tail, int64_t{0}}) {
      p.tail = tail;
      p.inputs = sizes.inputs + tail;
      if (batches_differ(backend, p, most, alone.get(), flag.get(), &differ)) return 1;
      if (differ) break;
    }
    if (!differ) return 0;
  }
  if (!*backend.differ)
    snprintf(backend.differ, sizeof backend.differ,
             "the product with a matrix of %lld x %lld in %s gives a row among %lld other bits than alone",
             static_cast<long long>(sizes.outputs), static_cast<long long>(sizes.inputs),
             sizes.dtype == CREDENCE_BF16 ? "bf16" : "float32", static_cast<long long>(differ));
  return 0;
}

}  // namespace credence::cuda
