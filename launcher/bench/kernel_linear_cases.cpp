// Cases that touch weights: linear, conversion of its activations, embedding. Called by kernels.cpp
// through kernel_case.h.
#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "launcher/bench/kernel_case.h"
#include "runtime/base/check.h"
#include "runtime/base/dtype.h"

namespace phalanx::bench {
namespace {

using kernels::ActivationForm;
using kernels::ActivationView;
using kernels::MatrixSource;
using kernels::MatrixSpec;
using kernels::Operators;
using kernels::WeightFormat;

/// Rows of a matrix after which they repeat: a prime, so that no tile, lane or thread's part is
/// taken for another's.
constexpr int64_t kDistinctRows = 1021;
constexpr uint64_t kWeightSeed = 1;
constexpr uint64_t kActivationSeed = 2;
constexpr uint64_t kScaleSeed = 3;
constexpr uint64_t kOutputSeed = 4;  // what outputs hold before they are written

/// At most kDistinctRows random rows in the natural layout, f32 scales.
class StoredRows {
 public:
  StoredRows(WeightFormat format, int64_t num_rows, int64_t num_cols, int64_t group_size)
      : format_(format),
        num_rows_(std::min(num_rows, kDistinctRows)),
        num_cols_(num_cols),
        group_size_(is_quantized(format) ? group_size : 0) {
    const int64_t bytes = weight_row_bytes(format, num_cols);
    codes_.resize(static_cast<size_t>(num_rows_ * bytes));
    std::vector<float> row(static_cast<size_t>(num_cols));
    for (int64_t n = 0; n < num_rows_; ++n) {
      fill_row(kWeightSeed, n, num_cols, row.data());
      store(row, codes_.data() + n * bytes);
    }
    if (group_size_ == 0) return;
    const int64_t groups = num_cols / group_size_;
    scales_.resize(static_cast<size_t>(num_rows_ * groups));
    for (int64_t n = 0; n < num_rows_; ++n)
      fill_row(kScaleSeed, n, groups, scales_.data() + n * groups);
    for (float& scale : scales_) scale = 0.01F + 0.005F * scale;
  }

  /// `num_rows` rows from the first.
  MatrixSource source(int64_t num_rows) const {
    MatrixSource source;
    source.format = format_;
    source.num_rows = num_rows;
    source.num_cols = num_cols_;
    source.codes = codes_.data();
    source.row_stride_bytes = weight_row_bytes(format_, num_cols_);
    if (group_size_ == 0) return source;
    source.scales = reinterpret_cast<const std::byte*>(scales_.data());
    source.scale_row_stride = num_cols_ / group_size_;
    source.group_size = group_size_;
    source.scale_rows = 1;  // of fp8; once packed, where its scales were changes nothing
    source.scale_cols = group_size_;
    return source;
  }

  /// `num_rows` rows, repeating.
  MatrixSpec spec(int64_t num_rows, int64_t num_lanes) const {
    MatrixSpec spec;
    spec.num_lanes = num_lanes;
    for (int64_t first = 0; first < num_rows; first += num_rows_)
      spec.sources.push_back(source(std::min(num_rows_, num_rows - first)));
    return spec;
  }

  int64_t num_rows() const { return num_rows_; }

 private:
  void store(const std::vector<float>& row, std::byte* out) const {
    for (size_t k = 0; k < row.size(); ++k) {
      const auto code = static_cast<uint8_t>(128.0F + 127.0F * row[k]);
      switch (format_) {
        case WeightFormat::kF32:
          std::memcpy(out + 4 * k, &row[k], 4);
          break;
        case WeightFormat::kBf16: {
          const uint16_t bits = f32_to_bf16(row[k]);
          std::memcpy(out + 2 * k, &bits, 2);
          break;
        }
        case WeightFormat::kW8:
          out[k] = static_cast<std::byte>(code);
          break;
        case WeightFormat::kW4:
          out[k / 2] |= static_cast<std::byte>((code >> 4) << (k % 2 * 4));
          break;
        case WeightFormat::kFp8:
          out[k] = static_cast<std::byte>(f32_to_e4m3(row[k] * 448.0F));
          break;
      }
    }
  }

