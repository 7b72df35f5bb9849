// Reports: statistics, the table's rows, and JSON that comes back as it was or says what is wrong.
#include "launcher/bench/report.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

Measurement prefill() {
  Measurement m;
  m.name = "prefill";
  m.parameters = {{"prompt", "512"}, {"batch", "1"}};
  m.unit = "tok/s";
  m.samples = {500, 400, 450};
  m.limit = Limit{"int8 peak", {1000, 1000, 500}};
  m.details = {{"ops", 1e12}, {"bytes", 2.5e9}};
  return m;
}

Measurement latency() {
  Measurement m;
  m.name = "ttft";
  m.unit = "ms";
  m.better = Better::kLower;
  m.samples = {20};
  return m;
}

std::string write(const testing::TemporaryDirectory& directory, const std::string& text) {
  const std::string path = directory.path() + "/report.json";
  std::ofstream(path) << text;
  return path;
}

/// The error of reading that text.
std::string reading(const std::string& text) {
  const testing::TemporaryDirectory directory;
  const auto report = Report::read_json(write(directory, text));
  if (report.ok()) return "no error";
  EXPECT_EQ(report.error().code, ErrorCode::kDataLoss);
  return report.error().message;
}

ordered_json good_json() {
  Report report({"model"}, false);
  report.add(prefill());
  return report.to_json();
}

// ------------------------------------------------------------------------------- statistics ----

TEST(Statistics, QuantilesInterpolateBetweenRanks) {
  const std::vector<double> samples = {40, 10, 30, 20};
  EXPECT_DOUBLE_EQ(quantile(samples, 0), 10);
  EXPECT_DOUBLE_EQ(quantile(samples, 1), 40);
  EXPECT_DOUBLE_EQ(quantile(samples, 0.5), 25);
  EXPECT_DOUBLE_EQ(quantile(samples, 0.25), 17.5);
  EXPECT_DOUBLE_EQ(quantile({7}, 0.99), 7);
}

TEST(Statistics, QuantilesOfManyAreMonotone) {
  std::vector<double> samples;
  for (int i = 0; i < 101; ++i) samples.push_back((i * 37) % 101);
  double before = -1;
  for (int percent = 0; percent <= 100; ++percent) {
    const double value = quantile(samples, percent / 100.0);
    EXPECT_NEAR(value, percent, 1e-9);
    EXPECT_GE(value, before);
    before = value;
  }
}

TEST(Statistics, SpreadIsMedianAndEnds) {
  const Spread odd = spread_of({3, 1, 2});
  EXPECT_DOUBLE_EQ(odd.median, 2);
  EXPECT_DOUBLE_EQ(odd.least, 1);
  EXPECT_DOUBLE_EQ(odd.most, 3);
  EXPECT_DOUBLE_EQ(spread_of({1, 2, 3, 10}).median, 2.5);
}

TEST(Statistics, NoSamplesHaveNone) {
  EXPECT_THROW(spread_of({}), InternalError);
  EXPECT_THROW(quantile({}, 0.5), InternalError);
  EXPECT_THROW(quantile({1}, 1.5), InternalError);
  EXPECT_THROW(quantile({1}, std::nan("")), InternalError);
}

// ---------------------------------------------------------------------------------- fraction ----

TEST(Fraction, IsOfPairsOfSamples) {
  const auto fraction = prefill().fraction();
  ASSERT_TRUE(fraction.has_value());
  EXPECT_DOUBLE_EQ(fraction->median, 0.5);  // of 0.5, 0.4 and 0.9; not of the medians, 0.45
  EXPECT_DOUBLE_EQ(fraction->least, 0.4);
  EXPECT_DOUBLE_EQ(fraction->most, 0.9);
}

TEST(Fraction, OfWhatIsBetterLowerIsTheLimitOverIt) {
  Measurement m = latency();
  m.limit = Limit{"wire", {5}};
  EXPECT_DOUBLE_EQ(m.fraction()->median, 0.25);
}

TEST(Fraction, NeedsALimit) { EXPECT_FALSE(latency().fraction().has_value()); }

// ------------------------------------------------------------------------------------ adding ----

TEST(ReportRows, WhatIsNoMeasurementIsRefused) {
  Report report({"model"}, false);
  Measurement empty = latency();
  empty.samples.clear();
  EXPECT_THROW(report.add(empty), InternalError);
  Measurement infinite = latency();
  infinite.samples = {1, std::numeric_limits<double>::infinity()};
  EXPECT_THROW(report.add(infinite), InternalError);
  Measurement unpaired = prefill();
  unpaired.limit->samples.pop_back();
  EXPECT_THROW(report.add(unpaired), InternalError);
  Measurement no_limit = prefill();
  no_limit.limit->samples[1] = std::nan("");
  EXPECT_THROW(report.add(no_limit), InternalError);
  EXPECT_TRUE(report.measurements().empty());
}

