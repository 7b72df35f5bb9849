// Parsing and drawing lengths.
#include "launcher/bench/serve_lengths.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

namespace phalanx::bench {
namespace {

constexpr std::string_view kLogNormal = "lognormal:";

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<int64_t> parse_length(std::string_view text) {
  const auto length = parse_number<int64_t>(text);
  if (!length || *length < 1 || *length > kMaxLengthTokens) return std::nullopt;
  return length;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> items;
  while (true) {
    const size_t begin = text.find_first_not_of(separators);
    if (begin == std::string_view::npos) return items;
    const size_t end = std::min(text.find_first_of(separators, begin), text.size());
    items.push_back(text.substr(begin, end - begin));
    text.remove_prefix(end);
  }
}

}  // namespace

Result<LengthDistribution> LengthDistribution::parse(const std::string& flag,
                                                     const std::string& text) {
  const Error wrong = invalid_argument(
      flag + " is \"" + text + "\", must be N, LOW..HIGH or lognormal:MEDIAN,SIGMA[,MAX] with " +
      "lengths in 1.." + std::to_string(kMaxLengthTokens) + " and SIGMA in 0..4");
  LengthDistribution distribution;
  distribution.text_ = text;
  if (text.starts_with(kLogNormal)) {
    const std::vector<std::string_view> parts =
        split(std::string_view(text).substr(kLogNormal.size()), ",");
    if (parts.size() < 2 || parts.size() > 3) return wrong;
    const auto median = parse_length(parts[0]);
    const auto sigma = parse_number<double>(parts[1]);
    if (!median || !sigma || !(*sigma >= 0 && *sigma <= 4)) return wrong;
    const auto most = parts.size() == 3
                          ? parse_length(parts[2])
                          : std::optional<int64_t>(std::min(16 * *median, kMaxLengthTokens));
    if (!most || *most < *median) return wrong;
    distribution.kind_ = Kind::kLogNormal;
    distribution.median_ = static_cast<double>(*median);
    distribution.sigma_ = *sigma;
    distribution.high_ = *most;
    return distribution;
  }
  const size_t dots = text.find("..");
  const auto low = parse_length(std::string_view(text).substr(0, dots));
  const auto high =
      dots == std::string::npos ? low : parse_length(std::string_view(text).substr(dots + 2));
  if (!low || !high || *low > *high) return wrong;
  distribution.low_ = *low;
  distribution.high_ = *high;
  return distribution;
}

int64_t LengthDistribution::draw(ServeRandom& random) const {
  switch (kind_) {
    case Kind::kUniform:
      return random.integer(low_, high_);
    case Kind::kLogNormal: {
      const double length = std::round(median_ * std::exp(sigma_ * random.normal()));
      return static_cast<int64_t>(
          std::clamp(length, static_cast<double>(low_), static_cast<double>(high_)));
    }
  }
  PHALANX_CHECK(false, "a distribution of no kind");
  return 0;
}

Result<std::vector<LengthPair>> read_length_pairs(const std::string& path) {
  std::ifstream file(path);
  if (!file) return not_found(path + ": " + std::strerror(errno));
  std::vector<LengthPair> pairs;
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const std::vector<std::string_view> items = split(line, " \t\r,");
    if (items.empty() || items[0].starts_with('#')) continue;
    const auto prompt = parse_length(items[0]);
    const auto output = items.size() == 2 ? parse_length(items[1]) : std::nullopt;
    if (!prompt || !output)
      return invalid_argument(path + ":" + std::to_string(number) + ": \"" + line +
                              "\" must be two lengths, prompt and output, in 1.." +
                              std::to_string(kMaxLengthTokens));
    pairs.emplace_back(*prompt, *output);
  }
  if (pairs.empty()) return invalid_argument(path + ": has no pair of lengths");
  return pairs;
}

}  // namespace phalanx::bench
