// attention_input: norm, QKV with an adapter, q/k norm, rotary, keys and values in their pages; and its backward.
#include "kernels/reference/attention_input.h"

#include "linear_support.h"
#include "pages.h"

using namespace credence;
using namespace credence::testing;

namespace {

struct Shape {
  int heads, kv_heads, head_dim, rotary_dim, hidden;
  bool qk_norm, per_head, bias, layer = false;
  double drop = 0;
  int rank = 0;  // of the three adapters; 0: 5, 3 and 1
};
const Shape kShapes[] = {
    {2, 1, 20, 20, 33, false, false, false},        {4, 2, 7, 6, 40, true, false, true},
    {3, 3, 16, 4, 24, false, true, true, true},  // as GPT-NeoX: partial rotary, layer norm
    {3, 1, 64, 64, 48, true, false, false},         {2, 1, 17, 16, 33, false, false, true, false, 0.25},
    {3, 3, 3, 2, 17, true, true, false, true, 0.5}, {1, 1, 1, 0, 1, false, false, true},
    {4, 1, 33, 32, 3, true, false, false, true}};
// Ranks around what a back end has room for beside the weights.
const Shape kRanked[] = {{4, 2, 7, 6, 40, true, false, true, false, 0, 16},
                         {4, 2, 7, 6, 40, true, false, true, false, 0, 64},
                         {4, 2, 7, 6, 40, true, false, true, false, 0, 256}};

/// Each shape in short batches; the first also in long ones; then the ranks.
void each_shape(const std::vector<int>& few, const std::vector<int>& many,
                const std::function<void(const Shape&, int)>& body) {
  for (const Shape& shape : kShapes)
    for (int rows : few) body(shape, rows);
  for (int rows : many) body(kShapes[1], rows);
  for (const Shape& shape : kRanked) body(shape, 13);
}
constexpr int kPositions = 300;

reference::AttentionInput input(const Shape& s, int rows) {
  reference::AttentionInput p;
  p.norm.rows = p.linear.rows = rows;
  p.norm.width = p.linear.columns = s.hidden;
  p.norm.x = normal(1, static_cast<size_t>(rows) * s.hidden);
  p.norm.weight = normal(2, s.hidden);
  p.norm.layer = s.layer;
  if (s.hidden == 1) p.norm.eps = 1;  // else it is the sign of x, without a slope
  if (s.layer) p.norm.bias = normal(14, s.hidden);
  if (s.drop > 0) p.linear.dropout = dropout(s.drop, rows);
  p.linear.outputs = (s.heads + 2 * s.kv_heads) * s.head_dim;
  p.linear.weights = normal(3, static_cast<size_t>(p.linear.outputs) * s.hidden, 0.3);
  if (s.bias) p.linear.bias = normal(4, p.linear.outputs);
  const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  p.linear.slices = slices(5, s.hidden, {0, q, q + kv, q + 2 * kv}, false, s.rank);
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dim = s.head_dim;
  p.rotary_dim = s.rotary_dim;
  p.per_head = s.per_head;
  if (s.qk_norm) {
    p.q_norm = normal(12, s.head_dim);
    p.k_norm = normal(13, s.head_dim);
  }
  for (int t = 0; t < rows; ++t) p.positions.push_back((7 * t + 3) % kPositions);
  for (int position = 0; position < kPositions; ++position)
    for (int i = 0; i < s.rotary_dim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / s.rotary_dim);
      p.rotary.push_back(static_cast<float>(std::cos(angle)));
      p.rotary.push_back(static_cast<float>(std::sin(angle)));
    }
  return p;
}

void round_as(reference::AttentionInput* p, reference::Round round) {
  p->round = p->norm.round = p->linear.round = round;
}

