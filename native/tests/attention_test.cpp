// Attention, forward and backward: against its definition, and that a row's bits are its own.
#include "kernels/reference/attention.h"
#include "linear_support.h"
#include "pages.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Case {
  std::vector<int> lengths;
  int heads, kv_heads, head_dim, window;
  bool some_query_only = false, share_prefix = false;
};

const std::vector<Case> kCases = {
    {{1}, 2, 1, 20, 0},
    {{1, 3, 1}, 3, 1, 1, 0},
    {{17, 0, 1}, 2, 1, 3, 2},  // a segment without tokens
    {{65, 1, 0}, 4, 4, 33, 0},
    {{33, 64, 2}, 2, 2, 17, 2},
    {{5, 1, 9}, 4, 2, 20, 0},
    {{65}, 3, 1, 64, 0},
    {{129, 1, 33}, 6, 2, 64, 0},
    {{70, 130}, 2, 2, 19, 0},
    {{100, 64}, 4, 1, 80, 17},
    {{140}, 2, 1, 128, 65},
    {{40, 3}, 2, 1, 72, 0},  // sizes between those that a back end may be compiled for
    {{70}, 2, 2, 96, 0},
    {{33, 9}, 4, 2, 90, 20},
    {{10, 66}, 2, 1, 121, 0},
    {{90, 20}, 3, 3, 24, 0, true},
    {{70, 30, 66, 5}, 4, 2, 20, 0, false, true},
    {{70, 30, 66}, 4, 2, 20, 33, true, true},
    {{97}, 3, 1, 16, 0},
    {{257}, 2, 1, 9, 100},
};

/// One long segment, and as many short ones as packing makes.
const std::vector<Case> kManyTokens = {{{1025}, 2, 1, 5, 0}, {std::vector<int>(300, 3), 2, 1, 20, 0}};

/// body(c, takes_it): each case; `takes_it(backend)` is false for what executes many tokens too slowly.
template <typename Body>
void each_case(const Body& body) {
  for (const Case& c : kCases) body(c, [](const Backend&) { return true; });
  for (const Case& c : kManyTokens) body(c, [](const Backend& backend) { return !backend.brief(); });
}

/// In float32 within a bound of its own; in bf16 at most twice as far off as the computation that rounds scores, probabilities and what
/// it puts out.
void expect_near(const Backend& backend, const std::vector<double>& got, const std::vector<double>& exact,
                 const std::vector<double>& plain, double bound) {
  if (backend.bf16()) EXPECT_TWICE_PLAIN(backend, got, exact, plain);
  else EXPECT_CLOSE(got, exact, bound);
}

/// With bf16's roundings. A definition costs more than any kernel held against it, so it is asked once for all of them.
reference::Attention in_bf16(reference::Attention p) {
  p.round = &to_bf16;
  return p;
}

reference::Attention example(const Case& c, uint64_t seed) {
  reference::Attention p;
  p.heads = c.heads, p.kv_heads = c.kv_heads, p.head_dim = c.head_dim, p.window = c.window;
  p.scale = 1 / std::sqrt(c.head_dim);
  p.segments.cu_seqlens = {0};
  for (int n : c.lengths) p.segments.cu_seqlens.push_back(p.segments.cu_seqlens.back() + n);
  const int tokens = p.segments.cu_seqlens.back();
  p.segments.key_start.assign(c.lengths.size(), 0);
  if (c.share_prefix) {  // every segment but the first reads some keys of the first; the last, some of the second's
    p.segments.prefix_of.assign(c.lengths.size(), 0);
    p.segments.prefix_of[0] = -1;
    for (size_t b = 1; b < c.lengths.size(); ++b) p.segments.key_start[b] = c.lengths[0] * 2 / 3 - static_cast<int>(b);
    if (c.lengths.size() > 3) p.segments.prefix_of[3] = 1;
  }
  if (c.some_query_only) {
    for (int t = 0; t < tokens; ++t) p.segments.query_only.push_back(t % 7 == 3 || t == 0);
  }
  p.q = normal(seed, static_cast<size_t>(tokens) * c.heads * c.head_dim);
  p.k = normal(seed + 1, static_cast<size_t>(tokens) * c.kv_heads * c.head_dim);
  p.v = normal(seed + 2, static_cast<size_t>(tokens) * c.kv_heads * c.head_dim);
  return p;
}

