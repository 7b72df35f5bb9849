// Encodes every weight from the mapped checkpoint into the engine's safetensors files, in parallel
// and in little memory. Called by engine_builder.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/builder/tensor_binding.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::builder {

/// Largest weight file, unless one weight alone is larger.
inline constexpr int64_t kMaxWeightFileBytes = int64_t{4} << 30;

/// Called with (bytes read so far, bytes in all), by one thread at a time.
using Progress = std::function<void(int64_t, int64_t)>;

/// Writes weights-0000i-of-0000n.safetensors into `directory` and returns their entries for the
/// manifest. Peak memory is a few MiB a thread, or of a matrix that becomes fp8 a row of blocks as
/// f32. The bytes do not depend on num_threads. Errors:
/// kIoError; kDataLoss naming tensor, row and column of a number that is not finite.
Result<std::vector<engine::WeightFile>> write_weights(const std::string& directory,
                                                      const std::vector<BoundTensor>& tensors,
                                                      int num_threads, const Progress& progress,
                                                      int64_t max_file_bytes = kMaxWeightFileBytes);

}  // namespace phalanx::builder
