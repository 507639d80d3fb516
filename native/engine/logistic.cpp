#include "logistic.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string_view>
#include <thread>
#include <utility>

#include "device.h"
#include "error.h"

namespace credence {
namespace {

constexpr int kBlock = 48;  // rows of a Cholesky block; a multiple of every panel width
constexpr int64_t kDepth =
    256;  // contraction of one pass over a panel: 24 x 256 doubles stay in the second-level cache
constexpr int kMaximumSteps = 30;  // of Newton
constexpr int kMaximumHalvings = 20;
constexpr double kConverged = 1e-6;
constexpr double kOffsetRidge = 1e-9;
constexpr double kHessianRidge = 1e-9;    // keeps the step finite where the penalty is tiny
constexpr double kLeastCurvature = 1e-6;  // of p (1 - p): a row the model is sure of still bends the surface a little

// ---- Four loops in every vector width. A panel is [depth][3 W] doubles: 3 W columns of a matrix, contraction outside.

template <int W>
struct Vector {
  typedef double type __attribute__((vector_size(W * sizeof(double)), aligned(sizeof(double)), may_alias));
};

#define CREDENCE_INLINE inline __attribute__((always_inline))

/// c [3 W, 3 W] += sign * a^T b over `depth` rows of two panels; M rows of c at a time stay in registers.
template <int W, int M>
CREDENCE_INLINE void tile_body(const double* a, const double* b, int64_t depth, double sign, double* c, int64_t ldc) {
  using V = typename Vector<W>::type;
  constexpr int kWidth = 3 * W;
  for (int row = 0; row < kWidth; row += M) {
    V sum[M][3] = {};
    const double* left = a + row;
    const double* right = b;
    for (int64_t k = 0; k < depth; ++k, left += kWidth, right += kWidth) {
      const V* r = reinterpret_cast<const V*>(right);
      const V r0 = r[0], r1 = r[1], r2 = r[2];
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        sum[i][0] += left[i] * r0;
        sum[i][1] += left[i] * r1;
        sum[i][2] += left[i] * r2;
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      V* out = reinterpret_cast<V*>(c + (row + i) * ldc);
      for (int j = 0; j < 3; ++j) out[j] += sign * sum[i][j];
    }
  }
}

/// panel [kBlock][3 W] := L^-1 panel, L the lower triangle of `diagonal`.
template <int W>
CREDENCE_INLINE void solve_body(const double* diagonal, int64_t ld, double* panel) {
  using V = typename Vector<W>::type;
  V* p = reinterpret_cast<V*>(panel);
  for (int j = 0; j < kBlock; ++j) {
    V x0 = p[3 * j], x1 = p[3 * j + 1], x2 = p[3 * j + 2];
    for (int k = 0; k < j; ++k) {
      const double l = diagonal[j * ld + k];
      x0 -= l * p[3 * k];
      x1 -= l * p[3 * k + 1];
      x2 -= l * p[3 * k + 2];
    }
    const double inverse = 1 / diagonal[j * ld + j];
    p[3 * j] = x0 * inverse;
    p[3 * j + 1] = x1 * inverse;
    p[3 * j + 2] = x2 * inverse;
  }
}

template <int W>
CREDENCE_INLINE double dot_body(const double* x, const double* y, int64_t n) {
  using V = typename Vector<W>::type;
  V sum0 = {}, sum1 = {};
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    sum0 += *reinterpret_cast<const V*>(x + i) * *reinterpret_cast<const V*>(y + i);
    sum1 += *reinterpret_cast<const V*>(x + i + W) * *reinterpret_cast<const V*>(y + i + W);
  }
  sum0 += sum1;
  double sum = 0;
  for (int j = 0; j < W; ++j) sum += sum0[j];
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

template <int W>
CREDENCE_INLINE void axpy_body(double a, const double* x, double* y, int64_t n) {
  using V = typename Vector<W>::type;
  int64_t i = 0;
  for (; i + W <= n; i += W) *reinterpret_cast<V*>(y + i) += a * *reinterpret_cast<const V*>(x + i);
  for (; i < n; ++i) y[i] += a * x[i];
}

struct Loops {
  int panel;
  void (*tile)(const double* a, const double* b, int64_t depth, double sign, double* c, int64_t ldc);
  void (*solve)(const double* diagonal, int64_t ld, double* panel);
  double (*dot)(const double* x, const double* y, int64_t n);
  void (*axpy)(double a, const double* x, double* y, int64_t n);
};

#define CREDENCE_LOOPS(name, attribute, W, M)                                                                        \
  attribute void tile_##name(const double* a, const double* b, int64_t depth, double sign, double* c, int64_t ldc) { \
    tile_body<W, M>(a, b, depth, sign, c, ldc);                                                                      \
  }                                                                                                                  \
  attribute void solve_##name(const double* diagonal, int64_t ld, double* panel) {                                   \
    solve_body<W>(diagonal, ld, panel);                                                                              \
  }                                                                                                                  \
  attribute double dot_##name(const double* x, const double* y, int64_t n) { return dot_body<W>(x, y, n); }          \
  attribute void axpy_##name(double a, const double* x, double* y, int64_t n) { axpy_body<W>(a, x, y, n); }          \
  constexpr Loops loops_##name = {3 * W, tile_##name, solve_##name, dot_##name, axpy_##name};

