// Values of the template language: construction, truth, equality.
// Called by the whole of jinja_*, and by ChatTemplate for the variables.
#include "runtime/server/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "runtime/server/jinja_loop.h"

namespace phalanx {
namespace {

int checked_depth(int depth) {
  if (depth > kMaxJinjaValueDepth) {
    throw JinjaError("value nested deeper than " + std::to_string(kMaxJinjaValueDepth));
  }
  return depth;
}

// == of two values that are no containers; false when one is.
bool scalar_equal(const JinjaValue& left, const JinjaValue& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) return left.as_float() == right.as_float();
    return left.as_int() == right.as_int();
  }
  if (left.is_string() && right.is_string()) return left.as_string() == right.as_string();
  return (left.is_none() && right.is_none()) || (left.is_undefined() && right.is_undefined());
}

// The same text for keys that are equal, another for others.
std::string key_text(const JinjaValue& key) {
  if (key.is_string()) return "s" + key.as_string();
  if (key.is_float() && key.as_float() == std::floor(key.as_float()) &&
      std::abs(key.as_float()) < 9e15) {
    return "i" + std::to_string(static_cast<int64_t>(key.as_float()));
  }
  if (key.is_float()) return "f" + jinja_float_text(key.as_float());
  if (key.is_number()) return "i" + std::to_string(key.as_int());
  return key.is_none() ? "n" : "u";
}

JinjaValue json_value(const nlohmann::ordered_json& json, int depth) {
  checked_depth(depth);
  switch (json.type()) {
    case nlohmann::json::value_t::null:
    case nlohmann::json::value_t::discarded:
    case nlohmann::json::value_t::binary:
      return JinjaValue::none();
    case nlohmann::json::value_t::boolean:
      return JinjaValue::boolean(json.get<bool>());
    case nlohmann::json::value_t::number_integer:
      return JinjaValue::integer(json.get<int64_t>());
    case nlohmann::json::value_t::number_unsigned: {
      const auto value = json.get<uint64_t>();
      if (value > static_cast<uint64_t>(INT64_MAX)) {
        return JinjaValue::real(static_cast<double>(value));
      }
      return JinjaValue::integer(static_cast<int64_t>(value));
    }
    case nlohmann::json::value_t::number_float:
      return JinjaValue::real(json.get<double>());
    case nlohmann::json::value_t::string:
      return JinjaValue::string(json.get<std::string>());
    case nlohmann::json::value_t::array: {
      std::vector<JinjaValue> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(json_value(item, depth + 1));
      return JinjaValue::list(std::move(items));
    }
    case nlohmann::json::value_t::object: {
      JinjaDict dict;
      for (const auto& item : json.items())
        dict.set(item.key(), json_value(item.value(), depth + 1));
      return JinjaValue::dict(std::move(dict));
    }
  }
  return JinjaValue::none();
}

}  // namespace

JinjaValue JinjaValue::undefined(std::string hint) {
  return JinjaValue(Data(JinjaUndefined{std::make_shared<const std::string>(std::move(hint))}));
}

JinjaValue JinjaValue::string(std::string value) {
  return JinjaValue(Data(std::make_shared<const std::string>(std::move(value))));
}

JinjaValue JinjaValue::list(std::vector<JinjaValue> items) {
  auto list = std::make_shared<JinjaList>();
  for (const JinjaValue& item : items) list->depth = std::max(list->depth, item.depth() + 1);
  checked_depth(list->depth);
  list->items = std::move(items);
  return JinjaValue(Data(ListPointer(std::move(list))));
}

JinjaValue JinjaValue::tuple(std::vector<JinjaValue> items) {
  auto list = std::make_shared<JinjaList>();
  list->is_tuple = true;
  for (const JinjaValue& item : items) list->depth = std::max(list->depth, item.depth() + 1);
  checked_depth(list->depth);
  list->items = std::move(items);
  return JinjaValue(Data(ListPointer(std::move(list))));
}

JinjaValue JinjaValue::dict(JinjaDict entries) {
  checked_depth(entries.depth());
  return JinjaValue(Data(std::make_shared<const JinjaDict>(std::move(entries))));
}

JinjaValue JinjaValue::callable(JinjaCallable value) {
  checked_depth(value.receiver.depth() + 1);
  return JinjaValue(Data(std::make_shared<const JinjaCallable>(std::move(value))));
}

JinjaValue JinjaValue::from_json(const nlohmann::ordered_json& json) { return json_value(json, 0); }

bool JinjaValue::is_tuple() const {
  return is_sequence() && std::get<ListPointer>(data_)->is_tuple;
}