TEST(ReportRows, PrintOneLineEach) {
  EXPECT_THAT(format_row(prefill()),
              ::testing::MatchesRegex("prefill prompt=512 batch=1 +450.0 tok/s +"
                                      "\\(400.0 .. 500.0\\) +50.0 % of int8 peak 1000"));
  EXPECT_THAT(format_row(latency()),
              ::testing::MatchesRegex("ttft +20.00 ms +\\(20.00 .. 20.00\\)"));
}

TEST(ReportRows, ShowFourDigitsOfAnySize) {
  const auto shown = [](double value) {
    Measurement m = latency();
    m.samples = {value};
    return format_row(m);
  };
  EXPECT_THAT(shown(123456.7), HasSubstr(" 123457 ms"));
  EXPECT_THAT(shown(1234.5), HasSubstr(" 1234 ms"));
  EXPECT_THAT(shown(0.012345), HasSubstr(" 0.01235 ms"));
  EXPECT_THAT(shown(0.0000123456), HasSubstr(" 0.00001235 ms"));
  EXPECT_THAT(shown(0), HasSubstr(" 0.000 ms"));
}

TEST(ReportRows, AreNotPrintedWhereTheReportIsSilent) {
  ::testing::internal::CaptureStdout();
  Report({"model"}, false).add(prefill());
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  ::testing::internal::CaptureStdout();
  Report({"model"}, true).add(prefill());
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), format_row(prefill()) + "\n");
}

// -------------------------------------------------------------------------------------- JSON ----

TEST(ReportJson, ComesBackAsItWas) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory.path() + "/r.json";
  Report report({"model", "--threads", "2"}, false);
  report.set_fact("threads", 2);
  report.add(prefill());
  report.add(latency());
  ASSERT_TRUE(report.write_json(path).ok());
  const auto read = Report::read_json(path);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->to_json(), report.to_json());
  const Measurement& m = read->measurements()[0];
  EXPECT_EQ(m.name, "prefill");
  EXPECT_THAT(m.parameters, ElementsAre(Pair("prompt", "512"), Pair("batch", "1")));
  EXPECT_THAT(m.samples, ElementsAre(500, 400, 450));
  EXPECT_EQ(m.better, Better::kHigher);
  EXPECT_EQ(m.limit->name, "int8 peak");
  EXPECT_THAT(m.details, ElementsAre(Pair("ops", 1e12), Pair("bytes", 2.5e9)));
  EXPECT_EQ(read->measurements()[1].better, Better::kLower);
  EXPECT_FALSE(read->measurements()[1].limit.has_value());
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST(ReportJson, SaysWhatOthersNeed) {
  const ordered_json json = good_json();
  EXPECT_EQ(json["format"], "phalanx-bench-1");
  EXPECT_THAT(json["time"].get<std::string>(), ::testing::MatchesRegex("[0-9-]+T[0-9:]+Z"));
  EXPECT_GE(json["host"]["cores"].get<int>(), 1);
  EXPECT_GT(json["host"]["memory_bytes"].get<int64_t>(), 0);
  const ordered_json& row = json["measurements"][0];
  EXPECT_EQ(row["median"], 450);
  EXPECT_EQ(row["better"], "higher");
  EXPECT_EQ(row["limit"]["median"], 1000);
  EXPECT_EQ(row["fraction"]["median"], 0.5);
}

