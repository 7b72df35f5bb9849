// Checked reading of untrusted JSON: bounded depth, and fields by name with the path in the error.
// Called by the tokenizer's loaders and by chat_template_files.
#include "runtime/server/tokenizer_json.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

const FileJson kNull;

// The parser itself does not recurse, but everything that walks its result does.
Status check_depth(std::string_view text, size_t max_depth) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) {
        return data_loss("JSON, byte " + std::to_string(i) + ": nested deeper than " +
                         std::to_string(max_depth));
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return {};
}

}  // namespace

Result<std::string> read_text_file(const std::string& path, size_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return not_found(path + ": no such file");
  if (!std::filesystem::is_regular_file(status)) return invalid_argument(path + ": not a file");
  const auto size = std::filesystem::file_size(path, error);
  if (error) return io_error(path + ": " + error.message());
  if (size > max_bytes) {
    return invalid_argument(path + ": " + std::to_string(size) + " bytes, at most " +
                            std::to_string(max_bytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(size), '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size())) && !text.empty()) {
    return io_error(path + ": " + std::strerror(errno));
  }
  return text;
}

Result<FileJson> parse_json(std::string_view text, size_t max_depth) {
  PHALANX_RETURN_IF_ERROR(check_depth(text, max_depth));
  try {
    return FileJson::parse(text.begin(), text.end());
  } catch (const FileJson::parse_error& error) {
    return data_loss("JSON, byte " + std::to_string(error.byte) + ": " + error.what());
  } catch (const FileJson::exception& error) {
    return data_loss(std::string("JSON: ") + error.what());
  }
}

JsonField JsonField::operator[](std::string_view key) const {
  std::string path = path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  if (value_->is_object()) {
    const auto found = value_->find(key);
    if (found != value_->end()) return {*found, std::move(path)};
  }
  return {kNull, std::move(path)};
}

JsonField JsonField::at(size_t index) const {
  std::string path = path_ + "[" + std::to_string(index) + "]";
  if (value_->is_array() && index < value_->size()) return {(*value_)[index], std::move(path)};
  return {kNull, std::move(path)};
}

Result<std::string> JsonField::as_string() const {
  if (!value_->is_string()) return invalid(std::string(value_->type_name()) + ", must be a string");
  return value_->get_ref<const std::string&>();
}

Result<int64_t> JsonField::as_integer(int64_t low, int64_t high) const {
  const std::string range =
      "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  if (!value_->is_number_integer()) {
    return invalid(std::string(value_->type_name()) + ", must be " + range);
  }
  const bool too_big =
      value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (too_big || value_->get<int64_t>() < low || value_->get<int64_t>() > high) {
    return invalid(value_->dump() + ", must be " + range);
  }
  return value_->get<int64_t>();
}

Result<bool> JsonField::as_bool() const {
  if (!value_->is_boolean()) {
    return invalid(std::string(value_->type_name()) + ", must be true or false");
  }
  return value_->get<bool>();
}

Result<bool> JsonField::bool_or(bool otherwise) const {
  if (is_null()) return otherwise;
  return as_bool();
}

Result<int64_t> JsonField::integer_or(int64_t otherwise, int64_t low, int64_t high) const {
  if (is_null()) return otherwise;
  return as_integer(low, high);
}

Result<std::string> JsonField::as_character() const {
  PHALANX_ASSIGN_OR_RETURN(std::string text, as_string());
  if (text.empty() || read_utf8(text, 0).num_bytes != text.size()) {
    return invalid("'" + text + "', must be one character");
  }
  return text;
}

Result<std::vector<JsonField>> JsonField::as_array() const {
  if (!value_->is_array()) return invalid(std::string(value_->type_name()) + ", must be an array");
  std::vector<JsonField> fields;
  fields.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) fields.push_back(at(i));
  return fields;
}

Status JsonField::expect_object() const {
  if (!value_->is_object())
    return invalid(std::string(value_->type_name()) + ", must be an object");
  return {};
}

Error JsonField::invalid(std::string_view what) const {
  return invalid_argument(path_ + ": " + std::string(what));
}

Error JsonField::refuse(std::string_view what) const {
  return unsupported(path_ + ": " + std::string(what));
}

}  // namespace phalanx
