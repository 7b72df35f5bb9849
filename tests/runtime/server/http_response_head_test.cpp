// Response heads: which fields an answer carries, by status and by how its body ends.
#include "runtime/server/http_response_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

TEST(HttpResponseHead, WholeBody) {
  HttpResponse response;
  response.body = "12345";
  response.headers = {{"Allow", "GET"}};
  ResponseFraming framing;
  framing.keep_alive = true;
  const std::string head = make_response_head(response, framing);
  EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200 OK\r\nServer: phalanx\r\nDate: "),
                          HasSubstr("\r\nContent-Type: application/json\r\n"),
                          HasSubstr("\r\nAllow: GET\r\n"), HasSubstr("\r\nContent-Length: 5\r\n"),
                          EndsWith("\r\n\r\n"), Not(HasSubstr("Connection:")),
                          Not(HasSubstr("Access-Control")), Not(HasSubstr("Transfer-Encoding"))));
  // RFC 9110, 5.6.7: "Sun, 06 Nov 1994 08:49:37 GMT".
  const size_t date = head.find("Date: ") + 6;
  EXPECT_THAT(head.substr(date, head.find("\r\n", date) - date),
              MatchesRegex("[A-Z][a-z][a-z], [0-9][0-9] [A-Z][a-z][a-z] [0-9]+ "
                           "[0-9][0-9]:[0-9][0-9]:[0-9][0-9] GMT"));
}

TEST(HttpResponseHead, StreamsHaveNoLength) {
  ResponseFraming framing;
  framing.body = BodyFraming::kChunked;
  framing.keep_alive = true;
  EXPECT_THAT(
      make_response_head({}, framing),
      AllOf(HasSubstr("\r\nTransfer-Encoding: chunked\r\n"), Not(HasSubstr("Content-Length"))));
  framing.body = BodyFraming::kUntilClose;
  framing.keep_alive = false;
  EXPECT_THAT(make_response_head({}, framing),
              AllOf(HasSubstr("\r\nConnection: close\r\n"), Not(HasSubstr("Transfer-Encoding")),
                    Not(HasSubstr("Content-Length"))));
}

TEST(HttpResponseHead, NoBodyNoTypeNoLength) {
  for (const int status : {204, 304}) {
    HttpResponse response;
    response.status = status;
    EXPECT_THAT(make_response_head(response, {}),
                AllOf(HasSubstr(std::to_string(status)), Not(HasSubstr("Content-"))));
  }
}

TEST(HttpResponseHead, Http10IsToldThatTheConnectionStays) {
  ResponseFraming framing;
  framing.keep_alive = true;
  framing.http_1_0 = true;
  EXPECT_THAT(make_response_head({}, framing), HasSubstr("\r\nConnection: keep-alive\r\n"));
}

TEST(HttpResponseHead, CorsVariesUnlessEveryoneMay) {
  ResponseFraming framing;
  framing.cors_allow_origin = "*";
  EXPECT_THAT(make_response_head({}, framing),
              AllOf(HasSubstr("\r\nAccess-Control-Allow-Origin: *\r\n"), Not(HasSubstr("Vary"))));
  framing.cors_allow_origin = "https://a.example";
  EXPECT_THAT(make_response_head({}, framing),
              AllOf(HasSubstr("\r\nAccess-Control-Allow-Origin: https://a.example\r\n"),
                    HasSubstr("\r\nVary: Origin\r\n")));
}

}  // namespace
}  // namespace phalanx