TEST(ReportJson, IsWrittenWholeOrNotAtAll) {
  const testing::TemporaryDirectory directory;
  const Report report({"model"}, false);
  const std::string nowhere = directory.path() + "/missing/r.json";
  EXPECT_THAT(report.write_json(nowhere).error().message, HasSubstr(nowhere));
  EXPECT_EQ(report.write_json(nowhere).error().code, ErrorCode::kIoError);
  EXPECT_FALSE(Report::check_writable(nowhere).ok());
  const std::string path = directory.path() + "/r.json";
  EXPECT_TRUE(Report::check_writable(path).ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  std::ofstream(path) << "before";
  EXPECT_TRUE(Report::check_writable(path).ok());
  EXPECT_EQ(std::filesystem::file_size(path), 6);
  // A directory in the way: the rename fails and leaves nothing behind.
  const std::string taken = directory.path() + "/taken";
  std::filesystem::create_directories(taken + "/inside");
  EXPECT_FALSE(report.write_json(taken).ok());
  EXPECT_FALSE(std::filesystem::exists(taken + ".partial"));
}

TEST(ReportJson, AMissingFileIsNotFound) {
  const auto report = Report::read_json("/nonexistent/r.json");
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(report.error().message, HasSubstr("/nonexistent/r.json"));
}

TEST(ReportJson, WhatIsNoReportIsNamed) {
  EXPECT_THAT(reading(""), HasSubstr("is not JSON"));
  EXPECT_THAT(reading("{\"format\": \"phalanx-bench-1\""), HasSubstr("is not JSON"));
  EXPECT_THAT(reading("[1]"), HasSubstr("format must be"));
  EXPECT_THAT(reading("{\"format\": \"phalanx-bench-0\"}"), HasSubstr("format must be"));
  EXPECT_THAT(reading("{\"format\": 1}"), HasSubstr("format must be"));
  EXPECT_THAT(reading("{\"format\": \"phalanx-bench-1\"}"), HasSubstr("measurements must be"));
  EXPECT_THAT(reading("{\"format\": \"phalanx-bench-1\", \"measurements\": {}}"),
              HasSubstr("measurements must be an array"));
}

TEST(ReportJson, WhatIsWrongInARowIsNamedWithItsPlace) {
  ASSERT_EQ(reading(good_json().dump()), "no error");
  const auto with = [](const char* pointer, const ordered_json& value) {
    ordered_json json = good_json();
    json["measurements"].push_back(json["measurements"][0]);
    json[ordered_json::json_pointer(std::string("/measurements/1") + pointer)] = value;
    return reading(json.dump());
  };
  EXPECT_THAT(with("", 3), HasSubstr("measurements[1]: must be an object"));
  EXPECT_THAT(with("/name", 3), HasSubstr("measurements[1].name: must be a string"));
  EXPECT_THAT(with("/unit", nullptr), HasSubstr("measurements[1].unit: must be a string"));
  EXPECT_THAT(with("/better", "faster"), HasSubstr("measurements[1].better: \"faster\""));
  EXPECT_THAT(with("/parameters", ordered_json::array()), HasSubstr("parameters: must be an"));
  EXPECT_THAT(with("/parameters/prompt", 512), HasSubstr("parameters.prompt: must be a string"));
  EXPECT_THAT(with("/samples", ordered_json::array()), HasSubstr("samples: must be an array"));
  EXPECT_THAT(with("/samples", 3), HasSubstr("samples: must be an array of at least one number"));
  EXPECT_THAT(with("/samples/1", nullptr), HasSubstr("samples: null is no number"));
  EXPECT_THAT(with("/limit", 1), HasSubstr("limit: must be an object"));
  EXPECT_THAT(with("/limit/samples", {1, 2}), HasSubstr("must be as many as the samples"));
  EXPECT_THAT(with("/limit/name", 1), HasSubstr("limit.name: must be a string"));
  EXPECT_THAT(with("/details", 1), HasSubstr("details: must be an object"));
  EXPECT_THAT(with("/details/ops", "many"), HasSubstr("details.ops: must be a number"));
}

TEST(ReportJson, DerivedFiguresAreNotBelieved) {
  ordered_json json = good_json();
  json["measurements"][0]["median"] = 1e9;
  json["measurements"][0]["fraction"]["median"] = 7;
  json["host"] = 3;  // told as it is
  const testing::TemporaryDirectory directory;
  const auto report = Report::read_json(write(directory, json.dump()));
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->to_json()["measurements"][0]["median"], 450);
  EXPECT_EQ(report->to_json()["measurements"][0]["fraction"]["median"], 0.5);
}

TEST(ReportJson, ChangedBytesNeverCrashTheReader) {
  const std::string good = good_json().dump();
  uint64_t state = 88172645463325252ULL;  // xorshift64
  const auto random = [&](size_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<size_t>(state % below);
  };
  const testing::TemporaryDirectory directory;
  for (int round = 0; round < 2000; ++round) {
    std::string text = good;
    for (size_t i = 0; i <= random(3); ++i) {
      const size_t place = random(text.size());
      if (random(2) == 0) {
        text[place] = static_cast<char>(random(256));
      } else {
        text.erase(place, 1 + random(20));
      }
    }
    const auto report = Report::read_json(write(directory, text));
    if (report.ok()) {
      EXPECT_NO_THROW(static_cast<void>(report->to_json()));
    }
  }
}

}  // namespace
}  // namespace phalanx::bench
