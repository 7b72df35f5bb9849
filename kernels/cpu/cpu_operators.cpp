// CpuOperators: every operator is checks, a split over threads and a tier's function.
#include "kernels/cpu/cpu_operators.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cpu/linear.h"
#include "kernels/operator_checks.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace cpu {
namespace {

/// Columns of one unit of silu_mul where it spreads fewer rows than there are threads.
constexpr int64_t kSiluColumns = 256;

/// Costs of an element in plain operations.
constexpr int64_t kSiluCost = 8;  // exp and a division
constexpr int64_t kConvertCost = 2;
constexpr int64_t kStoreKvCost = 5;

constexpr int64_t kFloatBytes = static_cast<int64_t>(sizeof(float));
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kTouchGranuleBytes = int64_t{2} << 20;

CpuBackendOptions checked(const CpuBackendOptions& options) {
  PHALANX_CHECK_GE(options.num_threads, 1, "num_threads of the CPU backend");
  PHALANX_CHECK(options.isa_tier <= best_isa_tier(),
                std::string("this processor runs at most the tier ") +
                    isa_tier_name(best_isa_tier()) + ", not " + isa_tier_name(options.isa_tier));
  return options;
}

/// What rows [0, num_rows) of one operand occupy.
RowMemory reads(ConstRows x, int64_t num_cols) {
  return {x.data, x.stride * kFloatBytes, num_cols * kFloatBytes, false};
}
RowMemory writes(Rows x, int64_t num_cols) {
  return {x.data, x.stride * kFloatBytes, num_cols * kFloatBytes, true};
}

/// Then row r is sequence r's, and rows write to different blocks.
bool is_one_row_each(std::span<const SequenceRows> sequences) {
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].num_rows != 1 || sequences[i].first_row != static_cast<int64_t>(i))
      return false;
  }
  return true;
}

}  // namespace

CpuOperators::CpuOperators(const CpuBackendOptions& options)
    : options_(checked(options)),
      team_(options.num_threads, options.spin, options.cpus, options.work, options.trace),
      rows_(row_kernels(options.isa_tier)),
      attention_(options.isa_tier, team_),
      chain_(team_) {
  set_tunings(options.tunings);
}

void CpuOperators::set_tunings(std::shared_ptr<const LinearTunings> tunings) {
  tunings_ = tunings != nullptr ? std::move(tunings) : std::make_shared<const LinearTunings>();
}

std::string CpuOperators::description() const {
  return std::string("cpu ") + isa_tier_name(options_.isa_tier) + " x " +
         std::to_string(options_.num_threads) +
         (options_.num_threads == 1 ? " thread" : " threads");
}

void CpuOperators::finish() {
  chain_.run();
  is_deferring_ = false;
}

