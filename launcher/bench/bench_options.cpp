// Strict parsing of llm-bench's flags.
#include "launcher/bench/bench_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace phalanx::bench {
namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items;
  size_t begin = 0;
  while (true) {
    const size_t comma = list.find(',', begin);
    items.push_back(list.substr(begin, comma - begin));
    if (comma == std::string::npos) return items;
    begin = comma + 1;
  }
}

std::string join(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

std::string format_number(double value) {
  std::string text = std::to_string(value);
  while (text.ends_with('0')) text.pop_back();
  if (text.ends_with('.')) text.pop_back();
  return text;
}

Result<int64_t> parse_integer(const std::string& flag, const std::string& text, int64_t low,
                              int64_t high) {
  int64_t number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc() || end != text.data() + text.size() || number < low || number > high)
    return invalid_argument(flag + " is \"" + text + "\", must be an integer between " +
                            std::to_string(low) + " and " + std::to_string(high));
  return number;
}

Status check_choice(const std::string& flag, const std::string& text,
                    const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), text) != allowed.end()) return {};
  return invalid_argument(flag + " is \"" + text + "\", must be one of " + join(allowed));
}

}  // namespace

Result<BenchOptions> BenchOptions::parse(const std::vector<std::string>& arguments,
                                         const std::vector<Flag>& flags, size_t max_places) {
  BenchOptions options;
  for (const Flag& flag : flags) options.defaults_[flag.name] = flag.default_value;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!argument.starts_with("--")) {
      if (argument.starts_with("-"))
        return invalid_argument("unknown flag " + argument + "; flags start with two dashes");
      if (options.places_.size() == max_places)
        return invalid_argument("\"" + argument + "\" is one argument too many; at most " +
                                std::to_string(max_places) + " are allowed");
      options.places_.push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const auto known = std::find_if(flags.begin(), flags.end(),
                                    [&](const Flag& flag) { return flag.name == name; });
    if (known == flags.end()) return invalid_argument("unknown flag " + name + "; see --help");
    std::string value;
    if (known->value_name.empty()) {
      if (equals != std::string::npos) return invalid_argument(name + " takes no value");
    } else if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--")) {
      value = arguments[++i];
    } else {
      return invalid_argument(name + " needs a value, " + known->value_name);
    }
    if (!options.given_.emplace(name, value).second)
      return invalid_argument(name + " is given twice");
  }
  return options;
}

const std::string& BenchOptions::text(const std::string& flag) const {
  const auto given = given_.find(flag);
  if (given != given_.end()) return given->second;
  const auto known = defaults_.find(flag);
  PHALANX_CHECK(known != defaults_.end(), "a command reads the undeclared flag " + flag);
  return known->second;
}

Result<int64_t> BenchOptions::integer(const std::string& flag, int64_t low, int64_t high) const {
  return parse_integer(flag, text(flag), low, high);
}

Result<double> BenchOptions::number(const std::string& flag, double low, double high) const {
  const std::string& given = text(flag);
  double value = 0;
  const auto [end, code] = std::from_chars(given.data(), given.data() + given.size(), value);
  if (code != std::errc() || end != given.data() + given.size() || !(value >= low && value <= high))
    return invalid_argument(flag + " is \"" + given + "\", must be a number between " +
                            format_number(low) + " and " + format_number(high));
  return value;
}

Result<std::string> BenchOptions::one_of(const std::string& flag,
                                         const std::vector<std::string>& allowed) const {
  PHALANX_RETURN_IF_ERROR(check_choice(flag, text(flag), allowed));
  return text(flag);
}

Result<std::vector<int64_t>> BenchOptions::integers(const std::string& flag, int64_t low,
                                                    int64_t high) const {
  std::vector<int64_t> numbers;
  for (const std::string& item : split(text(flag))) {
    PHALANX_ASSIGN_OR_RETURN(const int64_t number, parse_integer(flag, item, low, high));
    numbers.push_back(number);
  }
  return numbers;
}

Result<std::vector<std::string>> BenchOptions::some_of(
    const std::string& flag, const std::vector<std::string>& allowed) const {
  std::vector<std::string> items = split(text(flag));
  for (const std::string& item : items) PHALANX_RETURN_IF_ERROR(check_choice(flag, item, allowed));
  return items;
}

std::string describe_flags(const std::vector<Flag>& flags) {
  std::string text;
  for (const Flag& flag : flags) {
    std::string left = "  " + flag.name + (flag.value_name.empty() ? "" : " " + flag.value_name);
    if (left.size() < 28) left.resize(28, ' ');
    text += left + "  " + flag.help;
    if (!flag.default_value.empty()) text += " (default " + flag.default_value + ")";
    text += "\n";
  }
  return text;
}

}  // namespace phalanx::bench