const std::vector<JinjaValue>& JinjaValue::items() const {
  return std::get<ListPointer>(data_)->items;
}

int JinjaValue::depth() const {
  if (is_sequence()) return std::get<ListPointer>(data_)->depth;
  if (is_dict()) return as_dict().depth();
  if (is_callable()) return as_callable().receiver.depth() + 1;
  if (is_loop()) return as_loop().depth_of_items + 1;
  return 0;
}

std::string JinjaValue::undefined_message() const {
  const auto& hint = std::get<JinjaUndefined>(data_).hint;
  return hint ? *hint : "the value is undefined";
}

const char* JinjaValue::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (is_tuple()) return "tuple";
  if (is_sequence()) return "list";
  if (is_dict()) return "dict";
  if (is_namespace()) return "Namespace";
  if (is_loop()) return "LoopContext";
  return as_callable().kind == JinjaCallable::Kind::kMacro ? "Macro" : "function";
}

bool JinjaValue::is_same(const JinjaValue& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_sequence()) return std::get<ListPointer>(data_) == std::get<ListPointer>(other.data_);
  if (is_dict()) return std::get<DictPointer>(data_) == std::get<DictPointer>(other.data_);
  if (is_callable()) {
    return std::get<CallablePointer>(data_) == std::get<CallablePointer>(other.data_);
  }
  uint64_t budget = 1U << 20;
  return jinja_equal(*this, other, budget);
}

size_t JinjaDict::find_index(const JinjaValue& key) const {
  if (entries_.size() >= kIndexedSize) {
    const auto found = index_.find(key_text(key));
    return found == index_.end() ? kNone : found->second;
  }
  for (size_t i = 0; i < entries_.size(); ++i)
    if (scalar_equal(entries_[i].first, key)) return i;
  return kNone;
}

const JinjaValue* JinjaDict::find(const JinjaValue& key) const {
  if (key.depth() > 0) return nullptr;
  const size_t index = find_index(key);
  return index == kNone ? nullptr : &entries_[index].second;
}

const JinjaValue* JinjaDict::find(std::string_view key) const {
  return find(JinjaValue::string(std::string(key)));
}

void JinjaDict::set(JinjaValue key, JinjaValue value) {
  if (key.depth() > 0 || key.is_namespace()) {
    throw JinjaError(std::string("unhashable or unsupported dict key: '") + key.type_name() + "'");
  }
  depth_ = std::max({depth_, value.depth() + 1});
  const size_t index = find_index(key);
  if (index != kNone) {
    entries_[index].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  if (entries_.size() < kIndexedSize) return;
  const size_t first = entries_.size() == kIndexedSize ? 0 : entries_.size() - 1;
  for (size_t i = first; i < entries_.size(); ++i) index_.emplace(key_text(entries_[i].first), i);
}

bool jinja_truth(const JinjaValue& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_bool() || value.is_int()) return value.as_int() != 0;
  if (value.is_float()) return value.as_float() != 0.0;
  if (value.is_string()) return !value.as_string().empty();
  if (value.is_sequence()) return !value.items().empty();
  if (value.is_dict()) return value.as_dict().size() != 0;
  return true;
}

bool jinja_equal(const JinjaValue& left, const JinjaValue& right, uint64_t& budget) {
  const uint64_t cost =
      left.is_string() && right.is_string() ? 1 + left.as_string().size() / 64 : 1;
  if (budget < cost) throw JinjaError("comparing takes too many steps");
  budget -= cost;
  if (left.is_sequence() && right.is_sequence()) {
    return left.is_tuple() == right.is_tuple() &&
           std::equal(
               left.items().begin(), left.items().end(), right.items().begin(), right.items().end(),
               [&](const JinjaValue& a, const JinjaValue& b) { return jinja_equal(a, b, budget); });
  }
  if (left.is_dict() && right.is_dict()) {
    if (left.as_dict().size() != right.as_dict().size()) return false;
    for (const auto& [key, value] : left.as_dict().entries()) {
      const JinjaValue* other = right.as_dict().find(key);
      if (other == nullptr || !jinja_equal(value, *other, budget)) return false;
    }
    return true;
  }
  if (left.is_namespace() && right.is_namespace()) {
    return &left.as_namespace() == &right.as_namespace();
  }
  if (left.is_loop() && right.is_loop()) return &left.as_loop() == &right.as_loop();
  if (left.is_callable() && right.is_callable()) {
    return &left.as_callable() == &right.as_callable();
  }
  return scalar_equal(left, right);
}

}  // namespace phalanx
