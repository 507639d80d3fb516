// The emulation that executes CUDA kernels on the CPU: that it runs them as their source says, and that what is wrong in a kernel
// is seen here. Each fault is planted beside the kernel without it.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ptx.h"
#include "testing.h"

extern "C" const credence_table* credence_backend_v4(int32_t version, const char** reason);

using namespace credence;
using namespace credence::cuda;
using namespace credence::testing;

namespace {

constexpr emulation::Order kOrders[] = {emulation::Order::kForward, emulation::Order::kBackward,
                                        emulation::Order::kShuffled};

template <class... Parameters>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
         std::type_identity_t<Parameters>... with) {
  emulation::launch("test", kernel, grid, block, shared, with...);
}

/// Whether a process that calls body ends abnormally, with these words on standard error.
bool dies(const std::function<void()>& body, const std::string& words) {
  int ends[2];
  if (pipe(ends)) return false;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    body();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char part[4096];
  for (ssize_t n; (n = ::read(ends[0], part, sizeof part)) > 0;) said.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  const bool found = said.find(words) != std::string::npos;
  if (!found) std::printf("  said: %s\n", said.c_str());
  return found && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

enum class Plant { kNothing, kNoBarrier, kNoGuard };

// Sums a row over a block twice, through shared memory: the first barrier lets the sums be read, the guard lets their room be
// used again.
template <Plant P>
__global__ void sum_twice(const float* x, float* out) {
  __shared__ float parts[kWarp];
  float sum = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int round = 0; round < 2; ++round) {
    sum = warp_reduce(sum, Sum());
    if (P != Plant::kNoGuard) __syncthreads();
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = sum;
    if (P != Plant::kNoBarrier) __syncthreads();
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    sum = warp_reduce(lane < static_cast<int>(blockDim.x / kWarp) ? parts[lane] : 0.0f, Sum());
  }
  if (threadIdx.x == blockDim.x - 1 || threadIdx.x == 0) out[blockIdx.x * 2 + (threadIdx.x == 0)] = sum;
}

template <Plant P>
int wrong_orders() {
  constexpr int kBlocks = 3, kThreads = 160;
  std::vector<float> x(kBlocks * kThreads);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7);
  int wrong = 0;
  for (const emulation::Order order : kOrders) {
    emulation::set_order(order);
    std::vector<float> out(2 * kBlocks);
    run(&sum_twice<P>, dim3(kBlocks), dim3(kThreads), 0, x.data(), out.data());
    bool right = true;
    for (int b = 0; b < kBlocks; ++b) {
      float sum = 0;
      for (int i = 0; i < kThreads; ++i) sum += x[b * kThreads + i];
      right = right && out[2 * b] == sum * kThreads && out[2 * b + 1] == out[2 * b];
    }
    wrong += !right;
  }
  return wrong;
}

__global__ void add_one(float* x, int count, int beyond) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count + beyond) x[i] += 1;
}

__global__ void read_lane(unsigned mask, int lane, float* out) {
  if (mask >> threadIdx.x & 1) out[threadIdx.x] = __shfl_sync(mask, static_cast<float>(threadIdx.x), lane);
}
__global__ void wait_unnamed() { __syncwarp(threadIdx.x == 3 ? 0xfffffff7u : 0xffffffffu); }
__global__ void wait_for_who_left() {
  if (threadIdx.x != 5) __syncwarp();
}
__global__ void wait_apart() {
  if (threadIdx.x < 32) __syncthreads();
  else if (threadIdx.x != 40) __syncwarp();
  else __syncthreads();
}

__global__ void read_unwritten(float* out) {
  CREDENCE_DYNAMIC_SHARED(float, shared);
  out[threadIdx.x] = shared[threadIdx.x];
}

// C [16, 8] = A [16, K] B [K, 8] in bf16 by one warp, through shared memory, cp.async, ldmatrix and mma.
template <bool Waits>
__global__ void product_of_tiles(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k) {
  constexpr int kPad = 24;  // elements between rows of a tile: rows of 48 bytes lie in different banks
  alignas(16) __shared__ __nv_bfloat16 tile[2][16][kPad];
  const int lane = static_cast<int>(threadIdx.x), steps = k / 16;
  const auto fetch = [&](int step) {
    ptx::cp_async16(&tile[step % 2][lane / 2][lane % 2 * 8], a + lane / 2 * k + step * 16 + lane % 2 * 8);
    ptx::cp_async_commit();
  };
  for (int i = lane; i < 2 * 16 * kPad; i += kWarp) (&tile[0][0][0])[i] = __nv_bfloat16{0xffff};
  __syncwarp();
  float sums[4] = {};
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) fetch(step + 1);
    if (Waits) {
      if (step + 1 < steps) ptx::cp_async_wait<1>();
      else ptx::cp_async_wait<0>();
    }
    __syncwarp();
    uint32_t left[4], right[2];
    ptx::ldmatrix4(left, &tile[step % 2][lane % 16][lane / 16 * 8]);
    const __nv_bfloat16* column = b + lane / 4 * k + step * 16 + lane % 4 * 2;  // b is given as [8, K]
    memcpy(&right[0], column, 4);
    memcpy(&right[1], column + 8, 4);
    ptx::mma_m16n8k16(sums, left, right);
    __syncwarp();
  }
  if (!Waits) ptx::cp_async_wait<0>();  // no copy outlives its kernel
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

