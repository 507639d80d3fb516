// Divergence of two policies' distributions over the vocabulary (kernels.h, credence_divergence), with the gradient for the
// first. The logits of both are kept for a chunk of rows; a block a row goes over them in double.
#include "device.h"
#include "linear.h"
#include "vocabulary.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

/// Of one token: p, q, and p times the derivative of the divergence for p but for a constant.
struct Terms {
  double a, b, log_p, log_q, log_m, weighted;
};

__device__ __forceinline__ Terms terms_of(int32_t kind, double log_p, double log_q) {
  const double a = exp(log_p), b = exp(log_q), log_m = kind == 2 ? log((a + b) / 2) : 0;
  // q / p times p is q, also where p is too small to divide by
  const double weighted = kind == 0 ? a * (log_p - log_q) : kind == 1 ? -b : a > 0 ? a * (log_p - log_m) / 2 : 0;
  return {a, b, log_p, log_q, log_m, weighted};
}

// The row's divergence, and dz = upstream p (slope - sum p slope).
template <class T>
__global__ void __launch_bounds__(kThreads)
    diverge(credence_divergence p, Chunk chunk, const float* z, const float* other, int64_t ldz, const RowSums* sums,
            const RowSums* sums_other, T* dz) {
  __shared__ double shared[kWarp];
  const int64_t r = blockIdx.x, row = chunk.first + r;
  const int32_t first = static_cast<int32_t>(threadIdx.x);
  if (row >= min(*p.rows, p.capacity)) {
    for (int64_t v = first; dz && v < ldz; v += kThreads) dz[r * ldz + v] = to_act<T>(0.0f);
    return;
  }
  const auto lse_p = static_cast<double>(sums[r].lse), lse_q = static_cast<double>(sums_other[r].lse);
  double sum = 0, mean = 0;
  for (int32_t v = first; v < p.vocabulary; v += kThreads) {
    const Terms t =
        terms_of(p.kind, static_cast<double>(z[r * ldz + v]) - lse_p, static_cast<double>(other[r * ldz + v]) - lse_q);
    mean += t.weighted;
    if (p.kind == 0) sum += t.a * (t.log_p - t.log_q);
    if (p.kind == 1) sum += t.b * (t.log_q - t.log_p);
    if (p.kind == 2) sum += t.weighted + (t.b > 0 ? t.b * (t.log_q - t.log_m) / 2 : 0);
  }
  sum = block_reduce(sum, Sum(), 0.0, shared);
  mean = block_reduce(mean, Sum(), 0.0, shared);
  if (first == 0) p.divergence[row] = static_cast<float>(sum);
  if (!dz) return;
  const auto upstream = static_cast<double>(p.upstream[row]);
  for (int64_t v = first; v < ldz; v += kThreads) {
    double d = 0;
    if (v < p.vocabulary) {
      const Terms t = terms_of(p.kind, static_cast<double>(z[r * ldz + v]) - lse_p,
                               static_cast<double>(other[r * ldz + v]) - lse_q);
      d = upstream * (t.weighted - t.a * mean);
    }
    dz[r * ldz + v] = to_act<T>(static_cast<float>(d));
  }
}

struct Space {
  Workspace pieces;
  LogitSpace logits, other;
  LogitGradientSpace gradients;

  Space(const credence_divergence* p, void* base)
      : pieces(base),
        logits(&pieces, p->capacity, p->width, p->vocabulary, p->dtype),
        other(&pieces, p->capacity, p->width, p->vocabulary, p->dtype),
        gradients(p->upstream ? LogitGradientSpace(&pieces, logits, p->dtype) : LogitGradientSpace()) {}
};

}  // namespace

size_t divergence_workspace(const credence_divergence* p) { return Space(p, nullptr).pieces.used(); }

int divergence(Backend& backend, const credence_divergence* p, void* workspace) {
  constexpr Operator op = Operator::divergence;
  if (p->kind < 0 || p->kind > 2) return fail(backend, "divergence: kind is %d; 0, 1 and 2 exist", p->kind);
  const Weights &w = *of(p->weights), &w_other = *of(p->weights_other);
  if (p->upstream && p->dh && !w.backward)
    return fail(backend, "divergence: dh was asked for, but the vocabulary's weights were packed without backward = 1");
  const Space space(p, workspace);
  const LogitSpace& l = space.logits;
  return for_chunks(p->capacity, l.chunk, [&](Chunk chunk) {
    int error = logits(backend, op, p->rows, p->capacity, chunk, w, p->h, p->ldh, l, true);
    if (!error)
      error = logits(backend, op, p->rows, p->capacity, chunk, w_other, p->h_other, p->ldh_other, space.other, true);
    if (!error)
      error = with_type(p->dtype, [&]<class T>() {
        return launch(backend, "divergence", &diverge<T>, dim3(static_cast<unsigned>(chunk.size)), dim3(kThreads), 0,
                      *p, chunk, l.z, space.other.z, l.ldz, l.sums, space.other.sums,
                      static_cast<T*>(space.gradients.dz));
      });
    if (error || !p->upstream) return error;
    return logit_gradients(backend, op, p->rows, p->capacity, chunk, w, l, space.gradients, p->dh, p->lddh,
                           p->dweights);
  });
}

}  // namespace credence::cuda
