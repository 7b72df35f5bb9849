// Random checkpoints: a counter-based normal generator, the four families' tensor names.
#include "tests/support/tiny_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numbers>

#include <nlohmann/json.hpp>

#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/builder/safetensors_writer.h"

namespace phalanx::testing {

namespace {

using nlohmann::json;

/// Bits of a counter (splitmix64): no state, so every tensor's numbers stand alone.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

double unit(uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

double normal(uint64_t seed, uint64_t index) {
  const double a = unit(mix(seed ^ mix(2 * index)));
  const double b = unit(mix(seed ^ mix(2 * index + 1)));
  return std::sqrt(-2.0 * std::log(a)) * std::cos(2.0 * std::numbers::pi * b);
}

struct RandomTensor {
  std::string name;
  std::vector<int64_t> shape;
  double mean = 0;
  double deviation = 0;
};

RandomTensor matrix(const std::string& name, int64_t rows, int64_t cols) {
  return {name + ".weight", {rows, cols}, 0.0, 1.0 / std::sqrt(static_cast<double>(cols))};
}
RandomTensor norm(const std::string& name, int64_t size) {
  return {name + ".weight", {size}, 1.0, 0.1};
}
RandomTensor bias(const std::string& name, int64_t size) {
  return {name + ".bias", {size}, 0.0, 0.1};
}

std::vector<RandomTensor> tensors_of(const TinyModel& m) {
  const int64_t q_size = m.num_heads * m.head_dim;
  const int64_t kv_size = m.num_kv_heads * m.head_dim;
  const bool qkv_bias = m.architecture == "qwen2" || m.attention_bias;
  const bool o_bias = m.architecture != "qwen2" && m.attention_bias;
  std::vector<RandomTensor> out = {matrix("model.embed_tokens", m.vocab_size, m.hidden_size)};
  for (int64_t layer = 0; layer < m.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto add = [&](RandomTensor tensor) {
      tensor.name = prefix + tensor.name;
      out.push_back(std::move(tensor));
    };
    add(norm("input_layernorm", m.hidden_size));
    add(matrix("self_attn.q_proj", q_size, m.hidden_size));
    add(matrix("self_attn.k_proj", kv_size, m.hidden_size));
    add(matrix("self_attn.v_proj", kv_size, m.hidden_size));
    add(matrix("self_attn.o_proj", m.hidden_size, q_size));
    if (qkv_bias) {
      add(bias("self_attn.q_proj", q_size));
      add(bias("self_attn.k_proj", kv_size));
      add(bias("self_attn.v_proj", kv_size));
    }
    if (o_bias) add(bias("self_attn.o_proj", m.hidden_size));
    if (m.architecture == "qwen3") {
      add(norm("self_attn.q_norm", m.head_dim));
      add(norm("self_attn.k_norm", m.head_dim));
    }
    add(norm("post_attention_layernorm", m.hidden_size));
    add(matrix("mlp.gate_proj", m.intermediate_size, m.hidden_size));
    add(matrix("mlp.up_proj", m.intermediate_size, m.hidden_size));
    add(matrix("mlp.down_proj", m.hidden_size, m.intermediate_size));
    if (m.mlp_bias) {
      add(bias("mlp.gate_proj", m.intermediate_size));
      add(bias("mlp.up_proj", m.intermediate_size));
      add(bias("mlp.down_proj", m.hidden_size));
    }
  }
  out.push_back(norm("model.norm", m.hidden_size));
  if (!m.tied) out.push_back(matrix("lm_head", m.vocab_size, m.hidden_size));
  return out;
}

std::vector<std::byte> random_bytes(const RandomTensor& tensor, DType dtype, uint64_t seed) {
  uint64_t tensor_seed = seed;
  for (char c : tensor.name) tensor_seed = mix(tensor_seed ^ static_cast<unsigned char>(c));
  uint64_t count = 1;
  for (int64_t extent : tensor.shape) count *= static_cast<uint64_t>(extent);
  std::vector<std::byte> bytes(count * dtype_bytes(dtype));
  for (uint64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(tensor.mean + tensor.deviation * normal(tensor_seed, i));
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + i * 4, &value, 4);
    } else {
      const uint16_t half = dtype == DType::kBf16 ? f32_to_bf16(value) : f32_to_f16(value);
      std::memcpy(bytes.data() + i * 2, &half, 2);
    }
  }
  return bytes;
}

/// A tensor as the checkpoint holds it.
struct StoredBytes {
  model::StoredTensor tensor;
  std::vector<std::byte> bytes;
};

/// e4m3 codes of an f32 matrix, and its scales; of kTensor an input scale too.
std::vector<StoredBytes> as_fp8(const RandomTensor& tensor, const std::vector<std::byte>& values,
                                const TinyModel& m) {
  const int64_t rows = tensor.shape[0];
  const int64_t cols = tensor.shape[1];
  const bool is_block = m.fp8 == TinyFp8::kBlock;
  const bool is_row = m.fp8 == TinyFp8::kRow;
  const int64_t block_rows = is_block ? m.fp8_block : is_row ? 1 : rows;
  const int64_t block_cols = is_block ? m.fp8_block : cols;
  const auto value = [&](int64_t r, int64_t k) {
    float number = 0;
    std::memcpy(&number, values.data() + (r * cols + k) * 4, 4);
    return number;
  };
  StoredBytes codes{{tensor.name, DType::kF8E4M3, tensor.shape}, {}};
  codes.bytes.resize(static_cast<size_t>(rows * cols));
  std::vector<std::byte> scales;
  for (int64_t first_row = 0; first_row < rows; first_row += block_rows) {
    for (int64_t first_col = 0; first_col < cols; first_col += block_cols) {
      const int64_t end_row = std::min(rows, first_row + block_rows);
      const int64_t end_col = std::min(cols, first_col + block_cols);
      float largest = 0;
      for (int64_t r = first_row; r < end_row; ++r)
        for (int64_t k = first_col; k < end_col; ++k)
          largest = std::max(largest, std::fabs(value(r, k)));
      float scale = largest / kE4m3Max;
      if (is_row) scale = bf16_to_f32(f32_to_bf16(scale));
      for (int64_t r = first_row; r < end_row; ++r)
        for (int64_t k = first_col; k < end_col; ++k)
          codes.bytes[static_cast<size_t>(r * cols + k)] =
              static_cast<std::byte>(f32_to_e4m3(value(r, k) / scale));
      const uint16_t half = f32_to_bf16(scale);
      const auto* bytes = is_row ? reinterpret_cast<const std::byte*>(&half)
                                 : reinterpret_cast<const std::byte*>(&scale);
      scales.insert(scales.end(), bytes, bytes + (is_row ? 2 : 4));
    }
  }
  std::vector<int64_t> shape = {1};
  if (is_row) shape = {rows, 1};
  if (is_block) shape = {ceil_div(rows, block_rows), ceil_div(cols, block_cols)};
  std::vector<StoredBytes> stored = {std::move(codes)};
  stored.push_back({{tensor.name + (is_block ? "_scale_inv" : "_scale"),
                     is_row ? DType::kBf16 : DType::kF32, shape},
                    std::move(scales)});
  if (m.fp8 == TinyFp8::kTensor) {
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    stored.push_back({{module + ".input_scale", DType::kF32, {1}}, std::vector<std::byte>(4)});
  }
  return stored;
}

std::vector<StoredBytes> stored_bytes(const RandomTensor& tensor, const TinyModel& m) {
  const bool is_left_out =
      !m.fp8_left_out.empty() && tensor.name.ends_with(m.fp8_left_out + ".weight");
  if (m.fp8 != TinyFp8::kNone && tensor.name.ends_with("_proj.weight") && !is_left_out)
    return as_fp8(tensor, random_bytes(tensor, DType::kF32, m.seed), m);
  return {{{tensor.name, m.dtype, tensor.shape}, random_bytes(tensor, m.dtype, m.seed)}};
}

/// As checkpoints on the hub have it.
json quantization_config_of(const TinyModel& m) {
  if (m.fp8 == TinyFp8::kRow) {
    const json weights = {{"num_bits", 8},
                          {"type", "float"},
                          {"symmetric", true},
                          {"strategy", "channel"},
                          {"dynamic", false},
                          {"group_size", nullptr},
                          {"block_structure", nullptr},
                          {"actorder", nullptr},
                          {"observer", "minmax"},
                          {"observer_kwargs", json::object()}};
    const json inputs = {{"num_bits", 8},
                         {"type", "float"},
                         {"strategy", "token"},
                         {"dynamic", true},
                         {"symmetric", true}};
    return {{"quant_method", "compressed-tensors"},
            {"format", "float-quantized"},
            {"quantization_status", "compressed"},
            {"global_compression_ratio", 1.5},
            {"kv_cache_scheme", nullptr},
            {"ignore", {"lm_head"}},
            {"config_groups",
             {{"group_0",
               {{"targets", {"Linear"}},
                {"weights", weights},
                {"input_activations", inputs},
                {"output_activations", nullptr}}}}}};
  }
  json config = {{"quant_method", "fp8"}, {"fmt", "e4m3"}};
  config["activation_scheme"] = m.fp8 == TinyFp8::kTensor ? "static" : "dynamic";
  config["modules_to_not_convert"] = {"lm_head", "model.embed_tokens"};
  if (m.fp8 == TinyFp8::kBlock) config["weight_block_size"] = {m.fp8_block, m.fp8_block};
  return config;
}

json rope_of(const TinyModel& m) {
  json rope = {{"rope_type", m.rope_type}};
  if (m.rope_type == "linear") rope["factor"] = 2.0;
  if (m.rope_type == "llama3") {
    rope["factor"] = 8.0;
    rope["low_freq_factor"] = 1.0;
    rope["high_freq_factor"] = 4.0;
    rope["original_max_position_embeddings"] = 64;
  }
  return rope;
}

json config_of(const TinyModel& m) {
  json config = {{"model_type", m.architecture},
                 {"hidden_size", m.hidden_size},
                 {"num_hidden_layers", m.num_layers},
                 {"num_attention_heads", m.num_heads},
                 {"num_key_value_heads", m.num_kv_heads},
                 {"head_dim", m.head_dim},
                 {"intermediate_size", m.intermediate_size},
                 {"vocab_size", m.vocab_size},
                 {"max_position_embeddings", m.max_position_embeddings},
                 {"rms_norm_eps", 1e-6},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", m.tied},
                 {"bos_token_id", 1},
                 {"eos_token_id", 2}};
  if (m.old_dialect) {
    config["torch_dtype"] = "bfloat16";
    config["rope_theta"] = m.rope_theta;
    if (m.rope_type != "default") config["rope_scaling"] = rope_of(m);
  } else {
    config["dtype"] = "bfloat16";
    config["rope_parameters"] = rope_of(m);
    config["rope_parameters"]["rope_theta"] = m.rope_theta;
  }
  if (m.architecture == "llama" || m.architecture == "qwen3")
    config["attention_bias"] = m.attention_bias;
  if (m.architecture == "llama") config["mlp_bias"] = m.mlp_bias;
  if (m.architecture != "llama")
    config["sliding_window"] = m.sliding_window > 0 ? json(m.sliding_window) : json(nullptr);
  if (m.architecture == "qwen2" || m.architecture == "qwen3") {
    config["use_sliding_window"] = m.sliding_window > 0;
    config["max_window_layers"] = 0;
  }
  if (m.fp8 != TinyFp8::kNone) config["quantization_config"] = quantization_config_of(m);
  return config;
}

Status write_json(const std::string& path, const json& document) {
  std::ofstream stream(path);
  stream << document.dump(2) << "\n";
  stream.close();
  if (!stream) return io_error(path + ": could not be written");
  return {};
}

std::string shard_name(int index, int count) {
  if (count == 1) return "model.safetensors";
  char text[64];
  std::snprintf(text, sizeof(text), "model-%05d-of-%05d.safetensors", index + 1, count);
  return text;
}

}  // namespace