credence_shape shape_of(const reference::AttentionInput& p) {
  credence_shape shape = {};
  shape.hidden = p.norm.width;
  shape.heads = p.heads;
  shape.kv_heads = p.kv_heads;
  shape.head_dim = p.head_dim;
  shape.rotary_dim = p.rotary_dim;
  shape.norm = p.norm.layer ? CREDENCE_LAYER_NORM : CREDENCE_RMS_NORM;
  shape.norm_eps = static_cast<float>(p.norm.eps);
  shape.qk_norm = !p.q_norm.empty();
  shape.qkv_layout = p.per_head ? CREDENCE_QKV_PER_HEAD : CREDENCE_QKV_STACKED;
  return shape;
}

// Segments with their first key and pages: what a batch is made of.
struct Segments {
  std::vector<int32_t> lengths, key_start, page_table;
  int pages_per_segment = 1;
  std::vector<uint8_t> query_only;
};

// Parameters on the device, shared by forward and backward.
class Fixture {
 public:
  Fixture(Backend& backend, const reference::AttentionInput& p, const Segments& segments)
      : p(p),
        weights(backend, p.linear.weights, p.linear.outputs, p.norm.width),
        adapter(backend, p.linear),
        drop(backend, p.linear.dropout) {
    rows = p.linear.rows;
    std::vector<int32_t> ends = {0};
    for (int32_t length : segments.lengths) ends.push_back(ends.back() + length);
    counts = on_device(backend, std::vector<int32_t>{rows, static_cast<int32_t>(segments.lengths.size())});
    cu_seqlens = on_device(backend, ends);
    positions = on_device(backend, p.positions);
    key_start = on_device(backend, segments.key_start);
    page_table = on_device(backend, segments.page_table);
    query_only = on_device(backend, segments.query_only);
    batch.token_capacity = rows;
    batch.segment_capacity = static_cast<int32_t>(segments.lengths.size());
    batch.pages_per_segment = segments.pages_per_segment;
    batch.counts = *counts;
    batch.cu_seqlens = *cu_seqlens;
    batch.positions = *positions;
    batch.key_start = *key_start;
    batch.page_table = *page_table;
    if (!segments.query_only.empty()) batch.query_only = query_only->as<uint8_t>();
    x = floats_on_device(backend, p.norm.x);
    norm_weight = floats_on_device(backend, p.norm.weight);
    norm_bias = floats_on_device(backend, p.norm.bias);
    bias = floats_on_device(backend, p.linear.bias);
    q_norm = floats_on_device(backend, p.q_norm);
    k_norm = floats_on_device(backend, p.k_norm);
    rotary = floats_on_device(backend, p.rotary);
    const size_t q_size = static_cast<size_t>(rows) * p.heads * p.head_dim,
                 kv_size = static_cast<size_t>(rows) * p.kv_heads * p.head_dim;
    h = act_space(backend, static_cast<size_t>(rows) * p.norm.width);
    q = act_space(backend, q_size);
    k = act_space(backend, kv_size);
    v = act_space(backend, kv_size);
    raw = act_space(backend, q_size + kv_size);
    s = act_space(backend, static_cast<size_t>(rows) * adapter.ranks());
    inv = float_space(backend, rows);
  }

  void forward(Backend& backend, void* pages) {
    credence_attention_input o = {};
    o.batch = batch;
    o.shape = shape_of(p);
    o.dtype = backend.dtype;
    o.x = *x;
    o.ldx = p.norm.width;
    o.norm_weight = *norm_weight;
    o.norm_bias = p.norm.layer ? norm_bias->as<float>() : nullptr;
    o.qkv = weights;
    o.lora = adapter;
    o.dropout = drop;
    o.bias = p.linear.bias.empty() ? nullptr : bias->as<float>();
    o.q_norm = *q_norm;
    o.k_norm = *k_norm;
    o.rotary = *rotary;
    o.pages = pages;
    o.h = h->raw();
    o.q = q->raw();
    o.k = k->raw();
    o.v = v->raw();
    o.qk_raw = raw->raw();
    o.inv_rms = *inv;
    o.s = s->raw();
    RUN_OPERATOR(backend, attention_input, o);
  }

