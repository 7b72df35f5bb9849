// Rules of the engine manifest that its writer and its reader share: names of files and tensors,
// the hash, what a valid manifest is. Called by engine_builder and engine_file.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"
#include "runtime/base/result.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::model {

inline constexpr int32_t kManifestVersion = 1;
inline constexpr const char* kManifestFile = "engine.textproto";

/// One safetensors tensor of a weight (engine.proto, Weight).
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t num_bytes() const;
};

/// Whether `format` has scales and groups.
constexpr bool is_quantized(engine::WeightFormat format) {
  return format == engine::W8 || format == engine::W4 || format == engine::FP8;
}

/// The tensors that hold `weight`: codes, then scales and zeros where it has them. Scales of W8 and
/// W4 are bf16, as the builder writes them; a reader also takes f32 and f16. Those of FP8 are f32.
std::vector<StoredTensor> stored_tensors(const engine::Weight& weight);

/// Bytes of all of them.
int64_t stored_bytes(const engine::Weight& weight);

/// Checks fields, the ranges that later arithmetic relies on and the kernels' limits, then the
/// graph: all but the weight files, so that a builder can ask before it writes them. Errors:
/// kUnsupported (format_version, head_dim), kInvalidArgument naming field, value and what is
/// allowed.
Status verify_description(const engine::EngineManifest& manifest);

/// verify_description, then the list of weight files.
Status verify_manifest(const engine::EngineManifest& manifest);

/// engine_hash: over the manifest without it, and each weight file's header (length field
/// included) and length, in the manifest's order.
std::string compute_engine_hash(const engine::EngineManifest& manifest,
                                const std::vector<std::span<const std::byte>>& file_headers);

/// WeightFile.content_hash of a whole file's bytes.
std::string weight_file_hash(std::span<const std::byte> bytes);

}  // namespace phalanx::model
