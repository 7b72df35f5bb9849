// The filters of the template language on sequences: join, map, select, sort, items, ...
// Called by apply_jinja_filter. Where jinja2 gives a generator these give a list.
#include <algorithm>
#include <unordered_map>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/jinja_filters.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using Values = std::vector<JinjaValue>;

void no_arguments(const char* name, const JinjaArguments& arguments) {
  const JinjaBinding none(name, arguments, {});
}

// attribute="a.b.0": a path of names and indices.
JinjaValue attribute_path(JinjaInterpreter& run, const JinjaValue& value, const JinjaValue& path,
                          const JinjaValue* otherwise = nullptr) {
  JinjaValue current = value;
  if (path.is_int()) {
    current = run.item(current, path);
  } else {
    if (!path.is_string()) throw JinjaError("attribute must be a str or an int");
    const std::string& text = path.as_string();
    size_t begin = 0;
    while (begin <= text.size()) {
      const size_t dot = std::min(text.find('.', begin), text.size());
      const std::string part = text.substr(begin, dot - begin);
      const bool digits =
          !part.empty() && part.size() < 10 &&
          std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
      current = run.item(current,
                         digits ? JinjaValue::integer(std::stoll(part)) : JinjaValue::string(part));
      if (current.is_undefined() && otherwise != nullptr) return *otherwise;
      begin = dot + 1;
    }
  }
  if (current.is_undefined() && otherwise != nullptr) return *otherwise;
  return current;
}

// What values are compared by: an attribute when one is named, lower case unless it matters.
JinjaValue sort_key(JinjaInterpreter& run, const JinjaValue& value, const JinjaValue* attribute,
                    bool case_sensitive) {
  JinjaValue key = attribute != nullptr && !attribute->is_none()
                       ? attribute_path(run, value, *attribute)
                       : value;
  if (!case_sensitive && key.is_string()) return run.text(python_lower(key.as_string()));
  return key;
}

void sort_by_key(JinjaInterpreter& run, std::vector<std::pair<JinjaValue, JinjaValue>>& items,
                 bool reverse) {
  // Stable both ways, as Python's sorted.
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    run.charge(1);
    return reverse ? jinja_less(b.first, a.first, run.budget())
                   : jinja_less(a.first, b.first, run.budget());
  });
}

JinjaValue filter_length(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  no_arguments("length", arguments);
  size_t count = 0;
  if (value.is_string()) {
    run.charge(value.as_string().size() / 64);
    count = count_code_points(value.as_string());
  } else if (value.is_sequence()) {
    count = value.items().size();
  } else if (value.is_dict()) {
    count = value.as_dict().size();
  } else if (value.is_loop()) {
    count = value.as_loop().items.size();
  } else if (!value.is_undefined()) {
    throw JinjaError(std::string("object of type '") + value.type_name() + "' has no len()");
  }
  return JinjaValue::integer(static_cast<int64_t>(count));
}

JinjaValue filter_join(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  const JinjaBinding bound("join", arguments, {"d", "attribute"});
  const std::string separator = bound.has(0) ? run.str(bound.at(0)) : std::string();
  const bool by_attribute = bound.has(1) && !bound.at(1).is_none();
  std::string out;
  bool first = true;
  for (const JinjaValue& item : run.iterate(value)) {
    if (!first) out += separator;
    first = false;
    const JinjaValue part = by_attribute ? attribute_path(run, item, bound.at(1)) : item;
    out += part.is_string() ? part.as_string() : run.str(part);
    if (out.size() > run.max_bytes()) break;  // text() reports it
  }
  return run.text(std::move(out));
}

JinjaValue filter_items(JinjaInterpreter& run, const JinjaValue& value,
                        const JinjaArguments& arguments) {
  no_arguments("items", arguments);
  if (value.is_undefined()) return JinjaValue::list({});
  if (!value.is_dict()) throw JinjaError("Can only get item pairs from a mapping.");
  return call_jinja_method(run, value, "items", {});
}

JinjaValue filter_list(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  no_arguments("list", arguments);
  return JinjaValue::list(run.iterate(value));
}

JinjaValue filter_first(JinjaInterpreter& run, const JinjaValue& value,
                        const JinjaArguments& arguments) {
  no_arguments("first", arguments);
  Values items = run.iterate(value);
  if (items.empty()) return JinjaValue::undefined("No first item, sequence was empty.");
  return items.front();
}

JinjaValue filter_last(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  no_arguments("last", arguments);
  Values items = run.iterate(value);
  if (items.empty()) return JinjaValue::undefined("No last item, sequence was empty.");
  return items.back();
}

