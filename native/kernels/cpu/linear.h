// The product every linear operator is made of:  Y[m, n] = sum over k of X[m, k] W[n, k]  (+ sum over r of S[m, r] B[n, r]).
// One letter per axis: M rows, N outputs in panels of 32, K inputs, R an adapter's ranks.
//
// A tile of up to 12 rows x 32 outputs stays in registers over all of K and then all of R, in that order. How many rows, tiles
// or threads there are never changes the order, so an output has the same bits in every batch. Y leaves a tile through a small
// float32 buffer in L1, from which an operator finishes it (bias, residual, activation): that costs some 50 of 3,500 cycles.
#pragma once

#include "backend.h"
#include "pack.h"

namespace credence::cpu {

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr credence_dtype value = CREDENCE_F32;
};
template <>
struct DtypeOf<bf16> {
  static constexpr credence_dtype value = CREDENCE_BF16;
};

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
struct Product {
  const T* x = nullptr;  // [M, K]
  int64_t ldx = 0;
  int64_t k = 0;
  const T* panels = nullptr;
  int64_t from = 0, count = 0;  // steps [from, from + count) of K alone (deep_block); count 0: all of K
  // The second segment, in the same sums; tail null: none.
  const T* s = nullptr;  // [M, R]
  int64_t lds = 0;
  const RangedPanels* tail = nullptr;
  const T* whole_tail = nullptr;  // or panels over all of R, `ranks` wide
  int64_t ranks = 0;
};

template <class T>
static inline Product<T> product_of(const T* x, int64_t ldx, const credence_weights* w) {
  Product<T> p;
  p.x = x;
  p.ldx = ldx;
  p.k = w->columns;
  p.panels = static_cast<const T*>(w->panels);
  return p;
}

/// dX = dY W.
template <class T>
static inline Product<T> product_of_transpose(const T* dy, int64_t lddy, const credence_weights* w) {
  Product<T> p;
  p.x = dy;
  p.ldx = lddy;
  p.k = w->rows;
  p.panels = static_cast<const T*>(w->transposed);
  return p;
}

// ------------------------------------------------------------------------------------------------------------------- tile

/// A tile is the part-th of `parts` tiles of rows over the same panels.
struct Share {
  int64_t part, parts;
};

/// Nothing to fetch.
struct NoPrepare {};

/// What a tile fetches while it computes: a line a step from each of the two on.
template <class T>
struct Ahead {
  const T *first, *second;
};

/// The same spread over all passes over a panel: as many bytes a step as bring the next panel in by the time this one is done.
struct SpreadAhead {
  const char* next;
  int64_t bytes;
};

// The rows of a tile as one pointer for three of them: with the leading dimension that is 5 registers of addresses, where 12
// pointers spill. The empty assembly keeps the compiler from seeing through it and making 12 again.
template <class T>
struct RowPointers {
  const T *p0, *p1, *p2, *p3;
  int64_t ld;

  [[gnu::always_inline]] RowPointers(const T* a, int64_t lda)
      : p0(a), p1(a + 3 * lda), p2(a + 6 * lda), p3(a + 9 * lda), ld(lda) {}
  [[gnu::always_inline]] const T* row(int r) const { return (r < 3 ? p0 : r < 6 ? p1 : r < 9 ? p2 : p3) + r % 3 * ld; }
  [[gnu::always_inline]] void advance(int64_t k) {
    p0 += k, p1 += k, p2 += k, p3 += k;
    asm("" : "+r"(p0), "+r"(p1), "+r"(p2), "+r"(p3));
  }
};

// One step of a product: c[r][v0 + v] = add(c, x_of(r), w_of(v)) for R rows and V vectors. The fewer of the two are held.
template <class Isa, int R, int NV, int V, class X, class W, class Add>
[[gnu::always_inline]] static inline void step(typename Isa::F (&c)[R][NV], int v0, const X& x_of, const W& w_of,
                                               const Add& add) {
  if constexpr (R < V) {
    decltype(x_of(0)) x[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) x[r] = x_of(r);
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) {
      const auto w = w_of(v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) c[r][v0 + v] = add(c[r][v0 + v], x[r], w);
    }
  } else {
    decltype(w_of(0)) w[V];
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) w[v] = w_of(v);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = x_of(r);
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) c[r][v0 + v] = add(c[r][v0 + v], x, w[v]);
    }
  }
}