struct Opened {
  const credence_table* table;
  credence_backend* handle = nullptr;
  explicit Opened(bool dry = false) {
    const char* reason = nullptr;
    char error[256] = "";
    table = credence_backend_v4(CREDENCE_TABLE_VERSION, &reason);
    handle = dry ? table->open_dry(error, sizeof error) : table->open(0, 1, error, sizeof error);
  }
  ~Opened() { table->close(handle); }
  std::string words() const { return table->last_error(handle); }
};

}  // namespace

TEST(a_kernel_is_right_in_every_order_of_warps) { EXPECT_EQ(wrong_orders<Plant::kNothing>(), 0); }

TEST(a_missing_barrier_gives_a_wrong_result_in_some_order) {
  EXPECT(wrong_orders<Plant::kNoBarrier>() > 0);
  EXPECT(wrong_orders<Plant::kNoGuard>() > 0);
}

TEST(a_kernel_that_goes_beyond_its_memory_is_found) {
  const auto add = [](int beyond) {
    Opened on;
    auto* x = static_cast<float*>(on.table->alloc(on.handle, 33 * sizeof(float)));
    run(&add_one, dim3(2), dim3(32), 0, x, 33, beyond);
    on.table->free(on.handle, x);
  };
  add(0);
#if defined(__SANITIZE_ADDRESS__)
  EXPECT(dies([&] { add(1); }, "AddressSanitizer"));
#else
  EXPECT(dies([&] { add(1); }, "byte 132 of a piece of 132 bytes was written"));
#endif
}

TEST(lanes_that_do_not_meet_are_found) {
  float out[32] = {};
  run(&read_lane, dim3(1), dim3(32), 0, 0x0000ffffu, 15, out);
  EXPECT_EQ(out[3], 15.0f);
  EXPECT(dies([&] { run(&read_lane, dim3(1), dim3(32), 0, 0x0000ffffu, 16, out); }, "that its mask does not name"));
  EXPECT(dies([] { run(&wait_unnamed, dim3(1), dim3(32), 0); }, "a mask that does not name it"));
  EXPECT(dies([] { run(&wait_for_who_left, dim3(1), dim3(32), 0); }, "has left the kernel"));
  EXPECT(dies([] { run(&wait_apart, dim3(1), dim3(64), 0); }, "no thread can go on"));
}

TEST(what_nobody_wrote_to_shared_memory_is_no_number) {
  float out[32] = {};
  run(&read_unwritten, dim3(1), dim3(32), sizeof out, out);
  for (float x : out) EXPECT(std::isnan(x));
}

TEST(tensor_core_and_copy_instructions_are_their_definition) {
  constexpr int kDepth = 80;
  std::vector<__nv_bfloat16> a(16 * kDepth), b(8 * kDepth);
  for (size_t i = 0; i < a.size(); ++i)
    a[i] = __float2bfloat16(static_cast<float>(static_cast<int>(i * 37 % 64) - 32) / 16);
  for (size_t i = 0; i < b.size(); ++i)
    b[i] = __float2bfloat16(static_cast<float>(static_cast<int>(i * 53 % 64) - 32) / 16);
  for (const emulation::Order order : kOrders) {
    emulation::set_order(order);
    std::vector<float> c(16 * 8);
    run(&product_of_tiles<true>, dim3(1), dim3(32), 0, a.data(), b.data(), c.data(), kDepth);
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 8; ++n) {
        double sum = 0;
        for (int k = 0; k < kDepth; ++k)
          sum += static_cast<double>(__bfloat162float(a[m * kDepth + k])) *
                 static_cast<double>(__bfloat162float(b[n * kDepth + k]));
        EXPECT_NEAR(c[m * 8 + n], sum, 1e-4);
      }
    run(&product_of_tiles<false>, dim3(1), dim3(32), 0, a.data(), b.data(), c.data(), kDepth);
    EXPECT(std::isnan(c[0]));  // read before the copy was there
  }
}

