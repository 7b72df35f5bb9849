// Lays the inputs out on the host as they will lie on the device.
#include <algorithm>
#include <cstring>

#include "kernels/cuda/step_inputs.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

constexpr int64_t kAlignment = 64;

int64_t align_up(int64_t bytes) { return round_up(bytes, kAlignment); }

/// Hands out parts of the two memories, at the same offsets.
class Layout {
 public:
  Layout(std::byte* host, std::byte* device) : host_(host), device_(device) {}

  template <typename T>
  struct Part {
    T* host;
    T* device;
  };
  template <typename T>
  Part<T> take(size_t count) {
    const Part<T> part{reinterpret_cast<T*>(host_ + used_), reinterpret_cast<T*>(device_ + used_)};
    used_ += align_up(static_cast<int64_t>(count * sizeof(T)));
    return part;
  }
  template <typename T>
  std::span<const T> copy(std::span<const T> values) {
    const Part<T> part = take<T>(values.size());
    std::copy(values.begin(), values.end(), part.host);
    return {part.device, values.size()};
  }
  int64_t used() const { return used_; }

 private:
  std::byte* host_;
  std::byte* device_;
  int64_t used_ = 0;
};

}  // namespace

int64_t StepInputs::bytes(const StepBounds& bounds) {
  const int64_t tables =
      bounds.max_sequences * align_up(ceil_div(bounds.max_positions, kBlockTokens) * int64_t{4});
  return 3 * align_up(bounds.max_rows * 4) + align_up(bounds.max_sequences * 4) +
         align_up(bounds.max_sequences * static_cast<int64_t>(sizeof(DrawRow))) +
         align_up(bounds.max_sequences * static_cast<int64_t>(sizeof(SequenceRows))) + tables;
}

StepInputs::StepInputs(Device& device, const StepBounds& bounds)
    : device_(device),
      bounds_(bounds),
      on_host_{device.allocate_host(bytes(bounds)), device.allocate_host(bytes(bounds))},
      on_device_(device.allocate(bytes(bounds))) {}

StepRows StepInputs::stage(const StepRows& rows) {
  PHALANX_CHECK_LE(static_cast<int64_t>(rows.positions.size()), bounds_.max_rows, "rows of a step");
  PHALANX_CHECK_LE(static_cast<int64_t>(rows.token_ids.size()), bounds_.max_rows,
                   "token ids of a step");
  PHALANX_CHECK_LE(static_cast<int64_t>(rows.sequences.size()), bounds_.max_sequences,
                   "sequences of a step");
  PHALANX_CHECK_LE(static_cast<int64_t>(rows.sampled_rows.size()), bounds_.max_sequences,
                   "sampled rows of a step");
  PHALANX_CHECK(rows.token_slots.empty() || rows.token_slots.size() == rows.token_ids.size(),
                "a slot for each token id, or none");
  PHALANX_CHECK(rows.draws.empty() || rows.draws.size() == rows.sampled_rows.size(),
                "a draw for each sampled row, or none");
  std::byte* host = on_host_[turn_].get();
  turn_ = 1 - turn_;
  Layout layout(host, on_device_.get());
  StepRows staged;
  staged.positions = layout.copy(rows.positions);
  staged.token_ids = layout.copy(rows.token_ids);
  staged.sampled_rows = layout.copy(rows.sampled_rows);
  staged.token_slots = layout.copy(rows.token_slots);
  staged.draws = layout.copy(rows.draws);
  const auto sequences = layout.take<SequenceRows>(rows.sequences.size());
  staged.sequences = {sequences.device, rows.sequences.size()};
  for (size_t i = 0; i < rows.sequences.size(); ++i) {
    SequenceRows sequence = rows.sequences[i];
    const int64_t end = sequence.first_position + sequence.num_rows;
    PHALANX_CHECK_LE(end, bounds_.max_positions, "positions of a sequence");
    const int64_t num_blocks = sequence.num_rows == 0 ? 0 : ceil_div(end, kBlockTokens);
    const std::span<const int32_t> table(sequence.block_table, static_cast<size_t>(num_blocks));
    sequence.block_table = layout.copy(table).data();
    sequences.host[i] = sequence;
  }
  device_.copy_to_device(on_device_.get(), host, layout.used());
  return staged;
}

}  // namespace phalanx::kernels::cuda