CREDENCE_LOOPS(plain, , 2, 2)
#if defined(__x86_64__)
CREDENCE_LOOPS(avx2, __attribute__((target("avx2,fma"))), 4, 4)
CREDENCE_LOOPS(avx512, __attribute__((target("avx512f"))), 8, 4)
#endif

/// Those of the CPU table that runs: a fit belongs to a run of one instruction set, and goes on with the same bits there.
const Loops& loops_of(const std::string& isa) {
#if defined(__x86_64__)
  const std::string_view name = cpu_table(isa).isa;
  if (name.starts_with("avx512")) return loops_avx512;
  if (name == "avx2") return loops_avx2;
#else
  cpu_table(isa);
#endif
  return loops_plain;
}

// ---- Matrices. Each output tile is one thread's from first to last term, so threads change no bit.

template <typename Body>
void parallel(int64_t count, int threads, const Body& body) {
  const int workers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
  };
  std::vector<std::thread> team;
  for (int i = 0; i < workers; ++i) team.emplace_back(work);
  work();
  for (auto& thread : team) thread.join();
}

/// Threads that pay for starting them: about 20 microseconds each.
int worthwhile(int threads, double flops) { return flops < 4e6 ? 1 : threads; }

int64_t padded(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

/// A square symmetric matrix, lower triangle filled, order rounded up to whole blocks.
struct Symmetric {
  explicit Symmetric(int64_t n) : order(padded(n)), values(order * order) {}
  double* row(int64_t i) { return values.data() + i * order; }
  int64_t order;
  std::vector<double> values;
};

/// Lower triangle of c += sign * a^T a, from row and column `first` on; panels [(order - first) / width][depth][width] hold a.
void add_products(const std::vector<double>& panels, int64_t depth, double sign, Symmetric& c, int64_t first,
                  const Loops& f, int threads) {
  const int64_t count = (c.order - first) / f.panel;
  const double extent = static_cast<double>(c.order - first);
  parallel(count, worthwhile(threads, extent * extent * static_cast<double>(depth)), [&](int64_t column) {
    for (int64_t from = 0; from < depth; from += kDepth) {
      const int64_t run = std::min(kDepth, depth - from);
      const double* right = panels.data() + (column * depth + from) * f.panel;
      for (int64_t row = column; row < count; ++row)
        f.tile(panels.data() + (row * depth + from) * f.panel, right, run, sign,
               c.row(first + row * f.panel) + first + column * f.panel, c.order);
    }
  });
}

/// Lower triangle of a^T a for a [depth, n] given by element(k, i), padding zero.
template <typename Element>
Symmetric products(int64_t n, int64_t depth, const Element& element, const Loops& f, int threads) {
  Symmetric c(n);
  const int width = f.panel;
  std::vector<double> panels(c.order * depth);
  for (int64_t panel = 0; panel * width < n; ++panel) {
    double* out = panels.data() + panel * depth * width;
    const int64_t columns = std::min<int64_t>(width, n - panel * width);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t i = 0; i < columns; ++i) out[k * width + i] = element(k, panel * width + i);
  }
  add_products(panels, depth, 1, c, 0, f, threads);
  return c;
}

