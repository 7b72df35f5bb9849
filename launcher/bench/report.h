// What a benchmark found: samples with their spread, each beside the hardware limit measured in the
// same run. Filled by the commands of llm-bench; printed as a table and written as JSON.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"

namespace phalanx::bench {

/// Order statistics of some samples.
struct Spread {
  double median = 0;  ///< mean of the middle two when they are even in number
  double least = 0;
  double most = 0;
};
Spread spread_of(std::vector<double> samples);  ///< at least one sample

/// The q-quantile (0 <= q <= 1) by linear interpolation between closest ranks. At least one sample.
double quantile(std::vector<double> samples, double q);

enum class Better { kHigher, kLower };

/// What bounds a measurement: the value that the hardware would allow, in the measurement's unit,
/// one sample for each of the measurement's own, taken right beside it.
struct Limit {
  std::string name;  ///< "read bandwidth", "int8 peak"
  std::vector<double> samples;
};

/// One row of the report.
struct Measurement {
  std::string name;                                             ///< "prefill", "linear"
  std::vector<std::pair<std::string, std::string>> parameters;  ///< {"rows", "32"}, in table order
  std::string unit;                                             ///< "tok/s", "GB/s", "us"
  Better better = Better::kHigher;
  std::vector<double> samples;
  std::optional<Limit> limit;
  /// What explains the row without naming it, for plots: {"bytes", 4194304}. Only in the JSON.
  std::vector<std::pair<std::string, double>> details;

  /// Share of the limit reached: value / limit where more is better, else limit / value; by pairs
  /// of samples, since the limit moves with the machine's mood. Empty without a limit.
  std::optional<Spread> fraction() const;
};

/// The rows of one run and where they were taken. Not thread safe.
class Report {
 public:
  /// `command`: the arguments that reproduce the run. `prints`: add() prints rows; off on the ranks
  /// of a job that only help the first.
  explicit Report(std::vector<std::string> command, bool prints = true);

  /// Adds a row and prints it to stdout at once: a long run shows how far it is. Throws
  /// InternalError when it has no samples, samples that are no numbers, or unpaired limits.
  void add(Measurement measurement);
  const std::vector<Measurement>& measurements() const { return measurements_; }

  /// A fact about the run that is no measurement: {"threads", "2"}. Goes into the JSON's "facts".
  void set_fact(const std::string& name, nlohmann::ordered_json value);

  nlohmann::ordered_json to_json() const;
  /// Whether write_json(path) could work, for asking before a long run. Errors: kIoError.
  static Status check_writable(const std::string& path);
  /// Writes to_json() to `path`, whole or not at all. Errors: kIoError.
  Status write_json(const std::string& path) const;

  /// Reads what write_json wrote. Errors: kNotFound, kDataLoss naming what is wrong where.
  static Result<Report> read_json(const std::string& path);

 private:
  std::vector<std::string> command_;
  bool prints_;
  nlohmann::ordered_json host_;
  nlohmann::ordered_json facts_;
  std::string time_;  ///< ISO 8601, UTC
  std::vector<Measurement> measurements_;
};

/// "name  a=1 b=2        123.4 tok/s (120.0 .. 130.1)   91.2 % of read bandwidth (135.2)"
std::string format_row(const Measurement& measurement);

/// The processor, cores, caches and memory of this host, for reports.
nlohmann::ordered_json describe_host();

}  // namespace phalanx::bench
