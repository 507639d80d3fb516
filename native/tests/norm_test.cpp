// norm, embed and their backward.
#include "kernels/reference/norm.h"

#include "linear_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

reference::Norm row_norm(int rows, int width, bool layer) {
  reference::Norm p;
  p.rows = rows;
  p.width = width;
  p.layer = layer;
  p.x = normal(1, static_cast<size_t>(rows) * width);
  if (layer)
    for (double& x : p.x) x += 2;
  p.weight = normal(2, width);
  if (layer) p.bias = normal(3, width);
  return p;
}

const std::pair<int, int> kShapes[] = {{1, 1},     {4, 3},    {1, 17}, {5, 33}, {3, 97},
                                       {257, 576}, {5, 4096}, {2, 16}, {97, 5}, {1025, 9}};

std::vector<double> gathered(const std::vector<double>& x, int width, const std::vector<int32_t>& index) {
  return reference::embed(x, width, index, 1);
}

}  // namespace

OPERATOR_TEST("norm", "reference odd-shapes bits", is_the_reference) {
  for (auto [rows, width] : kShapes)
    for (bool layer : {false, true}) {
      std::vector<std::vector<uint8_t>> all;
      for (int threads : {1, 2}) {
        size_t which = 0;
        each_backend(threads, [&, rows = rows, width = width](Backend& backend) {
          if (backend.brief() && rows * width > 10000) return;
          reference::Norm p = row_norm(rows, width, layer);
          const auto count = one(backend, rows), x = floats_on_device(backend, p.x),
                     weight = floats_on_device(backend, p.weight);
          const auto bias = floats_on_device(backend, p.bias), y = act_space(backend, p.x.size()),
                     inv = float_space(backend, rows);
          credence_norm o = {};
          o.rows = *count;
          o.capacity = rows;
          o.width = width;
          o.dtype = backend.dtype;
          o.kind = layer ? CREDENCE_LAYER_NORM : CREDENCE_RMS_NORM;
          o.eps = static_cast<float>(p.eps);
          o.x = *x;
          o.ldx = width;
          o.weight = *weight;
          o.bias = layer ? bias->as<float>() : nullptr;
          o.y = y->raw();
          o.ldy = width;
          o.inv_rms = *inv;
          RUN_OPERATOR(backend, norm, o);
          const auto exact = reference::norm(p);
          p.round = stored(backend);
          EXPECT_TWICE_PLAIN(backend, y->act(), exact, reference::norm(p));
          auto bits = y->bits();
          const auto more = inv->bits();
          bits.insert(bits.end(), more.begin(), more.end());
          if (threads == 1) all.push_back(bits);
          EXPECT(bits == all[which++]);

          // In place in float32, and by index in any order.
          o.y = nullptr;
          o.y_f32 = *x;
          o.ldy_f32 = width;
          RUN_OPERATOR(backend, norm, o);
          EXPECT_CLOSE(x->floats(), exact, 1e-5);
          const auto again = floats_on_device(backend, p.x), out = float_space(backend, p.x.size());
          std::vector<int32_t> reversed(rows);
          for (int r = 0; r < rows; ++r) reversed[r] = rows - 1 - r;
          const auto index = on_device(backend, reversed);
          o.x = *again;
          o.index = *index;
          o.y_f32 = *out;
          RUN_OPERATOR(backend, norm, o);
          EXPECT_CLOSE(out->floats(), gathered(exact, width, reversed), 1e-5);
        });
      }
    }
}

