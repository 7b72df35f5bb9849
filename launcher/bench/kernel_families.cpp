// The kernels of a decoder layer, as data. Used by llm-bench kernels.
#include "launcher/bench/kernel_families.h"

#include <algorithm>
#include <utility>

namespace phalanx::bench {
namespace {

using kernels::kBlockTokens;
using kernels::KvFormat;
using kernels::Operators;
using kernels::WeightFormat;

constexpr int64_t kMostPoolBytes = int64_t{4} << 30;
/// No step asks for the logits of more rows at once.
constexpr int64_t kMostHeadRows = 64;
/// A backend's exp may differ from the reference's in the last bits.
constexpr double kExpTolerance = 1e-5;

/// Collects the families of one shape.
class Families {
 public:
  Families(const KernelShape& shape, const KernelSelection& selection,
           std::vector<MatrixShape> matrices)
      : shape_(shape), selection_(selection), matrices_(std::move(matrices)) {}

  Status add_all() {
    add_embedding();
    add_row_kernels();
    for (const WeightFormat format : selection_.weights) {
      add_convert(format);
      add_linear(format);
    }
    for (const KvFormat format : selection_.kv) {
      add_write_kv(format);
      PHALANX_RETURN_IF_ERROR(add_decode(format));
      add_prefill(format);
    }
    return {};
  }

  std::vector<KernelFamily> take() { return std::move(families_); }

 private:
  bool is_wanted(const char* name) const {
    return std::find(selection_.names.begin(), selection_.names.end(), name) !=
           selection_.names.end();
  }

  KernelFamily family(const char* name) const {
    KernelFamily made;
    made.name = name;
    made.parameters = {{"shape", shape_.model.name}};
    return made;
  }

  int64_t group_of(WeightFormat format) const {
    return kernels::is_quantized(format) ? selection_.group_size : 0;
  }

  /// Bytes that calls on a part of the model walk through, of which a model has `in_model`.
  int64_t footprint(int64_t in_model, WeightFormat weights) const {
    const int64_t model = model_bytes(matrices_, weights, selection_.group_size);
    return model > selection_.cached_bytes ? selection_.uncached_bytes : in_model;
  }

  void add_linear(WeightFormat format) {
    if (!is_wanted("linear")) return;
    for (const MatrixShape& matrix : matrices_) {
      KernelFamily made = family("linear");
      made.parameters.emplace_back("matrix", matrix.name);
      made.parameters.emplace_back("weights", kernels::weight_format_name(format));
      made.computes = true;
      made.most_rows = matrix.name == "lm_head" ? kMostHeadRows : 0;
      made.ops_per_row = static_cast<double>(matrix.num_rows * matrix.num_cols);
      const int64_t group = group_of(format);
      const int64_t bytes =
          matrix.num_in_model *
          kernels::packed_matrix_bytes(format, matrix.num_rows, matrix.num_cols, group,
                                       /*has_bias=*/false, /*has_zeros=*/false, matrix.num_lanes);
      const int64_t walked = footprint(bytes, format);
      made.prepare = [=](Operators& operators, bool walks) -> CaseMaker {
        auto weights =
            std::make_shared<LinearWeights>(operators, matrix, format, group, walks ? walked : 0);
        return [=, &operators](const RowIds& rows) {
          return make_linear_case(operators, weights, rows);
        };
      };
      families_.push_back(std::move(made));
    }
  }

  /// Of a hidden state and of an MLP's middle: once each, whichever matrices read them.
  void add_convert(WeightFormat format) {
    if (!is_wanted("convert")) return;
    for (const int64_t cols : {shape_.model.hidden_size, shape_.model.intermediate_size}) {
      KernelFamily made = family("convert");
      made.parameters.emplace_back("columns", std::to_string(cols));
      made.parameters.emplace_back("weights", kernels::weight_format_name(format));
      made.ops_per_row = static_cast<double>(cols);
      const int64_t group = group_of(format);
      made.prepare = [=](Operators& operators, bool) -> CaseMaker {
        return [=, &operators](const RowIds& rows) {
          return make_convert_case(operators, format, cols, group, rows);
        };
      };
      families_.push_back(std::move(made));
    }
  }

  void add_embedding() {
    if (!is_wanted("embedding")) return;
    for (const WeightFormat format : selection_.weights) {
      KernelFamily made = family("embedding");
      made.parameters.emplace_back("weights", kernels::weight_format_name(format));
      made.ops_per_row = static_cast<double>(shape_.model.hidden_size);
      const int64_t group = group_of(format);
      const ModelShape model = shape_.model;
      made.prepare = [=](Operators& operators, bool) -> CaseMaker {
        return [=, &operators](const RowIds& rows) {
          return make_embedding_case(operators, format, model.vocab_size, model.hidden_size, group,
                                     rows);
        };
      };
      families_.push_back(std::move(made));
    }
  }

  template <typename Make>
  void add_row_kernel(const char* name, int64_t columns, double tolerance, Make make) {
    if (!is_wanted(name)) return;
    KernelFamily made = family(name);
    made.ops_per_row = static_cast<double>(columns);
    made.tolerance = tolerance;
    made.prepare = [make](Operators& operators, bool) -> CaseMaker {
      return [make, &operators](const RowIds& rows) { return make(operators, rows); };
    };
    families_.push_back(std::move(made));
  }

