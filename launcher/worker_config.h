// Reads llm-worker's configuration: protobuf text, command-line overrides, defaults, range checks.
#pragma once

#include <string>
#include <vector>

#include "launcher/config.pb.h"
#include "runtime/base/result.h"

namespace phalanx::launcher {

/// Parses `text` (named `file_name` in messages) strictly, applies each "field=value" of
/// `overrides` in order, fills every default, and checks every range. Errors: kInvalidArgument with
/// file, line, field, value and what is allowed.
Result<config::WorkerConfig> parse_worker_config(const std::string& text,
                                                 const std::string& file_name,
                                                 const std::vector<std::string>& overrides);

/// Reads a whole file of at most 1 MiB. Errors: kNotFound, kIoError, kInvalidArgument.
Result<std::string> read_config_file(const std::string& path);

}  // namespace phalanx::launcher
