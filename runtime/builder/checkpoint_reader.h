// A checkpoint directory's safetensors files, single or sharded with an index. Called by
// engine_builder.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/safetensors_reader.h"

namespace phalanx::builder {

/// Where one checkpoint tensor lies and in which file.
struct CheckpointTensor {
  model::TensorView view;
  std::string file;  ///< path, for messages
};

/// Owns the mappings. Immutable after open; any thread may read tensors.
class CheckpointReader {
 public:
  /// Opens model.safetensors, or the shards that model.safetensors.index.json names. Errors:
  /// kNotFound when neither exists (naming what does), kDataLoss when index and shards disagree.
  static Result<CheckpointReader> open(const std::string& directory);

  const std::map<std::string, CheckpointTensor>& tensors() const { return tensors_; }
  const CheckpointTensor* find(const std::string& name) const;  ///< null when absent

 private:
  Status add_file(const std::string& path);

  std::vector<std::shared_ptr<const model::SafetensorsFile>> files_;
  std::map<std::string, CheckpointTensor> tensors_;
};

}  // namespace phalanx::builder
