// Writes small random checkpoints in the Hugging Face layout, for tests that need a real engine.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/dtype.h"
#include "runtime/base/result.h"

namespace phalanx::testing {

/// How the projections of a tiny checkpoint are stored; embedding, head and norms stay floats.
enum class TinyFp8 {
  kNone,
  kTensor,  ///< method fp8: an f32 scale a tensor, and static input scales
  kRow,     ///< compressed-tensors: a bf16 scale a row
  kBlock,   ///< method fp8: f32 scales by blocks, weight_scale_inv
};

/// Dimensions and variants of a tiny model. Zero means "the family's usual".
struct TinyModel {
  std::string architecture = "llama";  ///< llama, mistral, qwen2, qwen3
  int64_t hidden_size = 64;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int64_t head_dim = 16;
  int64_t intermediate_size = 128;
  int64_t vocab_size = 128;
  bool tied = false;
  uint64_t seed = 1;
  DType dtype = DType::kBf16;   ///< kF32, kF16 or kBf16
  bool attention_bias = false;  ///< llama and qwen3: q, k, v, o; qwen2 always has q, k, v
  bool mlp_bias = false;        ///< llama
  int64_t sliding_window = 0;   ///< mistral, qwen2, qwen3 (then in all layers)
  int64_t max_position_embeddings = 512;
  double rope_theta = 10000.0;
  std::string rope_type = "default";  ///< default, linear (factor 2), llama3 (factor 8 from 64)
  int num_shards = 1;                 ///< > 1: shards with model.safetensors.index.json
  bool old_dialect = false;           ///< config.json as transformers 4 writes it
  TinyFp8 fp8 = TinyFp8::kNone;
  int64_t fp8_block = 128;     ///< kBlock: rows, and columns
  std::string fp8_left_out{};  ///< a projection that stays floats: "k_proj"
};

/// Writes config.json and the weights into `directory`, which is made when missing. Matrices are
/// N(0, 1/sqrt(K)), norms 1 + N(0, 0.1), biases N(0, 0.1); the same numbers for the same model on
/// every machine. Errors: kIoError.
Status write_tiny_checkpoint(const std::string& directory, const TinyModel& model);

/// write_tiny_checkpoint and build_engine in one: the engine is at the returned path, inside
/// `directory`. Throws InternalError with the reason when either fails. `weights` is f32, bf16, w8,
/// w4 or fp8.
std::string build_tiny_engine(const std::string& directory, const TinyModel& model,
                              const std::string& weights = "bf16", int64_t group_size = 32);

}  // namespace phalanx::testing
