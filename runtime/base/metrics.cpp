// The process-wide metric list and its Prometheus text form.
#include "runtime/base/metrics.h"

#include <algorithm>
#include <mutex>
#include <sstream>

namespace phalanx {
namespace {

struct Entry {
  std::string name;
  std::string help;
  std::string labels;
  const char* type;
  std::function<void(std::ostream&, const Entry&)> write;
};

struct Registry {
  std::mutex mutex;
  std::vector<Entry> entries;
};

Registry& registry() {
  static auto* instance = new Registry;  // never destroyed: metrics may be touched during exit
  return *instance;
}

void register_entry(Entry entry) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.entries.push_back(std::move(entry));
}

std::string braces(const std::string& labels, const std::string& extra = "") {
  if (labels.empty() && extra.empty()) return "";
  return "{" + labels + (labels.empty() || extra.empty() ? "" : ",") + extra + "}";
}

}  // namespace

Counter::Counter(std::string name, std::string help, std::string labels) {
  register_entry({std::move(name), std::move(help), std::move(labels), "counter",
                  [this](std::ostream& out, const Entry& entry) {
                    out << entry.name << braces(entry.labels) << " " << value() << "\n";
                  }});
}

Gauge::Gauge(std::string name, std::string help, std::string labels) {
  register_entry({std::move(name), std::move(help), std::move(labels), "gauge",
                  [this](std::ostream& out, const Entry& entry) {
                    out << entry.name << braces(entry.labels) << " " << value() << "\n";
                  }});
}

Histogram::Histogram(std::string name, std::string help, std::initializer_list<double> bounds,
                     std::string labels)
    : bounds_(bounds), counts_(bounds.size() + 1) {
  register_entry({std::move(name), std::move(help), std::move(labels), "histogram",
                  [this](std::ostream& out, const Entry& entry) {
                    const Snapshot now = snapshot();
                    uint64_t cumulative = 0;
                    for (size_t i = 0; i < now.counts.size(); ++i) {
                      cumulative += now.counts[i];
                      std::ostringstream bound;
                      if (i < now.bounds.size()) {
                        bound << now.bounds[i];
                      } else {
                        bound << "+Inf";
                      }
                      out << entry.name << "_bucket"
                          << braces(entry.labels, "le=\"" + bound.str() + "\"") << " " << cumulative
                          << "\n";
                    }
                    out << entry.name << "_sum" << braces(entry.labels) << " " << now.sum << "\n";
                    out << entry.name << "_count" << braces(entry.labels) << " " << cumulative
                        << "\n";
                  }});
}

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::snapshot() const {
  Snapshot now;
  now.bounds = bounds_;
  for (const auto& count : counts_) {
    now.counts.push_back(count.load(std::memory_order_relaxed));
    now.count += now.counts.back();
  }
  now.sum = sum_.load(std::memory_order_relaxed);
  return now;
}

std::string metrics_text() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  std::ostringstream out;
  out.precision(10);
  std::string previous;
  for (const Entry& entry : all.entries) {
    if (entry.name != previous) {  // metrics of one name, told apart by labels, register in a row
      out << "# HELP " << entry.name << " " << entry.help << "\n";
      out << "# TYPE " << entry.name << " " << entry.type << "\n";
      previous = entry.name;
    }
    entry.write(out, entry);
  }
  return out.str();
}

}  // namespace phalanx
