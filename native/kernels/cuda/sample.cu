// One token a row (kernels.h, credence_sample), from the logits of vocabulary.h, so that its log-probability is what
// token_logprobs gives. A block a row.
//
// Tokens are in order of falling value and rising id: a key of 64 bits, the smaller the earlier. Nothing is sorted: the key at
// which a running count (top-k) or a running mass (top-p, the draw) is reached is found digit by digit, a histogram of 256 at a
// time. Masses are whole numbers of 2^-40 of the largest, so that no order of adding them changes a sum.
#include "device.h"
#include "linear.h"
#include "vocabulary.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;
constexpr double kOne = 1099511627776.0;  // 2^40: the mass of the largest logit
using Mass = unsigned long long;          // what atomicAdd knows
constexpr uint64_t kAll = ~uint64_t{0};

/// One row as its block sees it, the penalty on it.
struct SampleRow {
  const float* z;
  float most, factor;
  int32_t vocabulary;

  /// False for what is no number.
  __device__ bool key(int32_t v, uint64_t* out) const {
    const float x = z[v] + 0.0f;  // -0 is 0
    const uint32_t bits = __float_as_uint(x), rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    *out = static_cast<uint64_t>(~rising) << 32 | static_cast<uint32_t>(v);
    return x == x;
  }
  __device__ float weight(int32_t v) const { return expf((z[v] - most) * factor); }
  __device__ Mass mass(int32_t v) const { return static_cast<Mass>(static_cast<double>(weight(v)) * kOne + 0.5); }
};

struct SampleShared {
  Mass histogram[256];
  Mass sums[kWarp];
  float largest[kWarp];
  uint64_t prefix;
  Mass need;
};

// The key of the token, in order and up to `limit`, at which the sum of amount(v) reaches `need`.
template <class Amount>
__device__ uint64_t reach(const SampleRow& row, uint64_t limit, Mass need, const Amount& amount, SampleShared* shared) {
  const int32_t first = static_cast<int32_t>(threadIdx.x);
  __syncthreads();
  if (first == 0) shared->prefix = 0, shared->need = need;
#pragma unroll 1
  for (int shift = 56; shift >= 0;
       shift -= shift == 32 ? 16 : 8) {  // a value's four digits, an id's three: it is below 2^24
    const uint64_t above = shift == 56 ? 0 : kAll << (shift + 8);
    for (int32_t i = first; i < 256; i += kThreads) shared->histogram[i] = 0;
    __syncthreads();
    const uint64_t prefix = shared->prefix;
    for (int32_t v = first; v < row.vocabulary; v += kThreads) {
      uint64_t key;
      if (!row.key(v, &key) || key > limit || (key & above) != prefix) continue;
      atomicAdd(&shared->histogram[key >> shift & 255], amount(v));
    }
    __syncthreads();
    if (first == 0) {
      uint64_t digit = 0, last = 0;
      Mass left = shared->need;
      for (; digit < 256; ++digit) {
        const Mass here = shared->histogram[digit];
        if (here) last = digit;
        if (here >= left) break;
        left -= here;
      }
      if (digit == 256) digit = last, left = shared->histogram[last];  // more was needed than there is: the last one
      shared->prefix = prefix | digit << shift;
      shared->need = left;
    }
    __syncthreads();
  }
  return shared->prefix;
}

__device__ Mass mass_up_to(const SampleRow& row, uint64_t limit, SampleShared* shared) {
  Mass sum = 0;
  for (int32_t v = static_cast<int32_t>(threadIdx.x); v < row.vocabulary; v += kThreads) {
    uint64_t key;
    if (row.key(v, &key) && key <= limit) sum += row.mass(v);
  }
  return block_reduce(sum, Sum(), Mass{0}, shared->sums);
}

