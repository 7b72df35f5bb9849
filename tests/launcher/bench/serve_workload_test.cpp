// Lengths, prompts and arrivals: what the distributions promise, and that a seed decides it all.
#include "launcher/bench/serve_workload.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/bench/serve_random.h"
#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

using ::testing::HasSubstr;

LengthDistribution lengths(const std::string& text) {
  auto parsed = LengthDistribution::parse("--prompt-tokens", text);
  EXPECT_TRUE(parsed.ok()) << text;
  return *parsed;
}

std::vector<int64_t> draws(const std::string& text, size_t count) {
  const LengthDistribution distribution = lengths(text);
  std::vector<int64_t> drawn;
  for (size_t i = 0; i < count; ++i) {
    ServeRandom random(7, 1, i);
    drawn.push_back(distribution.draw(random));
  }
  std::sort(drawn.begin(), drawn.end());
  return drawn;
}

TEST(ServeRandomTest, UnitAndIntegerFillTheirRanges) {
  ServeRandom random(1, 2, 3);
  double sum = 0;
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) {
    const double unit = random.unit();
    ASSERT_GE(unit, 0);
    ASSERT_LT(unit, 1);
    sum += unit;
    ++counts[static_cast<size_t>(random.integer(-3, 3) + 3)];
  }
  EXPECT_NEAR(sum / 70000, 0.5, 0.005);  // 4.6 standard errors
  for (const int count : counts) EXPECT_NEAR(count, 10000, 450);
}

TEST(ServeRandomTest, StreamsDiffer) {
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t purpose = 0; purpose < 10; ++purpose) {
      for (uint64_t index = 0; index < 10; ++index)
        seen.insert(ServeRandom(seed, purpose, index).next());
    }
  }
  EXPECT_EQ(seen.size(), 1000U);
}

TEST(ServeLengthsTest, Fixed) {
  for (const int64_t length : draws("128", 100)) EXPECT_EQ(length, 128);
}

TEST(ServeLengthsTest, UniformReachesBothEnds) {
  const auto drawn = draws("5..8", 4000);
  for (int64_t value = 5; value <= 8; ++value)
    EXPECT_NEAR(static_cast<double>(std::count(drawn.begin(), drawn.end(), value)), 1000, 140);
  EXPECT_EQ(drawn.front(), 5);
  EXPECT_EQ(drawn.back(), 8);
}

TEST(ServeLengthsTest, LogNormalHasItsMedianAndSigmaAndEnds) {
  const auto drawn = draws("lognormal:200,0.5,100000", 20001);
  EXPECT_NEAR(static_cast<double>(drawn[10000]), 200, 4);
  // One sigma up is the 84.13th percentile: 200 e^0.5.
  EXPECT_NEAR(static_cast<double>(drawn[16827]), 200 * std::exp(0.5), 10);
  const auto cut = draws("lognormal:200,3,300", 2000);
  EXPECT_EQ(cut.back(), 300);
  EXPECT_GE(cut.front(), 1);
  EXPECT_LE(draws("lognormal:200,4", 20000).back(), 3200);
}

