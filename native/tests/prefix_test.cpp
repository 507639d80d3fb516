// Attention's half of a block over packed segments: attention_input, attention and their backward in a row. Completions behind
// one prompt (prefix_of) give what separate sequences give, tokens that are no keys (query_only) are seen by nobody, and a
// segment's numbers are its own.
#include <cstdlib>

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Heads {
  int heads, kv_heads, head_dim, rotary_dim, hidden, window;
};
const Heads kHeads[] = {{4, 2, 20, 20, 24, 0}, {3, 1, 33, 16, 17, 0}, {4, 2, 20, 12, 24, 33}, {2, 2, 17, 2, 33, 65}};

/// Under a sanitizer all of it takes too long.
bool sanitized() { return std::getenv("CREDENCE_SANITIZED") != nullptr; }
std::vector<Heads> heads_here() {
  return sanitized() ? std::vector<Heads>{kHeads[2]} : std::vector<Heads>(std::begin(kHeads), std::end(kHeads));
}

/// A batch. Rows are named by what stands in them, so that two batches can hold the same token at different places.
struct Packed {
  std::vector<int32_t> lengths, prefix_of, key_start;  // [B]; prefix -1: none
  std::vector<int> names, positions;                   // [T]
  std::vector<uint8_t> query_only, supervised;         // [T]; supervised: its output has a gradient
  int rows() const { return static_cast<int>(names.size()); }
};

struct Results {
  std::vector<uint8_t> q, k, v, o, lse, dq, dk, dv, dx;  // bits; rows in order
  std::vector<double> dx_values, gradients;
  std::vector<std::vector<uint8_t>> all() const { return {q, k, v, o, lse, dq, dk, dv, dx}; }
};

