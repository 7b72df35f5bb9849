// Engines of real models' shapes with random weights: speed depends on shapes, not on what was
// learned, so nothing needs to be downloaded. Made by llm-bench's model and engine commands.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/bench/bench_options.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

/// Dimensions of a decoder of the Llama family, as its config.json has them.
struct ModelShape {
  std::string name;  ///< "llama-3.2-1b"
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  bool tied = false;
};

/// The shapes that are known by name. Source: config.json of meta-llama/Llama-3.2-1B and
/// Llama-3.1-8B; "110m" has GPT-2-small's width (768, 12 layers) and a 32,000-word vocabulary.
const std::vector<ModelShape>& model_shapes();
std::vector<std::string> model_shape_names();

struct ShapeEngineRequest {
  std::string shape;           ///< one of model_shape_names()
  std::string weights = "w8";  ///< f32, bf16, w8, w4 or fp8
  int64_t group_size = 128;
  std::string directory;  ///< where engines are kept; empty: default_engine_directory()
  int num_threads = 1;
  bool shows_progress = false;  ///< a line on stderr while it takes long
};

/// $XDG_CACHE_HOME/phalanx/engines, or ~/.cache/phalanx/engines.
std::string default_engine_directory();

/// --shape, --weights, --group-size and --engines, and the request that they make, by all threads
/// of the host and with progress. Errors as BenchOptions.
std::vector<Flag> shape_flags();
Result<ShapeEngineRequest> read_shape_request(const BenchOptions& options);

/// The engine's path: <directory>/<shape>-<weights>[-g<group>].
Result<std::string> shape_engine_path(const ShapeEngineRequest& request);

/// Returns the path of the engine, made first unless it is there and opens. Through the builder, as
/// any checkpoint: a random one is written beside it (bf16, so twice the parameters in bytes) and
/// removed again. The same request gives the same bytes everywhere. Weights are uniform with the
/// variance 1/K, norms 1, so that activations stay in range. The tokenizer is byte-level BPE over
/// made-up words. Errors: kInvalidArgument for a name, kIoError. Throws Stopped on a signal.
Result<std::string> ensure_shape_engine(const ShapeEngineRequest& request);

}  // namespace phalanx::bench
