// How long prompts and answers are: fixed, uniform, lognormal, or pairs from a file. Used by
// serve_workload.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "launcher/bench/serve_random.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

constexpr int64_t kMaxLengthTokens = 1 << 24;

/// A distribution of lengths, in tokens, each at least 1.
class LengthDistribution {
 public:
  /// "128"                         always 128
  /// "64..256"                     uniform over 64, 65, ... 256
  /// "lognormal:MEDIAN,SIGMA"      exp(ln MEDIAN + SIGMA * normal), rounded, in [1, 16 * MEDIAN]
  /// "lognormal:MEDIAN,SIGMA,MAX"  the same in [1, MAX]
  /// Errors: kInvalidArgument naming flag, value and what is allowed.
  static Result<LengthDistribution> parse(const std::string& flag, const std::string& text);

  int64_t draw(ServeRandom& random) const;
  const std::string& text() const { return text_; }

 private:
  enum class Kind { kUniform, kLogNormal };

  std::string text_;
  Kind kind_ = Kind::kUniform;
  int64_t low_ = 1;
  int64_t high_ = 1;
  double median_ = 1;
  double sigma_ = 0;
};

/// Lengths that belong together: prompt and answer of one request.
using LengthPair = std::pair<int64_t, int64_t>;

/// Reads one pair a line, "PROMPT OUTPUT" with blanks or a comma between; lines that are empty or
/// begin with '#' are skipped. Errors: kNotFound; kInvalidArgument naming line and value, or for a
/// file without pairs.
Result<std::vector<LengthPair>> read_length_pairs(const std::string& path);

}  // namespace phalanx::bench
