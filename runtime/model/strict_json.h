// JSON from files we do not trust: syntax errors with their byte, no duplicate keys, bounded depth.
// Called by the safetensors reader and the checkpoint readers.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"

namespace phalanx::model {

/// Parses all of `text`. `where` (a path) opens each error message; `byte_offset` is added to the
/// positions in them, for JSON that starts inside a file. max_depth counts nested containers.
/// Errors: kDataLoss for bad syntax (with the byte), a duplicate key (with the key) or too deep
/// nesting.
Result<nlohmann::json> parse_strict_json(std::string_view text, const std::string& where,
                                         int max_depth, int64_t byte_offset = 0);

/// Reads and parses a file of at most max_bytes. Errors: also kNotFound, kIoError.
Result<nlohmann::json> read_strict_json(const std::string& path, int max_depth,
                                        int64_t max_bytes = int64_t{64} << 20);

}  // namespace phalanx::model