// Rows of the batch that are segment b's keys, as the reference has them; pages of their own, in an order that is not theirs.
std::vector<int> keys_of(const reference::Segments& s, int b) {
  std::vector<int> keys;
  if (!s.prefix_of.empty() && s.prefix_of[b] >= 0) {
    keys = keys_of(s, s.prefix_of[b]);
    keys.resize(s.key_start[b]);
  }
  for (int t = s.cu_seqlens[b]; t < s.cu_seqlens[b + 1]; ++t)
    if (s.query_only.empty() || !s.query_only[t]) keys.push_back(t);
  return keys;
}

// The device's copy of an example: pages are filled as attention_input would leave them.
struct OnDevice {
  MemoryPointer counts, cu_seqlens, key_start, page_table, query_only, prefix_of, q, pages;
  credence_batch batch{};
  credence_shape shape{};

  OnDevice(Backend& backend, const reference::Attention& p, int garbage_pages = 1) {
    const reference::Segments& s = p.segments;
    const int segments = static_cast<int>(s.key_start.size()), tokens = s.cu_seqlens.back();
    shape.heads = p.heads, shape.kv_heads = p.kv_heads, shape.head_dim = p.head_dim;
    int pages_per_segment = 1, total = garbage_pages;
    for (int b = 0; b < segments; ++b) {
      const int n = (static_cast<int>(keys_of(s, b).size()) + 63) / 64;
      pages_per_segment = std::max(pages_per_segment, n);
      total += n;
    }
    const size_t page_stride = backend.table->page_bytes(&shape, backend.dtype) / (backend.bf16() ? 2 : 4);
    std::vector<double> pool(static_cast<size_t>(total) * page_stride);
    std::fill(pool.begin(), pool.begin() + garbage_pages * page_stride, NAN);
    std::vector<int32_t> table(static_cast<size_t>(segments) * pages_per_segment);  // unused entries: the page of NaN
    int next = total;
    for (int b = 0; b < segments; ++b) {
      const auto keys = keys_of(s, b);
      for (size_t j = 0; j < keys.size(); ++j) {
        int32_t& page = table[b * pages_per_segment + j / 64];
        if (j % 64 == 0) page = --next;
        for (int g = 0; g < p.kv_heads; ++g)
          for (int i = 0; i < p.head_dim; ++i) {
            const size_t from = (static_cast<size_t>(keys[j]) * p.kv_heads + g) * p.head_dim + i;
            const int slot = static_cast<int>(j % 64);
            pool[page_element(backend, shape, page, g, slot, i, true)] = p.k[from];
            pool[page_element(backend, shape, page, g, slot, i, false)] = p.v[from];
          }
      }
    }
    counts = on_device(backend, std::vector<int32_t>{tokens, segments});
    cu_seqlens = on_device(backend, s.cu_seqlens);
    key_start = on_device(backend, s.key_start);
    page_table = on_device(backend, table);
    q = act_on_device(backend, p.q);
    pages = act_on_device(backend, pool);
    batch = {tokens,  segments,   pages_per_segment, *counts, nullptr, *cu_seqlens,
             nullptr, *key_start, *page_table,       nullptr, nullptr};
    if (!s.query_only.empty()) batch.query_only = (query_only = on_device(backend, s.query_only))->as<uint8_t>();
    if (!s.prefix_of.empty()) batch.prefix_of = *(prefix_of = on_device(backend, s.prefix_of));
  }
};

struct Forward {
  std::vector<double> o, lse;
  std::vector<uint8_t> bits;
};

Forward run_forward(Backend& backend, const reference::Attention& p, const OnDevice& device, int split_keys = 0) {
  const size_t tokens = p.segments.cu_seqlens.back();
  const auto o = act_space(backend, p.q.size()), lse = float_space(backend, tokens * p.heads);
  const credence_attention parameters{device.batch, device.shape,    backend.dtype,       static_cast<float>(p.scale),
                                      p.window,     device.q->raw(), device.pages->raw(), o->raw(),
                                      *lse,         split_keys};
  RUN_OPERATOR(backend, attention, parameters);
  return {o->act(), lse->floats(), o->bits()};
}

struct Backward {
  std::vector<double> dq, dk, dv;
  bool operator==(const Backward&) const = default;
};

