// Strict JSON in, one line a product out.
#include "launcher/tuning_file.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "runtime/base/log.h"
#include "runtime/model/mapped_file.h"
#include "runtime/model/strict_json.h"

namespace phalanx::launcher {
namespace {

using kernels::WeightFormat;
using kernels::cpu::LinearKey;
using kernels::cpu::LinearSplit;
using kernels::cpu::LinearTuning;
using kernels::cpu::LinearTunings;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "phalanx-tuning";
constexpr int64_t kVersion = 1;
constexpr int kMaxDepth = 4;
constexpr int64_t kMostElements = int64_t{1} << 40;
constexpr size_t kMostNameBytes = 256;

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                                     WeightFormat::kW4, WeightFormat::kFp8};
constexpr LinearSplit kSplits[] = {LinearSplit::kDefault, LinearSplit::kOneThread,
                                   LinearSplit::kSharedPanels, LinearSplit::kGrid};
constexpr int kBuckets[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
static_assert(std::size(kBuckets) == kernels::cpu::kNumRowBuckets);

std::string split_name(LinearSplit split) {
  switch (split) {
    case LinearSplit::kDefault:
      return "default";
    case LinearSplit::kOneThread:
      return "one_thread";
    case LinearSplit::kSharedPanels:
      return "shared_panels";
    case LinearSplit::kGrid:
      return "grid";
  }
  return "";
}

/// The fields of one JSON object; the first thing that is wrong is kept.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) complain("is no object");
  }

  int64_t integer(const char* name, int64_t low, int64_t high) {
    const json* value = find(name);
    if (value == nullptr) return low;
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() &&
                        value->get<uint64_t>() > static_cast<uint64_t>(kMostElements)) &&
                      value->get<int64_t>() >= low && value->get<int64_t>() <= high;
    if (fits) return value->get<int64_t>();
    complain(name, *value, std::to_string(low) + ".." + std::to_string(high));
    return low;
  }

  bool boolean(const char* name) {
    const json* value = find(name);
    if (value == nullptr) return false;
    if (value->is_boolean()) return value->get<bool>();
    complain(name, *value, "true, false");
    return false;
  }

  std::string text(const char* name) {
    const json* value = find(name);
    if (value == nullptr) return "";
    if (value->is_string() && value->get_ref<const std::string&>().size() <= kMostNameBytes)
      return value->get<std::string>();
    complain(name, *value, "text of at most " + std::to_string(kMostNameBytes) + " bytes");
    return "";
  }

  /// The one of `all` that has the name.
  template <typename T, size_t kCount, typename NameOf>
  T one_of(const char* name, const T (&all)[kCount], const NameOf& name_of) {
    const json* value = find(name);
    if (value == nullptr) return all[0];
    std::string allowed;
    for (const T& one : all) {
      if (value->is_string() && value->get_ref<const std::string&>() == name_of(one)) return one;
      allowed += (allowed.empty() ? "" : ", ") + std::string(name_of(one));
    }
    complain(name, *value, allowed);
    return all[0];
  }

  /// Null when it is missing.
  const json* find(const char* name) {
    known_.insert(name);
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    complain("has no field \"" + std::string(name) + "\"");
    return nullptr;
  }

  void complain(const std::string& message) {
    if (status_.ok()) status_ = invalid_argument(where_ + " " + message);
  }

  /// After all fields have been asked for.
  Status finish() {
    if (!object_.is_object()) return status_;
    for (const auto& [name, value] : object_.items())
      if (!known_.contains(name)) complain("has an unknown field \"" + name.substr(0, 40) + "\"");
    return status_;
  }

 private:
  void complain(const char* name, const json& value, const std::string& allowed) {
    const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    complain("has " + std::string(name) + " = " + text.substr(0, 80) + ", allowed: " + allowed);
  }

  const json& object_;
  const std::string where_;
  std::set<std::string> known_;
  Status status_;
};

Result<TuningMachine> parse_machine(const json& object, const std::string& where) {
  Fields fields(object, where + ": machine");
  TuningMachine machine;
  machine.processor = fields.text("processor");
  machine.isa = fields.text("isa");
  machine.threads = fields.integer("threads", 1, 1 << 16);
  machine.l2_bytes = fields.integer("l2_bytes", 0, kMostElements);
  machine.l3_bytes = fields.integer("l3_bytes", 0, kMostElements);
  PHALANX_RETURN_IF_ERROR(fields.finish());
  return machine;
}

