// Command lines of llm-bench: what is understood, and what a wrong one is told.
#include "launcher/bench/bench_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<Flag>& flags() {
  static const std::vector<Flag> kFlags = {{"--threads", "N,...", "1,2", "how many"},
                                           {"--rate", "R", "0.5", "a second"},
                                           {"--shape", "NAME", "demo", "which"},
                                           {"--check", "", "", "a switch"}};
  return kFlags;
}

BenchOptions parse(const std::vector<std::string>& arguments, size_t max_places = 0) {
  return BenchOptions::parse(arguments, flags(), max_places).value();
}

std::string parse_error(const std::vector<std::string>& arguments, size_t max_places = 0) {
  const auto options = BenchOptions::parse(arguments, flags(), max_places);
  if (options.ok()) return "no error";
  EXPECT_EQ(options.error().code, ErrorCode::kInvalidArgument);
  return options.error().message;
}

template <typename T>
std::string error_of(const Result<T>& result) {
  if (result.ok()) return "no error";
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  return result.error().message;
}

TEST(BenchOptions, DefaultsHoldUntilGiven) {
  const BenchOptions options = parse({});
  EXPECT_FALSE(options.is_set("--shape"));
  EXPECT_FALSE(options.is_set("--check"));
  EXPECT_EQ(options.text("--shape"), "demo");
  EXPECT_THAT(*options.integers("--threads", 1, 8), ElementsAre(1, 2));
  EXPECT_DOUBLE_EQ(*options.number("--rate", 0, 1), 0.5);
}

TEST(BenchOptions, BothWaysOfGivingAValue) {
  for (const auto& arguments : {std::vector<std::string>{"--shape", "tiny", "--check"},
                                std::vector<std::string>{"--check", "--shape=tiny"}}) {
    const BenchOptions options = parse(arguments);
    EXPECT_TRUE(options.is_set("--check"));
    EXPECT_EQ(options.text("--shape"), "tiny");
  }
}

TEST(BenchOptions, ValuesMayHoldEqualsSignsAndMinuses) {
  EXPECT_EQ(parse({"--shape=a=b"}).text("--shape"), "a=b");
  EXPECT_EQ(parse({"--shape="}).text("--shape"), "");
  EXPECT_EQ(parse({"--shape=--odd"}).text("--shape"), "--odd");
  EXPECT_DOUBLE_EQ(*parse({"--rate", "-1.5"}).number("--rate", -2, 2), -1.5);
}

TEST(BenchOptions, WrongCommandLinesAreNamed) {
  EXPECT_THAT(parse_error({"--treads", "2"}), HasSubstr("unknown flag --treads"));
  EXPECT_THAT(parse_error({"-t", "2"}), HasSubstr("unknown flag -t"));
  EXPECT_THAT(parse_error({"--shape"}), HasSubstr("--shape needs a value, NAME"));
  EXPECT_THAT(parse_error({"--shape", "--check"}), HasSubstr("--shape needs a value, NAME"));
  EXPECT_THAT(parse_error({"--check=yes"}), HasSubstr("--check takes no value"));
  EXPECT_THAT(parse_error({"--shape", "a", "--shape=b"}), HasSubstr("--shape is given twice"));
  EXPECT_THAT(parse_error({"--check", "--check"}), HasSubstr("--check is given twice"));
}

TEST(BenchOptions, PlainArgumentsAreCounted) {
  EXPECT_THAT(parse({"a.json", "--check", "b.json"}, 2).places(), ElementsAre("a.json", "b.json"));
  EXPECT_THAT(parse_error({"a", "b", "c"}, 2),
              HasSubstr("\"c\" is one argument too many; at most 2"));
  EXPECT_THAT(parse_error({"--check", "yes"}), HasSubstr("\"yes\" is one argument too many"));
}

TEST(BenchOptions, IntegersAreWholeAndInRange) {
  const auto read = [](const std::string& text) {
    return error_of(parse({"--shape", text}).integer("--shape", 1, 64));
  };
  EXPECT_EQ(read("1"), "no error");
  EXPECT_EQ(read("64"), "no error");
  for (const char* wrong :
       {"0", "65", "-1", "1.5", "1e1", " 1", "1 ", "", "0x10", "one", "99999999999999999999"}) {
    EXPECT_THAT(read(wrong), HasSubstr("--shape is \"" + std::string(wrong) +
                                       "\", must be an integer between 1 and 64"))
        << wrong;
  }
}

TEST(BenchOptions, NumbersAreFiniteAndInRange) {
  const auto read = [](const std::string& text) {
    return error_of(parse({"--rate=" + text}).number("--rate", 0, 2.5));
  };
  for (const char* right : {"0", "2.5", "1e-3", "0.1"}) EXPECT_EQ(read(right), "no error");
  for (const char* wrong : {"nan", "inf", "-0.1", "2.6", "1,5", "", "1x"}) {
    EXPECT_THAT(read(wrong), HasSubstr("--rate is \"" + std::string(wrong) +
                                       "\", must be a number between 0 and 2.5"))
        << wrong;
  }
}

TEST(BenchOptions, ListsAreCheckedItemByItem) {
  EXPECT_THAT(*parse({"--threads", "4,2,4"}).integers("--threads", 1, 4), ElementsAre(4, 2, 4));
  for (const char* wrong : {"", ",", "1,", ",1", "1,,2"}) {
    EXPECT_THAT(error_of(parse({"--threads=" + std::string(wrong)}).integers("--threads", 1, 4)),
                HasSubstr("--threads is \"\""))
        << wrong;
  }
  EXPECT_THAT(error_of(parse({"--threads=1,9"}).integers("--threads", 1, 4)),
              HasSubstr("--threads is \"9\""));
}

TEST(BenchOptions, ChoicesListWhatIsAllowed) {
  const BenchOptions options = parse({"--shape", "tiny,huge"});
  EXPECT_THAT(*options.some_of("--shape", {"tiny", "huge"}), ElementsAre("tiny", "huge"));
  EXPECT_THAT(error_of(options.some_of("--shape", {"tiny", "demo"})),
              HasSubstr("--shape is \"huge\", must be one of tiny, demo"));
  EXPECT_THAT(error_of(options.one_of("--shape", {"tiny", "huge"})),
              HasSubstr("--shape is \"tiny,huge\", must be one of tiny, huge"));
}

TEST(BenchOptions, ReadingAFlagThatIsNotDeclaredIsAMistakeOfTheProgram) {
  EXPECT_THROW(static_cast<void>(parse({}).text("--other")), InternalError);
}

TEST(BenchOptions, HelpNamesEveryFlagWithItsDefault) {
  const std::string help = describe_flags(flags());
  EXPECT_THAT(help, HasSubstr("--threads N,..."));
  EXPECT_THAT(help, HasSubstr("how many (default 1,2)\n"));
  EXPECT_THAT(help, HasSubstr("a switch\n"));
}

}  // namespace
}  // namespace phalanx::bench
