// quantization_config of a checkpoint whose matrices are e4m3 codes with scales. Called by the
// checkpoint's config reader.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"

namespace phalanx::builder {

/// How an fp8 checkpoint names and shapes scales. Which tensors are e4m3 their dtypes say, so lists
/// of what was not quantized (ignore, modules_to_not_convert) need not be believed.
struct Fp8Config {
  std::string method;                       ///< quant_method, for messages
  std::vector<std::string> scale_suffixes;  ///< of a weight's name, the first that is there holds
  int64_t block_rows = 0;  ///< that a scale covers; 0: a scale per tensor or per row, as its shape
  int64_t block_cols = 0;  ///< says
  bool has_kv_scales = false;  ///< scales of a static fp8 KV cache are there
};

/// Reads `config` (the value of quantization_config): "compressed-tensors" of format
/// float-quantized (or naive-quantized), 8-bit floats per tensor, channel or block; and "fp8", with
/// weight_block_size or without. Errors: kUnsupported for another method, format or number, and for
/// a key that may change what is computed; kInvalidArgument for values that cannot be. Both name
/// key, value and what is allowed.
Result<Fp8Config> read_fp8_config(const nlohmann::json& config);

}  // namespace phalanx::builder
