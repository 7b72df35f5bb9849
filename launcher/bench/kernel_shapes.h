// The shapes that kernels see in a model: its matrices, heads and rows. Used by llm-bench kernels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/operators.h"
#include "launcher/bench/shape_engine.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

/// One matrix of a layer, or the head, as one rank of tp_size 1 multiplies by it.
struct MatrixShape {
  std::string name;  ///< "qkv", "o", "gate_up", "down", "lm_head"
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t num_lanes = 1;
  int64_t num_in_model = 1;  ///< how many of it a model has
};

struct KernelShape {
  ModelShape model;
  int64_t group_size = 128;  ///< that engines of this shape have by default
};

/// The shapes of llm-bench model, and "demo", that of models/demo.
const std::vector<KernelShape>& kernel_shapes();
std::vector<std::string> kernel_shape_names();
Result<KernelShape> find_kernel_shape(const std::string& name);

/// Errors: kInvalidArgument when the group does not divide a matrix's columns.
Result<std::vector<MatrixShape>> matrices_of(const ModelShape& shape, int64_t group_size);

/// Bytes of all packed matrices of a model.
int64_t model_bytes(const std::vector<MatrixShape>& matrices, kernels::WeightFormat format,
                    int64_t group_size);

}  // namespace phalanx::bench