  const reference::AttentionInput& p;
  Weights weights;
  Adapter adapter;
  DropoutOnDevice drop;
  int rows;
  credence_batch batch = {};
  MemoryPointer counts, cu_seqlens, positions, key_start, page_table, query_only;
  MemoryPointer x, norm_weight, norm_bias, bias, q_norm, k_norm, rotary, h, q, k, v, raw, s, inv;
};

Segments single(int rows) {
  Segments segments;
  segments.lengths = {rows};
  segments.key_start = {0};
  segments.pages_per_segment = (rows + 63) / 64;
  for (int i = 0; i < segments.pages_per_segment; ++i) segments.page_table.push_back(i);
  return segments;
}

// Keys or values of a slot, out of a pool of pages.
std::vector<double> slot_of(Backend& backend, const credence_shape& shape, const Memory& pages, int page, int slot,
                            bool keys) {
  const std::vector<double> all = pages.act();
  std::vector<double> out;
  for (int head = 0; head < shape.kv_heads; ++head)
    for (int d = 0; d < shape.head_dim; ++d)
      out.push_back(all[page_element(backend, shape, page, head, slot, d, keys)]);
  return out;
}

}  // namespace

OPERATOR_TEST("attention_input", "reference odd-shapes", is_the_reference) {
  each_shape({1, 5, 30, 230}, {97, 257, 1025}, [](const Shape& shape, int rows) {  // from 230 on: blocks of rows
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        if (backend.brief() && rows > 100) return;
        reference::AttentionInput p = input(shape, rows);
        Fixture f(backend, p, single(rows));
        f.forward(backend, nullptr);
        const auto exact = reference::attention_input(p);
        round_as(&p, stored(backend));
        const auto plain = reference::attention_input(p);
        EXPECT_TWICE_PLAIN(backend, f.h->act(), exact.h, plain.h);
        EXPECT_TWICE_PLAIN(backend, f.q->act(), exact.q, plain.q);
        EXPECT_TWICE_PLAIN(backend, f.k->act(), exact.k, plain.k);
        EXPECT_TWICE_PLAIN(backend, f.v->act(), exact.v, plain.v);
      });
  });
}

OPERATOR_TEST("attention_input", "bits", rows_have_the_same_bits_in_any_batch) {
  constexpr int kRows = 230;
  for (const Shape& shape : {kShapes[1], kShapes[3], kShapes[4]}) {
    const reference::AttentionInput p = input(shape, kRows);
    std::vector<std::vector<uint8_t>> all;
    for (int threads : {1, 2}) {
      size_t which = 0;
      each_backend(threads, [&](Backend& backend) {
        if (backend.brief()) return;
        Fixture whole(backend, p, single(kRows));
        whole.forward(backend, nullptr);
        auto bits = whole.q->bits();
        const auto more = whole.k->bits();
        const size_t q_row = bits.size() / kRows;
        bits.insert(bits.end(), more.begin(), more.end());
        if (threads == 1) all.push_back(bits);
        EXPECT(bits == all[which++]);
        for (int first = 0, count = 1; first + count <= kRows; first += count, count += 5) {
          reference::AttentionInput part = p;
          part.norm.rows = part.linear.rows = count;
          part.norm.x.assign(p.norm.x.begin() + first * shape.hidden,
                             p.norm.x.begin() + (first + count) * shape.hidden);
          if (shape.drop > 0)
            part.linear.dropout.row_key.assign(p.linear.dropout.row_key.begin() + first,
                                               p.linear.dropout.row_key.begin() + first + count);
          part.positions.assign(p.positions.begin() + first, p.positions.begin() + first + count);
          Fixture f(backend, part, single(count));
          f.forward(backend, nullptr);
          const auto got = f.q->bits();
          EXPECT(std::equal(got.begin(), got.end(), bits.begin() + static_cast<ptrdiff_t>(first * q_row)));
        }
      });
    }
  }
}

