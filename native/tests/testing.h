// A plain test executable in one header: TEST registers, EXPECT_* record, TESTING_MAIN runs and ends in `N passed, N
// failed`.
//   program [substring]    runs the tests whose name contains the substring
// A test that cannot run here (an input is absent) says why with SKIP and counts as neither.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace credence::testing {

struct Test {
  const char* name;
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

struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
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

/// Runs the registered tests whose name contains argv[1], if given. Exit status: 1 if any failed, 77 if all were
/// skipped.
inline int run(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0, failed = 0, skipped = 0;
  for (const Test& test : tests()) {
    if (std::string(test.name).find(filter) == std::string::npos) continue;
    state() = {};
    try {
      test.body();
    } catch (const std::exception& error) {
      report(test.name, 0, std::string("threw: ") + error.what());
    } catch (...) {
      report(test.name, 0, "threw something that is not an exception");
    }
    if (state().failures) {
      ++failed;
      std::printf("FAILED  %s\n", test.name);
    } else if (!state().skipped.empty()) {
      ++skipped;
      std::printf("skipped %s: %s\n", test.name, state().skipped.c_str());
    } else {
      ++passed;
      std::printf("ok      %s\n", test.name);
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