/// body(row) for each row, now or with the rest of the chain. `cost`: of a row.
template <typename Body>
void CpuOperators::add_row_operator(int64_t num_rows, int64_t cost,
                                    std::initializer_list<RowMemory> memory, const Body& body) {
  chain_.add(num_rows, cost, memory, [body](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
  if (!is_deferring_) chain_.run();
}

std::unique_ptr<PackedMatrix> CpuOperators::pack_matrix(const MatrixSpec& spec) {
  return cpu::pack_matrix(spec, team_);
}

std::shared_ptr<std::byte> CpuOperators::allocate(int64_t bytes) {
  PHALANX_CHECK_GE(bytes, 0, "bytes to allocate");
  std::shared_ptr<std::byte> memory = allocate_zeroed(bytes);
  if (options_.memory_nodes.size() > 1) interleave(memory.get(), bytes, options_.memory_nodes);
  // Untouched memory is only promised. Taken by all threads now, it costs no step a page fault. By
  // turns, since any thread may read any of it: where the kernel refuses to interleave, this does.
  team_.run([&](int index) {
    uint64_t* tally = team_.tally();
    for (int64_t begin = index * kTouchGranuleBytes; begin < bytes;
         begin += team_.size() * kTouchGranuleBytes) {
      const int64_t end = std::min(begin + kTouchGranuleBytes, bytes);
      for (int64_t offset = begin; offset < end; offset += kPageBytes) {
        *const_cast<volatile std::byte*>(memory.get() + offset) = std::byte{0};
        count_piece(tally);
      }
    }
  });
  return memory;
}

void CpuOperators::embedding(const MatrixSource& table, std::span<const int32_t> token_ids,
                             Rows y) {
  check_embedding(table, token_ids, y);
  chain_.run();
  team_.set_label("embedding");
  cpu::embedding(table, token_ids, y, team_);
}

void CpuOperators::rms_norm(ConstRows x, const float* weight, float eps, int64_t num_rows,
                            int64_t num_cols, Rows y) {
  check_norm(weight, eps, num_cols);
  check_rows(x, num_rows, num_cols, "rms_norm reads rows");
  check_rows(y, num_rows, num_cols, "rms_norm writes rows");
  const auto norm = rows_.rms_norm;
  add_row_operator(num_rows, num_cols, {reads(x, num_cols), writes(y, num_cols)}, [=](int64_t r) {
    norm(x.data + r * x.stride, weight, eps, num_cols, y.data + r * y.stride);
  });
}

void CpuOperators::add_rms_norm(Rows residual, ConstRows delta, const float* delta_bias,
                                const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                                Rows y) {
  check_norm(weight, eps, num_cols);
  check_rows(residual, num_rows, num_cols, "add_rms_norm adds to rows");
  check_rows(delta, num_rows, num_cols, "add_rms_norm reads rows");
  check_rows(y, num_rows, num_cols, "add_rms_norm writes rows");
  const RowKernels& kernels = rows_;
  add_row_operator(num_rows, num_cols * 2,
                   {writes(residual, num_cols), reads(delta, num_cols), writes(y, num_cols)},
                   [=, &kernels](int64_t r) {
                     float* row = residual.data + r * residual.stride;
                     kernels.add(row, delta.data + r * delta.stride, delta_bias, num_cols);
                     kernels.rms_norm(row, weight, eps, num_cols, y.data + r * y.stride);
                   });
}

void CpuOperators::add_rows(Rows residual, ConstRows delta, const float* delta_bias,
                            int64_t num_rows, int64_t num_cols) {
  check_rows(residual, num_rows, num_cols, "add_rows adds to rows");
  check_rows(delta, num_rows, num_cols, "add_rows reads rows");
  const auto add = rows_.add;
  add_row_operator(num_rows, num_cols, {writes(residual, num_cols), reads(delta, num_cols)},
                   [=](int64_t r) {
                     add(residual.data + r * residual.stride, delta.data + r * delta.stride,
                         delta_bias, num_cols);
                   });
}

/// A row operator that changes the residual by the parts and, where it has data, fills y.
template <typename Body>
void CpuOperators::add_row_operator_of_parts(int64_t num_rows, int64_t num_cols,
                                             const PartRows& parts, Rows residual, Rows y,
                                             const Body& body) {
  std::array<RowMemory, kMaxParts + 2> memory;
  size_t count = 0;
  memory[count++] = writes(residual, num_cols);
  if (y.data != nullptr) memory[count++] = writes(y, num_cols);
  for (const float* part : parts.parts) memory[count++] = reads({part, parts.stride}, num_cols);
  const auto cost = num_cols * static_cast<int64_t>(1 + parts.parts.size());
  chain_.add(num_rows, cost, std::span<const RowMemory>(memory.data(), count),
             [body](int64_t begin, int64_t end) {
               for (int64_t row = begin; row < end; ++row) body(row);
             });
  if (!is_deferring_) chain_.run();
}

void CpuOperators::add_rms_norm_of_parts(Rows residual, const PartRows& delta,
                                         const float* delta_bias, const float* weight, float eps,
                                         int64_t num_rows, int64_t num_cols, Rows y) {
  check_norm(weight, eps, num_cols);
  check_rows(residual, num_rows, num_cols, "add_rms_norm_of_parts adds to rows");
  check_parts(delta, num_rows, num_cols);
  check_rows(y, num_rows, num_cols, "add_rms_norm_of_parts writes rows");
  const RowKernels& kernels = rows_;
  add_row_operator_of_parts(num_rows, num_cols, delta, residual, y, [=, &kernels](int64_t r) {
    float* row = residual.data + r * residual.stride;
    kernels.add_parts(row, delta.parts.data(), delta.parts.size(), r * delta.stride, delta_bias,
                      num_cols);
    kernels.rms_norm(row, weight, eps, num_cols, y.data + r * y.stride);
  });
}

void CpuOperators::add_rows_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                                     int64_t num_rows, int64_t num_cols) {
  check_rows(residual, num_rows, num_cols, "add_rows_of_parts adds to rows");
  check_parts(delta, num_rows, num_cols);
  const auto add = rows_.add_parts;
  add_row_operator_of_parts(num_rows, num_cols, delta, residual, {}, [=](int64_t r) {
    add(residual.data + r * residual.stride, delta.parts.data(), delta.parts.size(),
        r * delta.stride, delta_bias, num_cols);
  });
}

void CpuOperators::convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out) {
  check_activation_view(out, num_rows);
  check_rows(x, num_rows, out.num_cols, "convert_rows reads rows");
  const int64_t code_bytes = activation_code_bytes(out.form) * out.num_cols;
  const int64_t group_bytes =  // of the scales of a row
      is_quantized(out.form) ? out.num_cols / out.group_size * kFloatBytes : 0;
  const int64_t sum_bytes = out.sums == nullptr ? 0 : group_bytes;
  const IsaTier tier = options_.isa_tier;
  chain_.add(num_rows, out.num_cols * kConvertCost,
             {reads(x, out.num_cols),
              {out.codes, code_bytes, code_bytes, true},
              {out.scales, group_bytes, group_bytes, true},
              {out.sums, sum_bytes, sum_bytes, true}},
             [=](int64_t begin, int64_t end) { cpu::convert_rows(x, begin, end, out, tier); });
  if (!is_deferring_) chain_.run();
}

