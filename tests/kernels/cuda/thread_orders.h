// Runs a launch in several orders of threads and blocks and demands equal bits: what a kernel
// without races gives. The emulated device is told the orders; a GPU has its own, a little
// different each time, so there launches are repeated. Used by the tests of CUDA kernels.
#pragma once

#include <cstring>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#if !defined(__CUDACC__)
#include "kernels/cuda/emulator/device.h"
#endif

namespace phalanx::kernels::cuda::test {

#if defined(__CUDACC__)

/// Launches of the same.
inline std::vector<int> thread_orders() { return {1, 2, 3}; }

struct ScopedThreadOrder {
  explicit ScopedThreadOrder(int /*launch*/) {}
};

inline std::string order_name(int launch) { return "launch " + std::to_string(launch); }

#else

using ScopedThreadOrder = emulator::ScopedDeviceOptions;

/// Ascending, descending and two shuffled orders; the other options as set now.
inline std::vector<emulator::DeviceOptions> thread_orders() {
  std::vector<emulator::DeviceOptions> all(4, emulator::device_options());
  all[0].order = emulator::ThreadOrder::kAscending;
  all[1].order = emulator::ThreadOrder::kDescending;
  all[2].order = all[3].order = emulator::ThreadOrder::kShuffled;
  all[2].seed = 11;
  all[3].seed = 12;
  return all;
}

inline std::string order_name(const emulator::DeviceOptions& options) {
  switch (options.order) {
    case emulator::ThreadOrder::kAscending:
      return "ascending";
    case emulator::ThreadOrder::kDescending:
      return "descending";
    case emulator::ThreadOrder::kShuffled:
      return "shuffled by seed " + std::to_string(options.seed);
  }
  return "";
}

#endif

namespace thread_orders_internal {

template <typename T>
std::optional<std::string> difference(const std::vector<T>& a, const std::vector<T>& b) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::ostringstream text;
  if (a.size() != b.size()) {
    text << a.size() << " elements against " << b.size();
    return text.str();
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) == 0) continue;
    text << "element " << i;
    if constexpr (std::is_arithmetic_v<T>) text << ": " << +a[i] << " against " << +b[i];
    return text.str();
  }
  return std::nullopt;
}

template <typename... T>
std::optional<std::string> difference(const std::tuple<T...>& a, const std::tuple<T...>& b) {
  std::optional<std::string> found;
  int output = 0;
  const auto compare = [&](const auto& a_output, const auto& b_output) {
    if (!found) found = difference(a_output, b_output);
    if (!found) ++output;
  };
  [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
    (compare(std::get<kIndex>(a), std::get<kIndex>(b)), ...);
  }
  (std::index_sequence_for<T...>{});
  if (found) *found = "output " + std::to_string(output) + ", " + *found;
  return found;
}

/// The first order's result, and where another one's differs.
template <typename Run>
auto compare_orders(Run& run) {
  using Output = decltype(run());
  std::optional<Output> first;
  std::optional<std::string> found;
  for (const auto& order : thread_orders()) {
    [[maybe_unused]] const ScopedThreadOrder scope(order);
    Output output = run();
    if (!first) {
      first = std::move(output);
    } else if (!found) {
      found = difference(*first, output);
      if (found)
        found = order_name(thread_orders().front()) + " and " + order_name(order) + ": " + *found;
    }
  }
  return std::pair<Output, std::optional<std::string>>(std::move(*first), std::move(found));
}

}  // namespace thread_orders_internal

/// Where the results of two orders differ, if they do. `run` launches on inputs that it makes anew
/// and returns the output: a std::vector of plain values, or a std::tuple of such.
template <typename Run>
std::optional<std::string> thread_order_difference(Run&& run) {
  return thread_orders_internal::compare_orders(run).second;
}

/// The output of `run`, which is as for thread_order_difference; the test fails if it is not the
/// same bits in every order.
template <typename Run>
auto in_every_thread_order(Run&& run) {
  auto [output, found] = thread_orders_internal::compare_orders(run);
  EXPECT_FALSE(found.has_value()) << "bits depend on the order of threads, " << found.value_or("");
  return std::move(output);
}

}  // namespace phalanx::kernels::cuda::test