TEST(the_host_waits_for_the_device_only_to_read) {
  Opened on;
  const auto waits = [&] { return on.table->waits(on.handle); };
  constexpr int64_t kCount = 20000;
  const auto take = [&](size_t bytes) { return static_cast<float*>(on.table->alloc(on.handle, bytes)); };
  float *p = take(kCount * 4), *m = take(kCount * 4), *v = take(kCount * 4), *g = take(kCount * 4), *norm = take(4);
  const std::vector<float> ones(kCount, 1.0f);
  for (float* x : {p, m, v, g}) on.table->write(on.handle, x, ones.data(), kCount * 4);
  const credence_gradient_norm of_norm{kCount, g, norm};
  void* const workspace = take(on.table->gradient_norm_workspace(&of_norm));
  for (int64_t step = 1; step <= 3; ++step) {
    EXPECT_EQ(on.table->gradient_norm(on.handle, &of_norm, workspace), 0);
    const credence_adamw update{0, kCount, p, m, v, g, norm, 1, 1, 1e-3, 0.9, 0.999, 1e-8, 0, step};
    EXPECT_EQ(on.table->adamw(on.handle, &update, nullptr), 0);
    on.table->fill(on.handle, m, 0, kCount * 4);
    on.table->copy(on.handle, m, v, kCount * 4);
  }
  EXPECT_EQ(waits(), 0);
  float value = 0;
  on.table->read(on.handle, &value, norm, 4);
  EXPECT_EQ(waits(), 1);
  EXPECT_NEAR(value, std::sqrt(static_cast<double>(kCount)), 1e-3);
  for (void* piece : {static_cast<void*>(p), static_cast<void*>(m), static_cast<void*>(v), static_cast<void*>(g),
                      static_cast<void*>(norm), workspace})
    on.table->free(on.handle, piece);
}

TEST(what_a_kernel_saw_is_told_once_at_the_next_wait) {
  Opened on;
  auto* rows = static_cast<int32_t*>(on.table->alloc(on.handle, 4));
  auto* x = static_cast<float*>(on.table->alloc(on.handle, 64));
  const int32_t five = 5;
  on.table->write(on.handle, rows, &five, 4);
  on.table->fill(on.handle, x, 0, 64);
  credence_norm norm = {};
  norm.rows = rows, norm.capacity = 2, norm.width = 4, norm.x = norm.weight = x, norm.y_f32 = x;
  norm.ldx = norm.ldy_f32 = 4;
  EXPECT_EQ(on.table->norm(on.handle, &norm, nullptr), 0);
  EXPECT(on.table->synchronise(on.handle) != 0);
  EXPECT_EQ(on.words(), std::string("norm: 5 rows, but there is room for 2"));
  EXPECT_EQ(on.table->synchronise(on.handle), 0);
  on.table->free(on.handle, rows);
  on.table->free(on.handle, x);
}

TEST(memory_is_one_arena_whose_pieces_are_used_again) {
  Opened on, dry(true);
  for (const Opened* each : {&on, &dry}) each->table->limit(each->handle, 1 << 20);
  const auto both = [&](size_t bytes) {
    return std::pair{on.table->alloc(on.handle, bytes), dry.table->alloc(dry.handle, bytes)};
  };
  const auto a = both(1000), b = both(300000), c = both(1);
  EXPECT(a.first && b.first && c.first && a.second && b.second && c.second);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(c.first) % 256, 0u);
  const auto equal = [&] {
    const credence_memory x = on.table->memory(on.handle, 0), y = dry.table->memory(dry.handle, 0);
    return x.current == y.current && x.peak == y.peak && x.weights == y.weights && x.adapters == y.adapters;
  };
  EXPECT(equal());
  on.table->free(on.handle, b.first);
  dry.table->free(dry.handle, b.second);
  EXPECT(equal());
  const auto again = both(299000);
  EXPECT(again.first == b.first);  // the gap it left
  EXPECT(!on.table->alloc(on.handle, 1 << 20));
  EXPECT(on.words().find("go beyond the limit of 1048576") != std::string::npos);
  for (const auto& piece : {a, c, again}) {
    on.table->free(on.handle, piece.first);
    dry.table->free(dry.handle, piece.second);
  }
  EXPECT_EQ(on.table->memory(on.handle, 0).current, 256u);  // what products may use as scratch
  EXPECT(equal());
  on.table->limit(on.handle, 0);
  EXPECT(!on.table->alloc(on.handle, size_t{1} << 50));
  EXPECT(on.words().find("1125899906842880 bytes of device memory: out of memory") != std::string::npos);
  EXPECT(on.words().find("1099511627776 of 1099511627776 are free, and 256 are in use here") != std::string::npos);
}

TEST(another_version_of_the_contract_is_refused) {
  const char* reason = nullptr;
  EXPECT(!credence_backend_v4(CREDENCE_TABLE_VERSION + 1, &reason));
  EXPECT(reason && std::string(reason).find("build both from one source") != std::string::npos);
}

TESTING_MAIN