/// Numbers of a named row, the same in every batch.
std::vector<double> named(const std::vector<int>& names, uint64_t seed, size_t width) {
  std::vector<double> out;
  for (int name : names) {
    const auto row = normal(seed + 1000 * static_cast<uint64_t>(name), width);
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

int keys_of(const Packed& p, size_t b) {
  int begin = 0, keys = p.key_start[b];
  for (size_t i = 0; i < b; ++i) begin += p.lengths[i];
  for (int t = begin; t < begin + p.lengths[b]; ++t) keys += !p.query_only[t];
  return keys;
}

/// Full pages of the prefix are shared, all others are a segment's own.
std::vector<int32_t> page_table(const Packed& p, int pages_per_segment, int* pages) {
  std::vector<int32_t> table(p.lengths.size() * pages_per_segment);  // unused entries: page 0, which nobody writes
  *pages = 1;
  for (size_t b = 0; b < p.lengths.size(); ++b)
    for (int j = 0; j * CREDENCE_PAGE < keys_of(p, b); ++j) {
      const bool shared = p.prefix_of[b] >= 0 && (j + 1) * CREDENCE_PAGE <= p.key_start[b];
      table[b * pages_per_segment + j] = shared ? table[p.prefix_of[b] * pages_per_segment + j] : (*pages)++;
    }
  return table;
}

Results run(Backend& backend, const Heads& h, const Packed& p) {
  const int rows = p.rows(), outputs = (h.heads + 2 * h.kv_heads) * h.head_dim, longest = 400;
  const size_t q_size = static_cast<size_t>(rows) * h.heads * h.head_dim,
               kv_size = static_cast<size_t>(rows) * h.kv_heads * h.head_dim;
  reference::Linear linear;
  linear.outputs = outputs;
  linear.columns = h.hidden;
  linear.weights = normal(1, static_cast<size_t>(outputs) * h.hidden, 0.3);
  const int q_rows = h.heads * h.head_dim, kv_rows = h.kv_heads * h.head_dim;
  linear.slices = slices(2, h.hidden, {0, q_rows, q_rows + kv_rows, q_rows + 2 * kv_rows});
  std::vector<double> turns;
  for (int position = 0; position < longest; ++position)
    for (int i = 0; i < h.rotary_dim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / h.rotary_dim);
      turns.push_back(std::cos(angle));
      turns.push_back(std::sin(angle));
    }
  credence_shape shape = {};
  shape.hidden = h.hidden, shape.heads = h.heads, shape.kv_heads = h.kv_heads, shape.head_dim = h.head_dim;
  shape.rotary_dim = h.rotary_dim, shape.norm_eps = 1e-5f;

  int most = 1, pages = 0;
  std::vector<int32_t> ends = {0};
  for (size_t b = 0; b < p.lengths.size(); ++b) {
    most = std::max(most, (keys_of(p, b) + CREDENCE_PAGE - 1) / CREDENCE_PAGE);
    ends.push_back(ends.back() + p.lengths[b]);
  }
  const auto table = page_table(p, most, &pages);
  const auto counts = on_device(backend, std::vector<int32_t>{rows, static_cast<int32_t>(p.lengths.size())});
  const auto cu_seqlens = on_device(backend, ends), key_start = on_device(backend, p.key_start);
  const auto positions = on_device(backend, std::vector<int32_t>(p.positions.begin(), p.positions.end()));
  const auto page_tables = on_device(backend, table), prefix_of = on_device(backend, p.prefix_of);
  const auto query_only = on_device(backend, p.query_only);
  const credence_batch batch{rows,         static_cast<int32_t>(p.lengths.size()),
                             most,         *counts,
                             nullptr,      *cu_seqlens,
                             *positions,   *key_start,
                             *page_tables, query_only->as<uint8_t>(),
                             *prefix_of};

  const Weights weights(backend, linear.weights, outputs, h.hidden);
  const Adapter adapter(backend, linear);
  const auto x = floats_on_device(backend, named(p.names, 3, h.hidden)),
             norm_weight = floats_on_device(backend, normal(4, h.hidden)), rotary = floats_on_device(backend, turns);
  const Memory pool(backend, pages * backend.table->page_bytes(&shape, backend.dtype));  // NaN
  const auto normed = act_space(backend, static_cast<size_t>(rows) * h.hidden), q = act_space(backend, q_size);
  const auto k = act_space(backend, kv_size), v = act_space(backend, kv_size), o = act_space(backend, q_size);
  const auto s = act_space(backend, static_cast<size_t>(rows) * adapter.ranks()), inv = float_space(backend, rows);
  const auto lse = float_space(backend, static_cast<size_t>(rows) * h.heads);
  const float scale = static_cast<float>(1 / std::sqrt(h.head_dim));

  credence_attention_input in = {};
  in.batch = batch, in.shape = shape, in.dtype = backend.dtype;
  in.x = *x, in.ldx = h.hidden, in.norm_weight = *norm_weight;
  in.qkv = weights, in.lora = adapter, in.rotary = *rotary, in.pages = pool.raw();
  in.h = normed->raw(), in.q = q->raw(), in.k = k->raw(), in.v = v->raw(), in.inv_rms = *inv, in.s = s->raw();
  RUN_OPERATOR(backend, attention_input, in);
  const credence_attention forward{batch, shape, backend.dtype, scale, h.window, q->raw(), pool.raw(), o->raw(), *lse};
  RUN_OPERATOR(backend, attention, forward);

  auto upstream_values = named(p.names, 5, static_cast<size_t>(h.heads) * h.head_dim);
  for (size_t i = 0; i < upstream_values.size(); ++i)
    if (!p.supervised[i / (static_cast<size_t>(h.heads) * h.head_dim)]) upstream_values[i] = 0;
  const auto upstream = act_on_device(backend, upstream_values), dq = act_space(backend, q_size);
  const auto dk = act_space(backend, kv_size), dv = act_space(backend, kv_size);
  const credence_attention_backward backward{batch,           shape,     backend.dtype, scale,    h.window,
                                             q->raw(),        k->raw(),  v->raw(),      o->raw(), *lse,
                                             upstream->raw(), dq->raw(), dk->raw(),     dv->raw()};
  RUN_OPERATOR(backend, attention_backward, backward);
  Results r;
  r.q = q->bits(), r.k = k->bits(), r.v = v->bits(), r.o = o->bits(), r.lse = lse->bits();
  r.dq = dq->bits(), r.dk = dk->bits(), r.dv = dv->bits();  // before they are turned back
  const auto dx = floats_on_device(backend, std::vector<double>(static_cast<size_t>(rows) * h.hidden));
  credence_attention_input_backward back = {};
  back.batch = batch, back.shape = shape, back.dtype = backend.dtype;
  back.x = *x, back.ldx = back.lddx = h.hidden, back.norm_weight = *norm_weight, back.inv_rms = *inv;
  back.qkv = weights, back.lora = adapter, back.rotary = *rotary, back.h = normed->raw(), back.s = s->raw();
  back.dq = dq->raw(), back.dk = dk->raw(), back.dv = dv->raw(), back.dx = *dx, back.gradients = adapter.gradients();
  RUN_OPERATOR(backend, attention_input_backward, back);
  r.dx = dx->bits(), r.dx_values = dx->floats(), r.gradients = adapter.gradient_values();
  return r;
}

/// Segment b of a batch: where it hangs, and which of its tokens are no keys.
struct Part {
  int length, prefix = -1, shared = 0;
  int no_key_every = 0;
};

Packed packed(const std::vector<Part>& parts) {
  Packed p;
  for (const Part& part : parts) {
    p.lengths.push_back(part.length);
    p.prefix_of.push_back(part.prefix);
    p.key_start.push_back(part.shared);
    for (int i = 0; i < part.length; ++i) {
      p.names.push_back(p.rows());
      p.positions.push_back(part.shared + i);
      p.query_only.push_back(part.no_key_every && i % part.no_key_every == part.no_key_every - 1);
      p.supervised.push_back(1);
    }
  }
  return p;
}

/// Rows of p that are the keys segment b reads before its own.
std::vector<int> prefix_rows(const Packed& p, int b) {
  if (p.prefix_of[b] < 0) return {};
  const int a = p.prefix_of[b];
  std::vector<int> rows = prefix_rows(p, a);
  int begin = 0;
  for (int i = 0; i < a; ++i) begin += p.lengths[i];
  for (int t = begin; t < begin + p.lengths[a]; ++t)
    if (!p.query_only[t]) rows.push_back(t);
  rows.resize(p.key_start[b]);
  return rows;
}

/// Segment b as a sequence of its own: the keys of its prefix, whose outputs nobody asks for, then its tokens.
Packed alone(const Packed& p, int b) {
  Packed out;
  std::vector<int> rows = prefix_rows(p, b);
  const size_t shared = rows.size();
  int begin = 0;
  for (int i = 0; i < b; ++i) begin += p.lengths[i];
  for (int i = 0; i < p.lengths[b]; ++i) rows.push_back(begin + i);
  out.lengths = {static_cast<int32_t>(rows.size())};
  out.prefix_of = {-1};
  out.key_start = {0};
  for (size_t i = 0; i < rows.size(); ++i) {
    out.names.push_back(p.names[rows[i]]);
    out.positions.push_back(p.positions[rows[i]]);
    out.query_only.push_back(p.query_only[rows[i]]);
    out.supervised.push_back(i >= shared);
  }
  return out;
}

bool same_rows(const std::vector<uint8_t>& a, int rows_a, int row_a, const std::vector<uint8_t>& b, int rows_b,
               int row_b, int count) {
  const size_t bytes = a.size() / rows_a;
  return b.size() / rows_b == bytes && std::equal(a.begin() + static_cast<ptrdiff_t>(row_a * bytes),
                                                  a.begin() + static_cast<ptrdiff_t>((row_a + count) * bytes),
                                                  b.begin() + static_cast<ptrdiff_t>(row_b * bytes));
}

/// Prompts that end before, at and after the end of a page; completions shorter and longer than one; a completion of one.
std::vector<std::vector<Part>> prompts_with_completions() {
  std::vector<std::vector<Part>> all;
  for (int prompt : sanitized() ? std::vector<int>{17, 65} : std::vector<int>{1, 17, 63, 64, 65, 130})
    all.push_back({{prompt}, {5, 0, prompt}, {1, 0, prompt}, {70, 0, prompt}, {3, -1, 0}});
  all.push_back({{100}, {40, 0, 77}, {33, 1, 90}, {1, 2, 91}});  // a prefix that has one, cut short
  all.push_back(
      {{90, -1, 0, 4}, {40, 0, 66, 3}, {2, 0, 65, 1}, {9, 0, 67}});  // some tokens, and one segment, are no keys
  return all;
}

}  // namespace

