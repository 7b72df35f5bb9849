// Reads JSON that strangers send: bounded parsing, and fields with ranges. Called by the request
// parsers (openai_request, openai_chat_request).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/server/api_error.h"

namespace phalanx {

/// Keeps the order of fields: chat templates print tools as they were given.
using RequestJson = nlohmann::ordered_json;

/// Parses an object. Errors (400): not JSON (the byte offset is named), invalid UTF-8, a number no
/// double holds, deeper than max_depth, more than max_values values, more than 256 fields in an
/// object (they are looked up one by one), not an object, empty. Of equal fields the last counts.
/// Memory: at most about 100 bytes per value beside the text.
ApiResult<RequestJson> parse_json_object(std::string_view text, size_t max_depth,
                                         size_t max_values);

/// At most `max_bytes` of a value's JSON for an error message, cut at a character.
std::string excerpt(const RequestJson& value, size_t max_bytes = 60);

/// Takes an object's fields one by one; the first error is kept and later reads return nothing, so
/// a parser reads all its fields and asks once at the end. null means absent everywhere.
class FieldReader {
 public:
  /// `path` prefixes the field names in errors, e.g. "messages[2].". The object must outlive this.
  explicit FieldReader(const RequestJson& object, std::string path = "");

  std::optional<int64_t> integer(const char* name, int64_t lowest, int64_t highest);
  /// The range is closed, except that `above_lowest` excludes the lowest value (also after rounding
  /// to float).
  std::optional<double> number(const char* name, double lowest, double highest,
                               bool above_lowest = false);
  std::optional<bool> boolean(const char* name);
  std::optional<std::string> string(const char* name, size_t max_bytes);

  /// The raw value; nullptr when absent or null.
  const RequestJson* any(const char* name);

  /// Accepted and without effect.
  void ignore(std::initializer_list<const char*> names);

  /// An error if the field is present (not null, not an empty array or object, not false).
  void refuse(const char* name, const std::string& why);

  void fail(ApiError error);
  std::string full_name(const std::string& name) const { return path_ + name; }

  /// The first error; or, naming the field, one for a field that nobody asked about.
  std::optional<ApiError> finish();

 private:
  const RequestJson& object_;
  const std::string path_;
  std::vector<std::string_view> known_;
  std::optional<ApiError> error_;
};

}  // namespace phalanx