Result<LinearTunings::Entry> parse_product(const json& object, const std::string& where) {
  Fields fields(object, where);
  LinearTunings::Entry entry;
  LinearKey& key = entry.key;
  key.format = fields.one_of("weights", kFormats, kernels::weight_format_name);
  key.num_outputs = fields.integer("outputs", 1, kMostElements);
  key.num_cols = fields.integer("columns", 1, kMostElements);
  key.group_size = fields.integer("group_size", 0, kMostElements);
  key.is_gated = fields.boolean("gated");
  key.row_bucket = fields.one_of("rows", kBuckets, kernels::cpu::row_bucket_name);
  LinearTuning& tuning = entry.tuning;
  tuning.tile_rows = fields.integer("tile_rows", 0, kernels::cpu::kMostTileRows);
  tuning.split = fields.one_of("split", kSplits, split_name);
  tuning.row_parts = fields.integer("row_parts", 0, kernels::cpu::kMostRowParts);
  tuning.piece_panels = fields.integer("piece_panels", 0, kernels::cpu::kMostPiecePanels);
  tuning.ahead_bytes = fields.integer("ahead_bytes", 0, kernels::cpu::kMostAheadBytes);
  if ((tuning.split == LinearSplit::kGrid) != (tuning.row_parts > 0))
    fields.complain("has row_parts = " + std::to_string(tuning.row_parts) +
                    ", allowed: at least 1 with split grid, else 0");
  PHALANX_RETURN_IF_ERROR(fields.finish());
  return entry;
}

/// The first processor's; "unknown" where the kernel does not tell.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    if (begin != std::string::npos) return line.substr(begin, kMostNameBytes);
  }
  return "unknown";
}

/// Lower-case letters, digits and single dashes.
std::string file_name_of(const std::string& text) {
  std::string name;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  while (name.ends_with('-')) name.pop_back();
  return name;
}

}  // namespace

std::string TuningMachine::describe() const {
  return processor + ", " + isa + ", " + std::to_string(threads) +
         (threads == 1 ? " thread" : " threads") + ", L2 " + std::to_string(l2_bytes >> 10) +
         " KiB, L3 " + std::to_string(l3_bytes >> 10) + " KiB";
}

TuningMachine tuning_machine(const MachineTopology& topology, kernels::IsaTier isa_tier,
                             const std::vector<int>& cpus) {
  const int first = cpus.empty() ? 0 : cpus.front();
  return {processor_name(), kernels::isa_tier_name(isa_tier),
          std::max<int64_t>(1, static_cast<int64_t>(cpus.size())), topology.cache_bytes(2, first),
          topology.cache_bytes(3, first)};
}

std::string default_tuning_path(const TuningMachine& machine) {
  std::string directory;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    directory = cache;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    directory = std::string(home) + "/.cache";
  } else {
    return "";
  }
  return directory + "/phalanx/tuning/" + file_name_of(machine.describe()).substr(0, 200) + ".json";
}

std::string format_tuning(const TuningFile& file) {
  const TuningMachine& machine = file.machine;
  const ordered_json head = {{"processor", machine.processor},
                             {"isa", machine.isa},
                             {"threads", machine.threads},
                             {"l2_bytes", machine.l2_bytes},
                             {"l3_bytes", machine.l3_bytes}};
  const auto line = [](const ordered_json& object) {
    return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  };
  std::string text = std::string("{\"format\": \"") + kFormat +
                     "\", \"version\": " + std::to_string(kVersion) +
                     ",\n \"machine\": " + line(head) + ",\n \"products\": [";
  const char* separator = "\n  ";
  for (const auto& [key, tuning] : file.tunings.entries()) {
    text += separator + line({{"weights", kernels::weight_format_name(key.format)},
                              {"outputs", key.num_outputs},
                              {"columns", key.num_cols},
                              {"group_size", key.group_size},
                              {"gated", key.is_gated},
                              {"rows", kernels::cpu::row_bucket_name(key.row_bucket)},
                              {"tile_rows", tuning.tile_rows},
                              {"split", split_name(tuning.split)},
                              {"row_parts", tuning.row_parts},
                              {"piece_panels", tuning.piece_panels},
                              {"ahead_bytes", tuning.ahead_bytes}});
    separator = ",\n  ";
  }
  return text + "]}\n";
}

