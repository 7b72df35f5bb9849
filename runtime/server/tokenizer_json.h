// Checked reading of untrusted JSON: bounded depth, and fields by name with the path in the error.
// Called by the tokenizer's loaders and by chat_template_files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"

namespace phalanx {

/// A JSON object in the order of its file. Big ones (a vocabulary) are appended to without looking
/// whether a key comes twice: whoever reads those checks. In small ones the last of equal keys
/// stays, as in nlohmann::json.
template <typename Key, typename T, typename IgnoredLess, typename Allocator>
struct FileObject : nlohmann::ordered_map<Key, T, IgnoredLess, Allocator> {
  using Ordered = nlohmann::ordered_map<Key, T, IgnoredLess, Allocator>;
  using Ordered::Ordered;
  static constexpr size_t kMostSearched = 64;

  T& operator[](const Key& key) {
    if (this->size() < kMostSearched) return Ordered::operator[](key);
    this->emplace_back(key, T{});
    return this->back().second;
  }
};

using FileJson = nlohmann::basic_json<FileObject>;

/// Bytes of a regular file of at most `max_bytes`. Errors: kNotFound, kIoError, kInvalidArgument.
Result<std::string> read_text_file(const std::string& path, size_t max_bytes);

/// Errors: kDataLoss with the byte offset; nesting deeper than `max_depth` is one of them.
Result<FileJson> parse_json(std::string_view text, size_t max_depth = 64);

/// A JSON value and where it stands in its file ("model.vocab"). Refers to the document: keep that.
class JsonField {
 public:
  JsonField(const FileJson& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const FileJson& json() const { return *value_; }
  const std::string& path() const { return path_; }
  bool is_null() const { return value_->is_null(); }

  /// The member `key`; a null field when it is absent or this is no object.
  JsonField operator[](std::string_view key) const;
  JsonField at(size_t index) const;

  Result<std::string> as_string() const;
  /// An integer between `low` and `high`.
  Result<int64_t> as_integer(int64_t low, int64_t high) const;
  Result<bool> as_bool() const;
  /// The value, or `otherwise` when the field is null or absent.
  Result<bool> bool_or(bool otherwise) const;
  Result<int64_t> integer_or(int64_t otherwise, int64_t low, int64_t high) const;
  /// Exactly one code point.
  Result<std::string> as_character() const;
  Result<std::vector<JsonField>> as_array() const;
  Status expect_object() const;

  /// "<path>: <what>" as a kInvalidArgument or kUnsupported error.
  Error invalid(std::string_view what) const;
  Error refuse(std::string_view what) const;

 private:
  const FileJson* value_;
  std::string path_;
};

}  // namespace phalanx