Status write_tiny_checkpoint(const std::string& directory, const TinyModel& model) {
  std::error_code code;
  std::filesystem::create_directories(directory, code);
  if (code) return io_error(directory + ": " + code.message());
  PHALANX_RETURN_IF_ERROR(write_json(directory + "/config.json", config_of(model)));

  const std::vector<RandomTensor> tensors = tensors_of(model);
  const auto shards = static_cast<size_t>(model.num_shards);
  json weight_map = json::object();
  for (size_t shard = 0; shard < shards; ++shard) {
    std::vector<StoredBytes> all;
    std::vector<model::StoredTensor> stored;
    for (size_t i = shard; i < tensors.size(); i += shards) {
      for (StoredBytes& tensor : stored_bytes(tensors[i], model)) all.push_back(std::move(tensor));
    }
    for (const StoredBytes& each : all) stored.push_back(each.tensor);
    const std::string name = shard_name(static_cast<int>(shard), model.num_shards);
    std::filesystem::remove(directory + "/" + name, code);
    PHALANX_ASSIGN_OR_RETURN(auto writer,
                             builder::SafetensorsWriter::create(directory + "/" + name, stored));
    for (const StoredBytes& each : all) {
      PHALANX_RETURN_IF_ERROR(writer->write(each.tensor.name, 0, each.bytes));
      weight_map[each.tensor.name] = name;
    }
    PHALANX_RETURN_IF_ERROR(writer->finish());
  }
  if (shards == 1) return {};
  return write_json(directory + "/model.safetensors.index.json",
                    {{"metadata", json::object()}, {"weight_map", weight_map}});
}

std::string build_tiny_engine(const std::string& directory, const TinyModel& model,
                              const std::string& weights, int64_t group_size) {
  static int counter = 0;
  const std::string stem = directory + "/tiny-" + std::to_string(counter++);
  const Status written = write_tiny_checkpoint(stem, model);
  PHALANX_CHECK(written.ok(), written.error().message);
  builder::BuildOptions options;
  options.checkpoint = stem;
  options.engine = stem + "-" + weights;
  options.quantization.group_size = group_size;
  if (weights == "f32") {
    options.quantization.weights = engine::F32;
  } else if (weights == "bf16") {
    options.quantization.weights = engine::BF16;
  } else if (weights == "w8") {
    options.quantization.weights = engine::W8;
  } else if (weights == "fp8") {
    options.quantization.weights = engine::FP8;
  } else {
    PHALANX_CHECK(weights == "w4", "weights must be f32, bf16, w8, w4 or fp8, not " + weights);
    options.quantization.weights = engine::W4;
  }
  const auto report = builder::build_engine(options);
  PHALANX_CHECK(report.ok(), report.error().message);
  return options.engine;
}

}  // namespace phalanx::testing