OPERATOR_TEST("norm_backward", "reference odd-shapes bits", is_the_reference) {
  for (auto [rows, width] : kShapes)
    for (bool layer : {false, true})
      for (bool by_index : {false, true}) {
        std::vector<std::vector<uint8_t>> all;
        for (int threads : {1, 2}) {
          size_t which = 0;
          each_backend(threads, [&, rows = rows, width = width](Backend& backend) {
            if (backend.bf16()) return;  // float32 throughout: there is no type in it
            if (backend.brief() && rows * width > 10000) return;
            reference::Norm p = row_norm(rows, width, layer);
            std::vector<int32_t> indices(rows);
            for (int r = 0; r < rows; ++r) indices[r] = by_index ? r / 2 : r;  // rows twice
            const auto dy = normal(4, p.x.size()), before = normal(5, p.x.size());
            reference::Norm taken = p;
            taken.x = gathered(p.x, width, indices);
            const auto expected = reference::norm_backward(taken, dy);
            std::vector<double> sum = before;
            reference::embed_backward(expected.dx, width, indices, 1, &sum);

            const auto count = one(backend, rows), x = floats_on_device(backend, p.x),
                       weight = floats_on_device(backend, p.weight);
            const auto index = on_device(backend, indices), upstream = floats_on_device(backend, dy);
            const auto dx = floats_on_device(backend, before),
                       dweight = floats_on_device(backend, std::vector<double>(width));
            const auto dbias = floats_on_device(backend, std::vector<double>(width));
            credence_norm_backward o = {};
            o.rows = *count;
            o.capacity = rows;
            o.width = width;
            o.kind = layer ? CREDENCE_LAYER_NORM : CREDENCE_RMS_NORM;
            o.eps = static_cast<float>(p.eps);
            if (by_index) o.index = *index;
            o.x = *x;
            o.ldx = o.lddy = o.lddx = width;
            o.weight = *weight;
            o.dy = *upstream;
            o.dx = *dx;
            o.dweight = *dweight;
            o.dbias = *dbias;
            RUN_OPERATOR(backend, norm_backward, o);
            EXPECT_CLOSE(dx->floats(), sum, 1e-5);
            EXPECT_CLOSE(dweight->floats(), expected.dweight, 1e-5);
            EXPECT_CLOSE(dbias->floats(), expected.dbias, 1e-5);
            auto bits = dx->bits();
            for (const auto& more : {dweight->bits(), dbias->bits()}) bits.insert(bits.end(), more.begin(), more.end());
            if (threads == 1) all.push_back(bits);
            EXPECT(bits == all[which++]);
          });
        }
      }
}

OPERATOR_TEST("norm_backward", "finite-difference", the_reference_is_the_finite_difference) {
  for (bool layer : {false, true}) {
    reference::Norm p = row_norm(4, 13, layer);
    const auto upstream = normal(6, p.x.size());
    const auto gradients = reference::norm_backward(p, upstream);
    const auto loss = [&] { return inner(reference::norm(p), upstream); };
    EXPECT_GRADIENT(p.x, gradients.dx, loss);
    EXPECT_GRADIENT(p.weight, gradients.dweight, loss);
    if (layer) EXPECT_GRADIENT(p.bias, gradients.dbias, loss);
  }
}

OPERATOR_TEST("embed embed_backward", "reference odd-shapes bits", rows_are_gathered_and_added_up_again) {
  for (auto [tokens, width, vocabulary] : {std::array{108, 1, 75},
                                           {108, 3, 65},
                                           {108, 17, 1},
                                           {108, 33, 75},
                                           {108, 64, 65},
                                           {108, 130, 75},
                                           {1, 9, 331},
                                           {97, 5, 331},
                                           {257, 3, 331},
                                           {1025, 2, 331},
                                           {97, 1, 151936}})
    for (int32_t transposed : {0, 1}) {
      std::vector<std::vector<uint8_t>> all;
      for (int threads : {1, 2}) {
        size_t which = 0;
        each_backend(threads, [&, tokens = tokens, width = width, vocabulary = vocabulary](Backend& backend) {
          struct Source {
            std::vector<double> table;
            int width;
          } source{normal(1, static_cast<size_t>(vocabulary) * width), width};
          const credence_weights_source rows = {
              vocabulary,
              width,
              backend.dtype,
              transposed,
              1,
              [](void* context, int32_t row, int32_t count, float* out) {
                const Source& s = *static_cast<Source*>(context);
                for (int i = 0; i < count * s.width; ++i)
                  out[i] = static_cast<float>(s.table[static_cast<size_t>(row) * s.width + i]);
              },
              &source};
          credence_weights* table = backend.table->pack(backend.handle, &rows);
          std::vector<int32_t> ids = {vocabulary - 1, 0, 74, 31, 32, 33, 31, 7, 74};
          for (int i = 0; i < tokens; ++i) ids.push_back(i * 29);
          ids.resize(tokens);
          for (int32_t& id : ids) id %= vocabulary;
          const auto counts = on_device(backend, std::vector<int32_t>{tokens, 1}), id = on_device(backend, ids);
          const auto x = float_space(backend, ids.size() * width);
          credence_embed o = {};
          o.batch.token_capacity = tokens;
          o.batch.counts = *counts;
          o.batch.tokens = *id;
          o.table = table;
          o.scale = 0.5f;
          o.x = *x;
          o.ldx = width;
          RUN_OPERATOR(backend, embed, o);
          EXPECT_CLOSE(x->floats(), reference::embed(source.table, width, ids, 0.5), 0);

          const auto upstream = normal(2, ids.size() * width);
          std::vector<double> expected = normal(3, source.table.size());
          const auto dtable = floats_on_device(backend, expected), dx = floats_on_device(backend, upstream);
          reference::embed_backward(upstream, width, ids, 0.5, &expected);
          credence_embed_backward b = {};
          b.batch = o.batch;
          b.width = width;
          b.scale = 0.5f;
          b.dx = *dx;
          b.lddx = width;
          b.dtable = *dtable;
          RUN_OPERATOR(backend, embed_backward, b);
          EXPECT_CLOSE(dtable->floats(), expected, 1e-6);
          auto bits = x->bits();
          const auto more = dtable->bits();
          bits.insert(bits.end(), more.begin(), more.end());
          if (threads == 1) all.push_back(bits);
          EXPECT(bits == all[which++]);
          backend.table->free_weights(backend.handle, table);
        });
      }
    }
}

