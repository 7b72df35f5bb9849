// Flags of llm-bench's commands: declared once, parsed strictly, read by name. Used by every
// command.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx::bench {

/// One flag a command knows. "--name VALUE" and "--name=VALUE" are the same; a value that starts
/// with two dashes needs the second form.
struct Flag {
  std::string name;           ///< "--threads"
  std::string value_name;     ///< "N"; empty: a switch, which takes no value
  std::string default_value;  ///< what reading it gives when it is not on the command line
  std::string help;           ///< one line; commas separate lists
};

/// A parsed command line. Immutable.
class BenchOptions {
 public:
  /// Errors: kInvalidArgument naming an unknown flag, a missing or unwanted value, a flag given
  /// twice, or more than `max_places` plain arguments.
  static Result<BenchOptions> parse(const std::vector<std::string>& arguments,
                                    const std::vector<Flag>& flags, size_t max_places = 0);

  bool is_set(const std::string& flag) const { return given_.contains(flag); }
  /// The value given, or the default. The flag must be declared.
  const std::string& text(const std::string& flag) const;

  /// Errors: kInvalidArgument naming flag, value and what is allowed.
  Result<int64_t> integer(const std::string& flag, int64_t low, int64_t high) const;
  Result<double> number(const std::string& flag, double low, double high) const;
  Result<std::string> one_of(const std::string& flag,
                             const std::vector<std::string>& allowed) const;

  /// Comma-separated lists, at least one item.
  Result<std::vector<int64_t>> integers(const std::string& flag, int64_t low, int64_t high) const;
  Result<std::vector<std::string>> some_of(const std::string& flag,
                                           const std::vector<std::string>& allowed) const;

  /// Plain arguments, in order.
  const std::vector<std::string>& places() const { return places_; }

 private:
  std::map<std::string, std::string> defaults_;
  std::map<std::string, std::string> given_;
  std::vector<std::string> places_;
};

/// The flags as help text, one a line.
std::string describe_flags(const std::vector<Flag>& flags);

}  // namespace phalanx::bench
