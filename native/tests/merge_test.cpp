// An adapter merged into a base, rows of tokens gained and lost.
#include "engine/merge.h"

#include "files_support.h"
#include "testing.h"

using namespace credence;
using namespace credence::testing;

namespace {

/// A tiny base in a folder, and an adapter on q and down of layer 1 with numbers of few digits.
struct Tiny {
  TemporaryFolder folder;
  std::unique_ptr<BaseFiles> base;
  Adapter adapter;

  explicit Tiny(bool rslora = false, bool tied = false) {
    Json config = tiny_config();
    config.set("tie_word_embeddings", tied);
    write_bytes(folder.file("config.json"), config.text());
    write_tensors(folder.file("model.safetensors"), tiny_weights(family_from_config(config, "config.json")));
    base = BaseFiles::open(folder.path());
    adapter.config.r = 3;
    adapter.config.alpha = 7;
    adapter.config.rslora = rslora;
    adapter.config.targets = {Projection::kQ, Projection::kDown};
    adapter.config.layers = {1};
    std::mt19937 random(5);
    for (const Projection projection : adapter.config.targets)
      adapter.pairs.push_back({1, projection, small_numbers(random, 3 * projection_in(base->family, projection)),
                               small_numbers(random, 3 * projection_out(base->family, projection))});
  }
};

}  // namespace

TEST(merged_is_the_product_in_double) {
  for (const bool rslora : {false, true}) {
    const Tiny tiny(rslora);
    const double scale = rslora ? 7 / std::sqrt(3.0) : 7 / 3.0;
    for (const AdapterPair& pair : tiny.adapter.pairs) {
      const int out = projection_out(tiny.base->family, pair.projection),
                in = projection_in(tiny.base->family, pair.projection);
      std::vector<float> plain(static_cast<size_t>(out * in));
      tiny.base->read("model.layers.1." + projection_path(pair.projection) + ".weight", plain.data());
      const std::vector<float> merged = merged_projection(*tiny.base, tiny.adapter, 1, pair.projection);
      for (int i = 0; i < out; ++i)
        for (int j = 0; j < in; ++j) {
          double product = 0;
          for (int k = 0; k < 3; ++k)
            product +=
                static_cast<double>(pair.b[static_cast<size_t>(3 * i + k)]) * pair.a[static_cast<size_t>(k * in + j)];
          const double right = plain[static_cast<size_t>(i * in + j)] + scale * product;
          EXPECT_NEAR(merged[static_cast<size_t>(i * in + j)], right, 2e-7 * (std::fabs(right) + scale * 48));
        }
    }
    // A layer and a projection without an adapter are the base's own.
    std::vector<float> plain(12 * 12);
    tiny.base->read("model.layers.0.self_attn.q_proj.weight", plain.data());
    EXPECT(merged_projection(*tiny.base, tiny.adapter, 0, Projection::kQ) == plain);
  }
}

TEST(blocks_of_rows_are_the_whole_matrix) {
  const Tiny tiny;
  const MergedWeights merged(*tiny.base, &tiny.adapter);
  const std::vector<float> whole = merged_projection(*tiny.base, tiny.adapter, 1, Projection::kQ);
  for (const int64_t step : {1, 5, 12}) {
    std::vector<float> pieces(whole.size());
    for (int64_t first = 0; first < 12; first += step)
      merged.read_rows("model.layers.1.self_attn.q_proj.weight", first, std::min<int64_t>(step, 12 - first),
                       pieces.data() + first * 12);
    EXPECT(pieces == whole);
  }
}

TEST(vocabulary_grows_by_the_mean_row_and_shrinks) {
  for (const bool tied : {false, true}) {
    const Tiny tiny(false, tied);
    std::vector<float> old(11 * 12);
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
      if (!tiny.base->has(name)) continue;
      tiny.base->read(name, old.data());
      const MergedWeights grown(*tiny.base, nullptr, 14);
      EXPECT_EQ(grown.family().vocabulary, 14);
      std::vector<float> rows(14 * 12);
      grown.read_rows(name, 0, 9, rows.data());  // the border of old and new inside a block
      grown.read_rows(name, 9, 5, rows.data() + 9 * 12);
      for (size_t i = 0; i < old.size(); ++i) EXPECT_EQ(rows[i], old[i]);
      for (size_t j = 0; j < 12; ++j) {
        double sum = 0;
        for (size_t i = 0; i < 11; ++i) sum += old[i * 12 + j];
        for (size_t i = 11; i < 14; ++i) EXPECT_NEAR(rows[i * 12 + j], sum / 11, 1e-6);
      }
      const MergedWeights shrunk(*tiny.base, nullptr, 5);
      std::vector<float> few(5 * 12);
      shrunk.read_rows(name, 0, 5, few.data());
      EXPECT(std::equal(few.begin(), few.end(), old.begin()));
      EXPECT_THROWS(shrunk.read_rows(name, 0, 6, rows.data()), "has 5 rows");
    }
    EXPECT_THROWS(MergedWeights(*tiny.base, nullptr, 2), "would lose token 2, which ends an answer");
  }
}

TESTING_MAIN