// c += the rows of a times vectors [v0, v0 + V) of columns; the vectors of a panel are neighbours, panels are `stride` apart.
template <class Isa, int R, int NV, int V, class Next = NoPrepare>
[[gnu::always_inline]] static inline void steps(typename Isa::F (&c)[R][NV], int v0, const bf16* a, int64_t lda,
                                                int64_t k, const bf16* w, int64_t stride,
                                                [[maybe_unused]] const Next& ahead = {}) {
  constexpr int kVectors = kPanel / Isa::W;
  const int64_t pairs = k / 2;
  RowPointers<bf16> x_at(a, lda);
  const auto weights = [&](int v) __attribute__((always_inline)) {
    return Isa::pairs(w + v / kVectors * stride + v % kVectors * 2 * Isa::W);
  };
  for (int64_t i = 0; i < pairs; ++i, x_at.advance(2), w += 2 * kPanel) {
    if constexpr (__is_same(Next, SpreadAhead)) Isa::will_need(ahead.next + i * ahead.bytes);
    if constexpr (__is_same(Next, Ahead<bf16>)) {
      Isa::will_need(ahead.first + i * kPanel);
      Isa::will_need(ahead.second + i * kPanel);
    }
    const auto pair = [&](int r) __attribute__((always_inline)) { return Isa::pair(x_at.row(r)); };
    if constexpr (Isa::kPairDot) {
      step<Isa, R, NV, V>(c, v0, pair, weights, [](auto sum, auto x, auto y) { return Isa::dot(sum, x, y); });
    } else {
      // The first of each pair, then the second: what dot() does, without holding both halves of everything at once.
      const auto add = [](auto sum, auto x, auto y) { return Isa::fma(x, y, sum); };
      step<Isa, R, NV, V>(
          c, v0, [&](int r) __attribute__((always_inline)) { return Isa::first_of(pair(r)); },
          [&](int v) __attribute__((always_inline)) { return Isa::first_of(weights(v)); }, add);
      x_at.advance(0);
      asm("" : "+r"(w));
      step<Isa, R, NV, V>(
          c, v0, [&](int r) __attribute__((always_inline)) { return Isa::second_of(pair(r)); },
          [&](int v) __attribute__((always_inline)) { return Isa::second_of(weights(v)); }, add);
    }
  }
  if (k % 2) {
    for (int r = 0; r < R; ++r) {
      const typename Isa::Pairs x = Isa::half_pair(x_at.row(r));
      for (int v = 0; v < V; ++v) c[r][v0 + v] = Isa::dot(c[r][v0 + v], x, weights(v));
    }
  }
}

template <class Isa, int R, int NV, int V, class Next = NoPrepare>
[[gnu::always_inline]] static inline void steps(typename Isa::F (&c)[R][NV], int v0, const float* a, int64_t lda,
                                                int64_t k, const float* w, int64_t stride,
                                                [[maybe_unused]] const Next& ahead = {}) {
  constexpr int kVectors = kPanel / Isa::W;
  RowPointers<float> x_at(a, lda);
  for (int64_t i = 0; i < k; ++i, x_at.advance(1), w += kPanel) {
    if constexpr (__is_same(Next, SpreadAhead)) Isa::will_need(ahead.next + i * ahead.bytes);
    if constexpr (__is_same(Next, Ahead<float>)) {
      Isa::will_need(ahead.first + i * kPanel / 2);
      Isa::will_need(ahead.second + i * kPanel / 2);
    }
    step<Isa, R, NV, V>(
        c, v0, [&](int r) __attribute__((always_inline)) { return Isa::set(*x_at.row(r)); },
        [&](int v)
            __attribute__((always_inline)) { return Isa::load(w + v / kVectors * stride + v % kVectors * Isa::W); },
        [](auto sum, auto x, auto y) { return Isa::fma(x, y, sum); });
  }
}

/// Where vector v of a row of panels begins: the panels `stride` apart, T in pairs or alone.
template <class Isa, class T>
static inline int64_t vector_at(int v, int64_t stride) {
  constexpr int kVectors = kPanel / Isa::W, kDepth = DtypeOf<T>::value == CREDENCE_BF16 ? 2 : 1;
  return v / kVectors * stride + v % kVectors * kDepth * Isa::W;
}

/// How many of a row's vectors a tile of R rows sums at once.
template <class Isa, int R, int Vectors>
constexpr int vectors_at_once() {
  return Isa::tile_vectors(R) < Vectors ? Isa::tile_vectors(R) : Vectors;
}

