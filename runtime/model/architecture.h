// Model families as data: the built-in architecture texts, and any other one from a file. Called by
// the builder.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/architecture.pb.h"

namespace phalanx::model {

/// Every text compiled into this binary (runtime/model/architectures), by name. They are parsed and
/// checked once; InternalError when one is broken, which the tests would have said.
const std::vector<engine::Architecture>& builtin_architectures();

/// Parses and checks an architecture text. Errors: kInvalidArgument with where:line:column, or
/// naming the template whose role, switch or shape is unknown or repeated.
Result<engine::Architecture> parse_architecture(const std::string& text, const std::string& where);

/// parse_architecture of a file. Errors: also kNotFound, kIoError.
Result<engine::Architecture> read_architecture(const std::string& path);

/// The built-in architecture for config.json's model_type. Errors: kUnsupported listing them all.
Result<engine::Architecture> architecture_for_model_type(const std::string& model_type);

/// Evaluates a shape: a product of model dimensions and integers, "num_attention_heads * head_dim".
/// Errors: kInvalidArgument naming an unknown dimension; kInvalidArgument when it overflows.
Result<int64_t> shape_extent(const std::string& expression, const engine::ModelConfig& config);

/// Whether `text` matches `pattern`, in which "*" stands for any text, also none.
bool matches_pattern(const std::string& pattern, const std::string& text);

}  // namespace phalanx::model
