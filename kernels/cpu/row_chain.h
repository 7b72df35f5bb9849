// Row operators that were put off, to run together: one fork and join for all, and each thread
// takes its rows through the whole chain while they are in its cache. Used by cpu_operators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/cpu/thread_team.h"

namespace phalanx::kernels::cpu {

/// Element operations (a load, an addition, a store) below which one thread is faster than a fork
/// and join.
inline constexpr int64_t kCostWorthForking = 16 * 1024;

/// What an operator touches: row r's row_bytes bytes from first + r * stride_bytes on.
struct RowMemory {
  const void* first = nullptr;
  int64_t stride_bytes = 0;
  int64_t row_bytes = 0;
  bool is_written = false;
};

/// Operators of which row r reads and writes nothing of another row r': their chain may be walked
/// row by row, in any order of the rows, with the same bits. One thread (the executor).
class RowChain {
 public:
  explicit RowChain(ThreadTeam& team) : team_(team) {}

  /// Adds an operator: body(begin, end) computes these rows, on any thread, and does not throw.
  /// `cost`: of a row, in plain element operations. Runs what was added before first, if row r of
  /// this one could touch what another row of theirs does, or if it has another number of rows.
  /// What the body refers to lives until run().
  template <typename Body>
  void add(int64_t num_rows, int64_t cost, std::initializer_list<RowMemory> memory,
           const Body& body) {
    add(num_rows, cost, std::span(memory.begin(), memory.size()), body);
  }
  template <typename Body>
  void add(int64_t num_rows, int64_t cost, std::span<const RowMemory> memory, const Body& body) {
    static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= kBodyBytes);
    Link& link = append(num_rows, cost, memory);
    new (link.body) Body(body);
    link.run = [](const std::byte* bytes, int64_t begin, int64_t end) {
      (*std::launder(reinterpret_cast<const Body*>(bytes)))(begin, end);
    };
  }

  /// Computes what was added. No cost when that is nothing.
  void run();

 private:
  static constexpr size_t kBodyBytes = 160;
  struct Link {
    void (*run)(const std::byte* body, int64_t begin, int64_t end) = nullptr;
    alignas(16) std::byte body[kBodyBytes];
  };

  Link& append(int64_t num_rows, int64_t cost, std::span<const RowMemory> memory);
  bool is_independent(std::span<const RowMemory> memory) const;

  ThreadTeam& team_;
  int64_t num_rows_ = 0;
  int64_t cost_ = 0;
  std::vector<Link> links_;
  std::vector<RowMemory> memory_;  // of all links
};

}  // namespace phalanx::kernels::cpu