// R rows of P neighbouring panels into out [R][ldo], as many vectors at a time as there are registers.
template <class Isa, class T, int R, int P>
void tile(const Product<T>& p, int64_t row, int64_t panel, float* out, int64_t ldo, Share share) {
  constexpr int kVectors = kPanel / Isa::W;
  constexpr credence_dtype dtype = DtypeOf<T>::value;
  constexpr int V = vectors_at_once<Isa, R, P * kVectors>(), kOfPanel = V < kVectors ? V : kVectors;
  for (int first = 0; first < P * kVectors; first += V) {
    typename Isa::F c[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) c[r][v] = Isa::zero();
    bool last = true;  // this pass ends K
    if constexpr (Isa::kDeepSteps > 0) {
      if (p.from)
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
          for (int v = 0; v < V; ++v) c[r][v] = Isa::load(out + r * ldo + (first + v) * Isa::W);
      last = p.count == 0 || p.from + p.count == p.k;
    }
    if (p.k) {
      const int64_t stride = panel_elements(dtype, p.k);
      const T *w = p.panels + panel * stride, *begin = w + vector_at<Isa, T>(first, stride);
      if constexpr (R > 6 && Isa::kTileRows == 12) {
        // The next panel comes from far away: the first tile of rows, or the first two, ask for it, the others for what they
        // have.
        const T *next = w + stride, *half = next + stride / 2;
        const Ahead<T> ahead = {share.part == 0   ? next
                                : share.part == 1 ? half
                                                  : w,
                                share.part == 0 && share.parts == 1 ? half : w};
        steps<Isa, R, V, V>(c, 0, p.x + row * p.ldx, p.ldx, p.k, begin, stride, ahead);
      } else if constexpr (Isa::kSpreadFetch) {
        const int64_t k = p.count ? p.count : p.k;
        const T *x = p.x + row * p.ldx + p.from, *from = begin + p.from * kPanel;
        if constexpr (R == 1) {  // one stream of weights, which the machine fetches by itself
          steps<Isa, R, V, V>(c, 0, x, p.ldx, k, from, stride);
        } else {
          // What is read next lies behind what is read now, be it the next panel or more of this one.
          constexpr int kPasses = P * kVectors / V, kStepBytes = 4 * kPanel;
          const int64_t bytes = ceil_div(P * kStepBytes, share.parts * kPasses), words = sizeof(T) * k / 4;
          const char* next = reinterpret_cast<const char*>(p.count ? w + (p.from + k) * kPanel : w + P * stride);
          const SpreadAhead ahead = {next + (share.part * kPasses + first / V) * bytes * words, bytes};
          steps<Isa, R, V, V>(c, 0, x, p.ldx, k, from, stride, ahead);
        }
      } else {
        steps<Isa, R, V, V>(c, 0, p.x + row * p.ldx, p.ldx, p.k, begin, stride);
      }
    }
    if (p.whole_tail && last) {
      const int64_t stride = panel_elements(dtype, p.ranks);
      steps<Isa, R, V, V>(c, 0, p.s + row * p.lds, p.lds, p.ranks,
                          p.whole_tail + panel * stride + vector_at<Isa, T>(first, stride), stride);
    }
    if (p.tail && last) {
#pragma GCC unroll 4
      for (int v = 0; v < V; v += kOfPanel) {
        const PanelRange range = p.tail->ranges[panel + (first + v) / kVectors];
        const T* w = static_cast<const T*>(p.tail->data) + range.offset + vector_at<Isa, T>((first + v) % kVectors, 0);
        steps<Isa, R, V, kOfPanel>(c, v, p.s + row * p.lds + range.begin, p.lds, range.count, w, 0);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) Isa::store(out + r * ldo + (first + v) * Isa::W, c[r][v]);
  }
}

/// R rows of one panel's columns added up in place: c [R][ldc] += a [R][k] w, of which `columns` count.
template <class Isa, class T, int R>
static inline void add_tile(const T* a, int64_t lda, int64_t k, const T* w, float* c, int64_t ldc, int64_t columns) {
  constexpr int kVectors = kPanel / Isa::W, V = vectors_at_once<Isa, R, kVectors>();
  for (int first = 0; first < kVectors; first += V) {
    typename Isa::F sums[R][V];
    const int64_t begin = first * Isa::W;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v)
        sums[r][v] = Isa::load(c + r * ldc + begin + v * Isa::W, Isa::first(columns - begin - v * Isa::W));
    steps<Isa, R, V, V>(sums, 0, a, lda, k, w + vector_at<Isa, T>(first, 0), 0);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v)
        Isa::store(c + r * ldc + begin + v * Isa::W, sums[r][v], Isa::first(columns - begin - v * Isa::W));
  }
}

/// How many panels a tile of so many rows takes at once: enough independent sums to hide the latency of a step.
template <class Isa>
static constexpr int tile_panels(int64_t rows) {
  const int panels = Isa::tile_vectors(static_cast<int>(rows)) * Isa::W / kPanel;
  return panels < 1 ? 1 : panels;
}