  WeightFormat format_;
  int64_t num_rows_, num_cols_, group_size_;
  std::vector<std::byte> codes_;
  std::vector<float> scales_;
};

/// Rows converted to what a linear of `format` reads, with their memory.
struct Activation {
  Activation(Operators& operators, ActivationForm in_form, int64_t num_rows, int64_t num_cols,
             int64_t group_size)
      : form(in_form),
        bytes(kernels::activation_bytes(form, num_rows, num_cols, group_size)),
        memory(operators.allocate(bytes)),
        view(kernels::make_activation_view(form, num_rows, num_cols, group_size, memory.get())) {}
  ActivationForm form;
  int64_t bytes;
  std::shared_ptr<std::byte> memory;
  ActivationView view;
};

float code_value(ActivationForm form, const std::byte* code) {
  switch (form) {
    case ActivationForm::kF32: {
      float value = 0;
      std::memcpy(&value, code, 4);
      return value;
    }
    case ActivationForm::kBf16: {
      uint16_t bits = 0;
      std::memcpy(&bits, code, 2);
      return bf16_to_f32(bits);
    }
    case ActivationForm::kS8:
      return static_cast<float>(static_cast<int8_t>(*code));
    case ActivationForm::kE4m3:
      return e4m3_to_f32(std::to_integer<uint8_t>(*code));
  }
  return 0;
}

/// Row i's codes, then scales, then sums, as numbers.
std::vector<float> numbers_of(const ActivationView& view, size_t i) {
  const int64_t cols = view.num_cols;
  const int64_t code_bytes = kernels::activation_code_bytes(view.form);
  const std::byte* codes = view.codes + static_cast<int64_t>(i) * cols * code_bytes;
  std::vector<float> row;
  for (int64_t k = 0; k < cols; ++k) row.push_back(code_value(view.form, codes + k * code_bytes));
  if (!is_quantized(view.form)) return row;
  const int64_t groups = cols / view.group_size;
  const auto first = static_cast<int64_t>(i) * groups;
  for (int64_t g = 0; g < groups; ++g) row.push_back(view.scales[first + g]);
  if (view.sums == nullptr) return row;
  for (int64_t g = 0; g < groups; ++g) row.push_back(static_cast<float>(view.sums[first + g]));
  return row;
}

class LinearCase final : public KernelCase {
 public:
  LinearCase(Operators& operators, std::shared_ptr<LinearWeights> weights, const RowIds& rows)
      : operators_(operators),
        weights_(std::move(weights)),
        num_rows_(static_cast<int64_t>(rows.size())),
        num_outputs_(weights_->first().num_rows()),
        x_(operators, kernels::activation_form(weights_->first().format()), num_rows_,
           weights_->first().num_cols(), weights_->first().group_size()),
        y_(operators, kOutputSeed, rows, num_outputs_) {
    const kernels::PackedMatrix& matrix = weights_->first();
    const CaseRows x(operators, kActivationSeed, rows, matrix.num_cols());
    operators.convert_rows(x.rows(), num_rows_, x_.view);
    cost_.ops = 2.0 * static_cast<double>(num_rows_ * num_outputs_ * matrix.num_cols());
    cost_.bytes = static_cast<double>(matrix.bytes() + x_.bytes) + y_.bytes();
    cost_.footprint_bytes = static_cast<double>(matrix.bytes() * weights_->num_copies());
    cost_.peak = peak_kind(matrix.format());
  }

  void run() override { operators_.linear(weights_->next(), x_.view, num_rows_, y_.rows()); }

  std::vector<float> output_row(size_t i) const override { return y_.row(i); }

