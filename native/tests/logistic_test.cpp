#include "engine/logistic.h"
#include "engine/device.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "testing.h"

namespace {

using credence::fit_logistic;
using credence::LogisticPath;

/// Standard normal features, soft targets from a random linear rule.
struct Problem {
  int64_t rows, width;
  std::vector<double> x, targets;

  Problem(int64_t n, int64_t d, uint32_t seed) : rows(n), width(d), x(n * d), targets(n) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<double> rule(d);
    for (double& v : rule) v = normal(random) / std::sqrt(static_cast<double>(d));
    for (double& v : x) v = normal(random);
    for (int64_t i = 0; i < n; ++i) {
      double z = 0.3;
      for (int64_t j = 0; j < d; ++j) z += 2 * rule[j] * x[i * d + j];
      const double p = 1 / (1 + std::exp(-z));
      targets[i] = i % 3 == 0 ? p : static_cast<double>(std::uniform_real_distribution<double>()(random) < p);
    }
  }

  std::vector<double> fit(double penalty, const double* towards = nullptr, int threads = 1,
                          LogisticPath path = LogisticPath::automatic, const std::string& isa = "auto") const {
    return fit_logistic(x.data(), rows, width, targets.data(), penalty, towards, threads, isa, path);
  }

  /// Of the loss as the header states it, by the definition.
  double largest_gradient(const std::vector<double>& w, double penalty, const double* towards) const {
    std::vector<double> gradient(width + 1);
    for (int64_t i = 0; i < rows; ++i) {
      double z = w[width];
      for (int64_t j = 0; j < width; ++j) z += w[j] * x[i * width + j];
      const double e = (1 / (1 + std::exp(-z)) - targets[i]) / static_cast<double>(rows);
      for (int64_t j = 0; j < width; ++j) gradient[j] += e * x[i * width + j];
      gradient[width] += e;
    }
    double largest = 0;
    for (int64_t j = 0; j <= width; ++j) {
      const double pull = (j < width ? 2 * penalty : 1e-9) * (w[j] - (towards ? towards[j] : 0));
      largest = std::max(largest, std::fabs(gradient[j] + pull));
    }
    return largest;
  }
};

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
  return largest;
}

const std::pair<int64_t, int64_t> kShapes[] = {{1, 1},    {2, 7},   {40, 1},  {97, 3},   {30, 60},
                                               {100, 47}, {49, 48}, {90, 90}, {60, 301}, {310, 130}};

}  // namespace

TEST(the_gradient_at_the_solution_is_zero) {
  for (const auto& [rows, width] : kShapes) {
    const Problem problem(rows, width, 1);
    const std::vector<double> elsewhere(width + 1, 0.2);
    for (const double penalty : {1e-3, 1e-1, 10.0})
      for (const double* towards : {static_cast<const double*>(nullptr), elsewhere.data()}) {
        if (rows < 3) continue;  // one or two rows on one side push the offset away for longer than 30 steps
        const auto w = problem.fit(penalty, towards);
        EXPECT_EQ(static_cast<int64_t>(w.size()), width + 1);
        EXPECT_NEAR(problem.largest_gradient(w, penalty, towards), 0, 1e-9);
      }
  }
}

TEST(both_paths_give_the_same_weights) {
  for (const auto& [rows, width] : kShapes) {
    const Problem problem(rows, width, 2);
    const std::vector<double> elsewhere(width + 1, -0.1);
    for (const double penalty : {3e-3, 1.0}) {
      if (rows < 3) continue;
      EXPECT_NEAR(distance(problem.fit(penalty, elsewhere.data(), 1, LogisticPath::primal),
                           problem.fit(penalty, elsewhere.data(), 1, LogisticPath::dual)),
                  0, 1e-8);
    }
  }
}

TEST(a_hard_pull_gives_what_it_pulls_towards_and_no_pull_forgets_it) {
  const Problem problem(80, 20, 3);
  std::vector<double> towards(21);
  for (size_t i = 0; i < towards.size(); ++i) towards[i] = 0.05 * static_cast<double>(i) - 0.4;
  const auto hard = problem.fit(1e6, towards.data());
  for (int64_t j = 0; j < 20; ++j) EXPECT_NEAR(hard[j], towards[j], 1e-5);
  const auto soft = problem.fit(1e-7, towards.data()), zeros = problem.fit(1e-7);
  EXPECT_NEAR(distance(soft, zeros), 0, 1e-3);
  EXPECT(distance(problem.fit(0.1, towards.data()), problem.fit(0.1)) > 1e-2);
}

TEST(every_instruction_set_gives_the_same_weights_and_an_unknown_one_is_refused) {
  for (const credence::IsaStatus& status : credence::cpu_isas()) {
    if (!status.unavailable.empty()) continue;
    for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{97, 3}, {310, 130}, {60, 301}}) {
      const Problem problem(rows, width, 6);
      for (const auto path : {LogisticPath::primal, LogisticPath::dual}) {
        const auto w = problem.fit(0.05, nullptr, 1, path, status.isa);
        EXPECT_NEAR(distance(w, problem.fit(0.05, nullptr, 1, path, "scalar")), 0, 1e-9);
        EXPECT(w == problem.fit(0.05, nullptr, 3, path, status.isa));
      }
    }
  }
  EXPECT_THROWS(Problem(4, 2, 1).fit(0.1, nullptr, 1, LogisticPath::primal, "mmx"), "instruction set \"mmx\"");
}

TEST(the_offset_is_not_pulled) {
  Problem problem(200, 4, 4);
  for (double& t : problem.targets) t = 0.9;
  const auto w = problem.fit(1e4);
  EXPECT_NEAR(w[4], std::log(9.0), 1e-3);
}

TEST(threads_do_not_change_a_bit) {
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{230, 190}, {120, 400}}) {
    const Problem problem(rows, width, 5);
    for (const auto path : {LogisticPath::primal, LogisticPath::dual}) {
      const auto one = problem.fit(0.01, nullptr, 1, path);
      for (const int threads : {2, 3, 8}) EXPECT(problem.fit(0.01, nullptr, threads, path) == one);
    }
  }
}

TEST(rows_all_alike_are_survived) {
  Problem problem(60, 10, 6);
  for (int64_t i = 0; i < 60; ++i) {
    for (int64_t j = 0; j < 10; ++j) problem.x[i * 10 + j] = j;
    problem.targets[i] = 1;
  }
  for (const double v : problem.fit(0.01)) EXPECT(std::isfinite(v));
}

TEST(an_impossible_problem_is_refused_by_name) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Problem problem(10, 3, 7);
  EXPECT_THROWS(fit_logistic(problem.x.data(), 0, 3, problem.targets.data(), 0.1, nullptr, 1), "at least one row");
  EXPECT_THROWS(problem.fit(0), "penalty");
  EXPECT_THROWS(problem.fit(nan), "penalty");
  problem.x[7] = nan;
  EXPECT_THROWS(problem.fit(0.1), "feature 1 of row 2");
  problem.x[7] = 0;
  problem.targets[4] = 1.5;
  EXPECT_THROWS(problem.fit(0.1), "target of row 4");
}

TESTING_MAIN