OPERATOR_TEST("attention_input", "reference odd-shapes",
              keys_and_values_lie_in_their_pages_and_the_rest_of_a_page_is_zero) {
  for (const Shape& shape : kShapes)
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        // Three segments: two pages and a bit, one that goes on at key 63 of a page begun earlier, and one with query-only tokens.
        constexpr int kPool = 8;
        Segments segments;
        segments.lengths = {130, 3, 70};
        segments.key_start = {0, 63, 0};
        segments.pages_per_segment = 3;
        segments.page_table = {6, 0, 3, 1, 4, -1, 2, 7, -1};
        segments.query_only.assign(203, 0);
        for (int i : {1, 2, 69}) segments.query_only[133 + i] = 1;  // 67 keys in the third
        const reference::AttentionInput p = input(shape, 203);
        Fixture f(backend, p, segments);
        const credence_shape s = shape_of(p);
        const Memory pages(backend, kPool * backend.table->page_bytes(&s, backend.dtype));
        f.forward(backend, pages.raw());
        const auto k = f.k->act(), v = f.v->act();
        const size_t width = static_cast<size_t>(shape.kv_heads) * shape.head_dim;
        const auto token = [&](const std::vector<double>& all, int t) {
          return std::vector<double>(all.begin() + static_cast<ptrdiff_t>(t * width),
                                     all.begin() + static_cast<ptrdiff_t>((t + 1) * width));
        };
        const auto expect = [&](int page, int slot, int t) {
          EXPECT(slot_of(backend, s, pages, page, slot, true) == token(k, t));
          EXPECT(slot_of(backend, s, pages, page, slot, false) == token(v, t));
        };
        const auto expect_zero = [&](int page, int slot) {
          EXPECT(slot_of(backend, s, pages, page, slot, true) == std::vector<double>(width));
          EXPECT(slot_of(backend, s, pages, page, slot, false) == std::vector<double>(width));
        };
        for (int slot : {0, 1, 63}) expect(6, slot, slot);
        expect(0, 0, 64);
        expect(3, 1, 129);
        for (int slot : {2, 3, 62, 63}) expect_zero(3, slot);
        expect(1, 63, 130);
        expect(4, 0, 131);
        expect(4, 1, 132);
        expect_zero(4, 2);
        EXPECT(std::isnan(slot_of(backend, s, pages, 1, 62, true)[0]));  // begun earlier: left alone
        expect(2, 0, 133);
        expect(2, 1, 136);
        expect(7, 2, 133 + 68);
        expect_zero(7, 3);
        EXPECT(std::isnan(slot_of(backend, s, pages, 5, 0, true)[0]));
        backend.table->copy_page(backend.handle, &s, backend.dtype, pages.raw(), 5, 7);
        EXPECT(slot_of(backend, s, pages, 5, 2, false) == token(v, 133 + 68));
      });
}

