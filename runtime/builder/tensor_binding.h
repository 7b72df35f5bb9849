// Matches an architecture's tensor templates with a checkpoint's tensors. Called by engine_builder.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/checkpoint_config.h"
#include "runtime/builder/checkpoint_reader.h"
#include "runtime/model/architecture.pb.h"

namespace phalanx::builder {

/// The scales of a matrix that the checkpoint holds as e4m3 codes, to multiply them by.
struct E4m3Scales {
  const CheckpointTensor* tensor = nullptr;  ///< f32, f16 or bf16; null: the matrix holds floats
  int64_t rows = 0;                          ///< of the matrix that a scale covers
  int64_t cols = 0;
  /// Of the matrix's element (row, column).
  float of(int64_t row, int64_t column, int64_t matrix_cols) const;
};

/// One weight of the engine to be, and where its numbers come from.
struct BoundTensor {
  engine::Weight weight;  ///< name, shape, axis, unit; format F32 until quantization is planned
  std::string checkpoint_name;
  const CheckpointTensor* source = nullptr;  ///< owned by the CheckpointReader
  bool is_table = false;                     ///< embedding or head: follows --head-weights
  E4m3Scales e4m3;
};

struct TensorBinding {
  std::vector<BoundTensor> tensors;  ///< templates' order, layer by layer
  /// Engine weight of (role, layer); layer -1 for roles without {layer}. A role whose condition is
  /// off is absent; a tied role names the weight it is tied to.
  std::map<std::pair<std::string, int64_t>, std::string> weight_of_role;
  bool tied = false;  ///< a tied_to took effect
  std::vector<std::string> notes;
};

/// Whether the checkpoint holds any of them as e4m3 codes.
bool has_e4m3(const std::vector<BoundTensor>& tensors);

/// Row `row` as floats, of F32, F16, BF16 or e4m3 with scales; a vector is one row.
void widen_row(const BoundTensor& bound, int64_t row, std::span<float> out);

/// Errors: kDataLoss naming a tensor that is missing, of another shape or of a dtype other than
/// F32, F16, BF16 (a matrix of an fp8 checkpoint: or F8_E4M3, with scales of a shape that its
/// config allows, none negative or not finite), or that is left over and not on the architecture's
/// ignore list, or that tie_word_embeddings leaves out although its bytes differ from those of the
/// tensor it is tied to.
Result<TensorBinding> bind_tensors(const engine::Architecture& architecture,
                                   const CheckpointConfig& config,
                                   const CheckpointReader& checkpoint);

}  // namespace phalanx::builder
