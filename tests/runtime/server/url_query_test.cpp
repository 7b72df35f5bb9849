// Percent-decoding and query strings.
#include "runtime/server/url_query.h"

#include <gtest/gtest.h>

namespace phalanx {
namespace {

TEST(UrlQuery, DecodesPercentAndPlus) {
  EXPECT_EQ(percent_decode("a%20b+c", true), "a b c");
  EXPECT_EQ(percent_decode("a%20b+c", false), "a b+c");
  EXPECT_EQ(percent_decode("%E4%b8%96", false), "\xE4\xB8\x96");
  EXPECT_EQ(percent_decode("%00", false), std::string(1, '\0'));
}

TEST(UrlQuery, RefusesHalfAnEscape) {
  for (const char* bad : {"%", "a%2", "%zz", "%2g", "100%"})
    EXPECT_EQ(percent_decode(bad, true), std::nullopt) << bad;
  EXPECT_EQ(parse_query("a=1&b=%"), std::nullopt);
}

TEST(UrlQuery, KeepsOrderAndRepetition) {
  const auto fields = parse_query("a=1&&b&a=2=3&c=");
  ASSERT_TRUE(fields.has_value());
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"a", "1"}, {"b", ""}, {"a", "2=3"}, {"c", ""}};
  EXPECT_EQ(*fields, expected);
  EXPECT_TRUE(parse_query("")->empty());
}

}  // namespace
}  // namespace phalanx