// As many short segments as packing makes: each writes a page of its own, and the product's rows are as in one of 1,025.
OPERATOR_TEST("attention_input", "reference odd-shapes", three_hundred_segments_and_one_of_1025_tokens) {
  each_backend(2, [](Backend& backend) {
    constexpr int kSegments = 300, kPages = 301;
    Segments many;
    for (int b = 0; b < kSegments; ++b) many.lengths.push_back(b % 7 == 3 ? 0 : 1 + b % 3);
    many.key_start.assign(kSegments, 0);
    for (int b = 0; b < kSegments; ++b) many.page_table.push_back(b * 11 % kPages);
    int tokens = 0;
    std::vector<int> begins;
    for (int length : many.lengths) begins.push_back(tokens), tokens += length;
    const Shape shape = {2, 1, 4, 4, 8, false, false, true};
    const reference::AttentionInput p = input(shape, tokens);
    const credence_shape s = shape_of(p);
    Fixture f(backend, p, many);
    const Memory pages(backend, kPages * backend.table->page_bytes(&s, backend.dtype));
    f.forward(backend, pages.raw());
    const auto k = f.k->act(), v = f.v->act();
    for (int b : {0, 1, 151, 298, 299}) {
      const int last = begins[b] + many.lengths[b] - 1, slot = many.lengths[b] - 1;
      for (const bool key : {true, false}) {
        const auto& all = key ? k : v;
        EXPECT(slot_of(backend, s, pages, many.page_table[b], slot, key) ==
               std::vector<double>(all.begin() + 4 * last, all.begin() + 4 * last + 4));
        EXPECT(slot_of(backend, s, pages, many.page_table[b], slot + 1, key) == std::vector<double>(4));
      }
    }
    reference::AttentionInput whole = input(shape, 1025);
    Fixture one_segment(backend, whole, single(1025));
    one_segment.forward(backend, nullptr);
    const auto exact = reference::attention_input(whole);
    round_as(&whole, stored(backend));
    EXPECT_TWICE_PLAIN(backend, one_segment.k->act(), exact.k, reference::attention_input(whole).k);
  });
}

OPERATOR_TEST("attention_input_backward", "reference odd-shapes bits", is_the_reference) {
  each_shape({1, 13, 130, 257}, {97, 1025}, [](const Shape& shape, int rows) {
    for (int threads : {1, 2})
      each_backend(threads, [&](Backend& backend) {
        if (backend.brief() && rows > 100) return;
        reference::AttentionInput p = input(shape, rows);
        Fixture f(backend, p, single(rows));
        f.forward(backend, nullptr);
        const auto upstream_q = normal(21, static_cast<size_t>(rows) * shape.heads * shape.head_dim);
        const auto upstream_k = normal(22, static_cast<size_t>(rows) * shape.kv_heads * shape.head_dim);
        const auto upstream_v = normal(23, upstream_k.size());
        const auto exact = reference::attention_input_backward(p, upstream_q, upstream_k, upstream_v);
        reference::AttentionInput rounded = p;
        round_as(&rounded, stored(backend));
        const auto plain = reference::attention_input_backward(rounded, upstream_q, upstream_k, upstream_v);

        const auto dq = act_on_device(backend, upstream_q), dk = act_on_device(backend, upstream_k);
        const auto dv = act_on_device(backend, upstream_v);
        const auto zeros = [&](size_t count) { return floats_on_device(backend, std::vector<double>(count)); };
        const auto dx = zeros(p.norm.x.size()), dweights = zeros(p.linear.weights.size()),
                   dbias = zeros(p.linear.outputs);
        const auto dnorm = zeros(shape.hidden), dnorm_bias = zeros(shape.hidden), dq_norm = zeros(shape.head_dim),
                   dk_norm = zeros(shape.head_dim);
        credence_attention_input_backward o = {};
        o.batch = f.batch;
        o.shape = shape_of(p);
        o.dtype = backend.dtype;
        o.x = *f.x;
        o.ldx = o.lddx = shape.hidden;
        o.norm_weight = *f.norm_weight;
        o.norm_bias = shape.layer ? f.norm_bias->as<float>() : nullptr;
        o.inv_rms = *f.inv;
        o.qkv = f.weights;
        o.lora = f.adapter;
        o.dropout = f.drop;
        o.q_norm = *f.q_norm;
        o.k_norm = *f.k_norm;
        o.rotary = *f.rotary;
        o.h = f.h->raw();
        o.s = f.s->raw();
        o.qk_raw = f.raw->raw();
        o.dq = dq->raw();
        o.dk = dk->raw();
        o.dv = dv->raw();
        o.dx = *dx;
        o.gradients = f.adapter.gradients();
        o.dweights = *dweights;
        o.dbias = *dbias;
        o.dnorm_weight = *dnorm;
        o.dnorm_bias = *dnorm_bias;
        o.dq_norm = *dq_norm;
        o.dk_norm = *dk_norm;
        RUN_OPERATOR(backend, attention_input_backward, o);
        EXPECT_TWICE_PLAIN(backend, dx->floats(), exact.norm.dx, plain.norm.dx);
        EXPECT_TWICE_PLAIN(backend, dnorm->floats(), exact.norm.dweight, plain.norm.dweight);
        EXPECT_TWICE_PLAIN(backend, dnorm_bias->floats(), exact.norm.dbias, plain.norm.dbias);
        EXPECT_TWICE_PLAIN(backend, dweights->floats(), exact.linear.dweights, plain.linear.dweights);
        EXPECT_TWICE_PLAIN(backend, dbias->floats(), exact.linear.dbias, plain.linear.dbias);
        f.adapter.expect_gradients(exact.linear, plain.linear);
        if (shape.qk_norm) {
          EXPECT_TWICE_PLAIN(backend, dq_norm->floats(), exact.dq_norm, plain.dq_norm);
          EXPECT_TWICE_PLAIN(backend, dk_norm->floats(), exact.dk_norm, plain.dk_norm);
        }
        if (rows == 13) {
          using P = credence_attention_input_backward;
          expect_each_alone<P>(backend, o,
                               {{&P::dx, dx.get()},
                                {&P::dweights, dweights.get()},
                                {&P::dbias, dbias.get()},
                                {&P::dnorm_weight, dnorm.get()},
                                {&P::dnorm_bias, dnorm_bias.get()},
                                {&P::dq_norm, dq_norm.get()},
                                {&P::dk_norm, dk_norm.get()}},
                               [&](P some) {
                                 const auto q = act_on_device(backend, upstream_q),
                                            k = act_on_device(backend, upstream_k),
                                            v = act_on_device(backend, upstream_v);
                                 some.dq = q->raw(), some.dk = k->raw(), some.dv = v->raw();
                                 RUN_OPERATOR(backend, attention_input_backward, some);
                               });
        }
      });
  });
}

