// --url taken apart, and what is refused.
#include "launcher/bench/serve_url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

TEST(ServeUrlTest, PartsAndPaths) {
  const struct {
    const char* url;
    const char* authority;
    const char* path;
  } cases[] = {
      {"http://127.0.0.1:8000", "127.0.0.1:8000", "/v1/completions"},
      {"http://127.0.0.1:8000/", "127.0.0.1:8000", "/v1/completions"},
      {"http://host", "host:80", "/v1/completions"},
      {"http://host:1/v1", "host:1", "/v1/completions"},
      {"http://host:1/v1/", "host:1", "/v1/completions"},
      {"http://host:65535/v3", "host:65535", "/v3/completions"},
      {"http://host/models/a", "host:80", "/models/a/v1/completions"},
      {"http://host/vx", "host:80", "/vx/v1/completions"},
      {"http://[::1]:8000/a/v2", "[::1]:8000", "/a/v2/completions"},
      {"http://[::1]", "[::1]:80", "/v1/completions"},
  };
  for (const auto& c : cases) {
    const auto url = parse_serve_url(c.url);
    ASSERT_TRUE(url.ok()) << c.url << ": " << url.error().message;
    EXPECT_EQ(url->authority(), c.authority) << c.url;
    EXPECT_EQ(url->api_path("completions"), c.path) << c.url;
  }
}

TEST(ServeUrlTest, RefusesAndSaysWhy) {
  const struct {
    const char* url;
    const char* why;
  } cases[] = {
      {"", "http://"},
      {"127.0.0.1:8000", "begin with http://"},
      {"https://host", "https is not spoken"},
      {"http://", "host is empty"},
      {"http://:8000", "host is empty"},
      {"http://host:", "port"},
      {"http://host:0", "port"},
      {"http://host:65536", "port"},
      {"http://host:80a", "port"},
      {"http://host:-1", "port"},
      {"http://[::1", "bracket"},
      {"http://[::1]8000", "port"},
      {"http://me:secret@host", "user name"},
      {"http://host/a b", "space"},
      {"http://host/a\r\nX: y", "control"},
      {"http://host/?a=b", "query"},
  };
  for (const auto& c : cases) {
    const auto url = parse_serve_url(c.url);
    ASSERT_FALSE(url.ok()) << c.url;
    EXPECT_EQ(url.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(url.error().message, ::testing::HasSubstr(c.why)) << c.url;
    EXPECT_THAT(url.error().message, ::testing::HasSubstr("--url")) << c.url;
  }
}

}  // namespace
}  // namespace phalanx::bench