OPERATOR_TEST("embed", "refusal", a_token_beyond_the_table) {
  each_backend(1, [](Backend& backend) {
    const std::vector<double> table(5 * 4);
    const Weights weights(backend, table, 5, 4);
    const auto counts = on_device(backend, std::vector<int32_t>{3, 1}),
               ids = on_device(backend, std::vector<int32_t>{0, 5, 1}), x = float_space(backend, 12);
    credence_embed o = {};
    o.batch.token_capacity = 3;
    o.batch.counts = *counts;
    o.batch.tokens = *ids;
    o.table = weights;
    o.x = *x;
    o.ldx = 4;
    EXPECT(backend.refused(backend.table->embed(backend.handle, &o, nullptr)));
    EXPECT(std::string(backend.table->last_error(backend.handle)).find("token id 5 at place 1") != std::string::npos);
  });
}

OPERATOR_TEST("embed_backward", "finite-difference", the_reference_is_the_finite_difference) {
  constexpr int kWidth = 3, kVocabulary = 5;
  const std::vector<int32_t> ids = {4, 0, 4, 2};
  auto table = normal(1, kVocabulary * kWidth);
  const auto upstream = normal(2, ids.size() * kWidth);
  std::vector<double> dtable(table.size());
  reference::embed_backward(upstream, kWidth, ids, 0.5, &dtable);
  const auto loss = [&] { return inner(reference::embed(table, kWidth, ids, 0.5), upstream); };
  EXPECT_GRADIENT(table, dtable, loss);
}

// A layer norm of weight 0 puts out its bias: every kind of float32, through the rounding of each instruction set.
OPERATOR_TEST("norm", "reference odd-shapes", what_is_stored_in_bf16_is_the_nearest_number_ties_to_even) {
  std::vector<float> values = {0.0f, 1.0f,    -1.0f,    3.0f,     INFINITY, -INFINITY,
                               NAN,  3.4e38f, -3.4e38f, 1.2e-38f, 65504.0f};
  for (uint32_t bits = 0x3f7f7f00; bits < 0x3f818200; bits += 0x1f00)  // around ties, of even and odd numbers
    for (uint32_t more : {0x7fffu, 0x8000u, 0x8001u}) {
      const uint32_t all = (bits & 0xffff0000u) | more;
      float value;
      std::memcpy(&value, &all, sizeof value);
      values.push_back(value);
      values.push_back(-value * 0x1p-90f);
    }
  const int width = static_cast<int>(values.size());
  EXPECT(width % 8 != 0);
  each_backend(1, [&](Backend& backend) {
    if (!backend.bf16()) return;
    const auto rows = one(backend, 1), x = floats_on_device(backend, normal(1, width));
    const auto weight = floats_on_device(backend, std::vector<double>(width)), bias = on_device(backend, values);
    const auto y = act_space(backend, width);
    credence_norm o = {};
    o.rows = *rows;
    o.capacity = 1;
    o.width = width;
    o.dtype = backend.dtype;
    o.kind = CREDENCE_LAYER_NORM;
    o.eps = 1e-5f;
    o.x = *x;
    o.ldx = o.ldy = width;
    o.weight = *weight;
    o.bias = *bias;
    o.y = y->raw();
    RUN_OPERATOR(backend, norm, o);
    const auto got = y->read<uint16_t>(width);
    for (int i = 0; i < width; ++i) {
      if (std::isnan(values[i])) EXPECT(std::isnan(bf16_to_float(got[i])));
      else EXPECT_EQ(got[i], float_to_bf16(values[i]));
    }
  });
}

TESTING_MAIN