/// The lower triangle of a becomes L, a = L L^T: blocked, right-looking.
void cholesky(Symmetric& a, const Loops& f, int threads) {
  std::vector<double> panels;
  for (int64_t k = 0; k < a.order; k += kBlock) {
    for (int j = 0; j < kBlock; ++j) {
      double* row = a.row(k + j) + k;
      for (int i = 0; i <= j; ++i) {
        double sum = row[i];
        const double* other = a.row(k + i) + k;
        for (int t = 0; t < i; ++t) sum -= row[t] * other[t];
        if (i == j && !(sum > 0)) fail("BAD_INPUT", "logistic fit: the curvature is not positive; raise the penalty");
        row[i] = i == j ? std::sqrt(sum) : sum / other[i];
      }
    }
    const int64_t first = k + kBlock, below = a.order - first;
    panels.resize(below * kBlock);
    parallel(below / f.panel, worthwhile(threads, static_cast<double>(below) * kBlock * kBlock), [&](int64_t panel) {
      double* p = panels.data() + panel * kBlock * f.panel;
      for (int i = 0; i < f.panel; ++i)
        for (int j = 0; j < kBlock; ++j) p[j * f.panel + i] = a.row(first + panel * f.panel + i)[k + j];
      f.solve(a.row(k) + k, a.order, p);
      for (int i = 0; i < f.panel; ++i)
        for (int j = 0; j < kBlock; ++j) a.row(first + panel * f.panel + i)[k + j] = p[j * f.panel + i];
    });
    add_products(panels, kBlock, -1, a, first, f, threads);
  }
}

/// x [n] := (L L^T)^-1 x.
void solve(Symmetric& l, std::vector<double>& x, const Loops& f) {
  const int64_t n = static_cast<int64_t>(x.size());
  for (int64_t i = 0; i < n; ++i) x[i] = (x[i] - f.dot(l.row(i), x.data(), i)) / l.row(i)[i];
  for (int64_t i = n - 1; i >= 0; --i) {
    x[i] /= l.row(i)[i];
    f.axpy(-x[i], l.row(i), x.data(), i);
  }
}

// ---- The problem.

struct Problem {
  const double* x;
  int64_t rows, width;
  double ridge;  // 2 penalty + kHessianRidge, of each weight
  const Loops& loops;
  int threads;

  std::vector<double> times(const double* w) const {  // X w
    std::vector<double> z(rows);
    for (int64_t i = 0; i < rows; ++i) z[i] = loops.dot(x + i * width, w, width);
    return z;
  }
  std::vector<double> transposed_times(const std::vector<double>& e) const {  // X^T e
    std::vector<double> g(width);
    for (int64_t i = 0; i < rows; ++i) loops.axpy(e[i], x + i * width, g.data(), width);
    return g;
  }
};

/// The Newton step for a gradient [width + 1]: (H^T H + R) step = gradient, H = diag(s) [X 1].
std::vector<double> primal_step(const Problem& problem, const std::vector<double>& s, std::vector<double> gradient) {
  const int64_t d = problem.width;
  Symmetric hessian = products(
      d + 1, problem.rows, [&](int64_t k, int64_t i) { return s[k] * (i < d ? problem.x[k * d + i] : 1.0); },
      problem.loops, problem.threads);
  for (int64_t i = 0; i < hessian.order; ++i)
    hessian.row(i)[i] += i < d ? problem.ridge : i == d ? kOffsetRidge + kHessianRidge : 1;
  cholesky(hessian, problem.loops, problem.threads);
  solve(hessian, gradient, problem.loops);
  return gradient;
}

/// The same by Woodbury's identity over the rows. With M = I + diag(s) X X^T diag(s) / ridge, v = M^-1 diag(s) X g / ridge and
/// u = M^-1 s, the offset's step is (g_b - s.v) / (s.u + its ridge), the weights' (g - X^T diag(s) (v + step_b u)) / ridge.
/// (The offset stands apart from the identity: its ridge is so small that dividing by it would cost half the digits.)
std::vector<double> dual_step(const Problem& problem, Symmetric& gram, const std::vector<double>& s,
                              const std::vector<double>& gradient) {
  const int64_t n = problem.rows, d = problem.width;
  Symmetric m(n);
  for (int64_t i = 0; i < m.order; ++i) {
    for (int64_t j = 0; j < std::min(i, n) && i < n; ++j) m.row(i)[j] = s[i] * s[j] * gram.row(i)[j] / problem.ridge;
    m.row(i)[i] = 1 + (i < n ? s[i] * s[i] * gram.row(i)[i] / problem.ridge : 0);
  }
  cholesky(m, problem.loops, problem.threads);
  std::vector<double> u = s, v = problem.times(gradient.data());
  for (int64_t i = 0; i < n; ++i) v[i] *= s[i] / problem.ridge;
  solve(m, u, problem.loops);
  solve(m, v, problem.loops);
  const double offset = (gradient[d] - problem.loops.dot(s.data(), v.data(), n)) /
                        (problem.loops.dot(s.data(), u.data(), n) + kOffsetRidge + kHessianRidge);
  for (int64_t i = 0; i < n; ++i) v[i] = s[i] * (v[i] + offset * u[i]);
  std::vector<double> step = problem.transposed_times(v);
  for (int64_t j = 0; j < d; ++j) step[j] = (gradient[j] - step[j]) / problem.ridge;
  step.push_back(offset);
  return step;
}