void CpuOperators::linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                          Rows y) {
  check_linear(w, x, num_rows, y);
  chain_.run();
  team_.set_label("linear");
  cpu::linear(w, x, num_rows, y, options_.isa_tier, team_,
              tunings_->find(linear_key(w, num_rows, /*is_gated=*/false)));
}

void CpuOperators::gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                                const ActivationView& out) {
  check_gated_linear(w, x, num_rows, out);
  PHALANX_CHECK(fuses_gated_linear(w.num_rows(), out.form, out.group_size),
                "a gated product of a shape that is not fused");
  chain_.run();
  team_.set_label("gated linear");
  cpu::gated_linear(w, x, num_rows, out, rows_.silu_mul, options_.isa_tier, team_,
                    tunings_->find(linear_key(w, num_rows, /*is_gated=*/true)));
}

void CpuOperators::head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight,
                             float eps, int64_t num_rows) {
  check_norm(weight, eps, head_dim);
  check_rows(x, num_rows, num_heads * head_dim, "head_norm changes rows");
  const auto norm = rows_.rms_norm;
  const int64_t num_cols = num_heads * head_dim;
  add_row_operator(num_rows, num_cols, {writes(x, num_cols)}, [=](int64_t r) {
    for (int64_t h = 0; h < num_heads; ++h) {
      float* head = x.data + r * x.stride + h * head_dim;
      norm(head, weight, eps, head_dim, head);
    }
  });
}

