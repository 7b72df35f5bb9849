// Matrix products of llm-bench cuda, beside cuBLASLt's of the same shape.
#include <algorithm>

#include "launcher/bench/cuda_bench.h"

namespace phalanx::bench {
namespace {

using kernels::Operators;
using kernels::ProductOf;
using kernels::WeightFormat;

struct LinearShape {
  int64_t num_rows, num_cols, num_lanes;
};

/// N x K. Lanes as the engines of these models have them: 8 where a product ends in a sum over
/// ranks.
std::vector<LinearShape> shapes(bool tiny) {
  if (tiny) return {{128, 256, 1}, {96, 512, 2}};
  return {{4096, 4096, 8},  {14336, 4096, 1},  {4096, 14336, 8},  {6144, 4096, 1},
          {28672, 4096, 1}, {12288, 73728, 1}, {128256, 4096, 1}, {3072, 2048, 1},
          {2048, 2048, 8},  {16384, 2048, 1},  {2048, 8192, 8},   {128256, 2048, 1}};
}

/// What all copies of a matrix fill at least: several times the L2 of any GPU.
constexpr int64_t kFootprintBytes = int64_t{256} << 20;

class LinearRows {
 public:
  LinearRows(CudaBench& bench, Operators& operators, const LinearShape& shape, WeightFormat format)
      : bench_(bench), operators_(operators), shape_(shape), format_(format) {
    group_size_ = !is_quantized(format) ? 0 : bench.tiny ? 64 : 128;
    const RandomMatrix matrix(format, shape.num_rows, shape.num_cols, group_size_);
    bytes_ = matrix.bytes();
    const int64_t footprint = bench.tiny ? 1 : kFootprintBytes;
    for (int64_t filled = 0; filled < footprint; filled += copies_.back()->bytes())
      copies_.push_back(operators.pack_matrix(matrix.spec(shape.num_lanes)));
  }

  void measure(int64_t num_rows) {
    const DeviceFloats x(operators_, num_rows, shape_.num_cols);
    const DeviceFloats y(operators_, num_rows, shape_.num_rows);
    const DeviceActivationRows converted(operators_, format_, num_rows, shape_.num_cols,
                                         group_size_);
    operators_.convert_rows(x.rows(), num_rows, converted.view);
    operators_.finish();
    // Enough products in a replay that its own start does not show.
    const auto num_copies = static_cast<int64_t>(copies_.size());
    const int64_t calls = std::max<int64_t>(num_copies, bench_.tiny ? 1 : 8);
    const auto seconds = replay_seconds(bench_, operators_, calls, [&](int64_t i) {
      operators_.linear(*copies_[static_cast<size_t>(i % num_copies)], converted.view, num_rows,
                        y.rows());
    });
    CudaCost cost;
    cost.bytes = bytes_ + static_cast<double>(converted.bytes + num_rows * shape_.num_rows * 4);
    cost.ops = 2.0 * static_cast<double>(num_rows * shape_.num_rows * shape_.num_cols);
    // Integers multiply as fast as fp8 on these GPUs.
    cost.peak_tflops =
        format_ == WeightFormat::kBf16 ? bench_.ceilings.bf16_tflops : bench_.ceilings.fp8_tflops;
    std::vector<std::pair<std::string, double>> details;
    if (const auto theirs = cublaslt_seconds(num_rows)) {
      details.emplace_back("cublaslt_us", *theirs * 1e6);
      details.emplace_back("of_cublaslt", *theirs / spread_of(seconds).median);
    }
    add_cost_row(bench_, "linear",
                 {{"weights", weight_format_name(format_)},
                  {"n", std::to_string(shape_.num_rows)},
                  {"k", std::to_string(shape_.num_cols)},
                  {"rows", std::to_string(num_rows)}},
                 seconds, cost, std::move(details));
  }

 private:
  std::optional<double> cublaslt_seconds(int64_t num_rows) const {
    if (format_ != WeightFormat::kBf16 && format_ != WeightFormat::kFp8) return std::nullopt;
    const ProductOf of = format_ == WeightFormat::kBf16 ? ProductOf::kBf16 : ProductOf::kFp8;
    constexpr int kPasses = 40;
    return bench_.limits->product_seconds(of, num_rows, shape_.num_rows, shape_.num_cols,
                                          kFootprintBytes, kPasses);
  }

  CudaBench& bench_;
  Operators& operators_;
  LinearShape shape_;
  WeightFormat format_;
  int64_t group_size_ = 0;
  double bytes_ = 0;
  std::vector<std::unique_ptr<kernels::PackedMatrix>> copies_;
};

}  // namespace

void measure_cuda_linears(CudaBench& bench) {
  const auto operators = bench.make_operators();
  const std::vector<int64_t> rows =
      bench.tiny ? std::vector<int64_t>{1, 17}
                 : std::vector<int64_t>{1, 2, 4, 8, 16, 32, 64, 128, 512, 2048};
  for (const LinearShape& shape : shapes(bench.tiny)) {
    for (const WeightFormat format :
         {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kW8, WeightFormat::kW4}) {
      if (format == WeightFormat::kFp8 && !bench.has_fp8) continue;
      const std::string name = "linear " + std::string(weight_format_name(format)) + " " +
                               std::to_string(shape.num_rows) + " x " +
                               std::to_string(shape.num_cols);
      bench.attempt(name, [&] {
        LinearRows linear(bench, *operators, shape, format);
        for (const int64_t num_rows : rows)
          bench.attempt(name + ", " + std::to_string(num_rows) + " rows",
                        [&] { linear.measure(num_rows); });
      });
    }
  }
}

}  // namespace phalanx::bench