Result<TuningFile> parse_tuning(const std::string& text, const std::string& where) {
  PHALANX_ASSIGN_OR_RETURN(const json document, model::parse_strict_json(text, where, kMaxDepth));
  Fields fields(document, where + ": the file");
  if (const std::string format = fields.text("format"); format != kFormat)
    fields.complain("has format = \"" + format + "\", allowed: " + kFormat);
  fields.integer("version", kVersion, kVersion);
  const json* machine = fields.find("machine");
  const json* products = fields.find("products");
  PHALANX_RETURN_IF_ERROR(fields.finish());
  TuningFile file;
  PHALANX_ASSIGN_OR_RETURN(file.machine, parse_machine(*machine, where));
  if (!products->is_array() || products->size() > kMostTunedProducts)
    return invalid_argument(where + ": products must be a list of at most " +
                            std::to_string(kMostTunedProducts));
  std::vector<LinearTunings::Entry> entries;
  std::set<LinearKey> keys;
  for (size_t i = 0; i < products->size(); ++i) {
    const std::string name = where + ": products[" + std::to_string(i) + "]";
    PHALANX_ASSIGN_OR_RETURN(LinearTunings::Entry entry, parse_product((*products)[i], name));
    if (!keys.insert(entry.key).second)
      return invalid_argument(name + " is for the same product and rows as one before it");
    entries.push_back(entry);
  }
  file.tunings = LinearTunings(std::move(entries));
  return file;
}

Result<TuningFile> read_tuning(const std::string& path) {
  PHALANX_ASSIGN_OR_RETURN(const std::string text, model::read_text_file(path, kMostTuningBytes));
  return parse_tuning(text, path);
}

Status write_tuning(const std::string& path, const TuningFile& file) {
  const auto failed = [&](const std::string& reason) { return io_error(path + ": " + reason); };
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code code;
  if (!folder.empty()) std::filesystem::create_directories(folder, code);
  if (code) return failed(code.message());
  std::string partial = path + ".XXXXXX";  // two that tune at once do not write one file
  const int descriptor = mkstemp(partial.data());
  if (descriptor < 0) return failed(std::strerror(errno));
  const std::string text = format_tuning(file);
  size_t done = 0;
  ssize_t count = 0;
  while (done < text.size() &&
         (count = write(descriptor, text.data() + done, text.size() - done)) > 0)
    done += static_cast<size_t>(count);
  int error = done < text.size() ? errno : 0;
  if (close(descriptor) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(partial.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  std::remove(partial.c_str());
  return failed(std::strerror(error));
}

Result<std::shared_ptr<const LinearTunings>> load_tunings(const std::string& setting,
                                                          const TuningMachine& machine) {
  using Loaded = std::shared_ptr<const LinearTunings>;
  if (setting == "off") return Loaded();
  const bool is_auto = setting == "auto";
  const std::string path = is_auto ? default_tuning_path(machine) : setting;
  if (path.empty()) return Loaded();
  Result<TuningFile> file = read_tuning(path);
  if (!file.ok()) {
    if (!is_auto)
      return invalid_argument("cpu.tuning = \"" + setting + "\": " + file.error().message +
                              " (allowed: auto, off, or a file that llm-bench tune wrote)");
    if (file.error().code != ErrorCode::kNotFound)
      PHALANX_WARNING("tuning file not used: " << file.error().message);
    return Loaded();
  }
  if (file->machine != machine) {
    PHALANX_WARNING("tuning file " << path << (is_auto ? " not used, it" : "")
                                   << " is of another machine: " << file->machine.describe()
                                   << "; here: " << machine.describe());
    if (is_auto) return Loaded();
  }
  PHALANX_INFO("tuning: " << file->tunings.entries().size() << " products from " << path);
  return Loaded(std::make_shared<const LinearTunings>(std::move(file->tunings)));
}

}  // namespace phalanx::launcher
