// Strict protobuf-text parsing with messages a person can act on.
#include "launcher/worker_config.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "launcher/config_range.h"
#include "launcher/server_config.h"

namespace phalanx::launcher {
namespace {

namespace pb = google::protobuf;

/// Keeps the first error of a parse, with its place.
class FirstError : public pb::io::ErrorCollector {
 public:
  void AddError(int line, pb::io::ColumnNumber column, const std::string& message) override {
    if (!text.empty()) return;
    std::ostringstream out;
    if (line >= 0) out << "line " << line + 1 << ", column " << column + 1 << ": ";
    out << message;
    text = out.str();
  }
  std::string text;
};

/// "a, b, c" of a message's fields, or of an enum's values.
std::string field_names(const pb::Descriptor& message) {
  std::string names;
  for (int i = 0; i < message.field_count(); ++i) {
    names += (i > 0 ? ", " : "") + message.field(i)->name();
  }
  return names;
}

std::string enum_names(const pb::EnumDescriptor& type) {
  std::string names;
  for (int i = 0; i < type.value_count(); ++i) {
    names += (i > 0 ? ", " : "") + type.value(i)->name();
  }
  return names;
}

/// The messages of the parser name a wrong field or enum value; this adds what would be right.
std::string explain(const std::string& message) {
  std::vector<const pb::Descriptor*> types{config::WorkerConfig::descriptor()};
  for (size_t i = 0; i < types.size(); ++i) {
    for (int f = 0; f < types[i]->field_count(); ++f) {
      if (const auto* nested = types[i]->field(f)->message_type()) types.push_back(nested);
      if (const auto* values = types[i]->field(f)->enum_type()) {
        if (message.find("for field \"" + types[i]->field(f)->name() + "\"") != std::string::npos) {
          return message + " (allowed: " + enum_names(*values) + ")";
        }
      }
    }
  }
  for (const auto* type : types) {
    if (message.find("Message type \"" + type->full_name() + "\" has no field") !=
        std::string::npos) {
      return message + " (its fields: " + field_names(*type) + ")";
    }
  }
  return message;
}

Status merge_text(const std::string& text, const std::string& where, config::WorkerConfig& config) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.MergeFromString(text, &config)) {
    return invalid_argument(where + ": " + explain(error.text));
  }
  return {};
}

/// Turns `a.b=c` into `a { b: c }`, quoting c when the field is a string.
Result<std::string> override_text(const std::string& setting) {
  const auto equals = setting.find('=');
  if (equals == std::string::npos || equals == 0) {
    return invalid_argument("--set \"" + setting +
                            "\": expected field=value, e.g. server.port=9000");
  }
  const std::string path = setting.substr(0, equals);
  const std::string value = setting.substr(equals + 1);
  const pb::Descriptor* type = config::WorkerConfig::descriptor();
  const pb::FieldDescriptor* field = nullptr;
  std::string head;
  std::string tail;
  std::istringstream parts(path);
  for (std::string part; std::getline(parts, part, '.');) {
    if (type == nullptr) {
      return invalid_argument("--set " + path + ": \"" + field->name() + "\" has no fields inside");
    }
    field = type->FindFieldByName(part);
    if (field == nullptr) {
      return invalid_argument("--set " + path + ": no field \"" + part +
                              "\"; allowed: " + field_names(*type));
    }
    type = field->message_type();
    head += part + (type != nullptr ? " { " : ": ");
    if (type != nullptr) tail += " }";
  }
  if (field == nullptr || type != nullptr) {
    return invalid_argument("--set " + path +
                            ": is a group of fields; name one of: " + field_names(*type));
  }
  if (field->cpp_type() != pb::FieldDescriptor::CPPTYPE_STRING) {
    // Numbers, true, false, names of enum values; nothing that could go on after them.
    const auto is_of_a_word = [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
             c == '_' || c == '.' || c == '+' || c == '-';
    };
    if (value.empty() || !std::all_of(value.begin(), value.end(), is_of_a_word)) {
      return invalid_argument("--set " + path + "=" + value +
                              ": expected one number, true, false or name after \"=\"");
    }
    return head + value + tail;
  }
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return head + quoted + "\"" + tail;
}

void fill_defaults(config::WorkerConfig& config) {
  auto& parallel = *config.mutable_parallel();
  if (!parallel.has_tp_size()) parallel.set_tp_size(1);
  if (!parallel.has_pp_size()) parallel.set_pp_size(1);

  auto& cpu = *config.mutable_cpu();
  if (!cpu.has_isa()) cpu.set_isa("auto");
  if (!cpu.has_tuning()) cpu.set_tuning("auto");

  auto& cuda = *config.mutable_cuda();
  if (!cuda.has_memory_fraction()) cuda.set_memory_fraction(0.9);

  auto& kv = *config.mutable_kv_cache();
  if (!kv.has_format()) {
    kv.set_format(config.device() == config::WorkerConfig::CUDA ? config::KvCache::BF16
                                                                : config::KvCache::F32);
  }
  if (!kv.has_memory_fraction()) kv.set_memory_fraction(0.5);
  if (!kv.has_prefix_cache()) kv.set_prefix_cache(true);

  auto& scheduling = *config.mutable_scheduling();
  if (!scheduling.has_max_step_tokens()) scheduling.set_max_step_tokens(512);
  if (!scheduling.has_max_chunk_tokens()) scheduling.set_max_chunk_tokens(128);
  if (!scheduling.has_max_sequences()) scheduling.set_max_sequences(64);
  if (!scheduling.has_max_waiting()) scheduling.set_max_waiting(1024);
  if (!scheduling.has_ageing_steps()) scheduling.set_ageing_steps(256);
  if (!cuda.has_max_recorded_sequences())
    cuda.set_max_recorded_sequences(std::min<int64_t>(scheduling.max_sequences(), 256));

  fill_server_defaults(*config.mutable_server());

  auto& failure = *config.mutable_failure();
  if (!failure.has_heartbeat_ms()) failure.set_heartbeat_ms(250);
  if (!failure.has_silence_ms()) failure.set_silence_ms(3000);
  if (!failure.has_operation_deadline_ms()) failure.set_operation_deadline_ms(3200);
  if (!failure.has_load_deadline_ms()) failure.set_load_deadline_ms(300000);
}

