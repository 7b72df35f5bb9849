// Values of the template language: Python's None, bool, int, float, str, list, tuple, dict, plus
// what Jinja adds (undefined, namespaces, callables, loops). Immutable but for namespaces.
// Called by the whole of jinja_*, and by ChatTemplate for the variables.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

namespace phalanx {

/// A template that cannot be parsed or rendered. Thrown only inside jinja_*; ChatTemplate turns it
/// into an Error. `line` is 0 until the interpreter fills it in.
class JinjaError : public std::runtime_error {
 public:
  explicit JinjaError(const std::string& message, int error_line = 0)
      : std::runtime_error(message), line(error_line) {}
  int line;
};

/// Containers deeper than this cannot be made, so that walking and freeing them is safe.
constexpr int kMaxJinjaValueDepth = 100;

class JinjaValue;
struct JinjaList;
class JinjaDict;
struct JinjaNamespace;
struct JinjaCallable;
struct JinjaLoop;

struct JinjaUndefined {
  std::shared_ptr<const std::string> hint;  ///< what is missing, for the error message; may be null
};
struct JinjaNone {};

/// A copy is cheap: strings and containers are shared.
class JinjaValue {
 public:
  JinjaValue() : data_(JinjaUndefined{}) {}
  static JinjaValue undefined(std::string hint);
  static JinjaValue none() { return JinjaValue(Data(JinjaNone{})); }
  static JinjaValue boolean(bool value) { return JinjaValue(Data(value)); }
  static JinjaValue integer(int64_t value) { return JinjaValue(Data(value)); }
  static JinjaValue real(double value) { return JinjaValue(Data(value)); }
  static JinjaValue string(std::string value);
  static JinjaValue list(std::vector<JinjaValue> items);
  static JinjaValue tuple(std::vector<JinjaValue> items);
  static JinjaValue dict(JinjaDict entries);
  /// Namespaces are owned by the interpreter, values only point to them: they can form cycles.
  static JinjaValue name_space(JinjaNamespace* value) { return JinjaValue(Data(value)); }
  static JinjaValue callable(JinjaCallable value);
  static JinjaValue loop(std::shared_ptr<JinjaLoop> value) {
    return JinjaValue(Data(std::move(value)));
  }
  /// Throws JinjaError when it is nested deeper than kMaxJinjaValueDepth.
  static JinjaValue from_json(const nlohmann::ordered_json& json);

  bool is_undefined() const { return std::holds_alternative<JinjaUndefined>(data_); }
  bool is_none() const { return std::holds_alternative<JinjaNone>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }
  bool is_string() const { return std::holds_alternative<StringPointer>(data_); }
  bool is_sequence() const { return std::holds_alternative<ListPointer>(data_); }
  bool is_tuple() const;
  bool is_dict() const { return std::holds_alternative<DictPointer>(data_); }
  bool is_namespace() const { return std::holds_alternative<JinjaNamespace*>(data_); }
  bool is_callable() const { return std::holds_alternative<CallablePointer>(data_); }
  bool is_loop() const { return std::holds_alternative<LoopPointer>(data_); }

  bool as_bool() const { return std::get<bool>(data_); }
  /// Of an int or a bool.
  int64_t as_int() const { return is_bool() ? (as_bool() ? 1 : 0) : std::get<int64_t>(data_); }
  /// Of any number.
  double as_float() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(as_int());
  }
  const std::string& as_string() const { return *std::get<StringPointer>(data_); }
  /// Of a list or a tuple.
  const std::vector<JinjaValue>& items() const;
  const JinjaDict& as_dict() const { return *std::get<DictPointer>(data_); }
  JinjaNamespace& as_namespace() const { return *std::get<JinjaNamespace*>(data_); }
  const JinjaCallable& as_callable() const { return *std::get<CallablePointer>(data_); }
  JinjaLoop& as_loop() const { return *std::get<LoopPointer>(data_); }

  /// Levels of containers: 0 for a scalar.
  int depth() const;
  /// "'x' is undefined": what a use of this undefined value reports.
  std::string undefined_message() const;
  /// "str", "int", "list", ...: Python's name of the type.
  const char* type_name() const;
  /// The same object, not only an equal one (`is sameas`).
  bool is_same(const JinjaValue& other) const;

 private:
  using StringPointer = std::shared_ptr<const std::string>;
  using ListPointer = std::shared_ptr<const JinjaList>;
  using DictPointer = std::shared_ptr<const JinjaDict>;
  using CallablePointer = std::shared_ptr<const JinjaCallable>;
  using LoopPointer = std::shared_ptr<JinjaLoop>;
  using Data =
      std::variant<JinjaUndefined, JinjaNone, bool, int64_t, double, StringPointer, ListPointer,
                   DictPointer, JinjaNamespace*, CallablePointer, LoopPointer>;
  explicit JinjaValue(Data data) : data_(std::move(data)) {}
  Data data_;
};

struct JinjaList {
  std::vector<JinjaValue> items;
  bool is_tuple = false;
  int depth = 1;
};

/// A dict that keeps the order of insertion. Keys are scalars (tuples are not supported).
class JinjaDict {
 public:
  using Entry = std::pair<JinjaValue, JinjaValue>;
  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  const JinjaValue* find(const JinjaValue& key) const;
  const JinjaValue* find(std::string_view key) const;
  /// Adds or replaces. Throws JinjaError for a key that is no scalar.
  void set(JinjaValue key, JinjaValue value);
  void set(std::string key, JinjaValue value) {
    set(JinjaValue::string(std::move(key)), std::move(value));
  }
  int depth() const { return depth_; }

 private:
  size_t find_index(const JinjaValue& key) const;
  static constexpr size_t kNone = ~size_t{0};
  static constexpr size_t kIndexedSize = 8;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;  // by key text, from kIndexedSize entries on
  int depth_ = 1;
};

/// The one thing that a template can change.
struct JinjaNamespace {
  JinjaDict attributes;
};

struct JinjaMacro;

/// Something that can be called.
struct JinjaCallable {
  enum class Kind { kMacro, kFunction, kMethod, kLoopMethod, kUnsafe };
  Kind kind = Kind::kFunction;
  std::string name;                   ///< of the function or method
  JinjaValue receiver;                ///< of a method
  const JinjaMacro* macro = nullptr;  ///< owned by the interpreter
};

struct JinjaArguments {
  std::vector<JinjaValue> positional;
  std::vector<std::pair<std::string, JinjaValue>> named;
};

/// Python's truth value.
bool jinja_truth(const JinjaValue& value);
/// Python's ==. Takes from `budget` what it costs (shared parts can make a small value huge to
/// walk); throws JinjaError when that is used up.
bool jinja_equal(const JinjaValue& left, const JinjaValue& right, uint64_t& budget);
/// Python's str(): what {{ value }} prints. `max_bytes` bounds the result (JinjaError).
std::string jinja_str(const JinjaValue& value, size_t max_bytes);
/// Python's repr().
std::string jinja_repr(const JinjaValue& value, size_t max_bytes);
/// Python's repr of a float: the shortest digits that read back the same.
std::string jinja_float_text(double value);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;  ///< one item a line, with `indent` for each level
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
/// Python's json.dumps. Throws JinjaError for what JSON cannot hold.
std::string jinja_json(const JinjaValue& value, const JsonStyle& style, size_t max_bytes);

}  // namespace phalanx