  void add_row_kernels() {
    const KernelShape shape = shape_;
    const int64_t hidden = shape.model.hidden_size;
    const int64_t middle = shape.model.intermediate_size;
    add_row_kernel("rms_norm", hidden, 0, [=](Operators& operators, const RowIds& rows) {
      return make_rms_norm_case(operators, hidden, rows);
    });
    add_row_kernel("add_rms_norm", hidden, 0, [=](Operators& operators, const RowIds& rows) {
      return make_add_rms_norm_case(operators, hidden, rows);
    });
    add_row_kernel("rope", hidden, 0, [=](Operators& operators, const RowIds& rows) {
      return make_rope_case(operators, shape, rows);
    });
    add_row_kernel("silu_mul", middle, kExpTolerance,
                   [=](Operators& operators, const RowIds& rows) {
                     return make_silu_mul_case(operators, middle, rows);
                   });
  }

  static int64_t blocks_of(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

  int64_t block_bytes(KvFormat format) const {
    return shape_.model.num_kv_heads * kernels::kv_block_bytes(format, shape_.model.head_dim);
  }

  /// What prepares a pool of so many blocks and makes cases over it.
  template <typename Make>
  std::function<CaseMaker(Operators&, bool)> over_pool(KvFormat format, int64_t num_blocks,
                                                       int64_t num_blocks_walked, Make make) const {
    return [=, shape = shape_](Operators& operators, bool walks) -> CaseMaker {
      auto pool = std::make_shared<KvPool>(
          operators, shape, format, walks ? std::max(num_blocks, num_blocks_walked) : num_blocks);
      return [=, &operators](const RowIds& rows) { return make(operators, pool, rows); };
    };
  }

  void add_write_kv(KvFormat format) {
    if (!is_wanted("write_kv")) return;
    KernelFamily made = family("write_kv");
    made.parameters.emplace_back("kv", kernels::kv_format_name(format));
    made.tolerance = kExpTolerance;  // it shows through attention
    made.ops_per_row = static_cast<double>(selection_.largest_rows * shape_.model.num_kv_heads *
                                           shape_.model.head_dim);
    const int64_t blocks = blocks_of(selection_.largest_rows);
    made.prepare = over_pool(format, blocks, blocks, make_write_kv_case);
    families_.push_back(std::move(made));
  }

  Status add_decode(KvFormat format) {
    if (!is_wanted("attention_decode")) return {};
    KernelFamily made = family("attention_decode");
    const int64_t context = selection_.context;
    made.parameters.emplace_back("context", std::to_string(context));
    made.parameters.emplace_back("kv", kernels::kv_format_name(format));
    made.tolerance = kExpTolerance;
    made.ops_per_row =
        static_cast<double>(2 * context * shape_.model.num_heads * shape_.model.head_dim);
    const int64_t blocks = selection_.largest_rows * blocks_of(context);
    if (blocks * block_bytes(format) > kMostPoolBytes)
      return invalid_argument("--rows " + std::to_string(selection_.largest_rows) +
                              " with --context " + std::to_string(context) + " needs " +
                              std::to_string(blocks * block_bytes(format) >> 20) + " MiB of " +
                              kernels::kv_format_name(format) + " KV, at most " +
                              std::to_string(kMostPoolBytes >> 20) + " are allowed");
    const int64_t in_model = shape_.model.num_layers * blocks_of(context) * block_bytes(format);
    const int64_t walked = footprint(in_model, WeightFormat::kW8) / block_bytes(format);
    made.prepare = over_pool(
        format, blocks, walked,
        [=](Operators& operators, const std::shared_ptr<KvPool>& pool, const RowIds& rows) {
          return make_decode_case(operators, pool, context, rows);
        });
    families_.push_back(std::move(made));
    return {};
  }

  void add_prefill(KvFormat format) {
    if (!is_wanted("attention_prefill")) return;
    KernelFamily made = family("attention_prefill");
    made.parameters.emplace_back("kv", kernels::kv_format_name(format));
    made.computes = true;
    made.tolerance = kExpTolerance;
    made.ops_per_row = static_cast<double>(selection_.largest_rows * shape_.model.num_heads *
                                           shape_.model.head_dim);
    const int64_t blocks = blocks_of(selection_.largest_rows);
    made.prepare = over_pool(format, blocks, blocks, make_prefill_case);
    families_.push_back(std::move(made));
  }

  const KernelShape& shape_;
  const KernelSelection& selection_;
  const std::vector<MatrixShape> matrices_;
  std::vector<KernelFamily> families_;
};

}  // namespace

const std::vector<std::string>& kernel_names() {
  static const std::vector<std::string> kNames = {
      "embedding", "rms_norm",         "add_rms_norm",     "rope", "silu_mul", "convert", "linear",
      "write_kv",  "attention_decode", "attention_prefill"};
  return kNames;
}

Result<std::vector<KernelFamily>> kernel_families(const KernelShape& shape,
                                                  const KernelSelection& selection) {
  PHALANX_ASSIGN_OR_RETURN(std::vector<MatrixShape> matrices,
                           matrices_of(shape.model, selection.group_size));
  Families families(shape, selection, std::move(matrices));
  PHALANX_RETURN_IF_ERROR(families.add_all());
  return families.take();
}

}  // namespace phalanx::bench