// o and lse are the definition's.
Backward run_backward(Backend& backend, const reference::Attention& p, const std::vector<double>& d_o) {
  const OnDevice device(backend, p);
  const auto forward = reference::attention(p);
  const auto k = act_on_device(backend, p.k), v = act_on_device(backend, p.v), o = act_on_device(backend, forward.o);
  const auto lse = floats_on_device(backend, forward.lse), upstream = act_on_device(backend, d_o);
  const auto dq = act_space(backend, p.q.size()), dk = act_space(backend, p.k.size()),
             dv = act_space(backend, p.v.size());
  const credence_attention_backward parameters{device.batch,    device.shape,
                                               backend.dtype,   static_cast<float>(p.scale),
                                               p.window,        device.q->raw(),
                                               k->raw(),        v->raw(),
                                               o->raw(),        *lse,
                                               upstream->raw(), dq->raw(),
                                               dk->raw(),       dv->raw()};
  RUN_OPERATOR(backend, attention_backward, parameters);
  return {dq->act(), dk->act(), dv->act()};
}

Forward run_forward(Backend& backend, const reference::Attention& p, int split_keys = 0) {
  return run_forward(backend, p, OnDevice(backend, p), split_keys);
}

/// The last token of each sequence of `whole` on a device whose pages have the keys before it: what decoding runs. `prompt`: the
/// last sequence stays whole, a prompt beside what is decoded.
struct Decoding {
  reference::Attention rows;
  std::vector<int> from;  // which rows of `whole` they are
  MemoryPointer counts, cu_seqlens, key_start, q;
  OnDevice device;

  Decoding(Backend& backend, const reference::Attention& whole, bool prompt = false)
      : rows(whole), device(backend, whole) {
    const std::vector<int>& ends = whole.segments.cu_seqlens;
    const size_t segments = ends.size() - 1;
    rows.segments.cu_seqlens = {0};
    std::vector<int32_t> before;
    for (size_t b = 0; b < segments; ++b) {
      const int first = prompt && b + 1 == segments ? ends[b] : ends[b + 1] - 1;
      before.push_back(static_cast<int32_t>(keys_of(whole.segments, static_cast<int>(b)).size()) - ends[b + 1] + first);
      for (int t = first; t < ends[b + 1]; ++t) from.push_back(t);
      rows.segments.cu_seqlens.push_back(static_cast<int>(from.size()));
    }
    rows.q.clear();
    const size_t row = static_cast<size_t>(whole.heads) * whole.head_dim;
    for (int t : from) rows.q.insert(rows.q.end(), whole.q.begin() + t * row, whole.q.begin() + (t + 1) * row);
    const auto tokens = static_cast<int32_t>(from.size());
    counts = on_device(backend, std::vector<int32_t>{tokens, static_cast<int32_t>(segments)});
    cu_seqlens = on_device(backend, rows.segments.cu_seqlens);
    key_start = on_device(backend, before);
    q = act_on_device(backend, rows.q);
    device.batch.token_capacity = tokens;
    device.batch.counts = *counts, device.batch.cu_seqlens = *cu_seqlens, device.batch.key_start = *key_start;
    device.batch.prefix_of = nullptr, device.batch.query_only = nullptr;
    std::swap(device.q, q);
  }
  Forward run(Backend& backend, int split_keys) const { return run_forward(backend, rows, device, split_keys); }
  /// Numbers of `whole`, `width` a token, at the rows.
  std::vector<double> at_rows(const std::vector<double>& of_whole, size_t width) const {
    std::vector<double> out;
    for (int t : from) out.insert(out.end(), of_whole.begin() + t * width, of_whole.begin() + (t + 1) * width);
    return out;
  }
};

/// Sequences of which the last token is decoded, on both sides of where keys are cut; the last is a prompt where it is one.
struct Split {
  Case whole;
  bool prompt = false;
};
const std::vector<Split> kSplits = {
    {{{1, 97, 257, 1025}, 4, 2, 64, 0}},
    {{{256, 512, 513}, 2, 1, 128, 0}},
    {{{600, 257, 70}, 3, 1, 80, 0}, true},  // beside a prompt
    {{{1025, 300}, 2, 2, 96, 256}},         // windows that begin inside a piece, one of just a piece's length
    {{{1025, 257, 400}, 4, 2, 33, 257}},    // and one of a key more; sizes that are not compiled
    {{{700}, 2, 1, 121, 1}},
    {{{300}, 70, 1, 5, 0}},                          // heads that share keys fill more than a tile
    {{{700, 30, 66, 5}, 4, 2, 20, 0, false, true}},  // behind shared prefixes
};

}  // namespace

