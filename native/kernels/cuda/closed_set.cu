// Log-probabilities over a few candidate tokens alone (kernels.h, credence_closed_set): their rows of the vocabulary are
// gathered, and the product is with those.
#include "blas.h"
#include "device.h"
#include "launch.h"
#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 128;

// One block a candidate: its row of W, as the product reads it.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_candidates(credence_closed_set p, const T* w, int64_t ldw, int32_t vocabulary, T* out, int64_t width,
                      Fault* faults) {
  const auto c = static_cast<int32_t>(blockIdx.x), token = p.candidates[c];
  const bool known = !fault(faults, Operator::closed_set, fault_of_candidate(c, token, vocabulary));
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    out[c * width + i] = known ? w[token * ldw + i] : to_act<T>(0.0f);
}

// A warp a row: z - lse, and dz = d - p sum(d) where there is an upstream.
__global__ void __launch_bounds__(kThreads) score(credence_closed_set p, const float* z, int64_t ldz, float* dz) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (r >= min(*p.rows, p.capacity)) return;
  const int32_t count = p.candidates_count, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const float* row = z + r * ldz;
  float most = -INFINITY, upstream = 0;
  double sum = 0;
  for (int32_t c = lane; c < count; c += kWarp) most = Largest()(row[c], most);
  most = warp_reduce(most, Largest());
  for (int32_t c = lane; c < count; c += kWarp) {
    sum += static_cast<double>(expf(row[c] - most));
    if (p.d_logprob) upstream += p.d_logprob[r * count + c];
  }
  sum = warp_reduce(sum, Sum());
  upstream = warp_reduce(upstream, Sum());
  const auto lse = static_cast<float>(static_cast<double>(most) + log(sum));
  for (int32_t c = lane; c < count; c += kWarp) {
    const float logprob = row[c] - lse;
    p.logprob[r * count + c] = logprob;
    if (p.d_logprob) dz[r * count + c] = p.d_logprob[r * count + c] - expf(logprob) * upstream;
  }
}

// dh = dz W, candidates in order, in float32.
template <class T>
__global__ void __launch_bounds__(kThreads)
    input_gradient(credence_closed_set p, const float* dz, const T* rows, int64_t ld) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, r = at / p.width, i = at % p.width;
  if (r >= min(*p.rows, p.capacity)) return;
  float sum = 0;
  for (int32_t c = 0; c < p.candidates_count; ++c) sum += dz[r * p.candidates_count + c] * to_float(rows[c * ld + i]);
  p.dh[r * p.lddh + i] = sum;
}

// dW[candidate] += dz h: rows in order and candidates in theirs (one may stand there twice); a thread a column.
template <class T>
__global__ void __launch_bounds__(kThreads)
    weight_gradient(credence_closed_set p, const float* dz, int32_t vocabulary) {
  const auto i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.width) return;
  for (int64_t r = 0; r < min(*p.rows, p.capacity); ++r) {
    const float h = to_float(static_cast<const T*>(p.h)[r * p.ldh + i]);
    for (int32_t c = 0; c < p.candidates_count; ++c)
      if (p.candidates[c] >= 0 && p.candidates[c] < vocabulary)
        p.dweights[static_cast<int64_t>(p.candidates[c]) * p.width + i] += dz[r * p.candidates_count + c] * h;
  }
}

struct Space {
  Workspace pieces;
  int64_t width, ldz;
  void *rows, *h;  // [C, H8], [R, H8] act
  float *z, *dz;   // [R, C8], [R, C]

  Space(const credence_closed_set* p, void* base)
      : pieces(base),
        width(round_up(p->width, 8)),
        ldz(round_up(p->candidates_count, 8)),
        rows(pieces.take(p->candidates_count * width, p->dtype)),
        h(pieces.take(p->capacity * width, p->dtype)),
        z(pieces.take<float>(p->capacity * ldz)),
        dz(pieces.take<float>(static_cast<int64_t>(p->capacity) * p->candidates_count)) {}
};

}  // namespace

size_t closed_set_workspace(const credence_closed_set* p) { return Space(p, nullptr).pieces.used(); }

int closed_set(Backend& backend, const credence_closed_set* p, void* workspace) {
  constexpr Operator op = Operator::closed_set;
  if (p->candidates_count < 1) return fail(backend, "closed_set: there is no candidate");
  if (p->capacity == 0) return 0;
  const Weights& w = *of(p->weights);
  const Space space(p, workspace);
  const dim3 row_blocks = blocks_of(p->capacity, kThreads / kWarp);
  int error = lay_out(backend, op, p->dtype, p->rows, p->capacity, p->h, p->ldh, p->width, space.h, space.width);
  if (!error)
    error = with_type(p->dtype, [&]<class T>() {
      return launch(backend, "closed_set", &gather_candidates<T>, dim3(static_cast<unsigned>(p->candidates_count)),
                    dim3(kThreads), 0, *p, static_cast<const T*>(w.data), w.ld, w.rows, static_cast<T*>(space.rows),
                    space.width, backend.fault);
    });
  Product z{p->capacity, p->candidates_count, space.width, p->dtype, space.h, space.width};
  z.w = space.rows;
  z.ldw = space.width;
  z.y = space.z;
  z.ldy = space.ldz;
  if (!error) error = product(backend, z);
  if (!error)
    error = launch(backend, "closed_set", &score, row_blocks, dim3(kThreads), 0, *p, space.z, space.ldz, space.dz);
  if (error || !p->d_logprob) return error;
  return with_type(p->dtype, [&]<class T>() {
    int status = 0;
    if (p->dh)
      status = launch(backend, "closed_set", &input_gradient<T>,
                      blocks_of(static_cast<int64_t>(p->capacity) * p->width, kThreads), dim3(kThreads), 0, *p,
                      space.dz, static_cast<const T*>(space.rows), space.width);
    if (!status && p->dweights)
      status = launch(backend, "closed_set", &weight_gradient<T>, blocks_of(p->width, kThreads), dim3(kThreads), 0, *p,
                      space.dz, w.rows);
    return status;
  });
}

}  // namespace credence::cuda