OPERATOR_TEST("attention_input attention attention_backward attention_input_backward", "odd-shapes bits",
              behind_a_shared_prompt_as_in_separate_sequences) {
  for (const Heads& heads : heads_here())
    for (const auto& parts : prompts_with_completions()) {
      const Packed p = packed(parts);
      each_backend(1, [&](Backend& backend) {
        const Results together = run(backend, heads, p);
        const int rows = p.rows();
        std::vector<double> dx(together.dx_values.size()), gradients(together.gradients.size());
        for (int b = 0, begin = 0; b < static_cast<int>(p.lengths.size()); begin += p.lengths[b++]) {
          const Packed one = alone(p, b);
          const Results apart = run(backend, heads, one);
          const int shared = p.key_start[b], count = p.lengths[b];
          for (auto part : {&Results::q, &Results::k, &Results::v, &Results::o, &Results::lse, &Results::dq})
            EXPECT(same_rows(together.*part, rows, begin, apart.*part, one.rows(), shared, count));
          const auto keys = prefix_rows(p, b);
          for (int i = 0; i < one.rows(); ++i)
            for (int c = 0; c < heads.hidden; ++c) {
              const int row = i < shared ? keys[i] : begin + i - shared;
              dx[static_cast<size_t>(row) * heads.hidden + c] +=
                  apart.dx_values[static_cast<size_t>(i) * heads.hidden + c];
            }
          for (size_t i = 0; i < gradients.size(); ++i) gradients[i] += apart.gradients[i];
        }
        // Sums in another order; in bf16 each sequence's dk and dv are also rounded before they are summed.
        EXPECT_CLOSE(together.dx_values, dx, backend.bf16() ? 1.0 / 64 : 2e-6);
        EXPECT_CLOSE(together.gradients, gradients, backend.bf16() ? 1.0 / 64 : 2e-6);
      });
    }
}

