// A plain test executable in one header: TEST and OPERATOR_TEST register, EXPECT_* record, TESTING_MAIN runs and ends in
// `N passed, N failed`.
//   program [name]    runs the test of that name, else all whose name contains it
// CREDENCE_TEST_TABLE=cuda in the environment runs the operators' tests on a GPU instead of the CPU's tables, =cuda-emulated on the
// CUDA kernels executed on the CPU, at first with warps forward, or with CREDENCE_TEST_ORDERS_FROM=1 backward, =2 shuffled.
// CTest runs each test as one of its own, under that name, and docs/kernels.md lists those of operators: CMakeLists.txt and
// scripts/kernels.mjs read the names, operators and kinds from the source. A test that cannot run here (an input is absent) says why with
// SKIP and counts as neither.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"

namespace credence::testing {

struct Test {
  std::string name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

/// Failures and the reason for a skip of the test that runs now.
struct State {
  int failures = 0;
  std::string skipped;
};

inline State& state() {
  static State now;
  return now;
}

/// Each word of the list, which has one space between words and at least one word, is among the words.
constexpr bool are_words(std::string_view list, std::string_view words) {
  for (;;) {
    const size_t space = list.find(' ');
    const std::string_view word = list.substr(0, space);
    bool found = false;
    for (size_t begin = 0; begin < words.size() && !found;) {
      const size_t end = words.find(' ', begin) == std::string_view::npos ? words.size() : words.find(' ', begin);
      found = !word.empty() && words.substr(begin, end - begin) == word;
      begin = end + 1;
    }
    if (!found) return false;
    if (space == std::string_view::npos) return true;
    list.remove_prefix(space + 1);
  }
}

#define CREDENCE_OPERATOR_WORD(name) #name " "
inline constexpr std::string_view kOperators = CREDENCE_OPERATORS(CREDENCE_OPERATOR_WORD);
#undef CREDENCE_OPERATOR_WORD
inline constexpr std::string_view kKinds = "reference finite-difference odd-shapes bits refusal";

/// The order of warps that a test of the emulated kernels begins with.
inline int first_order() {
  const char* order = std::getenv("CREDENCE_TEST_ORDERS_FROM");
  return order ? std::atoi(order) : 0;
}

/// The one table that is tested where it is named: of CUDA kernels. Else null: the CPU's tables are.
inline const credence_table* named_table() {
  const char* name = std::getenv("CREDENCE_TEST_TABLE");
  if (!name) return nullptr;
  const char* reason = "CREDENCE_TEST_TABLE is neither cuda nor cuda-emulated";
  const credence_table* table = nullptr;
  if (std::string_view(name) == "cuda") table = credence_cuda_table(&reason);
  if (std::string_view(name) == "cuda-emulated") table = credence_cuda_emulated_table(&reason);
  if (!table) throw std::runtime_error(reason);
  return table;
}

inline bool is_emulated(const credence_table* table) {
  return table && std::string_view(table->name) == "cuda-emulated";
}

/// Why a test cannot run on the named table, or nothing: its operators stand in front of its name.
inline std::string lacks(const std::string& test) {
  const credence_table* table = named_table();
  if (!table) return "";
  if (const char* why = table->unavailable()) return why;
  const std::string operators = std::string("+").append(test, 0, test.find('.')).append("+");
  std::string lacking;
#define CREDENCE_LACKS(name) \
  if (!table->name && operators.find("+" #name "+") != std::string::npos) lacking += " " #name;
  CREDENCE_OPERATORS(CREDENCE_LACKS)
#undef CREDENCE_LACKS
  return lacking.empty() ? "" : "there is no CUDA kernel yet:" + lacking;
}

struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
  /// "norm norm_backward" and "is_it": norm+norm_backward.is_it.
  Register(const char* operators, const char* what, void (*body)()) {
    std::string name = operators;
    for (char& c : name)
      if (c == ' ') c = '+';
    tests().push_back({name.append(".").append(what), body});
  }
};

inline void report(const char* file, int line, const std::string& what) {
  constexpr int kShown = 20;  // a loop that fails everywhere says so briefly
  if (++state().failures <= kShown) std::printf("  %s:%d: %s\n", file, line, what.c_str());
}

template <typename T>
std::string show(const T& value) {
  std::ostringstream text;
  text.precision(9);
  if constexpr (std::is_enum_v<T>) text << static_cast<long long>(value);
  else text << value;
  return text.str();
}

/// Runs the registered tests that argv[1] names, or all. Exit status: 1 if any failed, 77 if all were skipped.
inline int run(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  bool whole = false;
  for (const Test& test : tests()) whole = whole || test.name == filter;
  int passed = 0, failed = 0, skipped = 0;
  for (const Test& test : tests()) {
    if (whole ? test.name != filter : test.name.find(filter) == std::string::npos) continue;
    state() = {};
    try {
      state().skipped = lacks(test.name);
      if (state().skipped.empty()) test.body();
    } catch (const std::exception& error) {
      report(test.name.c_str(), 0, std::string("threw: ") + error.what());
    } catch (...) {
      report(test.name.c_str(), 0, "threw something that is not an exception");
    }
    if (state().failures) {
      ++failed;
      std::printf("FAILED  %s\n", test.name.c_str());
    } else if (!state().skipped.empty()) {
      ++skipped;
      std::printf("skipped %s: %s\n", test.name.c_str(), state().skipped.c_str());
    } else {
      ++passed;
      std::printf("ok      %s\n", test.name.c_str());
    }
    std::fflush(stdout);
  }
  if (passed + failed + skipped == 0) {
    std::printf("no test has a name with \"%s\" in it\n0 passed, 1 failed\n", filter.c_str());
    return 1;
  }
  if (skipped) std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  else std::printf("%d passed, %d failed\n", passed, failed);
  if (failed) return 1;
  return passed ? 0 : 77;  // CTest's "could not run here"
}

}  // namespace credence::testing

#define TEST(name)                                                                 \
  static void test_##name();                                                       \
  static const ::credence::testing::Register register_##name(#name, &test_##name); \
  static void test_##name()

/// A test of operators of the table: their names and what the test shows, one space between words, and its own name.
///   OPERATOR_TEST("norm_backward", "reference odd-shapes", by_row_and_by_index) { ... }
///   reference          in every table the operator gives what the plain definition in kernels/reference gives
///   finite-difference  the definition's gradient is the quotient of differences
///   odd-shapes         sizes that are multiples of nothing, one row, one column
///   bits               the same bits over threads, in any batch, beside any neighbour
///   refusal            what cannot be done is an error that names the cause
#define OPERATOR_TEST(operators, kinds, name) OPERATOR_TEST_AT(operators, kinds, name, __LINE__)
#define OPERATOR_TEST_AT(operators, kinds, name, line) OPERATOR_TEST_AS(operators, kinds, name, line)
#define OPERATOR_TEST_AS(operators, kinds, name, line)                                                          \
  static_assert(::credence::testing::are_words(operators, ::credence::testing::kOperators), "no operator");     \
  static_assert(::credence::testing::are_words(kinds, ::credence::testing::kKinds), "no kind of test");         \
  static void test_##line##_##name();                                                                           \
  static const ::credence::testing::Register register_##line##_##name(operators, #name, &test_##line##_##name); \
  static void test_##line##_##name()

#define TESTING_MAIN \
  int main(int argc, char** argv) { return ::credence::testing::run(argc, argv); }

/// Ends the test without a verdict.
#define SKIP(why)                                 \
  do {                                            \
    ::credence::testing::state().skipped = (why); \
    return;                                       \
  } while (0)

#define EXPECT(condition)                                                          \
  do {                                                                             \
    if (!(condition)) ::credence::testing::report(__FILE__, __LINE__, #condition); \
  } while (0)

#define EXPECT_EQ(left, right)                                                                                    \
  do {                                                                                                            \
    const auto left_value = (left);                                                                               \
    const auto right_value = (right);                                                                             \
    if (!(left_value == right_value))                                                                             \
      ::credence::testing::report(__FILE__, __LINE__,                                                             \
                                  std::string(#left " == " #right ": ") + ::credence::testing::show(left_value) + \
                                      " and " + ::credence::testing::show(right_value));                          \
  } while (0)

/// |left - right| <= tolerance; a NaN on either side fails.
#define EXPECT_NEAR(left, right, tolerance)                                                                         \
  do {                                                                                                              \
    const double left_value = static_cast<double>(left), right_value = static_cast<double>(right);                  \
    if (!(std::fabs(left_value - right_value) <= (tolerance)))                                                      \
      ::credence::testing::report(__FILE__, __LINE__,                                                               \
                                  std::string(#left " near " #right ": ") + ::credence::testing::show(left_value) + \
                                      " and " + ::credence::testing::show(right_value));                            \
  } while (0)

/// The expression throws a std::exception whose message contains the substring.
#define EXPECT_THROWS(expression, substring)                                                               \
  do {                                                                                                     \
    bool threw = false;                                                                                    \
    try {                                                                                                  \
      (void)(expression);                                                                                  \
    } catch (const std::exception& error) {                                                                \
      threw = true;                                                                                        \
      if (std::string(error.what()).find(substring) == std::string::npos)                                  \
        ::credence::testing::report(                                                                       \
            __FILE__, __LINE__,                                                                            \
            std::string(#expression " threw \"") + error.what() + "\", expected \"" + (substring) + "\""); \
    }                                                                                                      \
    if (!threw) ::credence::testing::report(__FILE__, __LINE__, #expression " did not throw");             \
  } while (0)
