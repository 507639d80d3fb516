// What `credence bench` measures, on sizes that take no time: that every line and field is there with work and a time, that the
// work is counted as written down, and what a share of a peak is.
#include <set>

#include "engine/batch.h"
#include "engine/bench.h"
#include "engine/bench_kernels.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

TEST(every_operator_has_a_line_with_work_and_a_time) {
  std::set<std::string> all;
#define CREDENCE_NAME(name) all.insert(#name);
  CREDENCE_OPERATORS(CREDENCE_NAME)
#undef CREDENCE_NAME
  for (const char* dtype : {"f32", "bf16"}) {
    std::set<std::string> seen;
    for (const OperatorLine& line : bench_operators(Device::open({"cpu", dtype, "auto", 2}), 64, 0)) {
      seen.insert(line.name);
      EXPECT(line.best >= 0 && line.best <= line.median);
      EXPECT(line.flop + line.bytes > 0);
    }
    EXPECT(seen == all);
  }
}

TEST(a_share_of_peak_is_of_what_binds) {
  const Peaks peaks = {100, 400, 10};
  const OperatorLine product = {"project", "", 2, 3, 100e9, 1e9, false}, memory = {"norm", "", 2, 3, 0, 5e9, false};
  EXPECT_NEAR(peak_share(product, peaks, CREDENCE_F32).share, 0.5, 1e-12);
  EXPECT_NEAR(peak_share(product, peaks, CREDENCE_BF16).share, 0.125, 1e-12);
  EXPECT(!peak_share(product, peaks, CREDENCE_F32).memory);
  EXPECT_NEAR(peak_share(memory, peaks, CREDENCE_BF16).share, 0.25, 1e-12);
  EXPECT(peak_share(memory, peaks, CREDENCE_BF16).memory);
}

TEST(kernels_have_products_adapters_and_attention) {
  const auto device = Device::open({"cpu", "auto", "auto", 2});
  std::set<std::string> products;
  for (const OperatorLine& line : bench_products(device, 64, 0)) {
    products.insert(line.shape.substr(0, line.shape.find(',')));
    EXPECT(line.flop > 0 && line.best > 0);
  }
  EXPECT(products ==
         (std::set<std::string>{"SmolLM2-135M q|k|v", "SmolLM2-135M o", "SmolLM2-135M gate|up", "SmolLM2-135M down"}));
  for (const AdapterLine& line : bench_adapter(device, 64, 0)) EXPECT(line.bare > 0 && line.adapted > 0);
  // 4 bytes or 2: the attention lines do not depend on it. 3 lengths and 2 head sizes, then the short segments, both ways.
  const auto lines = bench_attention(device, 64, 0);
  EXPECT_EQ(lines.size(), 14u);
  EXPECT_NEAR(lines[0].flop, 4.0 * 576 * 4 * (16 * 17 / 2), 1e-6);  // 4 x 16 tokens
  EXPECT_NEAR(lines[1].flop, 2.5 * lines[0].flop, 1e-6);
}

TEST(the_work_of_a_step_is_the_one_written_down) {
  // docs/measurements/cpu.md counts 0.629 GFLOP a token of SmolLM2-135M at 4 x 512 tokens.
  const ModelWork work = work_of(bench_shape("135m"));
  EXPECT_NEAR(work.blocks, 106168320, 0);
  EXPECT_NEAR(work.head, 49152.0 * 576, 0);
  const double token =
      4 * work.blocks + 6 * 16 * work.adapter + 4 * work.head * 511 / 512 + 3.5 * work.attention * 513 / 2;
  EXPECT_NEAR(token * 1e-9, 0.629, 0.001);
}

TEST(workloads_say_their_rates_beside_the_walls) {
#if defined(__SANITIZE_THREAD__)
  SKIP("one thread alone, and minutes");
#endif
  const TemporaryFolder folder;
  write_small_model(folder.path());
  BenchOptions options;
  options.device = {"cpu", "f32", "auto", 1};
  options.model = folder.path();
  options.repeats = options.batch = 2;
  options.length = 20;
  options.rank = 3;
  const Json sft = bench("sft", options);
  EXPECT_EQ(sft.at("real_tokens").as_number(), 40);
  EXPECT_EQ(sft.at("supervised_tokens").as_number(), 38);
  EXPECT(sft.at("loss_last").as_number() < sft.at("loss_first").as_number());
  EXPECT(sft.at("share_of_peak").as_number() > 0);
  options.workload = "ragged";
  const Json ragged = bench("sft", options);
  EXPECT(ragged.at("real_tokens").as_number() > 64 * 40);
  EXPECT(ragged.at("supervised_tokens").as_number() < ragged.at("real_tokens").as_number() / 4);
  const Json generated = bench("generate", options);
  EXPECT(generated.at("prefill").at("tokens_per_s_median").as_number() > 0);
  EXPECT_EQ(generated.at("decode").as_array().size(), 1u);
  const Json& decode = generated.at("decode").as_array()[0];
  EXPECT_EQ(decode.at("batch").as_integer(), 2);
  EXPECT(decode.at("wall_tokens_per_s").as_number() > decode.at("decode_tokens_per_s_median").as_number());
  EXPECT(bench("samples", options).at("share_of_wall").as_number() > 0);
  EXPECT_THROWS(bench("nothing", options), "there are sft, generate, samples and kernels");
  options.shape = "15m";
  EXPECT_THROWS(bench("sft", options), "a model or a shape");
  options.model.clear();
  options.shape = "7b";
  EXPECT_THROWS(bench("generate", options), "not one of 15m, 42m");
}

TESTING_MAIN