OPERATOR_TEST("attention_input attention attention_backward attention_input_backward", "bits",
              behind_a_shared_prompt_on_any_number_of_threads) {
  for (const Heads& heads : heads_here()) {
    const Packed p = packed({{100}, {40, 0, 77}, {33, 1, 90}, {130, 0, 65, 3}, {1, 0, 100}});
    std::vector<Results> all;
    for (int threads : {1, 2, 3}) {
      size_t which = 0;
      each_backend(threads, [&](Backend& backend) {
        const Results r = run(backend, heads, p);
        if (threads == 1) all.push_back(r);
        EXPECT(r.all() == all[which].all());
        EXPECT(r.gradients == all[which++].gradients);
      });
    }
  }
}

// Another segment's tokens are replaced: every row outside it and outside what reads its keys keeps its bits, forward and
// backward. (Parameter gradients are sums over all of them, and change.)
OPERATOR_TEST("attention_input attention attention_backward attention_input_backward", "bits",
              a_packed_segment_does_not_depend_on_the_others) {
  // The last reads keys of the second.
  const std::vector<Part> parts = {{70}, {65, -1, 0, 5}, {130}, {1}, {20, 1, 40}};
  for (const Heads& heads : heads_here()) {
    const Packed p = packed(parts);
    each_backend(2, [&](Backend& backend) {
      const Results before = run(backend, heads, p);
      for (int changed : {0, 1, 2, 4}) {
        Packed other = p;
        for (int b = 0, begin = 0; b < static_cast<int>(parts.size()); begin += parts[b++].length)
          if (b == changed)
            for (int t = begin; t < begin + parts[b].length; ++t) other.names[t] += 5000;
        const Results after = run(backend, heads, other);
        for (int b = 0, begin = 0; b < static_cast<int>(parts.size()); begin += parts[b++].length) {
          const auto same = [&](std::vector<uint8_t> Results::* part) {
            return same_rows(before.*part, p.rows(), begin, after.*part, p.rows(), begin, parts[b].length);
          };
          const bool own = b != changed, read = own && !(b == 4 && changed == 1),
                     heard = read && !(b == 1 && changed == 4);
          for (auto part : {&Results::q, &Results::k, &Results::v}) EXPECT_EQ(same(part), own);
          for (auto part : {&Results::o, &Results::lse, &Results::dq}) EXPECT_EQ(same(part), read);
          for (auto part : {&Results::dk, &Results::dv, &Results::dx}) EXPECT_EQ(same(part), heard);
        }
      }
    });
  }
}

