// Validity and hashing of engine manifests.
#include "runtime/model/manifest.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"
#include "runtime/model/content_hash.h"
#include "runtime/model/graph.h"
#include "runtime/model/graph_shapes.h"
#include "runtime/model/kernel_limits.h"

namespace phalanx::model {

namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr int64_t kHashChunkBytes = int64_t{16} << 20;

Status check_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    return invalid_argument(std::string(field) + " is " + std::to_string(value) +
                            ", must be between " + std::to_string(low) + " and " +
                            std::to_string(high));
  return {};
}

Status check_positive(const char* field, double value) {
  if (!(value > 0) || !std::isfinite(value))
    return invalid_argument(std::string(field) + " is " + std::to_string(value) +
                            ", must be a positive number");
  return {};
}

Status check_rope(const engine::Rope& rope, int64_t head_dim) {
  PHALANX_RETURN_IF_ERROR(check_range("model.rope.rotary_dim", rope.rotary_dim(), 2, head_dim));
  if (rope.rotary_dim() % 2 != 0)
    return invalid_argument("model.rope.rotary_dim is " + std::to_string(rope.rotary_dim()) +
                            ", must be even");
  PHALANX_RETURN_IF_ERROR(check_positive("model.rope.theta", rope.theta()));
  switch (rope.type()) {
    case engine::Rope::DEFAULT:
      return {};
    case engine::Rope::LINEAR:
      return check_positive("model.rope.factor", rope.factor());
    case engine::Rope::LLAMA3:
      PHALANX_RETURN_IF_ERROR(check_positive("model.rope.factor", rope.factor()));
      PHALANX_RETURN_IF_ERROR(check_positive("model.rope.low_freq_factor", rope.low_freq_factor()));
      if (!(rope.high_freq_factor() > rope.low_freq_factor()) ||
          !std::isfinite(rope.high_freq_factor()))
        return invalid_argument("model.rope.high_freq_factor must be greater than low_freq_factor");
      return check_range("model.rope.original_max_position_embeddings",
                         rope.original_max_position_embeddings(), 1, kMaxDimension);
    case engine::Rope_Type_Rope_Type_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::Rope_Type_Rope_Type_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return unsupported("model.rope.type " + std::to_string(rope.type()) + " is unknown");
}

Status check_model(const engine::ModelConfig& model) {
  constexpr int64_t kMaxWidth = int64_t{1} << 22;
  PHALANX_RETURN_IF_ERROR(check_range("model.hidden_size", model.hidden_size(), 1, kMaxWidth));
  PHALANX_RETURN_IF_ERROR(
      check_range("model.num_hidden_layers", model.num_hidden_layers(), 1, 4096));
  PHALANX_RETURN_IF_ERROR(
      check_range("model.num_attention_heads", model.num_attention_heads(), 1, 65536));
  PHALANX_RETURN_IF_ERROR(check_range("model.num_key_value_heads", model.num_key_value_heads(), 1,
                                      model.num_attention_heads()));
  if (model.num_attention_heads() % model.num_key_value_heads() != 0)
    return invalid_argument(
        "model.num_key_value_heads is " + std::to_string(model.num_key_value_heads()) +
        ", must divide num_attention_heads " + std::to_string(model.num_attention_heads()));
  PHALANX_RETURN_IF_ERROR(check_head_dim("model.head_dim", model.head_dim()));
  PHALANX_RETURN_IF_ERROR(
      check_range("model.intermediate_size", model.intermediate_size(), 1, kMaxWidth));
  PHALANX_RETURN_IF_ERROR(check_range("model.vocab_size", model.vocab_size(), 1, int64_t{1} << 24));
  PHALANX_RETURN_IF_ERROR(check_range("model.max_position_embeddings",
                                      model.max_position_embeddings(), 1, int64_t{1} << 30));
  PHALANX_RETURN_IF_ERROR(
      check_range("model.sliding_window", model.sliding_window(), 0, int64_t{1} << 30));
  PHALANX_RETURN_IF_ERROR(check_positive("model.rms_norm_eps", model.rms_norm_eps()));
  for (int32_t id : model.eos_token_ids())
    PHALANX_RETURN_IF_ERROR(check_range("model.eos_token_ids", id, 0, model.vocab_size() - 1));
  if (model.has_bos_token_id())
    PHALANX_RETURN_IF_ERROR(
        check_range("model.bos_token_id", model.bos_token_id(), 0, model.vocab_size() - 1));
  return check_rope(model.rope(), model.head_dim());
}

Status check_scale_blocks(const engine::Weight& weight, const std::string& what) {
  if (weight.has_zeros()) return invalid_argument(what + " is fp8 and can have no zeros");
  PHALANX_RETURN_IF_ERROR(
      check_range((what + ": scale_rows").c_str(), weight.scale_rows(), 1, kMaxDimension));
  PHALANX_RETURN_IF_ERROR(
      check_range((what + ": scale_cols").c_str(), weight.scale_cols(), 1, kMaxDimension));
  if (weight.scale_cols() < weight.cols() && weight.scale_cols() % weight.group_size() != 0)
    return invalid_argument(what + ": scale_cols is " + std::to_string(weight.scale_cols()) +
                            ", must be a multiple of group_size " +
                            std::to_string(weight.group_size()) + " or at least cols " +
                            std::to_string(weight.cols()));
  return {};
}

Status check_quantized(const engine::Weight& weight, const std::string& what, int64_t lanes) {
  if (weight.format() != engine::FP8 && (weight.scale_rows() != 0 || weight.scale_cols() != 0))
    return invalid_argument(what + " is " + weight_format_text(weight.format()) +
                            " and can have neither scale_rows nor scale_cols");
  if (!is_quantized(weight.format())) {
    if (weight.group_size() != 0 || weight.has_zeros())
      return invalid_argument(what + " is " + weight_format_text(weight.format()) +
                              " and can have neither group_size nor zeros");
    if (weight.format() != engine::F32 && weight.format() != engine::BF16)
      return invalid_argument(what + " has the unknown format " + std::to_string(weight.format()));
    return {};
  }
  const int64_t parts = weight.axis() == engine::ROW ? lanes : 1;
  PHALANX_RETURN_IF_ERROR(
      check_group_size(what + ": group_size", weight.group_size(), weight.cols() / parts));
  return weight.format() == engine::FP8 ? check_scale_blocks(weight, what) : Status();
}

Status check_weight(const engine::Weight& weight, const engine::EngineManifest& manifest) {
  const std::string what = "weight " + weight.name();
  if (weight.name().empty()) return invalid_argument("a weight has no name");
  if (weight.rows() < 1 || weight.rows() >= kMaxDimension || weight.cols() < 0 ||
      weight.cols() >= kMaxDimension || weight.shard_unit() < 1 ||
      weight.rows() % weight.shard_unit() != 0)
    return invalid_argument(what + " is [" + std::to_string(weight.rows()) + ", " +
                            std::to_string(weight.cols()) + "] with shard_unit " +
                            std::to_string(weight.shard_unit()) + ", which cannot be");
  const int64_t lanes = manifest.reduction_lanes();
  if (weight.cols() == 0 && (weight.format() != engine::F32 || weight.axis() == engine::ROW))
    return invalid_argument(what + " is a vector and must be f32, not cut by row");
  if (weight.axis() == engine::ROW && weight.cols() % lanes != 0)
    return invalid_argument(what + " has " + std::to_string(weight.cols()) +
                            " columns, which reduction_lanes " + std::to_string(lanes) +
                            " do not divide");
  if (weight.axis() == engine::COLUMN && (weight.rows() / weight.shard_unit()) % lanes != 0)
    return invalid_argument(what + " has " + std::to_string(weight.rows() / weight.shard_unit()) +
                            " row units, which reduction_lanes " + std::to_string(lanes) +
                            " do not divide");
  const int64_t kv_heads = manifest.model().num_key_value_heads();
  if (weight.axis() == engine::KV_COLUMN && weight.rows() / weight.shard_unit() != kv_heads)
    return invalid_argument(what + " has " + std::to_string(weight.rows() / weight.shard_unit()) +
                            " row units and is cut by kv_column, must have num_key_value_heads " +
                            std::to_string(kv_heads));
  return check_quantized(weight, what, lanes);
}

Status check_files(const engine::EngineManifest& manifest) {
  std::set<std::string> names;
  for (const engine::WeightFile& file : manifest.files()) {
    if (file.name().empty() || file.name().find('/') != std::string::npos || file.name()[0] == '.')
      return invalid_argument("files.name is \"" + file.name() +
                              "\", must be a plain file name in the engine's directory");
    if (!names.insert(file.name()).second)
      return invalid_argument("files.name \"" + file.name() + "\" is listed twice");
  }
  if (names.empty()) return invalid_argument("files is empty");
  return {};
}

}  // namespace

