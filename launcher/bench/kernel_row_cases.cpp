// Cases over rows alone: norms, rotation, activation. Called by kernels.cpp through kernel_case.h.
#include <algorithm>
#include <cmath>

#include "launcher/bench/kernel_case.h"

namespace phalanx::bench {
namespace {

using kernels::Operators;

constexpr uint64_t kRowSeed = 21;
constexpr uint64_t kDeltaSeed = 22;
constexpr uint64_t kNormSeed = 23;
constexpr float kEps = 1e-5F;

/// Cost of a call that touches `distinct` such rows. What is read and written in place counts once:
/// a cache takes the write for nothing.
KernelCost row_cost(const CaseRows& rows, double distinct) {
  KernelCost cost;
  cost.bytes = distinct * rows.bytes();
  cost.footprint_bytes = cost.bytes;
  return cost;
}

class RmsNormCase final : public KernelCase {
 public:
  RmsNormCase(Operators& operators, int64_t num_cols, const RowIds& rows)
      : operators_(operators),
        x_(operators, kRowSeed, rows, num_cols),
        y_(operators, kRowSeed, rows, num_cols),
        weight_(operators, kNormSeed, {0}, num_cols) {
    cost_ = row_cost(x_, 2);
  }
  void run() override {
    operators_.rms_norm(x_.rows(), weight_.data(), kEps, x_.num_rows(), x_.num_cols(), y_.rows());
  }
  std::vector<float> output_row(size_t i) const override { return y_.row(i); }

 private:
  Operators& operators_;
  CaseRows x_, y_, weight_;
};

class AddRmsNormCase final : public KernelCase {
 public:
  AddRmsNormCase(Operators& operators, int64_t num_cols, const RowIds& rows)
      : operators_(operators),
        residual_(operators, kRowSeed, rows, num_cols),
        delta_(operators, kDeltaSeed, rows, num_cols),
        y_(operators, kRowSeed, rows, num_cols),
        weight_(operators, kNormSeed, {0}, num_cols) {
    cost_ = row_cost(residual_, 3);
  }
  void run() override {
    operators_.add_rms_norm(residual_.rows(), delta_.rows(), nullptr, weight_.data(), kEps,
                            residual_.num_rows(), residual_.num_cols(), y_.rows());
  }
  /// y, then the residual.
  std::vector<float> output_row(size_t i) const override {
    std::vector<float> row = y_.row(i);
    const std::vector<float> residual = residual_.row(i);
    row.insert(row.end(), residual.begin(), residual.end());
    return row;
  }

 private:
  Operators& operators_;
  CaseRows residual_, delta_, y_, weight_;
};

/// Rotates query and key heads in place; calls go on rotating.
class RopeCase final : public KernelCase {
 public:
  RopeCase(Operators& operators, const KernelShape& shape, const RowIds& rows)
      : operators_(operators),
        num_heads_(shape.model.num_heads + shape.model.num_kv_heads),
        head_dim_(shape.model.head_dim),
        x_(operators, kRowSeed, rows, num_heads_ * head_dim_) {
    const int64_t half = head_dim_ / 2;
    const int64_t num_positions = *std::max_element(rows.begin(), rows.end()) + 1;
    for (int64_t p = 0; p < num_positions; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) *
                             std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
        cosines_.push_back(static_cast<float>(std::cos(angle)));
        sines_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    for (const int64_t row : rows) positions_.push_back(static_cast<int32_t>(row));
    table_ = {cosines_.data(), sines_.data(), head_dim_, num_positions};
    cost_ = row_cost(x_, 1);
  }
  RopeCase(const RopeCase&) = delete;
  RopeCase& operator=(const RopeCase&) = delete;

  void run() override { operators_.rope(x_.rows(), num_heads_, head_dim_, table_, positions_); }
  std::vector<float> output_row(size_t i) const override { return x_.row(i); }

 private:
  Operators& operators_;
  int64_t num_heads_, head_dim_;
  CaseRows x_;
  std::vector<float> cosines_, sines_;
  std::vector<int32_t> positions_;
  kernels::RopeTable table_;
};

class SiluMulCase final : public KernelCase {
 public:
  SiluMulCase(Operators& operators, int64_t intermediate_size, const RowIds& rows)
      : operators_(operators),
        gate_up_(operators, kRowSeed, rows, 2 * intermediate_size),
        y_(operators, kRowSeed, rows, intermediate_size) {
    cost_ = row_cost(y_, 3);
  }
  void run() override {
    operators_.silu_mul(gate_up_.rows(), {gate_up_.data() + y_.num_cols(), gate_up_.num_cols()},
                        y_.num_rows(), y_.num_cols(), y_.rows());
  }
  std::vector<float> output_row(size_t i) const override { return y_.row(i); }

 private:
  Operators& operators_;
  CaseRows gate_up_, y_;
};

}  // namespace

std::unique_ptr<KernelCase> make_rms_norm_case(Operators& operators, int64_t num_cols,
                                               const RowIds& rows) {
  return std::make_unique<RmsNormCase>(operators, num_cols, rows);
}

std::unique_ptr<KernelCase> make_add_rms_norm_case(Operators& operators, int64_t num_cols,
                                                   const RowIds& rows) {
  return std::make_unique<AddRmsNormCase>(operators, num_cols, rows);
}

std::unique_ptr<KernelCase> make_rope_case(Operators& operators, const KernelShape& shape,
                                           const RowIds& rows) {
  return std::make_unique<RopeCase>(operators, shape, rows);
}

std::unique_ptr<KernelCase> make_silu_mul_case(Operators& operators, int64_t intermediate_size,
                                               const RowIds& rows) {
  return std::make_unique<SiluMulCase>(operators, intermediate_size, rows);
}

}  // namespace phalanx::bench