 private:
  Operators& operators_;
  std::shared_ptr<LinearWeights> weights_;
  int64_t num_rows_, num_outputs_;
  Activation x_;
  CaseRows y_;
};

class GatedLinearCase final : public KernelCase {
 public:
  GatedLinearCase(Operators& operators, std::shared_ptr<LinearWeights> weights,
                  ActivationForm out_form, int64_t out_group_size, const RowIds& rows)
      : operators_(operators),
        weights_(std::move(weights)),
        num_rows_(static_cast<int64_t>(rows.size())),
        x_(operators, kernels::activation_form(weights_->first().format()), num_rows_,
           weights_->first().num_cols(), weights_->first().group_size()),
        out_(operators, out_form, num_rows_, weights_->first().num_rows() / 2, out_group_size) {
    const kernels::PackedMatrix& matrix = weights_->first();
    const CaseRows x(operators, kActivationSeed, rows, matrix.num_cols());
    operators.convert_rows(x.rows(), num_rows_, x_.view);
    cost_.ops = 2.0 * static_cast<double>(num_rows_ * matrix.num_rows() * matrix.num_cols());
    cost_.bytes = static_cast<double>(matrix.bytes() + x_.bytes + out_.bytes);
    cost_.footprint_bytes = static_cast<double>(matrix.bytes() * weights_->num_copies());
    cost_.peak = peak_kind(matrix.format());
  }

  void run() override { operators_.gated_linear(weights_->next(), x_.view, num_rows_, out_.view); }

  std::vector<float> output_row(size_t i) const override { return numbers_of(out_.view, i); }

 private:
  Operators& operators_;
  std::shared_ptr<LinearWeights> weights_;
  int64_t num_rows_;
  Activation x_;
  Activation out_;
};

class ConvertCase final : public KernelCase {
 public:
  ConvertCase(Operators& operators, WeightFormat format, int64_t num_cols, int64_t group_size,
              const RowIds& rows)
      : operators_(operators),
        x_(operators, kActivationSeed, rows, num_cols),
        out_(operators, kernels::activation_form(format), x_.num_rows(), num_cols,
             is_quantized(format) ? group_size : 0) {
    cost_.bytes = x_.bytes() + static_cast<double>(out_.bytes);
    cost_.footprint_bytes = cost_.bytes;
  }

  void run() override { operators_.convert_rows(x_.rows(), x_.num_rows(), out_.view); }

  std::vector<float> output_row(size_t i) const override { return numbers_of(out_.view, i); }

 private:
  Operators& operators_;
  CaseRows x_;
  Activation out_;
};

class EmbeddingCase final : public KernelCase {
 public:
  EmbeddingCase(Operators& operators, WeightFormat format, int64_t vocab_size, int64_t num_cols,
                int64_t group_size, const RowIds& rows)
      : operators_(operators),
        vocab_size_(vocab_size),
        bytes_of_row_(weight_row_bytes(format, num_cols)),
        groups_(is_quantized(format) ? num_cols / group_size : 0),
        codes_(operators.allocate(vocab_size * bytes_of_row_)),
        scales_(operators.allocate(std::max<int64_t>(1, vocab_size * groups_ * 4))),
        y_(operators, kOutputSeed, rows, num_cols),
        row_ids_(rows) {
    const StoredRows stored(format, vocab_size, num_cols, group_size);
    table_ = stored.source(vocab_size);
    for (int64_t token = 0; token < vocab_size; token += stored.num_rows()) {
      const int64_t count = std::min(stored.num_rows(), vocab_size - token);
      std::memcpy(codes_.get() + token * bytes_of_row_, table_.codes,
                  static_cast<size_t>(count * bytes_of_row_));
      if (groups_ > 0)
        std::memcpy(scales_.get() + token * groups_ * 4, table_.scales,
                    static_cast<size_t>(count * groups_ * 4));
    }
    table_.codes = codes_.get();
    if (groups_ > 0) table_.scales = scales_.get();
    const auto num_rows = static_cast<double>(rows.size());
    cost_.bytes = num_rows * static_cast<double>(bytes_of_row_ + groups_ * 4) + y_.bytes();
    cost_.footprint_bytes = static_cast<double>(vocab_size * (bytes_of_row_ + groups_ * 4));
    pick_tokens(0);
  }

