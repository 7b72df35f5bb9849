// Percent-decoding and query strings. Called by openai_api for paths and for the GET streams.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace phalanx {

/// Replaces %XX (and '+' by a space when `plus_is_space`, as in queries). nullopt when a '%' is not
/// followed by two hex digits.
std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space);

/// "a=1&b=x%20y&a=2" in order; a name without '=' has the value "". Empty pieces are skipped.
/// nullopt when a piece does not decode.
std::optional<std::vector<std::pair<std::string, std::string>>> parse_query(std::string_view query);

}  // namespace phalanx
