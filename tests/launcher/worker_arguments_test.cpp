// llm-worker's flags.
#include "launcher/worker_arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::launcher {
namespace {

using ::testing::HasSubstr;

TEST(WorkerArguments, ParsesBothSpellings) {
  const auto parsed =
      parse_worker_arguments({"--config=a.textproto", "--set", "x=1", "--set=y=2", "--chat", "hi",
                              "--max-tokens=5", "--temperature", "0.5", "--serve", "--digest"});
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->config_path, "a.textproto");
  EXPECT_EQ(parsed->overrides, (std::vector<std::string>{"x=1", "y=2"}));
  EXPECT_EQ(parsed->chat, "hi");
  EXPECT_EQ(parsed->max_tokens, 5);
  EXPECT_FLOAT_EQ(parsed->temperature, 0.5F);
  EXPECT_TRUE(parsed->serve_after);
  EXPECT_TRUE(parsed->digest);
}

TEST(WorkerArguments, ErrorsNameTheFlag) {
  struct Case {
    std::vector<std::string> arguments;
    const char* says;
  };
  const Case cases[] = {
      {{}, "--config"},
      {{"--config"}, "--config: needs a value"},
      {{"--config", "a", "--max-tokens", "0"}, "--max-tokens \"0\": allowed 1.."},
      {{"--config", "a", "--max-tokens", "9x"}, "--max-tokens \"9x\""},
      {{"--config", "a", "--temperature", "hot"}, "--temperature \"hot\""},
      {{"--config", "a", "--temperature", "nan"}, "--temperature \"nan\""},
      {{"--config", "a", "--plan=yes"}, "--plan: takes no value"},
      {{"--config", "a", "--prompt", "x", "--chat", "y"}, "one of them"},
      {{"--config", "a", "--serve"}, "--serve"},
      {{"--confg", "a"}, "unknown argument \"--confg\""},
      {{"stray"}, "unknown argument \"stray\""},
  };
  for (const Case& test : cases) {
    const auto parsed = parse_worker_arguments(test.arguments);
    ASSERT_FALSE(parsed.ok());
    EXPECT_THAT(parsed.error().message, HasSubstr(test.says));
  }
}

TEST(WorkerArguments, HelpNeedsNothingElse) {
  EXPECT_TRUE(parse_worker_arguments({"--help"})->help);
  EXPECT_THAT(worker_usage(), HasSubstr("--config"));
}

}  // namespace
}  // namespace phalanx::launcher
