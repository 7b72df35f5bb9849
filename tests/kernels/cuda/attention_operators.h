// write_kv and attention of the emulated device behind the operator contract, so that tests run
// them in the same worlds as the reference. Used by attention tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/attention_launches.h"
#include "kernels/cuda/kv_write_launches.h"
#include "kernels/cuda/row_launches.h"
#include "kernels/operators.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda::test {

struct AttentionOptions {
  int64_t target_blocks = 6;
  int64_t partials_bytes = int64_t{8} << 20;
  int64_t max_context = 1024;
  /// 0: as many as a step has; so that bounds are the step's own.
  int64_t num_sequences = 0;
  int64_t max_rows = 0;
};

/// Padding sequences stand first, between and last. Scratch memory is kept from call to call while
/// bounds stay the same, as for a CUDA graph.
class AttentionOperators : public Operators {
 public:
  explicit AttentionOperators(const AttentionOptions& options = {}) : options_(options) {}

  void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                const KvLayerView& kv) override {
    KvRows rows;
    rows.k = k;
    rows.v = v;
    const std::vector<SequenceRows> padded = with_padding(sequences);
    launch_write_kv(rows, {padded.data(), static_cast<int64_t>(padded.size())}, num_rows(padded),
                    kv, nullptr);
  }

  void attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                 const AttentionParams& params, Rows y) override {
    attention_into(q, sequences, kv, params, device_activation(y));
  }

  void attention_into(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                      const AttentionParams& params, const DeviceActivation& out) {
    const std::vector<SequenceRows> padded = with_padding(sequences);
    LayerAttention shape;
    shape.format = kv.format;
    shape.head_dim = kv.head_dim;
    shape.num_kv_heads = kv.num_kv_heads;
    shape.num_query_heads = params.num_query_heads;
    shape.kv_head_of_query = params.kv_head_of_query;
    shape.scale = params.scale;
    shape.sliding_window = params.sliding_window;
    AttentionBounds bounds;
    bounds.num_sequences = static_cast<int64_t>(padded.size());
    bounds.max_rows = std::max(options_.max_rows, num_rows(padded));
    for (const SequenceRows& s : padded)
      bounds.max_rows_of_sequence = std::max(bounds.max_rows_of_sequence, s.num_rows);
    bounds.max_context = options_.max_context;
    bounds.target_blocks = options_.target_blocks;
    bounds.partials_bytes = options_.partials_bytes;
    const AttentionBytes bytes = attention_bytes(shape, bounds);
    if (bytes.plan != bytes_.plan || bytes.counters != bytes_.counters ||
        bytes.scratch != bytes_.scratch) {
      plan_ = reference_->allocate(std::max<int64_t>(bytes.plan, 64));
      counters_ = reference_->allocate(bytes.counters);
      scratch_ = reference_->allocate(std::max<int64_t>(bytes.scratch, 64));
      bytes_ = bytes;
    }
    const AttentionMemory memory{plan_.get(), counters_.get(), scratch_.get()};
    const DeviceSequences on_device{padded.data(), bounds.num_sequences};
    launch_attention_plan(shape, bounds, on_device, memory, nullptr);
    launch_attention(shape, bounds, q, on_device, kv, memory, out, nullptr);
  }

  std::string description() const override { return "attention on the emulated device"; }
  std::shared_ptr<std::byte> allocate(int64_t bytes) override {
    return reference_->allocate(bytes);
  }

  std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec&) override { absent(); }
  void embedding(const MatrixSource&, std::span<const int32_t>, Rows) override { absent(); }
  void rms_norm(ConstRows, const float*, float, int64_t, int64_t, Rows) override { absent(); }
  void add_rms_norm(Rows, ConstRows, const float*, const float*, float, int64_t, int64_t,
                    Rows) override {
    absent();
  }
  void add_rows(Rows, ConstRows, const float*, int64_t, int64_t) override { absent(); }
  void add_rms_norm_of_parts(Rows, const PartRows&, const float*, const float*, float, int64_t,
                             int64_t, Rows) override {
    absent();
  }
  void add_rows_of_parts(Rows, const PartRows&, const float*, int64_t, int64_t) override {
    absent();
  }
  void convert_rows(ConstRows, int64_t, const ActivationView&) override { absent(); }
  void linear(const PackedMatrix&, const ActivationView&, int64_t, Rows) override { absent(); }
  void gated_linear(const PackedMatrix&, const ActivationView&, int64_t,
                    const ActivationView&) override {
    absent();
  }
  void head_norm(Rows, int64_t, int64_t, const float*, float, int64_t) override { absent(); }
  void rope(Rows, int64_t, int64_t, const RopeTable&, std::span<const int32_t>) override {
    absent();
  }
  void silu_mul(ConstRows, ConstRows, int64_t, int64_t, Rows) override { absent(); }
  void gather_rows(ConstRows, std::span<const int32_t>, int64_t, Rows) override { absent(); }
  void for_each_on_host(int64_t, const std::function<void(int64_t)>&) override { absent(); }

 private:
  [[noreturn]] static void absent() { throw InternalError("only attention is here"); }

  static int64_t num_rows(const std::vector<SequenceRows>& sequences) {
    int64_t rows = 0;
    for (const SequenceRows& s : sequences) rows = std::max(rows, s.first_row + s.num_rows);
    return rows;
  }

  std::vector<SequenceRows> with_padding(std::span<const SequenceRows> sequences) const {
    std::vector<SequenceRows> padded{{5, 0, 77, nullptr}};
    for (const SequenceRows& s : sequences) padded.push_back(s);
    padded.push_back({0, 0, 0, nullptr});
    while (static_cast<int64_t>(padded.size()) < options_.num_sequences)
      padded.insert(padded.begin() + 2, {1, 0, 3, nullptr});
    return padded;
  }

  AttentionOptions options_;
  std::unique_ptr<Operators> reference_ = make_reference_operators();
  AttentionBytes bytes_;
  std::shared_ptr<std::byte> plan_, counters_, scratch_;
};

}  // namespace phalanx::kernels::cuda::test