int64_t StoredTensor::num_bytes() const {
  auto bytes = static_cast<int64_t>(dtype_bytes(dtype));
  for (int64_t extent : shape) bytes *= extent;
  return bytes;
}

std::vector<StoredTensor> stored_tensors(const engine::Weight& weight) {
  if (weight.cols() == 0) return {{weight.name(), DType::kF32, {weight.rows()}}};
  switch (weight.format()) {
    case engine::F32:
      return {{weight.name(), DType::kF32, {weight.rows(), weight.cols()}}};
    case engine::BF16:
      return {{weight.name(), DType::kBf16, {weight.rows(), weight.cols()}}};
    case engine::W8:
    case engine::W4: {
      const int64_t code_cols = weight.format() == engine::W8 ? weight.cols() : weight.cols() / 2;
      const std::vector<int64_t> groups = {weight.rows(), weight.cols() / weight.group_size()};
      std::vector<StoredTensor> tensors = {{weight.name(), DType::kU8, {weight.rows(), code_cols}},
                                           {weight.name() + ".scales", DType::kBf16, groups}};
      if (weight.has_zeros()) tensors.push_back({weight.name() + ".zeros", DType::kU8, groups});
      return tensors;
    }
    case engine::FP8:
      return {{weight.name(), DType::kF8E4M3, {weight.rows(), weight.cols()}},
              {weight.name() + ".scales",
               DType::kF32,
               {ceil_div(weight.rows(), weight.scale_rows()),
                ceil_div(weight.cols(), weight.scale_cols())}}};
    case engine::WeightFormat_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::WeightFormat_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  PHALANX_CHECK(false, "weight format " + std::to_string(weight.format()));
  return {};
}

int64_t stored_bytes(const engine::Weight& weight) {
  int64_t bytes = 0;
  for (const StoredTensor& tensor : stored_tensors(weight)) bytes += tensor.num_bytes();
  return bytes;
}

Status verify_description(const engine::EngineManifest& manifest) {
  if (manifest.format_version() != kManifestVersion)
    return unsupported("format_version is " + std::to_string(manifest.format_version()) +
                       ", this program reads " + std::to_string(kManifestVersion) +
                       "; build the engine again with this llm-build");
  PHALANX_RETURN_IF_ERROR(check_model(manifest.model()));
  PHALANX_RETURN_IF_ERROR(check_reduction_lanes("reduction_lanes", manifest.reduction_lanes(),
                                                manifest.model().num_attention_heads()));
  std::set<std::string> names;
  std::vector<engine::Weight> weights;
  for (const engine::Weight& weight : manifest.weights()) {
    PHALANX_RETURN_IF_ERROR(check_weight(weight, manifest));
    if (!names.insert(weight.name()).second)
      return invalid_argument("weight " + weight.name() + " is listed twice");
    weights.push_back(weight);
  }
  for (const engine::Op& op : manifest.graph().ops()) {
    if (op.kind() == engine::ALL_REDUCE)
      return invalid_argument("op " + op.name() +
                              ": an engine knows no topology and stores no "
                              "ALL_REDUCE");
  }
  return verify_graph(manifest.graph(), weights, manifest.model());
}

Status verify_manifest(const engine::EngineManifest& manifest) {
  PHALANX_RETURN_IF_ERROR(verify_description(manifest));
  return check_files(manifest);
}

std::string compute_engine_hash(const engine::EngineManifest& manifest,
                                const std::vector<std::span<const std::byte>>& file_headers) {
  PHALANX_CHECK_EQ(static_cast<int>(file_headers.size()), manifest.files_size(),
                   "one header a weight file");
  engine::EngineManifest unhashed = manifest;
  unhashed.clear_engine_hash();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    PHALANX_CHECK(unhashed.SerializeToCodedStream(&coded), "serializing the manifest");
  }
  uint64_t hash = content_hash(std::as_bytes(std::span(bytes)));
  for (int i = 0; i < manifest.files_size(); ++i) {
    const int64_t size = manifest.files(i).size_bytes();
    hash = content_hash(file_headers[static_cast<size_t>(i)], hash);
    hash = content_hash(std::as_bytes(std::span(&size, 1)), hash);
  }
  return hash_text(hash);
}

std::string weight_file_hash(std::span<const std::byte> bytes) {
  uint64_t hash = 0;
  while (!bytes.empty()) {
    const auto chunk = bytes.first(std::min(bytes.size(), static_cast<size_t>(kHashChunkBytes)));
    hash = content_hash(chunk, hash);
    bytes = bytes.subspan(chunk.size());
  }
  return hash_text(hash);
}

}  // namespace phalanx::model