// The row's logits with the penalty on its seen tokens, which are distinct.
__device__ void penalise(const credence_sample& p, int64_t row, const float* z, float* out, Fault* faults) {
  const int32_t first = static_cast<int32_t>(threadIdx.x);
  const float repetition = p.repetition[row];
  for (int32_t v = first; v < p.vocabulary; v += kThreads) out[v] = z[v];
  __syncthreads();
  for (int32_t i = p.seen_offsets[row] + first; i < p.seen_offsets[row + 1]; i += kThreads) {
    const int32_t id = p.seen[i];
    if (!fault(faults, Operator::sample, fault_of_seen(static_cast<int32_t>(row), id, p.vocabulary)))
      out[id] = z[id] > 0 ? z[id] / repetition : z[id] * repetition;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) draw(credence_sample p, Chunk chunk, const float* z, int64_t ldz,
                                                 const RowSums* sums, float* penalised, Fault* faults) {
  __shared__ SampleShared shared;
  const int64_t r = blockIdx.x, row = chunk.first + r;
  if (row >= min(*p.rows, p.capacity)) return;
  const int32_t first = static_cast<int32_t>(threadIdx.x);
  const float* const raw = z + r * ldz;
  SampleRow s = {raw, 0, 1, p.vocabulary};
  if (p.seen && p.repetition[row] != 1.0f) {
    penalise(p, row, raw, penalised + r * ldz, faults);
    s.z = penalised + r * ldz;
  }
  const float temperature = p.temperature[row];

  float most = -INFINITY;
  Mass numbers = 0;
  for (int32_t v = first; v < p.vocabulary; v += kThreads) {
    const float x = s.z[v];
    if (x == x) ++numbers;
    most = Largest()(x, most);
  }
  numbers = block_reduce(numbers, Sum(), Mass{0}, shared.sums);
  s.most = block_reduce(most, Largest(), -INFINITY, shared.largest);
  if (numbers == 0) {
    if (first == 0) fault(faults, Operator::sample, {FaultKind::not_numbers, static_cast<int32_t>(row), 0, 0, 0});
    return;
  }
  s.factor = temperature == 0 ? 0.0f : fminf(1.0f / temperature, 1e30f);

  const auto one = [](int32_t) { return Mass{1}; };
  const auto mass = [&](int32_t v) { return s.mass(v); };
  const auto k = static_cast<Mass>(temperature == 0 ? 1 : max(p.top_k[row], 0));
  uint64_t limit = k > 0 && k < numbers ? reach(s, kAll, k, one, &shared) : kAll;
  Mass total = mass_up_to(s, limit, &shared);
  if (p.top_p[row] < 1) {
    const auto need = static_cast<Mass>(ceil(static_cast<double>(p.top_p[row]) * static_cast<double>(total)));
    limit = reach(s, limit, need > 0 ? need : 1, mass, &shared);
    total = mass_up_to(s, limit, &shared);
  }
  const auto before = static_cast<Mass>(p.uniform[row] * static_cast<double>(total));
  const uint64_t chosen = reach(s, limit, min(before + 1, total), mass, &shared);

  const auto token = static_cast<int32_t>(chosen & 0xffffffffu);
  const double whole = static_cast<double>(total) / kOne;
  if (first == 0) {
    p.token[row] = token;
    p.logprob[row] = raw[token] - sums[r].lse;
    if (p.logprob_cut) p.logprob_cut[row] = static_cast<float>(log(static_cast<double>(s.weight(token)) / whole));
  }
  if (!p.probabilities) return;
  for (int32_t v = first; v < p.vocabulary; v += kThreads) {
    uint64_t key;
    const bool kept = s.key(v, &key) && key <= limit;
    p.probabilities[row * p.vocabulary + v] =
        kept ? static_cast<float>(static_cast<double>(s.weight(v)) / whole) : 0.0f;
  }
}

struct Space {
  Workspace pieces;
  LogitSpace logits;
  float* penalised;  // [chunk, V8]

  Space(const credence_sample* p, void* base)
      : pieces(base),
        logits(&pieces, p->capacity, p->width, p->vocabulary, p->dtype),
        penalised(p->seen ? pieces.take<float>(logits.chunk * logits.ldz) : nullptr) {}
};

}  // namespace

size_t sample_workspace(const credence_sample* p) { return Space(p, nullptr).pieces.used(); }

int sample(Backend& backend, const credence_sample* p, void* workspace) {
  constexpr int32_t kMostTokens = 1 << 24;
  if (p->vocabulary > kMostTokens)
    return fail(backend, "sample: a vocabulary of %d tokens; there is room for %d", p->vocabulary, kMostTokens);
  const Space space(p, workspace);
  const LogitSpace& l = space.logits;
  return for_chunks(p->capacity, l.chunk, [&](Chunk chunk) {
    if (int error =
            logits(backend, Operator::sample, p->rows, p->capacity, chunk, *of(p->weights), p->h, p->ldh, l, true))
      return error;
    return launch(backend, "sample", &draw, dim3(static_cast<unsigned>(chunk.size)), dim3(kThreads), 0, *p, chunk, l.z,
                  l.ldz, l.sums, space.penalised, backend.fault);
  });
}

}  // namespace credence::cuda