OPERATOR_TEST("attention_input_backward", "finite-difference", the_reference_is_the_finite_difference) {
  for (const Shape& shape : kShapes) {
    reference::AttentionInput p = input(shape, 3);
    const auto uq = normal(21, static_cast<size_t>(3) * shape.heads * shape.head_dim);
    const auto uk = normal(22, static_cast<size_t>(3) * shape.kv_heads * shape.head_dim), uv = normal(23, uk.size());
    const auto gradients = reference::attention_input_backward(p, uq, uk, uv);
    const auto loss = [&] {
      const auto r = reference::attention_input(p);
      return inner(r.q, uq) + inner(r.k, uk) + inner(r.v, uv);
    };
    EXPECT_GRADIENT(p.norm.x, gradients.norm.dx, loss);
    EXPECT_GRADIENT(p.norm.weight, gradients.norm.dweight, loss);
    if (shape.layer) EXPECT_GRADIENT(p.norm.bias, gradients.norm.dbias, loss);
    EXPECT_GRADIENT(p.linear.weights, gradients.linear.dweights, loss);
    if (shape.bias) EXPECT_GRADIENT(p.linear.bias, gradients.linear.dbias, loss);
    for (size_t i = 0; i < p.linear.slices.size(); ++i) {
      EXPECT_GRADIENT(p.linear.slices[i].a, gradients.linear.da[i], loss);
      EXPECT_GRADIENT(p.linear.slices[i].b, gradients.linear.db[i], loss);
    }
    if (shape.qk_norm) {
      EXPECT_GRADIENT(p.q_norm, gradients.dq_norm, loss);
      EXPECT_GRADIENT(p.k_norm, gradients.dk_norm, loss);
    }
  }
}

TESTING_MAIN
