// A head's layer in float32, and its way back (kernels.h, credence_dense). Heads are small: plain sums over inputs for a row's
// outputs, over rows in order for the gradients of the parameters.
#pragma once

#include "backend.h"
#include "linear.h"

namespace credence::cpu {

template <class Isa>
size_t dense_workspace(const credence_dense*) {
  return 0;
}

// sum_i a[i] b[i]: four running vectors, then a tree.
template <class Isa>
float dense_dot(const float* a, const float* b, int64_t count) {
  constexpr int kSums = 4;
  typename Isa::F sum[kSums];
  for (int j = 0; j < kSums; ++j) sum[j] = Isa::zero();
  for (int64_t i = 0; i < count; i += kSums * Isa::W) {
    for (int j = 0; j < kSums; ++j) {
      const int64_t at = i + j * Isa::W;
      const auto lanes = Isa::first(count - at);
      sum[j] = Isa::fma(Isa::load(a + at, lanes), Isa::load(b + at, lanes), sum[j]);
    }
  }
  return Isa::reduce_add(Isa::add(Isa::add(sum[0], sum[1]), Isa::add(sum[2], sum[3])));
}

template <class Isa>
int dense(credence_backend* backend, const credence_dense* p, void*) {
  if (p->activation != CREDENCE_IDENTITY && p->activation != CREDENCE_RELU)
    return fail(backend, "dense: a head's layer has activation %d; identity and ReLU exist",
                static_cast<int>(p->activation));
  backend->pool.parallel(*p->rows, [&](int64_t r, int) {
    for (int64_t o = 0; o < p->out; ++o) {
      float y = dense_dot<Isa>(p->x + r * p->in, p->weight + o * p->in, p->in);
      if (p->bias) y += p->bias[o];
      p->y[r * p->out + o] = p->activation == CREDENCE_RELU && y < 0 ? 0.0f : y;
    }
  });
  return 0;
}

template <class Isa>
size_t dense_backward_workspace(const credence_dense_backward*) {
  return 0;
}

// to[i] += a x[i]
template <class Isa>
void dense_add(float* to, float a, const float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += Isa::W) {
    const auto lanes = Isa::first(count - i);
    Isa::store(to + i, Isa::fma(Isa::set(a), Isa::load(x + i, lanes), Isa::load(to + i, lanes)), lanes);
  }
}

template <class Isa>
int dense_backward(credence_backend* backend, const credence_dense_backward* p, void*) {
  if (p->activation != CREDENCE_IDENTITY && p->activation != CREDENCE_RELU)
    return fail(backend, "dense: a head's layer has activation %d; identity and ReLU exist",
                static_cast<int>(p->activation));
  const int64_t rows = *p->rows;
  backend->pool.parallel(rows, [&](int64_t r, int) {
    float* dy = p->dy + r * p->out;
    for (int64_t o = 0; o < p->out; ++o)
      if (p->activation == CREDENCE_RELU && !(p->y[r * p->out + o] > 0)) dy[o] = 0;
    if (!p->dx) return;
    float* dx = p->dx + r * p->in;
    for (int64_t i = 0; i < p->in; ++i) dx[i] = 0;
    for (int64_t o = 0; o < p->out; ++o) dense_add<Isa>(dx, dy[o], p->weight + o * p->in, p->in);
  });
  backend->pool.parallel(p->out, [&](int64_t o, int) {
    for (int64_t r = 0; r < rows; ++r) {
      const float dy = p->dy[r * p->out + o];
      if (p->dbias) p->dbias[o] += dy;
      if (p->dweight) dense_add<Isa>(p->dweight + o * p->in, dy, p->x + r * p->in, p->in);
    }
  });
  return 0;
}

}  // namespace credence::cpu
