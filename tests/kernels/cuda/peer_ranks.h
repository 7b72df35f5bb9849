// Runs steps of a peer group as one rank of it, and what the reference operators make of the same
// parts. Used by the tests of ranks as threads and as processes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/peer_group.h"
#include "kernels/operators.h"
#include "tests/kernels/cuda/peer_kernels.h"

namespace phalanx::kernels::cuda::test {

constexpr float kPeerEps = 1e-5F;

/// Calls of a step, all with num_rows rows.
struct PeerStep {
  int64_t num_rows;
  int num_calls;
};

struct PeerCase {
  int size;
  int64_t num_cols;
  int64_t group_size;
  ActivationForm form;
  int64_t one_shot_rows;  ///< steps of more rows are two-shot
  bool shares_residual;
  bool plain;  ///< all_reduce instead of add_rms_norm
  std::vector<PeerStep> steps;
  int max_blocks = 3;
  uint32_t max_delay = 0;  ///< turns that a rank looks away before it writes its part

  int64_t max_rows() const {
    int64_t most = 0;
    for (const PeerStep& step : steps) most = std::max(most, step.num_rows);
    return most;
  }
  PeerGroupOptions options() const {
    PeerGroupOptions options;
    options.max_rows = max_rows();
    options.num_cols = num_cols;
    options.conversion_bytes = activation_bytes(form, max_rows(), num_cols, group_size);
    const int64_t bytes = one_shot_rows * num_cols * 4;
    options.thresholds = {bytes, bytes, bytes};
    options.max_blocks = max_blocks;
    return options;
  }
  /// What differs from call to call.
  bool has_bias(uint32_t call) const { return call % 3 == 1; }
  bool has_norm(uint32_t call) const { return call % 5 != 4; }
  static uint32_t seed(int rank, uint32_t call) {
    return mixed(call * 64 + static_cast<uint32_t>(rank));
  }
  std::vector<float> fixed_values(uint32_t seed, size_t count) const {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = part_value(seed, static_cast<uint32_t>(i));
    return values;
  }
  std::vector<float> bias() const { return fixed_values(1001, static_cast<size_t>(num_cols)); }
  std::vector<float> weight() const { return fixed_values(1002, static_cast<size_t>(num_cols)); }
  std::vector<float> residual() const {
    return fixed_values(1003, static_cast<size_t>(max_rows() * num_cols));
  }
};

/// Every byte that a call gave, call after call.
using PeerOutput = std::vector<uint8_t>;

inline void append(PeerOutput& output, const void* data, int64_t bytes) {
  const auto* first = static_cast<const uint8_t*>(data);
  output.insert(output.end(), first, first + bytes);
}

inline void append(PeerOutput& output, const ActivationView& view, int64_t num_rows) {
  append(output, view.codes, num_rows * view.num_cols * activation_code_bytes(view.form));
  if (!is_quantized(view.form)) return;
  append(output, view.scales, num_rows * view.num_cols / view.group_size * 4);
  if (view.sums == nullptr) return;
  append(output, view.sums, num_rows * view.num_cols / view.group_size * 4);
}

inline std::unique_ptr<PeerGroup> make_peer_group(const PeerGroupOptions& options, int rank,
                                                  int size, const PeerExchange& exchange) {
  auto memory = PeerMemory::create(PeerGroup::region_bytes(options, size), rank, size, exchange);
  return std::make_unique<PeerGroup>(std::move(memory).value(), options, exchange);
}

/// Runs the case as one rank, on a group of its options. The residual of a two-shot call that does
/// not share it is only compared in the rank's own rows.
inline PeerOutput run_rank(const PeerCase& test, PeerGroup& group) {
  PeerOutput output;
  const int64_t cols = test.num_cols;
  const std::vector<float> bias = test.bias();
  const std::vector<float> weight = test.weight();
  std::vector<float> memory(static_cast<size_t>(test.max_rows() * cols) + 4);
  float* residual = memory.data();  // to 16 bytes, as device memory is
  while (reinterpret_cast<uintptr_t>(residual) % 16 != 0) ++residual;
  uint32_t call = 0;
  for (const PeerStep& step : test.steps) {
    const std::vector<float> start = test.residual();
    std::copy(start.begin(), start.end(), residual);
    for (int i = 0; i < step.num_calls; ++i, ++call) {
      const uint32_t seed = PeerCase::seed(group.rank(), call);
      const uint32_t delay = test.max_delay == 0 ? 0 : mixed(seed) % test.max_delay;
      launch(write_part<float>, {dim3(2), dim3(32)}, nullptr, group.part(step.num_rows).data,
             static_cast<uint32_t>(step.num_rows * cols), seed, delay);
      const Rows rows{residual, cols};
      if (test.plain) {
        group.all_reduce(step.num_rows, rows, nullptr);
        append(output, residual, step.num_rows * cols * 4);
        continue;
      }
      PeerAddNorm reduce;
      reduce.num_rows = step.num_rows;
      reduce.residual = rows;
      reduce.bias = test.has_bias(call) ? bias.data() : nullptr;
      reduce.weight = test.has_norm(call) ? weight.data() : nullptr;
      reduce.eps = kPeerEps;
      reduce.form = test.form;
      reduce.group_size = test.group_size;
      reduce.shares_residual = test.shares_residual;
      const ActivationView view = group.add_rms_norm(reduce, nullptr);
      if (reduce.weight != nullptr) append(output, view, step.num_rows);
      const bool has_all = group.is_one_shot(step.num_rows) || test.shares_residual;
      const auto [first, last] =
          has_all ? std::pair<int64_t, int64_t>(0, step.num_rows) : group.own_rows(step.num_rows);
      append(output, residual + first * cols, (last - first) * cols * 4);
    }
    group.end_step(nullptr);
  }
  group.require_no_failure();
  return output;
}

/// What run_rank gives, by the reference operators.
inline PeerOutput expected_of_rank(const PeerCase& test, int rank) {
  PeerOutput output;
  const auto reference = make_reference_operators();
  const int64_t cols = test.num_cols;
  const std::vector<float> bias = test.bias();
  const std::vector<float> weight = test.weight();
  uint32_t call = 0;
  for (const PeerStep& step : test.steps) {
    const auto count = static_cast<size_t>(step.num_rows * cols);
    std::vector<float> residual = test.residual();
    for (int i = 0; i < step.num_calls; ++i, ++call) {
      std::vector<std::vector<float>> parts;
      std::vector<const float*> pointers;
      for (int other = 0; other < test.size; ++other)
        parts.push_back(test.fixed_values(PeerCase::seed(other, call), count));
      for (const auto& part : parts) pointers.push_back(part.data());
      const PartRows delta{pointers, cols};
      const Rows rows{residual.data(), cols};
      if (test.plain) {
        // 0 + x is x but for the sign of a zero, which no sum of these parts is.
        std::fill(residual.begin(), residual.end(), 0.0F);
        reference->add_rows_of_parts(rows, delta, nullptr, step.num_rows, cols);
        append(output, residual.data(), step.num_rows * cols * 4);
        continue;
      }
      const float* delta_bias = test.has_bias(call) ? bias.data() : nullptr;
      if (test.has_norm(call)) {
        std::vector<float> normed(count);
        reference->add_rms_norm_of_parts(rows, delta, delta_bias, weight.data(), kPeerEps,
                                         step.num_rows, cols, {normed.data(), cols});
        std::vector<std::byte> memory(
            static_cast<size_t>(activation_bytes(test.form, step.num_rows, cols, test.group_size)) +
            64);
        auto* aligned = reinterpret_cast<std::byte*>(
            (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
        const ActivationView view =
            make_activation_view(test.form, step.num_rows, cols, test.group_size, aligned);
        reference->convert_rows({normed.data(), cols}, step.num_rows, view);
        append(output, view, step.num_rows);
      } else {
        reference->add_rows_of_parts(rows, delta, delta_bias, step.num_rows, cols);
      }
      const bool has_all = step.num_rows <= test.one_shot_rows || test.shares_residual;
      const int64_t first = has_all ? 0 : step.num_rows * rank / test.size;
      const int64_t last = has_all ? step.num_rows : step.num_rows * (rank + 1) / test.size;
      append(output, residual.data() + first * cols, (last - first) * cols * 4);
    }
  }
  return output;
}

}  // namespace phalanx::kernels::cuda::test
