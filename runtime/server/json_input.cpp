// A counting pass before the tree is built, and typed reads that name the field, the value and
// what is allowed.
#include "runtime/server/json_input.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace phalanx {
namespace {

using json = RequestJson;

constexpr size_t kMaxFields = 256;

// Walks the text without building anything; stops at the first limit or error.
class LimitCounter final : public json::json_sax_t {
 public:
  LimitCounter(size_t max_depth, size_t max_values)
      : max_depth_(max_depth), max_values_(max_values) {}

  bool null() override { return count(); }
  bool boolean(bool) override { return count(); }
  bool number_integer(number_integer_t) override { return count(); }
  bool number_unsigned(number_unsigned_t) override { return count(); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (std::isfinite(value)) return count();
    error_ = "the number " + text.substr(0, 40) + " is out of range";
    return false;
  }
  bool string(string_t&) override { return count(); }
  bool binary(binary_t&) override { return count(); }
  bool start_object(size_t) override { return enter(); }
  bool key(string_t&) override {
    if (++num_fields_.back() > kMaxFields) {
      error_ = "an object with more than " + std::to_string(kMaxFields) + " fields";
      return false;
    }
    return count();
  }
  bool end_object() override { return leave(); }
  bool start_array(size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& exception) override {
    // nlohmann's text is "[json.exception.parse_error.101] parse error at line 1, ...: why".
    const std::string what = exception.what();
    const size_t why = what.find(": ");
    error_ = "at byte " + std::to_string(position) +
             (why == std::string::npos ? ": a number that no double holds" : what.substr(why));
    return false;
  }

  const std::string& error() const { return error_; }

 private:
  bool count() {
    if (++num_values_ <= max_values_) return true;
    error_ = "more than " + std::to_string(max_values_) + " values";
    return false;
  }
  bool enter() {
    num_fields_.push_back(0);
    if (num_fields_.size() > max_depth_) {
      error_ = "nested deeper than " + std::to_string(max_depth_) + " levels";
      return false;
    }
    return count();
  }
  bool leave() {
    num_fields_.pop_back();
    return true;
  }

  const size_t max_depth_;
  const size_t max_values_;
  std::vector<size_t> num_fields_;  // of each array or object that is open
  size_t num_values_ = 0;
  std::string error_;
};

std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

bool is_blank(const json& value) {
  if (value.is_array() || value.is_object()) return value.empty();
  return value.is_boolean() && !value.get<bool>();
}

}  // namespace

ApiResult<json> parse_json_object(std::string_view text, size_t max_depth, size_t max_values) {
  LimitCounter counter(max_depth, max_values);
  const bool well_formed = json::sax_parse(text.begin(), text.end(), &counter);
  if (!well_formed || !counter.error().empty()) {
    ApiError error =
        invalid_field("", "the request body is not acceptable JSON: " + counter.error());
    error.code = "invalid_json";
    return error;
  }
  json value = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    ApiError error = invalid_field(
        "", "the request body must be a JSON object, not " + std::string(value.type_name()));
    error.code = "invalid_json";
    return error;
  }
  return value;
}

std::string excerpt(const json& value, size_t max_bytes) {
  if (value.is_array() && value.size() > 8)
    return "an array of " + std::to_string(value.size()) + " values";
  if (value.is_object() && value.size() > 8)
    return "an object of " + std::to_string(value.size()) + " fields";
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end) + "...";
}

FieldReader::FieldReader(const json& object, std::string path)
    : object_(object), path_(std::move(path)) {}

const json* FieldReader::any(const char* name) {
  known_.emplace_back(name);
  if (error_) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> FieldReader::integer(const char* name, int64_t lowest, int64_t highest) {
  const json* value = any(name);
  if (value == nullptr) return std::nullopt;
  const std::string range =
      " must be an integer in [" + std::to_string(lowest) + ", " + std::to_string(highest) + "]";
  const bool fits =
      value->is_number_unsigned()
          ? value->get<uint64_t>() <= static_cast<uint64_t>(std::max<int64_t>(highest, 0)) &&
                highest >= 0 && static_cast<int64_t>(value->get<uint64_t>()) >= lowest
          : value->is_number_integer() && value->get<int64_t>() >= lowest &&
                value->get<int64_t>() <= highest;
  if (!fits) {
    fail(invalid_field(full_name(name), full_name(name) + range + ", not " + excerpt(*value)));
    return std::nullopt;
  }
  return value->get<int64_t>();
}

std::optional<double> FieldReader::number(const char* name, double lowest, double highest,
                                          bool above_lowest) {
  const json* value = any(name);
  if (value == nullptr) return std::nullopt;
  const double given = value->is_number() ? value->get<double>() : std::nan("");
  // Requests carry floats: a value must keep its range after rounding to one.
  const double rounded = static_cast<float>(given);
  const bool fits = rounded <= highest && (above_lowest ? rounded > lowest : rounded >= lowest);
  if (!fits) {
    fail(invalid_field(full_name(name), full_name(name) + " must be a number in " +
                                            (above_lowest ? "(" : "[") + number_text(lowest) +
                                            ", " + number_text(highest) + "], not " +
                                            excerpt(*value)));
    return std::nullopt;
  }
  return given;
}

std::optional<bool> FieldReader::boolean(const char* name) {
  const json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    fail(invalid_field(full_name(name),
                       full_name(name) + " must be true or false, not " + excerpt(*value)));
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<std::string> FieldReader::string(const char* name, size_t max_bytes) {
  const json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    fail(invalid_field(full_name(name),
                       full_name(name) + " must be a string, not " + excerpt(*value)));
    return std::nullopt;
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    fail(invalid_field(full_name(name), full_name(name) + " has " + std::to_string(text.size()) +
                                            " bytes; at most " + std::to_string(max_bytes) +
                                            " are allowed"));
    return std::nullopt;
  }
  return text;
}

void FieldReader::ignore(std::initializer_list<const char*> names) {
  for (const char* name : names) known_.emplace_back(name);
}

void FieldReader::refuse(const char* name, const std::string& why) {
  const json* value = any(name);
  if (value != nullptr && !is_blank(*value))
    fail(unsupported_field(full_name(name), full_name(name) + " is not supported: " + why));
}

void FieldReader::fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

std::optional<ApiError> FieldReader::finish() {
  if (error_) return error_;
  for (const auto& [name, value] : object_.items()) {
    // A client that echoes a whole message sends null for what it never set.
    if (value.is_null()) continue;
    if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
      const std::string shown = excerpt(json(name));
      ApiError error = invalid_field(full_name(name.substr(0, 60)),
                                     "unknown field " + shown + (path_.empty() ? "" : " in ") +
                                         path_.substr(0, path_.empty() ? 0 : path_.size() - 1));
      error.code = "unknown_field";
      return error;
    }
  }
  return std::nullopt;
}

}  // namespace phalanx
