// Always-on invariant checks: a failed one throws InternalError with both values and the place.
// For what a caller's input can cause, return a Result instead (result.h).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace phalanx {

/// A broken invariant of this program. A rank never recovers alone: rank_worker ends the job on it.
class InternalError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A device, transport or system call failed (MPI, CUDA, NCCL, shared memory, sockets).
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace check_internal {

/// What std::source_location is for; built in, since clang-tidy 14 cannot read libstdc++ 12's.
struct Place {
  const char* file;
  int line;
  const char* function;
};

[[noreturn]] void fail(std::string_view condition, std::string_view message, const Place& where);

template <typename A, typename B>
[[noreturn]] void fail_compare(std::string_view condition, const A& a, const B& b,
                               std::string_view message, const Place& where) {
  std::ostringstream text;
  text << condition << " (" << a << " against " << b << ")";
  fail(text.str(), message, where);
}

}  // namespace check_internal

#define PHALANX_PLACE_ \
  ::phalanx::check_internal::Place { __FILE__, __LINE__, __func__ }

#define PHALANX_CHECK(condition, message)                                   \
  do {                                                                      \
    if (!(condition)) [[unlikely]]                                          \
      ::phalanx::check_internal::fail(#condition, message, PHALANX_PLACE_); \
  } while (false)

#define PHALANX_CHECK_COMPARE_(a, op, b, message)                                                 \
  do {                                                                                            \
    const auto& phalanx_a_ = (a);                                                                 \
    const auto& phalanx_b_ = (b);                                                                 \
    if (!(phalanx_a_ op phalanx_b_)) [[unlikely]]                                                 \
      ::phalanx::check_internal::fail_compare(#a " " #op " " #b, phalanx_a_, phalanx_b_, message, \
                                              PHALANX_PLACE_);                                    \
  } while (false)

#define PHALANX_CHECK_EQ(a, b, message) PHALANX_CHECK_COMPARE_(a, ==, b, message)
#define PHALANX_CHECK_NE(a, b, message) PHALANX_CHECK_COMPARE_(a, !=, b, message)
#define PHALANX_CHECK_LE(a, b, message) PHALANX_CHECK_COMPARE_(a, <=, b, message)
#define PHALANX_CHECK_LT(a, b, message) PHALANX_CHECK_COMPARE_(a, <, b, message)
#define PHALANX_CHECK_GE(a, b, message) PHALANX_CHECK_COMPARE_(a, >=, b, message)
#define PHALANX_CHECK_GT(a, b, message) PHALANX_CHECK_COMPARE_(a, >, b, message)

}  // namespace phalanx