OPERATOR_TEST("attention", "reference odd-shapes", is_its_definition) {
  each_case([](const Case& c, const auto& takes_it) {
    const auto p = example(c, 7);
    const auto plain = reference::attention(in_bf16(p)).o;
    const auto expected = reference::attention(p);
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        if (!takes_it(backend)) return;
        const auto got = run_forward(backend, p);
        expect_near(backend, got.o, expected.o, plain, 2e-6);
        EXPECT_CLOSE(got.lse, expected.lse, 2e-6);
      });
  });
}

OPERATOR_TEST("attention", "bits", has_the_same_bits_for_any_number_of_threads) {
  for (const Case& c : kCases) {
    const auto p = example(c, 3);
    std::vector<std::vector<uint8_t>> bits[2];
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) { bits[threads - 1].push_back(run_forward(backend, p).bits); });
    EXPECT(bits[0] == bits[1]);
  }
}

// The last token alone, with the earlier keys in its pages, is what decoding runs.
OPERATOR_TEST("attention", "bits", decoding_has_the_bits_of_prefilling) {
  each_backend(1, [](Backend& backend) {
    for (int n : {1, 2, 17, 64, 65, 130, 257, 300, 513}) {
      if (n > 130 && backend.brief()) continue;
      const auto p = example({{n, 40}, 6, 2, 64, n == 130 ? 70 : 0}, n);
      const auto whole = run_forward(backend, p);
      OnDevice device(backend, p);
      const size_t row = static_cast<size_t>(p.heads) * p.head_dim, element = backend.bf16() ? 2 : 4;
      reference::Attention last = p;
      last.q.assign(p.q.begin() + (n - 1) * row, p.q.begin() + n * row);
      last.segments.cu_seqlens = {0, 1};
      const auto q = act_on_device(backend, last.q);
      const auto counts = on_device(backend, std::vector<int32_t>{1, 1}),
                 cu_seqlens = on_device(backend, std::vector<int32_t>{0, 1});
      const auto key_start = on_device(backend, std::vector<int32_t>{n - 1});
      device.batch.counts = *counts, device.batch.cu_seqlens = *cu_seqlens, device.batch.key_start = *key_start;
      std::swap(device.q, const_cast<MemoryPointer&>(q));
      const auto alone = run_forward(backend, last, device);
      EXPECT(std::equal(alone.bits.begin(), alone.bits.end(), whole.bits.begin() + (n - 1) * row * element));
      EXPECT(std::equal(alone.lse.begin(), alone.lse.end(), whole.lse.begin() + (n - 1) * p.heads));
    }
  });
}

OPERATOR_TEST("attention", "bits", does_not_see_a_neighbour_or_the_future) {
  each_backend(1, [](Backend& backend) {
    auto p = example({{70, 90}, 4, 2, 20, 0}, 5);
    const auto before = run_forward(backend, p);
    const size_t kv = static_cast<size_t>(p.kv_heads) * p.head_dim, row = static_cast<size_t>(p.heads) * p.head_dim;
    for (size_t i = 0; i < 70 * kv; ++i) p.k[i] = p.v[i] = 1;              // the first segment
    for (size_t i = 140 * kv; i < p.k.size(); ++i) p.k[i] = p.v[i] = 300;  // the second's tokens from 70 on
    const auto after = run_forward(backend, p);
    const size_t from = 70 * row, to = 140 * row, element = backend.bf16() ? 2 : 4;
    EXPECT(std::equal(before.bits.begin() + from * element, before.bits.begin() + to * element,
                      after.bits.begin() + from * element));
    EXPECT(before.bits != after.bits);
  });
}

OPERATOR_TEST("attention", "reference odd-shapes bits", with_split_keys_is_its_definition_in_every_order) {
  for (const Split& c : kSplits) {
    const auto whole = example(c.whole, 19);
    const auto expected = reference::attention(whole);
    const auto plain = reference::attention(in_bf16(whole)).o;
    std::vector<std::vector<uint8_t>> bits[2];
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        const Decoding decoding(backend, whole, c.prompt);
        const Forward got = decoding.run(backend, 1);
        const size_t width = static_cast<size_t>(whole.heads) * whole.head_dim;
        expect_near(backend, got.o, decoding.at_rows(expected.o, width), decoding.at_rows(plain, width), 2e-6);
        EXPECT_CLOSE(got.lse, decoding.at_rows(expected.lse, whole.heads), 2e-6);
        EXPECT(decoding.run(backend, 1).bits == got.bits);
        bits[threads - 1].push_back(got.bits);
      });
    EXPECT(bits[0] == bits[1]);
  }
}

