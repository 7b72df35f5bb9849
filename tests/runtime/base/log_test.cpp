// Log lines: level, tag, one line a call.
#include "runtime/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx {
namespace {

TEST(Log, DropsWhatIsBelowTheLevelAndTagsTheRest) {
  set_log_tag("rank 7");
  set_log_level(LogLevel::kWarning);
  ::testing::internal::CaptureStderr();
  PHALANX_INFO("quiet");
  PHALANX_WARNING("loud " << 42);
  const std::string text = ::testing::internal::GetCapturedStderr();
  set_log_level(LogLevel::kInfo);
  set_log_tag("");
  EXPECT_THAT(text, ::testing::MatchesRegex("[0-9:.]+ W rank 7 \\| loud 42\n"));
}

}  // namespace
}  // namespace phalanx
