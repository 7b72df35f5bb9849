// An engine directory, mapped and checked: the manifest, and views of every weight. Opened by every
// rank, by `llm-build inspect` and by tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"
#include "runtime/base/result.h"
#include "runtime/model/engine.pb.h"

namespace phalanx::model {

/// A stored matrix in natural layout: row n's codes are contiguous. Pointers live as long as the
/// EngineFile. W4 has two codes a byte.
struct MatrixView {
  engine::WeightFormat format = engine::F32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  const std::byte* codes = nullptr;
  int64_t row_stride_bytes = 0;
  const std::byte* scales = nullptr;
  DType scale_dtype = DType::kF32;
  int64_t scale_row_stride = 0;  ///< elements
  int64_t scale_rows = 0;        ///< FP8: codes that a scale covers
  int64_t scale_cols = 0;
  const uint8_t* zeros = nullptr;
};

/// Immutable after open; any thread. Files are mapped read-only (shared between ranks of a host).
class EngineFile {
 public:
  /// Checks the manifest, the graph (verify_graph), every tensor's file, offset, dtype and shape.
  /// Errors: kNotFound, kDataLoss, kUnsupported (format_version), naming file, field, value.
  static Result<std::shared_ptr<const EngineFile>> open(const std::string& directory);

  virtual ~EngineFile() = default;

  virtual const engine::EngineManifest& manifest() const = 0;
  virtual const std::string& directory() const = 0;

  /// Errors: InternalError for names the manifest lacks (the graph was verified at open).
  virtual const engine::Weight& weight(const std::string& name) const = 0;
  virtual MatrixView matrix(const std::string& name) const = 0;
  virtual std::span<const float> vector(const std::string& name) const = 0;

  /// MappedFile::release_pages of all weight files: after packing, what was read of them need not
  /// count as this process's memory.
  virtual void release_pages() const = 0;
};

/// How many rows/columns tp_rank owns of a weight or value: [begin, end) along the cut axis in rows
/// (COLUMN, KV_COLUMN, VOCAB) or columns (ROW); everything for REPLICATED.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};
Range shard_range(engine::ShardAxis axis, int64_t extent, int64_t shard_unit, int tp_size,
                  int tp_rank);

/// Whether this engine runs at tp_size x pp_size. Errors: kFailedPrecondition saying which sizes
/// fit and why (heads, KV heads, reduction_lanes, layers).
Status check_topology(const engine::EngineManifest& manifest, int tp_size, int pp_size);

/// Rotary frequencies: [rotary_dim / 2] inverse frequencies (double) incl. scaling of the rope
/// type. Source: transformers modeling_rope_utils.py; Llama 3.1 appendix.
std::vector<double> rope_inverse_frequencies(const engine::Rope& rope);

}  // namespace phalanx::model