void CpuOperators::rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                        std::span<const int32_t> positions) {
  check_rope(x, num_heads, head_dim, table, positions);
  const auto rotate = rows_.rope;
  add_row_operator(static_cast<int64_t>(positions.size()), num_heads * table.rotary_dim,
                   {writes(x, num_heads * head_dim)}, [=](int64_t r) {
                     const int64_t angle =
                         positions[static_cast<size_t>(r)] * (table.rotary_dim / 2);
                     rotate(x.data + r * x.stride, num_heads, head_dim, table.rotary_dim,
                            table.cosines + angle, table.sines + angle);
                   });
}

void CpuOperators::write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                            const KvLayerView& kv) {
  check_write_kv(k, v, sequences, kv);
  if (!is_deferring_ || !is_one_row_each(sequences)) {
    chain_.run();
    team_.set_label("write kv");
    attention_.write_kv(k, v, sequences, kv);
    return;
  }
  const int64_t num_cols = kv.num_kv_heads * kv.head_dim;
  const Attention& attention = attention_;
  chain_.add(static_cast<int64_t>(sequences.size()), 2 * num_cols * kStoreKvCost,
             {reads(k, num_cols), reads(v, num_cols)}, [=, &attention](int64_t begin, int64_t end) {
               attention.write_sequences(k, v, sequences.subspan(begin, end - begin), kv);
             });
}

void CpuOperators::attention(ConstRows q, std::span<const SequenceRows> sequences,
                             const KvLayerView& kv, const AttentionParams& params, Rows y) {
  check_attention(q, sequences, kv, params, y);
  chain_.run();
  team_.set_label("attention");
  attention_.attention(q, sequences, kv, params, y);
}

void CpuOperators::silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t intermediate,
                            Rows y) {
  check_rows(gate, num_rows, intermediate, "silu_mul reads rows of the gate");
  check_rows(up, num_rows, intermediate, "silu_mul reads rows to multiply");
  check_rows(y, num_rows, intermediate, "silu_mul writes rows");
  const auto silu_mul = rows_.silu_mul;
  const int64_t cost = intermediate * kSiluCost;
  if (num_rows >= team_.size() || num_rows * cost < kCostWorthForking) {
    add_row_operator(num_rows, cost,
                     {reads(gate, intermediate), reads(up, intermediate), writes(y, intermediate)},
                     [=](int64_t r) {
                       silu_mul(gate.data + r * gate.stride, up.data + r * up.stride, intermediate,
                                y.data + r * y.stride);
                     });
    return;
  }
  chain_.run();
  const int64_t units_per_row = (intermediate + kSiluColumns - 1) / kSiluColumns;
  team_.set_label("silu mul");
  team_.split(num_rows * units_per_row, 1, [&](int64_t begin, int64_t end) {
    uint64_t* tally = team_.tally();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / units_per_row;
      const int64_t column = unit % units_per_row * kSiluColumns;
      silu_mul(gate.data + row * gate.stride + column, up.data + row * up.stride + column,
               std::min(kSiluColumns, intermediate - column), y.data + row * y.stride + column);
      count_piece(tally);
    }
  });
}

void CpuOperators::gather_rows(ConstRows x, std::span<const int32_t> rows, int64_t num_cols,
                               Rows y) {
  check_gather(x, rows, num_cols, y);
  chain_.run();
  chain_.add(static_cast<int64_t>(rows.size()), num_cols, {}, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(y.data + r * y.stride, x.data + rows[static_cast<size_t>(r)] * x.stride,
                  static_cast<size_t>(num_cols * kFloatBytes));
    }
  });
  chain_.run();  // row r reads another row of x: nothing may share its walk
}

void CpuOperators::for_each_on_host(int64_t count, const std::function<void(int64_t)>& work) {
  chain_.run();
  team_.set_label("host work");
  team_.split(count, 1, [&](int64_t begin, int64_t end) {
    uint64_t* tally = team_.tally();
    for (int64_t i = begin; i < end; ++i) {
      work(i);
      count_piece(tally);
    }
  });
}

}  // namespace cpu

std::unique_ptr<Operators> make_cpu_operators(const CpuBackendOptions& options) {
  return std::make_unique<cpu::CpuOperators>(options);
}

}  // namespace phalanx::kernels
