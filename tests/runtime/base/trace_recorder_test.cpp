// Spans in, rings and JSON out.
#include "runtime/base/trace_recorder.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace phalanx {
namespace {

TEST(TraceRecorder, KeepsTheNewestSpansInOrder) {
  TraceRecorder trace({"a", "b"}, 3);
  for (int64_t i = 0; i < 5; ++i) trace.add(0, {"x", i, 10 * i, 10 * i + 5});
  const auto spans = trace.spans(0);
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0].detail, 2);
  EXPECT_EQ(spans[2].detail, 4);
  EXPECT_EQ(spans[2].end_ns, 45);
  EXPECT_TRUE(trace.spans(1).empty());
}

TEST(TraceRecorder, TurnsFollowOneAnotherWithoutGaps) {
  TraceRecorder trace({"executor"}, 8);
  for (const char* name : {"one", "two", "three"}) trace.turn_to(0, name, 7);
  const auto spans = trace.spans(0);
  ASSERT_EQ(spans.size(), 2U) << "the last one is still open";
  EXPECT_STREQ(spans[0].name, "one");
  EXPECT_STREQ(spans[1].name, "two");
  EXPECT_EQ(spans[0].end_ns, spans[1].begin_ns);
  EXPECT_LE(spans[0].begin_ns, spans[0].end_ns);
}

TEST(TraceRecorder, IgnoresTracksItDoesNotHave) {
  TraceRecorder trace({"a"}, 2);
  trace.add(1, {"x", -1, 0, 1});
  trace.turn_to(9, "x", -1);
  EXPECT_TRUE(trace.spans(0).empty());
}

TEST(TraceScope, RecordsItsLifeOrNothing) {
  TraceRecorder trace({"a"}, 2);
  { const TraceScope scope(&trace, 0, "life", 3); }
  { const TraceScope scope(nullptr, 0, "none"); }
  const auto spans = trace.spans(0);
  ASSERT_EQ(spans.size(), 1U);
  EXPECT_STREQ(spans[0].name, "life");
  EXPECT_EQ(spans[0].detail, 3);
  EXPECT_GT(spans[0].begin_ns, 0);
  EXPECT_LE(spans[0].begin_ns, spans[0].end_ns);
}

TEST(TraceRecorder, WritesWhatTraceViewersOpen) {
  TraceRecorder trace({"executor", "a \"quoted\" name"}, 4);
  trace.add(0, {"linear", 5, 1'000, 3'500});
  trace.add(1, {"rows", -1, 2'000, 2'250});
  const std::string path = testing::TempDir() + "/trace_recorder_test.json";
  ASSERT_TRUE(trace.write_chrome_json(path, 3).ok());
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  std::remove(path.c_str());
  const auto& events = json["traceEvents"];
  ASSERT_EQ(events.size(), 5U);  // process, two threads, two spans
  EXPECT_EQ(events[2]["name"], "linear");
  EXPECT_EQ(events[2]["pid"], 3);
  EXPECT_EQ(events[2]["ts"], 1.0);
  EXPECT_EQ(events[2]["dur"], 2.5);
  EXPECT_EQ(events[2]["args"]["layer"], 5);
  EXPECT_EQ(events[4]["tid"], 1);
  EXPECT_FALSE(events[4].contains("args"));
}

TEST(TraceRecorder, NamesThePathItCannotWrite) {
  const TraceRecorder trace({"a"}, 1);
  const Status status = trace.write_chrome_json("/nowhere/at/all.json", 0);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("/nowhere/at/all.json"), std::string::npos);
}

}  // namespace
}  // namespace phalanx
