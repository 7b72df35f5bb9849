// Prometheus text of counters, gauges and histograms.
#include "runtime/base/metrics.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, TextFormat) {
  static Counter counter("test_things_total", "Things.", "kind=\"a\"");
  static Counter other("test_things_total", "Things.", "kind=\"b\"");
  static Gauge gauge("test_level", "Level.");
  counter.add(3);
  other.add();
  gauge.set(2.5);
  const std::string text = metrics_text();
  EXPECT_THAT(text,
              HasSubstr("# HELP test_things_total Things.\n# TYPE test_things_total counter\n"
                        "test_things_total{kind=\"a\"} 3\ntest_things_total{kind=\"b\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE test_level gauge\ntest_level 2.5\n"));
}

TEST(Metrics, HistogramBucketsAreCumulative) {
  static Histogram histogram("test_seconds", "Seconds.", {0.1, 1.0});
  for (const double value : {0.05, 0.1, 0.5, 7.0}) histogram.observe(value);
  EXPECT_THAT(metrics_text(),
              HasSubstr("test_seconds_bucket{le=\"0.1\"} 2\ntest_seconds_bucket{le=\"1\"} 3\n"
                        "test_seconds_bucket{le=\"+Inf\"} 4\ntest_seconds_sum 7.65\n"
                        "test_seconds_count 4\n"));
}

TEST(Metrics, CountsFromManyThreads) {
  static Counter counter("test_parallel_total", "Parallel.");
  static Histogram histogram("test_parallel_seconds", "Parallel.", {1.0});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 10000; ++i) {
        counter.add();
        histogram.observe(0.5);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), 40000U);
  EXPECT_EQ(histogram.snapshot().count, 40000U);
  EXPECT_DOUBLE_EQ(histogram.snapshot().sum, 20000.0);
}

}  // namespace
}  // namespace phalanx
