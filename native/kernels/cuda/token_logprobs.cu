// Log-probabilities of the tokens that came, with entropy, and on the same pass the way back (kernels.h,
// credence_token_logprobs): logits of a chunk of rows, their sums, dz from both, and its two products.
#include "device.h"
#include "linear.h"
#include "vocabulary.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int32_t target_of(const credence_token_logprobs& p, int64_t row) {
  const int32_t target = p.targets ? p.targets[row] : -1;
  return target < p.vocabulary ? target : -1;
}

// One thread a row: what is asked for.
__global__ void give_sums(credence_token_logprobs p, Chunk chunk, const float* z, int64_t ldz, const RowSums* sums,
                          Fault* faults) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = chunk.first + r;
  if (r >= chunk.size || row >= min(*p.rows, p.capacity)) return;
  if (p.targets)
    fault(faults, Operator::token_logprobs, fault_of_target(static_cast<int32_t>(row), p.targets[row], p.vocabulary));
  const int32_t target = target_of(p, row);
  if (p.lse) p.lse[row] = sums[r].lse;
  if (p.entropy) p.entropy[row] = sums[r].entropy;
  if (p.logprob) p.logprob[row] = target < 0 ? 0.0f : z[r * ldz + target] - sums[r].lse;
}

__global__ void give_logits(credence_token_logprobs p, Chunk chunk, const float* z, int64_t ldz) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / p.vocabulary;
  if (r < chunk.size && chunk.first + r < min(*p.rows, p.capacity))
    p.logits[int64_t{chunk.first} * p.vocabulary + at] = z[r * ldz + at % p.vocabulary];
}

// dz = d_logprob (onehot - p) - d_entropy p (log p + entropy); zeros behind V and in rows beyond the count.
template <class T>
__global__ void logit_gradient(credence_token_logprobs p, Chunk chunk, const float* z, int64_t ldz, const RowSums* sums,
                               T* dz) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, r = at / ldz, v = at % ldz;
  if (r >= chunk.size) return;
  const int64_t row = chunk.first + r;
  float d = 0;
  if (row < min(*p.rows, p.capacity) && v < p.vocabulary) {
    const int32_t target = target_of(p, row);
    const float d_logprob = p.d_logprob && target >= 0 ? p.d_logprob[row] : 0.0f;
    const float d_entropy = p.d_entropy ? p.d_entropy[row] : 0.0f;
    const float log_p = z[at] - sums[r].lse, probability = expf(log_p);
    d = d_logprob * ((v == target ? 1.0f : 0.0f) - probability);
    if (probability > 0) d -= d_entropy * probability * (log_p + sums[r].entropy);
  }
  dz[at] = to_act<T>(d);
}

struct Space {
  Workspace pieces;
  LogitSpace logits;
  LogitGradientSpace gradients;

  Space(const credence_token_logprobs* p, bool backward, void* base)
      : pieces(base),
        logits(&pieces, p->capacity, p->width, p->vocabulary, p->dtype),
        gradients(backward ? LogitGradientSpace(&pieces, logits, p->dtype) : LogitGradientSpace()) {}
};

bool is_backward(const credence_token_logprobs* p) { return (p->d_logprob || p->d_entropy) && (p->dh || p->dweights); }

}  // namespace

size_t token_logprobs_workspace(const credence_token_logprobs* p) {
  return Space(p, is_backward(p), nullptr).pieces.used();
}

int token_logprobs(Backend& backend, const credence_token_logprobs* p, void* workspace) {
  constexpr Operator op = Operator::token_logprobs;
  const Weights& w = *of(p->weights);
  const bool backward = is_backward(p);
  if (backward && p->dh && !w.backward)
    return fail(backend,
                "token_logprobs: dh was asked for, but the vocabulary's weights were packed without backward = 1");
  const Space space(p, backward, workspace);
  const LogitSpace& l = space.logits;
  return for_chunks(p->capacity, l.chunk, [&](Chunk chunk) {
    int error = logits(backend, op, p->rows, p->capacity, chunk, w, p->h, p->ldh, l, true);
    if (!error)
      error = launch(backend, "token_logprobs", &give_sums, blocks_of(chunk.size, kThreads), dim3(kThreads), 0, *p,
                     chunk, l.z, l.ldz, l.sums, backend.fault);
    if (!error && p->logits)
      error = launch(backend, "token_logprobs", &give_logits,
                     blocks_of(static_cast<int64_t>(chunk.size) * p->vocabulary, kThreads), dim3(kThreads), 0, *p,
                     chunk, l.z, l.ldz);
    if (error || !backward) return error;
    error = with_type(p->dtype, [&]<class T>() {
      return launch(backend, "token_logprobs", &logit_gradient<T>, blocks_of(chunk.size * l.ldz, kThreads),
                    dim3(kThreads), 0, *p, chunk, l.z, l.ldz, l.sums, static_cast<T*>(space.gradients.dz));
    });
    if (error) return error;
    return logit_gradients(backend, op, p->rows, p->capacity, chunk, w, l, space.gradients, p->dh, p->lddh,
                           p->dweights);
  });
}

}  // namespace credence::cuda