void check(const double* x, int64_t rows, int64_t width, const double* targets, double penalty, const double* towards) {
  if (rows < 1 || width < 1) fail("BAD_INPUT", "logistic fit: there must be at least one row and one feature");
  if (!(penalty > 0) || !std::isfinite(penalty))
    fail("BAD_INPUT", "logistic fit: the penalty is %g; expected a number above 0", penalty);
  for (int64_t i = 0; i < rows * width; ++i)
    if (!std::isfinite(x[i]))
      fail("BAD_INPUT", "logistic fit: feature %lld of row %lld is not a finite number",
           static_cast<long long>(i % width), static_cast<long long>(i / width));
  for (int64_t i = 0; i < rows; ++i)
    if (!(targets[i] >= 0 && targets[i] <= 1))
      fail("BAD_INPUT", "logistic fit: the target of row %lld is %g; expected a number from 0 to 1",
           static_cast<long long>(i), targets[i]);
  for (int64_t j = 0; towards && j <= width; ++j)
    if (!std::isfinite(towards[j]))
      fail("BAD_INPUT", "logistic fit: weight %lld to pull towards is not a finite number", static_cast<long long>(j));
}

}  // namespace

std::vector<double> fit_logistic(const double* x, int64_t rows, int64_t width, const double* targets, double penalty,
                                 const double* towards, int threads, const std::string& isa, LogisticPath path) {
  check(x, rows, width, targets, penalty, towards);
  const Problem problem{x, rows, width, 2 * penalty + kHessianRidge, loops_of(isa), std::max(threads, 1)};
  const double n = static_cast<double>(rows), d = static_cast<double>(width);
  // The dual's Gram matrix is made once, the primal's Hessian at each of some eight steps.
  if (path == LogisticPath::automatic)
    path = n * n * d / 8 + n * n * n / 3 < n * d * d + d * d * d / 3 ? LogisticPath::dual : LogisticPath::primal;
  Symmetric gram = path == LogisticPath::dual ? products(
                                                    rows, width, [&](int64_t k, int64_t i) { return x[i * width + k]; },
                                                    problem.loops, problem.threads)
                                              : Symmetric(0);

  std::vector<double> w(width + 1), start(width + 1);
  if (towards) start.assign(towards, towards + width + 1);
  w = start;
  const auto loss_at = [&](const std::vector<double>& at, const std::vector<double>& z) {
    double sum = 0, pull = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const double v = z[i] + at[width];
      sum += std::max(v, 0.0) + std::log1p(std::exp(-std::fabs(v))) - targets[i] * v;
    }
    for (int64_t j = 0; j < width; ++j) pull += (at[j] - start[j]) * (at[j] - start[j]);
    return sum / n + penalty * pull;
  };
  std::vector<double> residual(rows), s(rows), next(width + 1);
  std::vector<double> z = problem.times(w.data());
  double loss = loss_at(w, z);
  for (int iteration = 0; iteration < kMaximumSteps; ++iteration) {
    double offset_gradient = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const double p = 1 / (1 + std::exp(-std::clamp(z[i] + w[width], -30.0, 30.0)));
      residual[i] = (p - targets[i]) / n;
      offset_gradient += residual[i];
      s[i] = std::sqrt(std::max(p * (1 - p), kLeastCurvature) / n);
    }
    std::vector<double> gradient = problem.transposed_times(residual);
    for (int64_t j = 0; j < width; ++j) gradient[j] += 2 * penalty * (w[j] - start[j]);
    gradient.push_back(offset_gradient + kOffsetRidge * (w[width] - start[width]));

    const std::vector<double> step = path == LogisticPath::dual ? dual_step(problem, gram, s, gradient)
                                                                : primal_step(problem, s, std::move(gradient));
    double largest = 0;
    for (int64_t j = 0; j <= width; ++j) {
      if (!std::isfinite(step[j]))
        fail("BAD_INPUT", "logistic fit: a Newton step is not finite; standardise the features");
      largest = std::max(largest, std::fabs(step[j]));
    }
    // Far from the solution (a start that is sure of every row, wrongly) a full step can overshoot: halve it until the loss falls.
    double share = 1, reached = 0;
    for (int halving = 0;; ++halving, share /= 2) {
      for (int64_t j = 0; j <= width; ++j) next[j] = w[j] - share * step[j];
      z = problem.times(next.data());
      reached = loss_at(next, z);
      if (reached <= loss + 1e-12 * std::fabs(loss) || halving == kMaximumHalvings) break;
    }
    w.swap(next);
    loss = reached;
    if (largest < kConverged) break;
  }
  return w;
}

}  // namespace credence
