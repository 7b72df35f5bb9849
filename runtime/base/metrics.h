// Counters, gauges and histograms in Prometheus text form. Declared at the top of the file that
// emits them; read by /metrics.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

namespace phalanx {

/// Everything registered, in registration order, in Prometheus text format 0.0.4. Any thread.
std::string metrics_text();

/// Metrics register themselves on construction and live as long as the process (make them static).
class Counter {
 public:
  Counter(std::string name, std::string help, std::string labels = "");
  void add(uint64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  Gauge(std::string name, std::string help, std::string labels = "");
  void set(double value) { value_.store(value, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0.0};
};

/// Cumulative buckets with upper bounds as given, ascending; +Inf is added.
class Histogram {
 public:
  Histogram(std::string name, std::string help, std::initializer_list<double> bounds,
            std::string labels = "");
  void observe(double value);

  struct Snapshot {
    std::vector<double> bounds;
    std::vector<uint64_t> counts;  ///< per bucket, not cumulative; one more than bounds
    double sum = 0.0;
    uint64_t count = 0;
  };
  Snapshot snapshot() const;

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_{0.0};
};

}  // namespace phalanx