template <class Isa, class T, int R>
static inline void tile_row(const Product<T>& p, int64_t row, int64_t panel, int panels, float* out, int64_t ldo,
                            Share share) {
  constexpr int kAtOnce = tile_panels<Isa>(R);
  int i = 0;
  for (; i + kAtOnce <= panels; i += kAtOnce) tile<Isa, T, R, kAtOnce>(p, row, panel + i, out + i * kPanel, ldo, share);
  if constexpr (kAtOnce > 1)
    for (; i < panels; ++i) tile<Isa, T, R, 1>(p, row, panel + i, out + i * kPanel, ldo, share);
}

/// rows (at most Isa::kTileRows) x panels of Y into out [rows][ldo]. share: which of the tiles over the same panels this is.
template <class Isa, class T>
void tile_of(const Product<T>& p, int64_t row, int64_t rows, int64_t panel, int panels, float* out, int64_t ldo,
             Share share = {2, 3}) {
  switch (rows) {
#define CREDENCE_TILE(R)                                                                            \
  case R:                                                                                           \
    if constexpr (R <= Isa::kTileRows) tile_row<Isa, T, R>(p, row, panel, panels, out, ldo, share); \
    break;
    CREDENCE_TILE(1)
    CREDENCE_TILE(2)
    CREDENCE_TILE(3)
    CREDENCE_TILE(4)
    CREDENCE_TILE(5)
    CREDENCE_TILE(6)
    CREDENCE_TILE(7)
    CREDENCE_TILE(8)
    CREDENCE_TILE(9)
    CREDENCE_TILE(10)
    CREDENCE_TILE(11)
    CREDENCE_TILE(12)
#undef CREDENCE_TILE
    default:
      break;
  }
}

/// Rows [row0, row1) in tiles of heights as equal as can be: body(row, rows).
template <class Isa, class Body>
static inline void for_tiles(int64_t row0, int64_t row1, const Body& body) {
  const int64_t rows = row1 - row0, tiles = ceil_div(rows, Isa::kTileRows);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = row0 + rows * i / tiles, end = row0 + rows * (i + 1) / tiles;
    if constexpr (requires { body(begin, end, Share{0, 1}); }) body(begin, end - begin, Share{i, tiles});
    else body(begin, end - begin);
  }
}

// Where K is long its steps go in blocks, so that a block of a panel stays in L2 beside the rows' share of it. The sums wait in
// memory meanwhile, as float32: the same bits.
template <class Isa>
constexpr int64_t kDeepRows = 24 * Isa::kTileRows;

template <class Isa>
static inline bool is_deep(int64_t k, int64_t rows) {
  return Isa::kDeepSteps > 0 && k > Isa::kDeepSteps && rows > Isa::kTileRows;
}

/// Rows [begin, end) of one panel into sums [rows][ld]; on_last(row, rows, before) around each tile of the last block of K.
template <class Isa, class T, class OnLast>
void deep_rows(const Product<T>& p, int64_t begin, int64_t end, int64_t panel, float* sums, int64_t ld,
               const OnLast& on_last) {
  const int64_t blocks = ceil_div(p.k, Isa::kDeepSteps), steps = ceil_div(ceil_div(p.k, blocks), 2) * 2;
  Product<T> part = p;
  for (part.from = 0; part.from < p.k; part.from += steps) {
    part.count = least(steps, p.k - part.from);
    const bool last = part.from + part.count == p.k;
    for_tiles<Isa>(begin, end, [&](int64_t row, int64_t rows, Share share) {
      if (last) on_last(row, rows, true);
      tile_of<Isa, T>(part, row, rows, panel, 1, sums + (row - begin) * ld, ld, share);
      if (last) on_last(row, rows, false);
    });
  }
}

/// product_block where K is long.
template <class Isa, class T, class Finish, class Prepare>
void deep_block(const Product<T>& p, int64_t row0, int64_t row1, int64_t panel0, int64_t panel1, const Finish& finish,
                [[maybe_unused]] const Prepare& prepare) {
  alignas(64) float sums[kDeepRows<Isa> * kPanel];
  for (int64_t begin = row0; begin < row1; begin += kDeepRows<Isa>) {
    const int64_t end = least(begin + kDeepRows<Isa>, row1);
    for (int64_t panel = panel0; panel < panel1; ++panel)
      deep_rows<Isa>(p, begin, end, panel, sums, kPanel, [&](int64_t row, int64_t rows, bool before) {
        if (!before) finish(row, rows, panel, sums + (row - begin) * kPanel, kPanel);
        else if constexpr (!__is_same(Prepare, NoPrepare)) prepare(row, rows, panel);
      });
  }
}

