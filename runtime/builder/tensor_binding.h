// Matches an architecture's tensor templates with a checkpoint's tensors. Called by engine_builder.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/checkpoint_config.h"
#include "runtime/builder/checkpoint_reader.h"
#include "runtime/model/architecture.pb.h"

namespace phalanx::builder {

/// One weight of the engine to be, and where its numbers come from.
struct BoundTensor {
  engine::Weight weight;  ///< name, shape, axis, unit; format F32 until quantization is planned
  std::string checkpoint_name;
  const CheckpointTensor* source = nullptr;  ///< owned by the CheckpointReader
  bool is_table = false;                     ///< embedding or head: follows --head-weights
};

struct TensorBinding {
  std::vector<BoundTensor> tensors;  ///< templates' order, layer by layer
  /// Engine weight of (role, layer); layer -1 for roles without {layer}. A role whose condition is
  /// off is absent; a tied role names the weight it is tied to.
  std::map<std::pair<std::string, int64_t>, std::string> weight_of_role;
  bool tied = false;  ///< a tied_to took effect
  std::vector<std::string> notes;
};

/// Errors: kDataLoss naming a tensor that is missing, of another shape or of a dtype other than
/// F32, F16, BF16, or that is left over and not on the architecture's ignore list, or that
/// tie_word_embeddings leaves out although its bytes differ from those of the tensor it is tied to.
Result<TensorBinding> bind_tensors(const engine::Architecture& architecture,
                                   const CheckpointConfig& config,
                                   const CheckpointReader& checkpoint);

}  // namespace phalanx::builder