JinjaValue filter_reverse(JinjaInterpreter& run, const JinjaValue& value,
                          const JinjaArguments& arguments) {
  no_arguments("reverse", arguments);
  Values items = run.iterate(value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return JinjaValue::list(std::move(items));
  std::string text;
  for (const JinjaValue& item : items) text += item.as_string();
  return run.text(std::move(text));
}

// map("filter", arguments...) or map(attribute=..., default=...).
JinjaValue filter_map(JinjaInterpreter& run, const JinjaValue& value,
                      const JinjaArguments& arguments) {
  Values out;
  const Values items = run.iterate(value);
  if (arguments.positional.empty()) {
    const JinjaBinding bound("map", arguments, {"attribute", "default"});
    for (const JinjaValue& item : items) {
      out.push_back(attribute_path(run, item, bound.at(0), bound.has(1) ? &bound.at(1) : nullptr));
    }
    return JinjaValue::list(std::move(out));
  }
  if (!arguments.positional[0].is_string())
    throw JinjaError("map: the filter's name must be a str");
  JinjaArguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (const JinjaValue& item : items) {
    out.push_back(apply_jinja_filter(run, arguments.positional[0].as_string(), item, rest));
  }
  return JinjaValue::list(std::move(out));
}

// select, reject, selectattr, rejectattr: by a test, or by truth.
JinjaValue select(JinjaInterpreter& run, const char* name, const JinjaValue& value,
                  const JinjaArguments& arguments, bool by_attribute, bool wanted) {
  JinjaArguments rest = arguments;
  JinjaValue attribute;
  if (by_attribute) {
    if (rest.positional.empty()) throw JinjaError(std::string(name) + ": missing attribute name");
    attribute = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty()) {
    if (!rest.positional[0].is_string()) {
      throw JinjaError(std::string(name) + ": the test's name must be a str");
    }
    test = rest.positional[0].as_string();
    rest.positional.erase(rest.positional.begin());
  }
  Values out;
  for (const JinjaValue& item : run.iterate(value)) {
    const JinjaValue subject = by_attribute ? attribute_path(run, item, attribute) : item;
    const bool holds =
        test.empty() ? jinja_truth(subject) : apply_jinja_test(run, test, subject, rest);
    if (holds == wanted) out.push_back(item);
  }
  return JinjaValue::list(std::move(out));
}

JinjaValue filter_select(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  return select(run, "select", value, arguments, false, true);
}
JinjaValue filter_reject(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  return select(run, "reject", value, arguments, false, false);
}
JinjaValue filter_selectattr(JinjaInterpreter& run, const JinjaValue& value,
                             const JinjaArguments& arguments) {
  return select(run, "selectattr", value, arguments, true, true);
}
JinjaValue filter_rejectattr(JinjaInterpreter& run, const JinjaValue& value,
                             const JinjaArguments& arguments) {
  return select(run, "rejectattr", value, arguments, true, false);
}

JinjaValue filter_dictsort(JinjaInterpreter& run, const JinjaValue& value,
                           const JinjaArguments& arguments) {
  const JinjaBinding bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.string_or(1, "key");
  if (by != "key" && by != "value") {
    throw JinjaError("You can only sort by either \"key\" or \"value\"");
  }
  if (!value.is_dict()) throw JinjaError("dictsort: must be a mapping");
  std::vector<std::pair<JinjaValue, JinjaValue>> keyed;
  for (const auto& [key, item] : value.as_dict().entries()) {
    keyed.emplace_back(sort_key(run, by == "key" ? key : item, nullptr, bound.truth_or(0, false)),
                       JinjaValue::tuple({key, item}));
  }
  sort_by_key(run, keyed, bound.truth_or(2, false));
  Values out;
  for (auto& entry : keyed) out.push_back(std::move(entry.second));
  return JinjaValue::list(std::move(out));
}

JinjaValue filter_sort(JinjaInterpreter& run, const JinjaValue& value,
                       const JinjaArguments& arguments) {
  const JinjaBinding bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const JinjaValue* attribute = bound.has(2) ? &bound.at(2) : nullptr;
  if (attribute != nullptr && attribute->is_string() &&
      attribute->as_string().find(',') != std::string::npos) {
    throw JinjaError("sort by several attributes is not supported");
  }
  std::vector<std::pair<JinjaValue, JinjaValue>> keyed;
  for (const JinjaValue& item : run.iterate(value)) {
    keyed.emplace_back(sort_key(run, item, attribute, bound.truth_or(1, false)), item);
  }
  sort_by_key(run, keyed, bound.truth_or(0, false));
  Values out;
  for (auto& entry : keyed) out.push_back(std::move(entry.second));
  return JinjaValue::list(std::move(out));
}

JinjaValue filter_unique(JinjaInterpreter& run, const JinjaValue& value,
                         const JinjaArguments& arguments) {
  const JinjaBinding bound("unique", arguments, {"case_sensitive", "attribute"});
  const JinjaValue* attribute = bound.has(1) ? &bound.at(1) : nullptr;
  JinjaDict seen;
  Values out;
  for (const JinjaValue& item : run.iterate(value)) {
    const JinjaValue key = sort_key(run, item, attribute, bound.truth_or(0, false));
    if (seen.find(key) != nullptr) continue;
    seen.set(key, JinjaValue::none());
    out.push_back(item);
  }
  return JinjaValue::list(std::move(out));
}

JinjaValue extreme(JinjaInterpreter& run, const char* name, const JinjaValue& value,
                   const JinjaArguments& arguments, bool want_less) {
  const JinjaBinding bound(name, arguments, {"case_sensitive", "attribute"});
  const JinjaValue* attribute = bound.has(1) ? &bound.at(1) : nullptr;
  const bool case_sensitive = bound.truth_or(0, false);
  const Values items = run.iterate(value);
  if (items.empty()) return JinjaValue::undefined("No aggregated item, sequence was empty.");
  JinjaValue best = items[0];
  JinjaValue best_key = sort_key(run, best, attribute, case_sensitive);
  for (size_t i = 1; i < items.size(); ++i) {
    JinjaValue key = sort_key(run, items[i], attribute, case_sensitive);
    if (want_less ? jinja_less(key, best_key, run.budget())
                  : jinja_less(best_key, key, run.budget())) {
      best = items[i];
      best_key = std::move(key);
    }
  }
  return best;
}

JinjaValue filter_min(JinjaInterpreter& run, const JinjaValue& value,
                      const JinjaArguments& arguments) {
  return extreme(run, "min", value, arguments, true);
}
JinjaValue filter_max(JinjaInterpreter& run, const JinjaValue& value,
                      const JinjaArguments& arguments) {
  return extreme(run, "max", value, arguments, false);
}

JinjaValue filter_sum(JinjaInterpreter& run, const JinjaValue& value,
                      const JinjaArguments& arguments) {
  const JinjaBinding bound("sum", arguments, {"attribute", "start"});
  JinjaValue total = bound.has(1) ? bound.at(1) : JinjaValue::integer(0);
  const bool by_attribute = bound.has(0) && !bound.at(0).is_none();
  for (const JinjaValue& item : run.iterate(value)) {
    total =
        jinja_binary(run, "+", total, by_attribute ? attribute_path(run, item, bound.at(0)) : item);
  }
  return total;
}

JinjaValue filter_batch(JinjaInterpreter& run, const JinjaValue& value,
                        const JinjaArguments& arguments) {
  const JinjaBinding bound("batch", arguments, {"linecount", "fill_with"});
  bound.at(0);
  const int64_t size = bound.integer_or(0, 1);
  if (size < 1 || size > 1'000'000) throw JinjaError("batch: linecount must be from 1 to 1000000");
  Values out;
  Values line;
  for (const JinjaValue& item : run.iterate(value)) {
    if (static_cast<int64_t>(line.size()) == size)
      out.push_back(JinjaValue::list(std::exchange(line, {})));
    line.push_back(item);
  }
  if (!line.empty()) {
    if (bound.has(1) && !bound.at(1).is_none()) {
      run.charge(static_cast<uint64_t>(size));
      line.resize(static_cast<size_t>(size), bound.at(1));
    }
    out.push_back(JinjaValue::list(std::move(line)));
  }
  return JinjaValue::list(std::move(out));
}

// (grouper, items) pairs in the order of the groupers.
JinjaValue filter_groupby(JinjaInterpreter& run, const JinjaValue& value,
                          const JinjaArguments& arguments) {
  const JinjaBinding bound("groupby", arguments, {"attribute", "default", "case_sensitive"});
  const JinjaValue* otherwise = bound.has(1) ? &bound.at(1) : nullptr;
  const bool case_sensitive = bound.truth_or(2, false);
  std::vector<std::pair<JinjaValue, JinjaValue>> keyed;
  for (const JinjaValue& item : run.iterate(value)) {
    JinjaValue key = attribute_path(run, item, bound.at(0), otherwise);
    if (!case_sensitive && key.is_string()) key = run.text(python_lower(key.as_string()));
    keyed.emplace_back(std::move(key), item);
  }
  sort_by_key(run, keyed, false);
  Values out;
  for (size_t i = 0; i < keyed.size();) {
    Values group;
    const JinjaValue key = keyed[i].first;
    const JinjaValue shown = attribute_path(run, keyed[i].second, bound.at(0), otherwise);
    while (i < keyed.size() && jinja_equal(keyed[i].first, key, run.budget()))
      group.push_back(keyed[i++].second);
    out.push_back(JinjaValue::tuple({shown, JinjaValue::list(std::move(group))}));
  }
  return JinjaValue::list(std::move(out));
}

}  // namespace

JinjaFilter find_jinja_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, JinjaFilter> table = {
      {"batch", filter_batch},     {"count", filter_length},    {"dictsort", filter_dictsort},
      {"first", filter_first},     {"groupby", filter_groupby}, {"items", filter_items},
      {"join", filter_join},       {"last", filter_last},       {"length", filter_length},
      {"list", filter_list},       {"map", filter_map},         {"max", filter_max},
      {"min", filter_min},         {"reject", filter_reject},   {"rejectattr", filter_rejectattr},
      {"reverse", filter_reverse}, {"select", filter_select},   {"selectattr", filter_selectattr},
      {"sort", filter_sort},       {"sum", filter_sum},         {"unique", filter_unique},
  };
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace phalanx
