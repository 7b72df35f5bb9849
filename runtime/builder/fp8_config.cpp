// Reading of the two dialects of fp8 checkpoints. Sources: compressed-tensors, QuantizationConfig;
// transformers, FineGrainedFP8Config; AutoFP8.
#include "runtime/builder/fp8_config.h"

#include <algorithm>

namespace phalanx::builder {

namespace {

using nlohmann::json;

constexpr const char* kWhere = "config.json: quantization_config";
constexpr int64_t kMostBlock = int64_t{1} << 20;

std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

bool says_nothing(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array() || value.is_string()) && value.empty());
}

/// One object of the config: every key is read, harmless, or an error unless it says nothing.
class Keys {
 public:
  Keys(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  /// Null when the key is absent.
  json value(const char* key) {
    read_.emplace_back(key);
    const auto found = object_.find(key);
    return found == object_.end() ? json(nullptr) : *found;
  }

  Error bad(const char* key, const json& value, const std::string& allowed) const {
    return unsupported(where_ + "." + key + " is " + shown(value) + ", must be " + allowed);
  }

  /// The key's value is one of `allowed` (a missing one is null).
  Status expect(const char* key, const std::vector<json>& allowed) {
    const json found = value(key);
    std::string text;
    for (const json& candidate : allowed) {
      if (found == candidate) return {};
      if (!text.empty()) text += " or ";
      text += candidate.is_null() ? "absent" : candidate.dump();
    }
    return bad(key, found, text);
  }

  Status check_all_read(const std::vector<const char*>& harmless) const {
    for (const auto& [key, value] : object_.items()) {
      const bool known = std::find(read_.begin(), read_.end(), key) != read_.end() ||
                         std::find(harmless.begin(), harmless.end(), key) != harmless.end();
      if (!known && !says_nothing(value))
        return unsupported(where_ + "." + key + " is " + shown(value) +
                           ", which nothing here reads and which may change what is computed");
    }
    return {};
  }

 private:
  const json& object_;
  std::string where_;
  std::vector<std::string> read_;
};

/// [rows, columns] of a block of weights.
Status read_block(const json& block, const std::string& where, Fp8Config* out) {
  const auto is_extent = [](const json& value) {
    if (!value.is_number_integer()) return false;
    const bool is_huge =
        value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMostBlock);
    return !is_huge && value.get<int64_t>() >= 1 && value.get<int64_t>() <= kMostBlock;
  };
  if (!block.is_array() || block.size() != 2 || !is_extent(block[0]) || !is_extent(block[1]))
    return invalid_argument(where + " is " + shown(block) +
                            ", must be [rows, columns], each from 1 to " +
                            std::to_string(kMostBlock));
  const auto rows = block[0].get<int64_t>();
  const auto cols = block[1].get<int64_t>();
  if (out->block_rows != 0 && (out->block_rows != rows || out->block_cols != cols))
    return unsupported(where + " is " + shown(block) + ", another group has [" +
                       std::to_string(out->block_rows) + ", " + std::to_string(out->block_cols) +
                       "]: one is read");
  out->block_rows = rows;
  out->block_cols = cols;
  return {};
}

Status check_names(Keys& keys, const char* key) {
  const json names = keys.value(key);
  if (names.is_null()) return {};
  const bool fits =
      names.is_array() &&
      std::all_of(names.begin(), names.end(), [](const json& name) { return name.is_string(); });
  if (fits) return {};
  return invalid_argument(std::string(kWhere) + "." + key + " is " + shown(names) +
                          ", must be a list of names");
}