/// Rows x panels of Y, a tile at a time: finish(row, rows, panel, tile, ld) with tile [rows][32] float32. Panels outermost: a
/// panel is read from far away once and then for every tile of rows from L1 or L2. prepare(row, rows, panel) comes before a
/// tile is computed: what finish will touch can be on its way meanwhile.
template <class Isa, class T, class Finish, class Prepare = NoPrepare>
static inline void product_block(const Product<T>& p, int64_t row0, int64_t row1, int64_t panel0, int64_t panel1,
                                 const Finish& finish, [[maybe_unused]] const Prepare& prepare = {}) {
  if constexpr (Isa::kDeepSteps > 0) {
    if (is_deep<Isa>(p.k, row1 - row0)) return deep_block<Isa>(p, row0, row1, panel0, panel1, finish, prepare);
  }
  constexpr int kMost = 4;
  alignas(64) float out[Isa::kTileRows * kPanel > 3 * kMost * kPanel ? Isa::kTileRows * kPanel : 3 * kMost * kPanel];
  const int at_once = tile_panels<Isa>(least(row1 - row0, Isa::kTileRows));
  for (int64_t panel = panel0; panel < panel1; panel += at_once) {
    const int panels = static_cast<int>(least(at_once, panel1 - panel));
    for_tiles<Isa>(row0, row1, [&](int64_t row, int64_t rows, Share share) {
      const int now = rows * panels * kPanel <= static_cast<int64_t>(sizeof out / sizeof *out) ? panels : 1;
      for (int i = 0; i < panels; i += now) {
        if constexpr (!__is_same(Prepare, NoPrepare))
          for (int j = 0; j < now; ++j) prepare(row, rows, panel + i + j);
        tile_of<Isa, T>(p, row, rows, panel + i, now, out, now * kPanel, share);
        for (int j = 0; j < now; ++j) finish(row, rows, panel + i + j, out + j * kPanel, now * kPanel);
      }
    });
  }
}

// ------------------------------------------------------------------------------------------------------------------ split

/// How a product is cut into work items of rows x panels. Items are many enough to even out, few enough to stay large.
struct Split {
  int64_t rows, panels;              // of the whole
  int64_t block_rows, block_panels;  // of an item
  int64_t row_blocks, panel_blocks;
};

template <class Isa>
static inline Split split_of(int64_t rows, int64_t panels, int64_t k, int64_t element_bytes, int threads) {
  // The rows of an item stay in L2 beside a panel while the panels stream by.
  constexpr int64_t kBytes = 320 << 10;
  const int64_t row_bytes = element_bytes * (Isa::kDeepSteps > 0 ? least(k, Isa::kDeepSteps) : k);
  Split s;
  s.rows = rows;
  s.panels = panels;
  const int64_t fit = most(4, least(24, kBytes / (Isa::kTileRows * most(row_bytes, 1)))) * Isa::kTileRows;
  s.row_blocks = most(1, ceil_div(rows, fit));
  s.block_rows = ceil_div(ceil_div(rows, s.row_blocks), Isa::kTileRows) * Isa::kTileRows;
  s.row_blocks = most(1, ceil_div(rows, s.block_rows));
  const int64_t wanted = threads == 1 ? 1 : ceil_div(8 * threads, s.row_blocks);
  const int64_t smallest = tile_panels<Isa>(least(rows, Isa::kTileRows));
  s.block_panels = most(smallest, ceil_div(ceil_div(panels, least(wanted, panels)), smallest) * smallest);
  s.panel_blocks = ceil_div(panels, s.block_panels);
  return s;
}

/// All of Y on all threads: finish as in product_block, called from many threads for different tiles.
template <class Isa, class T, class Finish, class Prepare = NoPrepare>
static inline void product_all(credence_backend* backend, const Product<T>& p, int64_t rows, int64_t panels,
                               const Finish& finish, const Prepare& prepare = {}) {
  if (rows == 0) return;
  const Split s = split_of<Isa>(rows, panels, p.k, sizeof(T), backend->pool.threads());
  backend->pool.parallel(s.row_blocks * s.panel_blocks, [&](int64_t i, int) {
    const int64_t row = i / s.panel_blocks * s.block_rows, panel = i % s.panel_blocks * s.block_panels;
    product_block<Isa, T>(p, row, least(row + s.block_rows, rows), panel, least(panel + s.block_panels, panels), finish,
                          prepare);
  });
}

}  // namespace credence::cpu