  void run() override {
    operators_.embedding(table_, tokens_, y_.rows());
    pick_tokens(++num_calls_);
  }

  std::vector<float> output_row(size_t i) const override { return y_.row(i); }

 private:
  /// Other tokens in each call, all over the table.
  void pick_tokens(int64_t call) {
    constexpr uint64_t kScramble = 0x9e3779b97f4a7c15ULL;
    tokens_.clear();
    for (const int64_t id : row_ids_) {
      const auto place = static_cast<uint64_t>(call * 4096 + id + 1);
      tokens_.push_back(
          static_cast<int32_t>((place * kScramble >> 20) % static_cast<uint64_t>(vocab_size_)));
    }
  }

  Operators& operators_;
  int64_t vocab_size_, bytes_of_row_, groups_;
  std::shared_ptr<std::byte> codes_, scales_;
  MatrixSource table_;
  CaseRows y_;
  RowIds row_ids_;
  std::vector<int32_t> tokens_;
  int64_t num_calls_ = 0;
};

}  // namespace

void fill_row(uint64_t seed, int64_t id, int64_t count, float* out) {
  uint64_t state = (static_cast<uint64_t>(id) + (seed << 40)) * 0x9e3779b97f4a7c15ULL + 1;
  for (int64_t k = 0; k < count; ++k) {
    state ^= state << 13;  // xorshift64 (Marsaglia 2003)
    state ^= state >> 7;
    state ^= state << 17;
    out[k] = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31F;
  }
}

CaseRows::CaseRows(Operators& operators, uint64_t seed, const RowIds& ids, int64_t num_cols)
    : num_rows_(static_cast<int64_t>(ids.size())),
      num_cols_(num_cols),
      memory_(operators.allocate(num_rows_ * num_cols * 4)) {
  for (int64_t i = 0; i < num_rows_; ++i)
    fill_row(seed, ids[static_cast<size_t>(i)], num_cols, data() + i * num_cols);
}

std::vector<float> CaseRows::row(size_t i) const {
  const float* first = data() + static_cast<int64_t>(i) * num_cols_;
  return {first, first + num_cols_};
}

LinearWeights::LinearWeights(Operators& operators, const MatrixShape& shape, WeightFormat format,
                             int64_t group_size, int64_t footprint_bytes) {
  const StoredRows stored(format, shape.num_rows, shape.num_cols, group_size);
  const MatrixSpec spec = stored.spec(shape.num_rows, shape.num_lanes);
  int64_t bytes = 0;
  do {
    copies_.push_back(operators.pack_matrix(spec));
    bytes += copies_.back()->bytes();
  } while (bytes < footprint_bytes);
}

std::unique_ptr<KernelCase> make_linear_case(Operators& operators,
                                             std::shared_ptr<LinearWeights> weights,
                                             const RowIds& rows) {
  return std::make_unique<LinearCase>(operators, std::move(weights), rows);
}

std::unique_ptr<KernelCase> make_gated_linear_case(Operators& operators,
                                                   std::shared_ptr<LinearWeights> weights,
                                                   ActivationForm form, int64_t out_group_size,
                                                   const RowIds& rows) {
  return std::make_unique<GatedLinearCase>(operators, std::move(weights), form, out_group_size,
                                           rows);
}

std::unique_ptr<KernelCase> make_convert_case(Operators& operators, WeightFormat format,
                                              int64_t num_cols, int64_t group_size,
                                              const RowIds& rows) {
  return std::make_unique<ConvertCase>(operators, format, num_cols, group_size, rows);
}

std::unique_ptr<KernelCase> make_embedding_case(Operators& operators, WeightFormat format,
                                                int64_t vocab_size, int64_t num_cols,
                                                int64_t group_size, const RowIds& rows) {
  return std::make_unique<EmbeddingCase>(operators, format, vocab_size, num_cols, group_size, rows);
}

}  // namespace phalanx::bench