// One token behind a prefix of its batch is split too; all other segments have the bits they have when nobody asks.
OPERATOR_TEST("attention", "bits", split_keys_changes_long_rows_of_single_tokens_alone) {
  const auto p = example({{600, 1, 30, 1}, 2, 1, 64, 0, false, true}, 29);
  const auto expected = reference::attention(p).o;
  const auto plain = reference::attention(in_bf16(p)).o;
  each_backend(1, [&](Backend& backend) {
    const auto whole = run_forward(backend, p), split = run_forward(backend, p, 1);
    expect_near(backend, split.o, expected, plain, 2e-6);
    const size_t row = static_cast<size_t>(p.heads) * p.head_dim * (backend.bf16() ? 2 : 4);
    const auto same = [&](int from, int to) {
      return std::equal(split.bits.begin() + from * row, split.bits.begin() + to * row,
                        whole.bits.begin() + from * row);
    };
    EXPECT(same(0, 600));
    EXPECT(same(601, 631));
    EXPECT_EQ(same(600, 601), std::string(backend.table->name) == "cpu");
    const Decoding decoding(backend, example({{256, 20}, 2, 1, 64, 0}, 29));
    EXPECT(decoding.run(backend, 1).bits == decoding.run(backend, 0).bits);
  });
}

// Where a row's keys are cut depends on nothing beside it: not on neighbours, prompts, or how wide the table is.
OPERATOR_TEST("attention", "bits", a_row_with_split_keys_does_not_see_a_neighbour) {
  each_backend(1, [](Backend& backend) {
    for (int window : {0, 400}) {
      const auto p = example({{600, 1025, 9, 130}, 2, 1, 64, window}, 31);
      const auto together = Decoding(backend, p, true).run(backend, 1);
      const size_t kv = static_cast<size_t>(p.kv_heads) * p.head_dim, q = static_cast<size_t>(p.heads) * p.head_dim;
      auto alone = example({{600}, 2, 1, 64, window}, 31);
      std::copy_n(p.q.begin(), 600 * q, alone.q.begin());
      std::copy_n(p.k.begin(), 600 * kv, alone.k.begin());
      std::copy_n(p.v.begin(), 600 * kv, alone.v.begin());
      const auto one = Decoding(backend, alone).run(backend, 1);
      EXPECT(std::equal(one.bits.begin(), one.bits.end(), together.bits.begin()));
      EXPECT(std::equal(one.lse.begin(), one.lse.end(), together.lse.begin()));
    }
  });
}

// What is left by pieces is said, by how many there can be: those of the table, or of the window where it is narrower.
OPERATOR_TEST("attention", "odd-shapes", split_keys_takes_room_where_there_is_something_to_split) {
  each_backend(1, [](Backend& backend) {
    credence_attention p{};
    p.batch.token_capacity = p.batch.segment_capacity = 3;
    p.shape.heads = 4, p.shape.kv_heads = 2, p.shape.head_dim = 64, p.dtype = backend.dtype;
    const auto more = [&](int pages, int window) {
      p.batch.pages_per_segment = pages, p.window = window;
      p.split_keys = 0;
      const size_t whole = backend.table->attention_workspace(&p);
      p.split_keys = 1;
      return backend.table->attention_workspace(&p) - whole;
    };
    const bool splits = std::string_view(backend.table->name) != "cpu";
    EXPECT_EQ(more(4, 0), size_t{0});
    EXPECT_EQ(more(40, 1), size_t{0});
    EXPECT_EQ(more(5, 0) > 0, splits);
    EXPECT_EQ(more(40, 0) > more(20, 0), splits);
    EXPECT_EQ(more(40, 257), more(8, 0));
    EXPECT_EQ(more(40, 258), more(12, 0));
  });
}

