// Statistics, the table and the JSON of a benchmark run.
#include "launcher/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>
#include <thread>

#include "kernels/cpu_backend.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using nlohmann::ordered_json;

constexpr const char* kFormat = "phalanx-bench-1";

/// Four significant digits, plain notation, up to nine decimals.
std::string format_value(double value) {
  char text[64];
  const double magnitude = std::fabs(value);
  const int exponent = magnitude > 0 ? static_cast<int>(std::floor(std::log10(magnitude))) : 0;
  const int decimals = std::clamp(3 - exponent, 0, 9);
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  return text;
}

/// JSON has no infinities, and a rate or a time of none is a benchmark's mistake.
void check_samples(const std::string& name, const std::vector<double>& samples) {
  PHALANX_CHECK(!samples.empty(), name + " was measured without a sample");
  for (const double sample : samples)
    PHALANX_CHECK(std::isfinite(sample), name + " has a sample that is no number");
}

std::string first_line_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

ordered_json to_json(const Spread& spread) {
  return {{"median", spread.median}, {"least", spread.least}, {"most", spread.most}};
}

ordered_json measurement_json(const Measurement& m) {
  ordered_json parameters = ordered_json::object();
  for (const auto& [name, value] : m.parameters) parameters[name] = value;
  ordered_json json = {{"name", m.name},
                       {"parameters", parameters},
                       {"unit", m.unit},
                       {"better", m.better == Better::kHigher ? "higher" : "lower"}};
  json.update(to_json(spread_of(m.samples)));
  json["samples"] = m.samples;
  if (m.limit) {
    json["limit"] = {{"name", m.limit->name}};
    json["limit"].update(to_json(spread_of(m.limit->samples)));
    json["limit"]["samples"] = m.limit->samples;
    json["fraction"] = to_json(*m.fraction());
  }
  for (const auto& [name, value] : m.details) json["details"][name] = value;
  return json;
}

Result<std::vector<double>> read_samples(const ordered_json& json, const std::string& where) {
  const auto found = json.find("samples");
  if (found == json.end() || !found->is_array() || found->empty())
    return data_loss(where + ".samples: must be an array of at least one number");
  std::vector<double> samples;
  for (const auto& item : *found) {
    if (!item.is_number()) return data_loss(where + ".samples: " + item.dump() + " is no number");
    samples.push_back(item.get<double>());
  }
  return samples;
}

Result<std::string> read_text(const ordered_json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string())
    return data_loss(where + "." + key + ": must be a string");
  return found->get<std::string>();
}

Result<Measurement> read_measurement(const ordered_json& json, const std::string& where) {
  if (!json.is_object()) return data_loss(where + ": must be an object");
  Measurement m;
  PHALANX_ASSIGN_OR_RETURN(m.name, read_text(json, "name", where));
  PHALANX_ASSIGN_OR_RETURN(m.unit, read_text(json, "unit", where));
  PHALANX_ASSIGN_OR_RETURN(const std::string better, read_text(json, "better", where));
  if (better != "higher" && better != "lower")
    return data_loss(where + ".better: \"" + better + "\", must be higher or lower");
  m.better = better == "higher" ? Better::kHigher : Better::kLower;
  const auto parameters = json.find("parameters");
  if (parameters == json.end() || !parameters->is_object())
    return data_loss(where + ".parameters: must be an object");
  for (const auto& [name, value] : parameters->items()) {
    if (!value.is_string()) return data_loss(where + ".parameters." + name + ": must be a string");
    m.parameters.emplace_back(name, value.get<std::string>());
  }
  PHALANX_ASSIGN_OR_RETURN(m.samples, read_samples(json, where));
  if (const auto limit = json.find("limit"); limit != json.end()) {
    if (!limit->is_object()) return data_loss(where + ".limit: must be an object");
    m.limit.emplace();
    PHALANX_ASSIGN_OR_RETURN(m.limit->name, read_text(*limit, "name", where + ".limit"));
    PHALANX_ASSIGN_OR_RETURN(m.limit->samples, read_samples(*limit, where + ".limit"));
    if (m.limit->samples.size() != m.samples.size())
      return data_loss(where + ".limit.samples: must be as many as the samples");
  }
  if (const auto details = json.find("details"); details != json.end()) {
    if (!details->is_object()) return data_loss(where + ".details: must be an object");
    for (const auto& [name, value] : details->items()) {
      if (!value.is_number()) return data_loss(where + ".details." + name + ": must be a number");
      m.details.emplace_back(name, value.get<double>());
    }
  }
  return m;
}

}  // namespace

Spread spread_of(std::vector<double> samples) {
  PHALANX_CHECK(!samples.empty(), "the spread of no samples");
  const auto [least, most] = std::minmax_element(samples.begin(), samples.end());
  const Spread ends{0, *least, *most};
  return {quantile(std::move(samples), 0.5), ends.least, ends.most};
}

double quantile(std::vector<double> samples, double q) {
  PHALANX_CHECK(!samples.empty(), "a statistic of no samples");
  PHALANX_CHECK(q >= 0 && q <= 1, "a quantile lies between 0 and 1");
  std::sort(samples.begin(), samples.end());
  const double place = q * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, samples.size() - 1);
  const double share = place - static_cast<double>(below);
  return samples[below] + share * (samples[above] - samples[below]);
}