Status check_ranges(const config::WorkerConfig& config) {
  if (config.engine().empty()) {
    return invalid_argument(
        "engine: required; the directory made by `llm-build CHECKPOINT ENGINE`");
  }
  const auto& cpu = config.cpu();
  if (cpu.isa() != "auto" && cpu.isa() != "portable" && cpu.isa() != "avx2" &&
      cpu.isa() != "avx2vnni" && cpu.isa() != "avx512") {
    return invalid_argument("cpu.isa = \"" + cpu.isa() +
                            "\": allowed auto, portable, avx2, avx2vnni, avx512");
  }
  if (cpu.tuning().empty()) {
    return invalid_argument("cpu.tuning = \"\": allowed auto, off, or the path of a tuning file");
  }
  const auto& kv = config.kv_cache();
  const auto& scheduling = config.scheduling();
  const auto& failure = config.failure();
  constexpr int64_t kMaxTokens = int64_t{1} << 31;
  if (scheduling.max_context_tokens() == 1) {
    return invalid_argument(
        "scheduling.max_context_tokens = 1: allowed 0 (the model's) or at least 2, one of the "
        "prompt and one of the answer");
  }
  for (const Status& status : {
           check_range("parallel.tp_size", config.parallel().tp_size(), 1, 1024),
           check_range("parallel.pp_size", config.parallel().pp_size(), 1, 1024),
           check_range("cpu.num_threads", cpu.num_threads(), 0, 1024),
           check_range("cuda.memory_fraction", config.cuda().memory_fraction(), 0.01, 1.0),
           check_range("cuda.max_recorded_sequences", config.cuda().max_recorded_sequences(),
                       int64_t{0}, int64_t{4096}),
           check_range("kv_cache.capacity_tokens", kv.capacity_tokens(), int64_t{0}, kMaxTokens),
           check_range("kv_cache.memory_fraction", kv.memory_fraction(), 0.01, 0.95),
           check_range("scheduling.max_step_tokens", scheduling.max_step_tokens(), int64_t{1},
                       int64_t{65536}),
           check_range("scheduling.max_chunk_tokens", scheduling.max_chunk_tokens(), int64_t{1},
                       int64_t{65536}),
           check_range("scheduling.max_sequences", scheduling.max_sequences(), int64_t{1},
                       int64_t{4096}),
           check_range("scheduling.max_waiting", scheduling.max_waiting(), int64_t{1},
                       int64_t{1000000}),
           check_range("scheduling.max_context_tokens", scheduling.max_context_tokens(), int64_t{0},
                       kMaxTokens),
           check_range("scheduling.ageing_steps", scheduling.ageing_steps(), int64_t{1},
                       int64_t{1000000}),
           check_server(config.server()),
           check_range("failure.heartbeat_ms", failure.heartbeat_ms(), 10, 10000),
           check_range("failure.silence_ms", failure.silence_ms(), 100, 3600000),
           check_range("failure.operation_deadline_ms", failure.operation_deadline_ms(), 100,
                       3600000),
           check_range("failure.load_deadline_ms", failure.load_deadline_ms(), 100, 86400000),
       }) {
    if (!status.ok()) return status;
  }
  if (failure.silence_ms() < 2 * failure.heartbeat_ms()) {
    return invalid_argument("failure.silence_ms = " + std::to_string(failure.silence_ms()) +
                            ": allowed at least twice failure.heartbeat_ms = " +
                            std::to_string(failure.heartbeat_ms()));
  }
  return {};
}

}  // namespace

Result<config::WorkerConfig> parse_worker_config(const std::string& text,
                                                 const std::string& file_name,
                                                 const std::vector<std::string>& overrides) {
  config::WorkerConfig config;
  PHALANX_RETURN_IF_ERROR(merge_text(text, file_name, config));
  for (const std::string& setting : overrides) {
    PHALANX_ASSIGN_OR_RETURN(const std::string merged, override_text(setting));
    PHALANX_RETURN_IF_ERROR(merge_text(merged, "--set " + setting, config));
  }
  fill_defaults(config);
  if (Status status = check_ranges(config); !status.ok()) {
    const std::string source = overrides.empty() ? file_name : file_name + " with --set";
    return invalid_argument(source + ": " + status.error().message);
  }
  return config;
}

Result<std::string> read_config_file(const std::string& path) {
  constexpr size_t kMaxBytes = 1U << 20;
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found("--config " + path + ": " + std::strerror(errno));
  std::string text(kMaxBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || (file.fail() && !file.eof()))
    return io_error("--config " + path + ": cannot read it");
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxBytes) return invalid_argument("--config " + path + ": longer than 1 MiB");
  return text;
}

}  // namespace phalanx::launcher
