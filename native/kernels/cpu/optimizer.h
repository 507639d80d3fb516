// The optimiser over the policy's flat buffers (kernels.h, credence_gradient_norm and credence_adamw).
#pragma once

#include <math.h>

#include "backend.h"
#include "linear.h"

namespace credence::cpu {

// Numbers of one partial sum, and of one work item: a sum is the sum of these blocks in order, for any number of threads.
static constexpr int64_t kOptimizerBlock = 8192;

template <class Isa>
size_t gradient_norm_workspace(const credence_gradient_norm* p) {
  return ceil_div(p->count, kOptimizerBlock) * sizeof(double);
}

template <class Isa>
int gradient_norm(credence_backend* backend, const credence_gradient_norm* p, void* workspace) {
  double* partial = static_cast<double*>(workspace);
  const int64_t blocks = ceil_div(p->count, kOptimizerBlock);
  backend->pool.parallel(blocks, [&](int64_t block, int) {
    constexpr int kSums = 8;  // independent sums, so that one addition need not wait for the last
    double sum[kSums] = {};
    const int64_t end = least(p->count, (block + 1) * kOptimizerBlock);
    int64_t i = block * kOptimizerBlock;
    for (; i + kSums <= end; i += kSums)
      for (int j = 0; j < kSums; ++j) sum[j] += static_cast<double>(p->g[i + j]) * p->g[i + j];
    for (; i < end; ++i) sum[0] += static_cast<double>(p->g[i]) * p->g[i];
    partial[block] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  });
  double sum = 0;
  for (int64_t block = 0; block < blocks; ++block) sum += partial[block];
  *p->norm = static_cast<float>(sqrt(sum));
  return 0;
}

template <class Isa>
size_t adamw_workspace(const credence_adamw*) {
  return 0;
}

template <class Isa>
int adamw(credence_backend* backend, const credence_adamw* p, void*) {
  if ((p->norm && !__builtin_isfinite(*p->norm)) || (p->loss && !__builtin_isfinite(*p->loss))) return 0;
  double clip = 1;
  if (p->norm && p->max_norm > 0) {
    const double ratio = p->max_norm / (static_cast<double>(*p->norm) * p->gradient_scale + 1e-6);
    clip = ratio < 1 ? ratio : 1;
  }
  const double c1 = 1 - pow(p->beta1, static_cast<double>(p->step)),
               c2 = 1 - pow(p->beta2, static_cast<double>(p->step));
  const auto scale = Isa::set(static_cast<float>(p->gradient_scale * clip));
  const auto beta1 = Isa::set(static_cast<float>(p->beta1)), rest1 = Isa::set(static_cast<float>(1 - p->beta1));
  const auto beta2 = Isa::set(static_cast<float>(p->beta2)), rest2 = Isa::set(static_cast<float>(1 - p->beta2));
  const auto decay = Isa::set(static_cast<float>(1 - p->lr * p->weight_decay));
  const auto rate = Isa::set(static_cast<float>(-p->lr / c1)), c2_root = Isa::set(static_cast<float>(1 / sqrt(c2)));
  const auto eps = Isa::set(static_cast<float>(p->eps)), nearer = Isa::set(static_cast<float>(1 - p->average_decay));
  backend->pool.parallel(ceil_div(p->end - p->begin, kOptimizerBlock), [&](int64_t block, int) {
    const int64_t begin = p->begin + block * kOptimizerBlock, end = least(p->end, begin + kOptimizerBlock);
    for (int64_t i = begin; i < end; i += Isa::W) {
      const auto lanes = Isa::first(end - i);
      const auto g = Isa::mul(Isa::load(p->g + i, lanes), scale);
      const auto m = Isa::fma(rest1, g, Isa::mul(beta1, Isa::load(p->m + i, lanes)));
      const auto v = Isa::fma(Isa::mul(rest2, g), g, Isa::mul(beta2, Isa::load(p->v + i, lanes)));
      const auto step = Isa::div(m, Isa::fma(Isa::sqrt(v), c2_root, eps));
      Isa::store(p->m + i, m, lanes);
      Isa::store(p->v + i, v, lanes);
      const auto after = Isa::fma(rate, step, Isa::mul(Isa::load(p->p + i, lanes), decay));
      Isa::store(p->p + i, after, lanes);
      if (!p->average) continue;
      const auto average = Isa::load(p->average + i, lanes);
      Isa::store(p->average + i, Isa::fma(nearer, Isa::sub(after, average), average), lanes);
    }
  });
  return 0;
}

}  // namespace credence::cpu