std::optional<Spread> Measurement::fraction() const {
  if (!limit) return std::nullopt;
  PHALANX_CHECK_EQ(limit->samples.size(), samples.size(), "a limit has a sample for each one");
  std::vector<double> shares;
  for (size_t i = 0; i < samples.size(); ++i) {
    shares.push_back(better == Better::kHigher ? samples[i] / limit->samples[i]
                                               : limit->samples[i] / samples[i]);
  }
  return spread_of(std::move(shares));
}

Report::Report(std::vector<std::string> command, bool prints)
    : command_(std::move(command)),
      prints_(prints),
      host_(describe_host()),
      facts_(ordered_json::object()),
      time_(now_utc()) {}

void Report::add(Measurement measurement) {
  check_samples(measurement.name, measurement.samples);
  if (measurement.limit) {
    check_samples(measurement.name + "'s limit", measurement.limit->samples);
    PHALANX_CHECK_EQ(measurement.limit->samples.size(), measurement.samples.size(),
                     "a limit has a sample for each one");
  }
  if (prints_) {
    std::printf("%s\n", format_row(measurement).c_str());
    std::fflush(stdout);
  }
  measurements_.push_back(std::move(measurement));
}

void Report::set_fact(const std::string& name, ordered_json value) {
  facts_[name] = std::move(value);
}

ordered_json Report::to_json() const {
  ordered_json rows = ordered_json::array();
  for (const Measurement& measurement : measurements_)
    rows.push_back(measurement_json(measurement));
  return {{"format", kFormat}, {"time", time_},   {"command", command_},
          {"host", host_},     {"facts", facts_}, {"measurements", rows}};
}

Status Report::check_writable(const std::string& path) {
  const std::string partial = path + ".partial";
  {
    const std::ofstream file(partial);
    if (!file) return io_error(path + ": " + std::strerror(errno));
  }
  std::remove(partial.c_str());
  return {};
}

Status Report::write_json(const std::string& path) const {
  const std::string partial = path + ".partial";
  {
    std::ofstream file(partial);
    // Arguments may be any bytes.
    file << to_json().dump(1, ' ', false, ordered_json::error_handler_t::replace) << "\n";
    file.flush();
    if (!file) {
      const std::string reason = std::strerror(errno);
      std::remove(partial.c_str());
      return io_error(path + ": " + reason);
    }
  }
  if (std::rename(partial.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(partial.c_str());
    return io_error(path + ": " + reason);
  }
  return {};
}

Result<Report> Report::read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) return not_found(path + ": " + std::strerror(errno));
  const ordered_json json = ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return data_loss(path + ": is not JSON");
  if (!json.is_object() || json.value("format", ordered_json()) != kFormat)
    return data_loss(path + ": format must be \"" + kFormat + "\"");
  Report report({}, false);
  if (json.contains("host")) report.host_ = json["host"];
  if (json.contains("facts") && json["facts"].is_object()) report.facts_ = json["facts"];
  if (json.contains("time") && json["time"].is_string()) report.time_ = json["time"];
  if (json.contains("command") && json["command"].is_array()) {
    for (const auto& word : json["command"]) {
      if (word.is_string()) report.command_.push_back(word);
    }
  }
  const auto rows = json.find("measurements");
  if (rows == json.end() || !rows->is_array())
    return data_loss(path + ": measurements must be an array");
  for (size_t i = 0; i < rows->size(); ++i) {
    PHALANX_ASSIGN_OR_RETURN(
        Measurement m,
        read_measurement((*rows)[i], path + ": measurements[" + std::to_string(i) + "]"));
    report.measurements_.push_back(std::move(m));
  }
  return report;
}

std::string format_row(const Measurement& m) {
  std::string left = m.name;
  for (const auto& [name, value] : m.parameters) left += " " + name + "=" + value;
  constexpr std::array<size_t, 3> kColumns = {52, 68, 88};  // so that rows of a kind line up
  for (const size_t column : kColumns) {
    if (left.size() > column) continue;
    left.resize(column, ' ');
    break;
  }
  const Spread spread = spread_of(m.samples);
  char text[160];
  std::snprintf(text, sizeof(text), " %10s %-6s (%s .. %s)", format_value(spread.median).c_str(),
                m.unit.c_str(), format_value(spread.least).c_str(),
                format_value(spread.most).c_str());
  std::string row = left + text;
  if (const auto fraction = m.fraction()) {
    std::snprintf(text, sizeof(text), "  %5.1f %% of %s %s", 100 * fraction->median,
                  m.limit->name.c_str(), format_value(spread_of(m.limit->samples).median).c_str());
    row += text;
  }
  return row;
}

ordered_json describe_host() {
  utsname kernel{};
  uname(&kernel);
  return {{"processor", first_line_value("/proc/cpuinfo", "model name")},
          {"cores", std::thread::hardware_concurrency()},
          {"isa", kernels::isa_tier_name(kernels::best_isa_tier())},
          {"memory_bytes", static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) *
                               static_cast<int64_t>(sysconf(_SC_PAGESIZE))},
          {"kernel", kernel.release}};
}

}  // namespace phalanx::bench
