// llm-bench compare: pairs rows, tells ratios with their spread, and which report is better.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/bench/commands.h"
#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Measurement row(const std::string& name, std::vector<double> samples,
                Better better = Better::kHigher) {
  Measurement m;
  m.name = name;
  m.parameters = {{"rows", "8"}};
  m.unit = better == Better::kHigher ? "tok/s" : "ms";
  m.better = better;
  m.samples = std::move(samples);
  return m;
}

/// What comparing two reports printed and gave.
struct Outcome {
  Status status;
  std::string printed;
  std::vector<Measurement> rows;
};

Outcome compare(const std::vector<Measurement>& a, const std::vector<Measurement>& b) {
  const testing::TemporaryDirectory directory;
  const auto write = [&](const char* name, const std::vector<Measurement>& rows) {
    Report report({"test"}, false);
    for (const Measurement& m : rows) report.add(m);
    const std::string path = directory.path() + "/" + name;
    EXPECT_TRUE(report.write_json(path).ok());
    return path;
  };
  const Command command = compare_command();
  const BenchOptions options =
      BenchOptions::parse({write("a.json", a), write("b.json", b)}, command.flags(), 2).value();
  Report report({"compare"}, true);
  ::testing::internal::CaptureStdout();
  Outcome outcome;
  outcome.status = command.run(options, report);
  outcome.printed = ::testing::internal::GetCapturedStdout();
  outcome.rows = report.measurements();
  return outcome;
}

TEST(Compare, TellsTheRatioOfMediansAndItsEnds) {
  const Outcome outcome = compare({row("x", {8, 10, 12})}, {row("x", {24, 20, 30})});
  ASSERT_TRUE(outcome.status.ok());
  ASSERT_EQ(outcome.rows.size(), 1U);
  EXPECT_EQ(outcome.rows[0].unit, "x");
  const Spread ratio = spread_of(outcome.rows[0].samples);
  EXPECT_DOUBLE_EQ(ratio.median, 2.4);
  EXPECT_DOUBLE_EQ(ratio.least, 20.0 / 12);
  EXPECT_DOUBLE_EQ(ratio.most, 30.0 / 8);
  EXPECT_THAT(outcome.printed, HasSubstr("B is better"));
}

TEST(Compare, LowerIsBetterWhereTheRowSaysSo) {
  const auto verdict = [](std::vector<double> a, std::vector<double> b, Better better) {
    return compare({row("x", std::move(a), better)}, {row("x", std::move(b), better)}).printed;
  };
  EXPECT_THAT(verdict({10}, {5}, Better::kLower), HasSubstr("B is better"));
  EXPECT_THAT(verdict({5}, {10}, Better::kLower), HasSubstr("A is better"));
  EXPECT_THAT(verdict({10}, {5}, Better::kHigher), HasSubstr("A is better"));
}

TEST(Compare, OverlappingSpreadsAreNoDifference) {
  const Outcome outcome = compare({row("x", {9, 10, 11})}, {row("x", {10.5, 12, 13})});
  EXPECT_THAT(outcome.printed, HasSubstr("no difference beyond the spread"));
  EXPECT_THAT(outcome.printed, Not(HasSubstr("is better")));
}

TEST(Compare, RowsPairByNameParametersAndUnit) {
  Measurement other_rows = row("x", {1});
  other_rows.parameters = {{"rows", "16"}};
  Measurement other_unit = row("x", {1});
  other_unit.unit = "GB/s";
  const Outcome outcome =
      compare({row("x", {1}), row("gone", {3})}, {other_rows, other_unit, row("x", {2})});
  ASSERT_EQ(outcome.rows.size(), 1U);
  EXPECT_THAT(outcome.rows[0].samples, ElementsAre(2, 2, 2));
  EXPECT_THAT(outcome.printed, HasSubstr("1 rows compared (B over A); 1 only in A, 2 only in B"));
  EXPECT_THAT(outcome.printed, HasSubstr("only in A: gone rows=8"));
  EXPECT_THAT(outcome.printed, HasSubstr("only in B: x rows=16"));
}

TEST(Compare, RowsThatAreThereTwicePairUpInOrder) {
  const Outcome outcome =
      compare({row("x", {1}), row("x", {10})}, {row("x", {2}), row("x", {50}), row("x", {7})});
  ASSERT_EQ(outcome.rows.size(), 2U);
  EXPECT_DOUBLE_EQ(outcome.rows[0].samples[1], 2);
  EXPECT_DOUBLE_EQ(outcome.rows[1].samples[1], 5);
  EXPECT_THAT(outcome.printed, HasSubstr("2 rows compared (B over A); 0 only in A, 1 only in B"));
}

TEST(Compare, ZerosHaveNoRatio) {
  const Outcome outcome =
      compare({row("x", {0, 1}), row("y", {1})}, {row("x", {1}), row("y", {2})});
  EXPECT_TRUE(outcome.status.ok());
  ASSERT_EQ(outcome.rows.size(), 1U);
  EXPECT_EQ(outcome.rows[0].name, "y");
  EXPECT_THAT(outcome.printed, HasSubstr("no ratio: a sample is not positive"));
}

TEST(Compare, ReportsWithoutASharedRowAreAnError) {
  const Outcome outcome = compare({row("x", {1})}, {row("y", {1})});
  ASSERT_FALSE(outcome.status.ok());
  EXPECT_EQ(outcome.status.error().code, ErrorCode::kFailedPrecondition);
}

TEST(Compare, NeedsTwoReportsThatExist) {
  const Command command = compare_command();
  Report report({"compare"}, false);
  const auto run = [&](const std::vector<std::string>& places) {
    return command.run(BenchOptions::parse(places, command.flags(), 2).value(), report);
  };
  EXPECT_THAT(run({}).error().message, HasSubstr("compare needs two reports"));
  EXPECT_EQ(run({"/nonexistent/a.json"}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(run({"/nonexistent/a.json", "/nonexistent/b.json"}).error().message,
              HasSubstr("/nonexistent/a.json"));
}

}  // namespace
}  // namespace phalanx::bench
