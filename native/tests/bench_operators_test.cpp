// The bench of operators: that each has a line, with work and a time, and what its share of a peak is.
#include "engine/bench_operators.h"

#include <set>

#include "testing.h"

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

TESTING_MAIN