Status read_weights(const json& weights, const std::string& where, Fp8Config* out,
                    bool* has_blocks) {
  if (!weights.is_object())
    return invalid_argument(where + " is " + shown(weights) + ", must be an object");
  Keys keys(weights, where);
  PHALANX_RETURN_IF_ERROR(keys.expect("num_bits", {8}));
  PHALANX_RETURN_IF_ERROR(keys.expect("type", {"float"}));
  PHALANX_RETURN_IF_ERROR(keys.expect("symmetric", {true, nullptr}));
  PHALANX_RETURN_IF_ERROR(keys.expect("strategy", {"tensor", "channel", "block"}));
  *has_blocks = keys.value("strategy") == "block";
  const json block = keys.value("block_structure");
  if (*has_blocks) PHALANX_RETURN_IF_ERROR(read_block(block, where + ".block_structure", out));
  return keys.check_all_read({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"});
}

Status read_compressed_tensors(const json& config, Fp8Config* out) {
  Keys keys(config, kWhere);
  keys.value("quant_method");
  const std::vector<json> formats = {"float-quantized", "naive-quantized"};
  PHALANX_RETURN_IF_ERROR(keys.expect("format", formats));
  PHALANX_RETURN_IF_ERROR(check_names(keys, "ignore"));
  out->has_kv_scales = !says_nothing(keys.value("kv_cache_scheme"));
  if (const json sparsity = keys.value("sparsity_config"); sparsity.is_object()) {
    Keys of_sparsity(sparsity, std::string(kWhere) + ".sparsity_config");
    PHALANX_RETURN_IF_ERROR(of_sparsity.expect("format", {"dense", nullptr}));
  }
  const json groups = keys.value("config_groups");
  if (!groups.is_object() || groups.empty())
    return invalid_argument(std::string(kWhere) + ".config_groups is " + shown(groups) +
                            ", must be an object of groups");
  int num_with_blocks = 0;
  for (const auto& [name, group] : groups.items()) {
    const std::string where = std::string(kWhere) + ".config_groups." + name;
    if (!group.is_object())
      return invalid_argument(where + " is " + shown(group) + ", must be an object");
    Keys of_group(group, where);
    if (!of_group.value("format").is_null())
      PHALANX_RETURN_IF_ERROR(of_group.expect("format", formats));
    bool has_blocks = false;
    PHALANX_RETURN_IF_ERROR(
        read_weights(of_group.value("weights"), where + ".weights", out, &has_blocks));
    num_with_blocks += has_blocks ? 1 : 0;
    // Activations are quantized here per token and group, whatever they were meant to be.
    of_group.value("input_activations");
    PHALANX_RETURN_IF_ERROR(of_group.check_all_read({"targets"}));
  }
  if (num_with_blocks != 0 && num_with_blocks != static_cast<int>(groups.size()))
    return unsupported(std::string(kWhere) +
                       ".config_groups mixes strategy \"block\" with others: one is read");
  out->scale_suffixes = {"_scale"};
  return keys.check_all_read({"quantization_status", "global_compression_ratio", "version"});
}

Status read_fp8(const json& config, Fp8Config* out) {
  Keys keys(config, kWhere);
  keys.value("quant_method");
  PHALANX_RETURN_IF_ERROR(keys.expect("fmt", {"e4m3", "float8_e4m3fn", nullptr}));
  PHALANX_RETURN_IF_ERROR(keys.expect("activation_scheme", {"dynamic", "static", nullptr}));
  for (const char* key : {"modules_to_not_convert", "ignored_layers", "ignore"})
    PHALANX_RETURN_IF_ERROR(check_names(keys, key));
  out->has_kv_scales = !says_nothing(keys.value("kv_cache_scheme"));
  const json block = keys.value("weight_block_size");
  if (!block.is_null())
    PHALANX_RETURN_IF_ERROR(read_block(block, std::string(kWhere) + ".weight_block_size", out));
  out->scale_suffixes = {"_scale_inv", "_scale"};  // "inv" multiplies too
  return keys.check_all_read({"scale_fmt"});
}

}  // namespace

Result<Fp8Config> read_fp8_config(const json& config) {
  if (!config.is_object())
    return invalid_argument(std::string(kWhere) + " is " + shown(config) + ", must be an object");
  const auto method = config.find("quant_method");
  Fp8Config out;
  if (method != config.end() && method->is_string()) out.method = method->get<std::string>();
  if (out.method == "compressed-tensors") {
    PHALANX_RETURN_IF_ERROR(read_compressed_tensors(config, &out));
    return out;
  }
  if (out.method == "fp8") {
    PHALANX_RETURN_IF_ERROR(read_fp8(config, &out));
    return out;
  }
  return unsupported(std::string(kWhere) +
                     (method == config.end() ? "" : " of method " + shown(*method)) +
                     " is present; of quantized checkpoints those of method \"fp8\" and the "
                     "float-quantized ones of \"compressed-tensors\" are imported: build from the "
                     "unquantized checkpoint and quantize with --weights");
}

}  // namespace phalanx::builder