OPERATOR_TEST("attention_backward", "reference odd-shapes bits", is_its_definition) {
  each_case([](const Case& c, const auto& takes_it) {
    const auto p = example(c, 7);
    const auto d_o = normal(23, p.q.size());
    const auto expected = reference::attention_backward(p, d_o);
    const auto plain = reference::attention_backward(in_bf16(p), d_o);
    std::vector<Backward> results[2];
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        if (!takes_it(backend)) return;
        const Backward got = run_backward(backend, p, d_o);
        expect_near(backend, got.dq, expected.dq, plain.dq, 5e-6);
        expect_near(backend, got.dk, expected.dk, plain.dk, 5e-6);
        expect_near(backend, got.dv, expected.dv, plain.dv, 5e-6);
        results[threads - 1].push_back(got);
      });
    EXPECT(results[0] == results[1]);
  });
}

// Another first segment, of another length, changes no bit of the second one's gradients.
OPERATOR_TEST("attention_backward", "bits", does_not_see_a_neighbour) {
  each_backend(1, [](Backend& backend) {
    const auto of_last = [&](int before, uint64_t seed) {
      constexpr int kLast = 70;
      auto p = example({{before, kLast}, 4, 2, 20, 0}, seed);
      auto d_o = normal(seed + 9, p.q.size());
      const auto alone = example({{kLast}, 4, 2, 20, 0}, 2);
      const auto alone_d_o = normal(4, alone.q.size());
      std::copy(alone.q.begin(), alone.q.end(), p.q.end() - alone.q.size());
      std::copy(alone.k.begin(), alone.k.end(), p.k.end() - alone.k.size());
      std::copy(alone.v.begin(), alone.v.end(), p.v.end() - alone.v.size());
      std::copy(alone_d_o.begin(), alone_d_o.end(), d_o.end() - alone_d_o.size());
      Backward got = run_backward(backend, p, d_o);
      got.dq.erase(got.dq.begin(), got.dq.end() - alone.q.size());
      got.dk.erase(got.dk.begin(), got.dk.end() - alone.k.size());
      got.dv.erase(got.dv.begin(), got.dv.end() - alone.v.size());
      return got;
    };
    const Backward expected = of_last(33, 5);
    EXPECT(expected == of_last(33, 6));
    EXPECT(expected == of_last(90, 5));
    EXPECT(expected == of_last(0, 5));
  });
}

OPERATOR_TEST("attention_backward", "refusal", refuses_keys_of_an_earlier_call) {
  each_backend(1, [](Backend& backend) {
    const auto p = example({{5, 3}, 2, 1, 20, 0}, 1);
    OnDevice device(backend, p);
    const auto key_start = on_device(backend, std::vector<int32_t>{0, 4});
    device.batch.key_start = *key_start;
    credence_attention_backward parameters{};
    parameters.batch = device.batch, parameters.shape = device.shape, parameters.dtype = backend.dtype;
    const Memory workspace(backend, backend.table->attention_backward_workspace(&parameters));
    EXPECT(backend.refused(backend.table->attention_backward(backend.handle, &parameters, workspace.raw())));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("segment 1 reads 4 keys") != std::string::npos);
  });
}

OPERATOR_TEST("attention", "refusal", refuses_heads_it_has_no_room_for) {
  each_backend(1, [](Backend& backend) {
    credence_attention parameters{};
    parameters.shape.heads = parameters.shape.kv_heads = 1;
    for (int size : {129, 257}) {
      if (size == 129 && std::string(backend.table->name) == "cpu") continue;  // which has room for 256
      parameters.shape.head_dim = size;
      EXPECT(backend.refused(backend.table->attention(backend.handle, &parameters, nullptr)));
      EXPECT(std::string(backend.table->last_error(backend.handle)).find(std::to_string(size)) != std::string::npos);
    }
  });
}

OPERATOR_TEST("attention_backward", "finite-difference", the_reference_is_the_finite_difference) {
  for (const Case& c :
       {Case{{5, 1, 9}, 4, 2, 6, 0}, {{12, 7}, 4, 2, 5, 4, true}, {{9, 6, 7, 2}, 2, 1, 5, 0, false, true}}) {
    Case smaller = c;
    auto p = example(smaller, 11);
    const auto d_o = normal(17, p.q.size());
    const auto g = reference::attention_backward(p, d_o);
    const auto loss = [&] { return inner(reference::attention(p).o, d_o); };
    EXPECT_GRADIENT(p.q, g.dq, loss);
    EXPECT_GRADIENT(p.k, g.dk, loss);
    EXPECT_GRADIENT(p.v, g.dv, loss);
  }
}

TESTING_MAIN
