// Fused matrices of the Llama family. Used by llm-bench kernels.
#include "launcher/bench/kernel_shapes.h"

#include <algorithm>

namespace phalanx::bench {
namespace {

constexpr int64_t kMostLanes = 8;

/// As the builder chooses: the largest power of two that divides the heads and leaves whole groups.
int64_t lanes_of(const ModelShape& shape, int64_t group_size) {
  const int64_t q_size = shape.num_heads * shape.head_dim;
  int64_t lanes = kMostLanes;
  while (lanes > 1 && (shape.num_heads % lanes != 0 || q_size % (lanes * group_size) != 0 ||
                       shape.intermediate_size % (lanes * group_size) != 0))
    lanes /= 2;
  return lanes;
}

}  // namespace

const std::vector<KernelShape>& kernel_shapes() {
  static const std::vector<KernelShape> kShapes = [] {
    std::vector<KernelShape> shapes;
    // models/demo/config.json; its engines have groups of 64, so that its heads make 8 lanes.
    shapes.push_back({{"demo", 256, 6, 8, 2, 64, 1024, 4096, 2048, true}, 64});
    for (const ModelShape& model : model_shapes()) shapes.push_back({model, 128});
    return shapes;
  }();
  return kShapes;
}

std::vector<std::string> kernel_shape_names() {
  std::vector<std::string> names;
  for (const KernelShape& shape : kernel_shapes()) names.push_back(shape.model.name);
  return names;
}

Result<KernelShape> find_kernel_shape(const std::string& name) {
  for (const KernelShape& shape : kernel_shapes()) {
    if (shape.model.name == name) return shape;
  }
  return not_found("no shape is called \"" + name + "\"");
}

Result<std::vector<MatrixShape>> matrices_of(const ModelShape& shape, int64_t group_size) {
  const int64_t q_size = shape.num_heads * shape.head_dim;
  const int64_t kv_size = shape.num_kv_heads * shape.head_dim;
  const int64_t lanes = lanes_of(shape, group_size);
  std::vector<MatrixShape> matrices = {
      {"qkv", q_size + 2 * kv_size, shape.hidden_size, 1, shape.num_layers},
      {"o", shape.hidden_size, q_size, lanes, shape.num_layers},
      {"gate_up", 2 * shape.intermediate_size, shape.hidden_size, 1, shape.num_layers},
      {"down", shape.hidden_size, shape.intermediate_size, lanes, shape.num_layers},
      {"lm_head", shape.vocab_size, shape.hidden_size, 1, 1}};
  for (const MatrixShape& matrix : matrices) {
    if (matrix.num_cols % group_size != 0)
      return invalid_argument("--group-size is " + std::to_string(group_size) +
                              ", must divide the " + std::to_string(matrix.num_cols) +
                              " columns of " + matrix.name + " in " + shape.name);
  }
  return matrices;
}

int64_t model_bytes(const std::vector<MatrixShape>& matrices, kernels::WeightFormat format,
                    int64_t group_size) {
  int64_t bytes = 0;
  for (const MatrixShape& matrix : matrices)
    bytes += matrix.num_in_model *
             kernels::packed_matrix_bytes(format, matrix.num_rows, matrix.num_cols,
                                          kernels::is_quantized(format) ? group_size : 0,
                                          /*has_bias=*/false,
                                          /*has_zeros=*/false, matrix.num_lanes);
  return bytes;
}

}  // namespace phalanx::bench