// A query_only token is seen by nobody: taken out of the batch, everybody else's output and gradients keep their bits, but for
// the gradients of the keys that it reads, which lose its share.
OPERATOR_TEST("attention_input attention attention_backward attention_input_backward", "bits",
              tokens_that_are_no_keys_are_seen_by_nobody) {
  for (const Heads& heads : heads_here()) {
    const Packed p = packed({{70, -1, 0, 7}, {9, -1, 0, 2}});
    Packed without;
    std::vector<int> kept;
    for (int t = 0; t < p.rows(); ++t)
      if (!p.query_only[t]) kept.push_back(t);
    without.lengths = {keys_of(p, 0), keys_of(p, 1)};
    without.prefix_of = {-1, -1};
    without.key_start = {0, 0};
    for (int t : kept) {
      without.names.push_back(p.names[t]);
      without.positions.push_back(p.positions[t]);
      without.query_only.push_back(0);
      without.supervised.push_back(1);
    }
    each_backend(1, [&](Backend& backend) {
      const Results with = run(backend, heads, p), less = run(backend, heads, without);
      for (size_t i = 0; i < kept.size(); ++i)
        for (auto part : {&Results::q, &Results::o, &Results::lse, &Results::dq})
          EXPECT(same_rows(with.*part, p.rows(), kept[i], less.*part, without.rows(), static_cast<int>(i), 1));
      Packed silent = p;  // with no gradient from their outputs, the keys' gradients are the same too
      for (int t = 0; t < p.rows(); ++t) silent.supervised[t] = !p.query_only[t];
      const Results quiet = run(backend, heads, silent);
      std::vector<double> dx;
      for (int t : kept)
        dx.insert(dx.end(), quiet.dx_values.begin() + static_cast<ptrdiff_t>(t) * heads.hidden,
                  quiet.dx_values.begin() + static_cast<ptrdiff_t>(t + 1) * heads.hidden);
      EXPECT_CLOSE(dx, less.dx_values, backend.bf16() ? 1.0 / 64 : 2e-6);
    });
  }
}

OPERATOR_TEST("attention_input", "refusal", a_prefix_that_comes_later) {
  each_backend(1, [](Backend& backend) {
    const auto counts = on_device(backend, std::vector<int32_t>{2, 2}),
               ends = on_device(backend, std::vector<int32_t>{0, 1, 2});
    const auto key_start = on_device(backend, std::vector<int32_t>{1, 0}),
               prefix = on_device(backend, std::vector<int32_t>{1, -1});
    const auto table = on_device(backend, std::vector<int32_t>{0, 1});
    const std::vector<double> zeros(12 * 4);
    const Weights weights(backend, zeros, 12, 4);
    credence_attention_input in = {};
    in.batch = {2, 2, 1, *counts, nullptr, *ends, *table, *key_start, *table, nullptr, *prefix};
    in.shape.hidden = in.shape.head_dim = 4, in.shape.heads = in.shape.kv_heads = 1;
    const Memory pages(backend, 2 * backend.table->page_bytes(&in.shape, backend.dtype)), all(backend, 64);
    in.dtype = backend.dtype, in.qkv = weights, in.pages = pages.raw(), in.ldx = 4;
    in.x = in.norm_weight = in.rotary = all, in.h = in.q = all.raw();
    const Memory workspace(backend, backend.table->attention_input_workspace(&in));
    EXPECT(backend.refused(backend.table->attention_input(backend.handle, &in, workspace.raw())));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("segment 0 reads segment 1") !=
           std::string::npos);
  });
}

TESTING_MAIN