TEST(ServeLengthsTest, RefusesAndNamesWhatIsAllowed) {
  for (const char* text : {"",
                           "0",
                           "-1",
                           "1.5",
                           "a",
                           "5..",
                           "..5",
                           "6..5",
                           "5...6",
                           "0..3",
                           "lognormal:",
                           "lognormal:5",
                           "lognormal:0,1",
                           "lognormal:5,-1",
                           "lognormal:5,nan",
                           "lognormal:5,9",
                           "lognormal:5,1,4",
                           "lognormal:5,1,9,9",
                           "99999999999",
                           "128 "}) {
    const auto parsed = LengthDistribution::parse("--output-tokens", text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(parsed.error().message, HasSubstr("--output-tokens is \"" + std::string(text)));
    EXPECT_THAT(parsed.error().message, HasSubstr("LOW..HIGH"));
  }
}

TEST(ServeLengthsTest, PairsFromAFile) {
  const phalanx::testing::TemporaryDirectory directory;
  const std::string path = directory.path() + "/pairs";
  const auto read = [&](const std::string& text) {
    std::ofstream(path) << text;
    return read_length_pairs(path);
  };
  const auto pairs = read("# prompt output\n1 2\n\n 30,40 \r\n5\t6");
  ASSERT_TRUE(pairs.ok()) << pairs.error().message;
  EXPECT_EQ(*pairs, (std::vector<LengthPair>{{1, 2}, {30, 40}, {5, 6}}));
  EXPECT_THAT(read("1 2\n3\n").error().message, HasSubstr(":2: \"3\""));
  EXPECT_THAT(read("1 2 3\n").error().message, HasSubstr(":1:"));
  EXPECT_THAT(read("1 0\n").error().message, HasSubstr(":1:"));
  EXPECT_THAT(read("# none\n").error().message, HasSubstr("no pair"));
  EXPECT_EQ(read_length_pairs(directory.path() + "/none").error().code, ErrorCode::kNotFound);
}

WorkloadOptions ids_workload(uint64_t seed) {
  WorkloadOptions options;
  options.seed = seed;
  options.prompt_length = lengths("10..50");
  options.output_length = lengths("1..9");
  options.low_id = 100;
  options.high_id = 199;
  return options;
}

TEST(ServeWorkloadTest, ASeedDecidesWhateverTheOrder) {
  const Workload a(ids_workload(5));
  const Workload b(ids_workload(5));
  const Workload other(ids_workload(6));
  int same_as_other = 0;
  for (int64_t i = 99; i >= 0; --i) {
    const WorkItem item = a.item(i);
    const WorkItem again = b.item(i);
    EXPECT_EQ(item.ids, again.ids);
    EXPECT_EQ(item.output_tokens, again.output_tokens);
    same_as_other += item.ids == other.item(i).ids ? 1 : 0;
  }
  EXPECT_EQ(same_as_other, 0);
}

TEST(ServeWorkloadTest, NoTwoPromptsShareABeginning) {
  const Workload workload(ids_workload(5));
  std::set<std::vector<int32_t>> beginnings;
  for (int64_t i = 0; i < 500; ++i) {
    const WorkItem item = workload.item(i);
    ASSERT_EQ(static_cast<int64_t>(item.ids.size()), item.prompt_tokens);
    ASSERT_GE(item.prompt_tokens, 10);
    ASSERT_LE(item.prompt_tokens, 50);
    ASSERT_GE(item.output_tokens, 1);
    ASSERT_LE(item.output_tokens, 9);
    for (const int32_t id : item.ids) {
      ASSERT_GE(id, 100);
      ASSERT_LE(id, 199);
    }
    beginnings.emplace(item.ids.begin(), item.ids.begin() + 10);
  }
  EXPECT_EQ(beginnings.size(), 500U);
}

TEST(ServeWorkloadTest, SharedPrefixIsSharedAndNotMore) {
  WorkloadOptions options = ids_workload(5);
  options.prompt_length = lengths("20..50");
  options.shared_prefix = 16;
  const Workload workload(options);
  const WorkItem first = workload.item(0);
  int same_after = 0;
  for (int64_t i = 1; i < 50; ++i) {
    const WorkItem item = workload.item(i);
    EXPECT_TRUE(std::equal(first.ids.begin(), first.ids.begin() + 16, item.ids.begin()));
    EXPECT_EQ(static_cast<int64_t>(item.ids.size()), item.prompt_tokens);
    same_after +=
        std::equal(first.ids.begin() + 16, first.ids.begin() + 20, item.ids.begin() + 16) ? 1 : 0;
  }
  EXPECT_EQ(same_after, 0);
  options.prompt_length = lengths("4");
  const Workload shorter(options);
  EXPECT_EQ(shorter.item(0).ids, shorter.item(1).ids) << "shorter than the prefix: all of it";
  options.seed = 6;
  EXPECT_NE(Workload(options).item(0).ids, shorter.item(0).ids) << "a prefix of its own each run";
}

TEST(ServeWorkloadTest, PairsStayTogether) {
  WorkloadOptions options = ids_workload(5);
  options.pairs = {{3, 4}, {50, 60}};
  const Workload workload(options);
  int first = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const WorkItem item = workload.item(i);
    first += item.prompt_tokens == 3 ? 1 : 0;
    EXPECT_EQ(item.output_tokens, item.prompt_tokens == 3 ? 4 : 60);
    EXPECT_EQ(static_cast<int64_t>(item.ids.size()), item.prompt_tokens);
  }
  EXPECT_NEAR(first, 100, 35);
}

int64_t count_words(const std::string& text) {
  std::istringstream words(text);
  return std::distance(std::istream_iterator<std::string>(words),
                       std::istream_iterator<std::string>());
}

TEST(ServeWorkloadTest, TextHasAsManyWordsAsTheLengthAsksFor) {
  WorkloadOptions options = ids_workload(5);
  options.kind = PromptKind::kText;
  Workload workload(options);
  EXPECT_TRUE(workload.item(0).ids.empty());
  std::set<std::string> texts;
  for (int64_t i = 0; i < 50; ++i) {
    const WorkItem item = workload.item(i);
    EXPECT_EQ(count_words(item.text), item.prompt_tokens);
    texts.insert(item.text);
  }
  EXPECT_EQ(texts.size(), 50U);
  workload.set_tokens_per_word(2);
  const WorkItem item = workload.item(0);
  EXPECT_NEAR(static_cast<double>(count_words(item.text)),
              static_cast<double>(item.prompt_tokens) / 2, 0.5);
  workload.set_tokens_per_word(1e6);
  EXPECT_EQ(count_words(workload.item(0).text), 1) << "never empty";
}

TEST(PoissonArrivalsTest, GapsAreExponential) {
  PoissonArrivals arrivals(50, 3, 0);
  std::vector<double> gaps;
  double before = 0;
  for (int i = 0; i < 20000; ++i) {
    const double now = arrivals.next_s();
    ASSERT_GE(now, before);
    gaps.push_back(now - before);
    before = now;
  }
  EXPECT_NEAR(before, 400, 400 * 0.03) << "mean gap 20 ms, 4 standard errors";
  std::sort(gaps.begin(), gaps.end());
  // The greatest distance between the empirical distribution and 1 - exp(-50 t): Kolmogorov-Smirnov
  // at a significance of 0.1 % is 1.95 / sqrt(n).
  double distance = 0;
  for (size_t i = 0; i < gaps.size(); ++i) {
    const double expected = 1 - std::exp(-50 * gaps[i]);
    distance = std::max(distance, std::fabs(expected - (static_cast<double>(i) + 0.5) / 20000));
  }
  EXPECT_LT(distance, 1.95 / std::sqrt(20000));
}

TEST(PoissonArrivalsTest, SeedAndRunDecide) {
  PoissonArrivals a(2, 3, 0);
  PoissonArrivals same(2, 3, 0);
  PoissonArrivals other_run(2, 3, 1);
  PoissonArrivals other_seed(2, 4, 0);
  const double time = a.next_s();
  EXPECT_EQ(time, same.next_s());
  EXPECT_NE(time, other_run.next_s());
  EXPECT_NE(time, other_seed.next_s());
}

}  // namespace
}  // namespace phalanx::bench
