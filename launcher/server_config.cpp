// One table holds every number of the Server message: its range and its place in ServerOptions,
// whose initial value is the default.
#include "launcher/server_config.h"

#include <chrono>
#include <string>
#include <type_traits>

#include <google/protobuf/descriptor.h>

#include "launcher/config_range.h"
#include "runtime/base/check.h"

namespace phalanx::launcher {
namespace {

namespace pb = google::protobuf;

struct NumberSetting {
  const char* field;
  int64_t lowest;
  int64_t highest;
  int64_t (*get)(const ServerOptions&);
  void (*set)(ServerOptions&, int64_t);
};

template <auto kMember>
constexpr NumberSetting number(const char* field, int64_t lowest, int64_t highest) {
  using Value = std::decay_t<decltype(std::declval<ServerOptions>().*kMember)>;
  return {
      field, lowest, highest,
      [](const ServerOptions& options) {
        if constexpr (std::is_same_v<Value, std::chrono::milliseconds>) {
          return static_cast<int64_t>((options.*kMember).count());
        } else {
          return static_cast<int64_t>(options.*kMember);
        }
      },
      [](ServerOptions& options, int64_t value) { options.*kMember = static_cast<Value>(value); }};
}

using Options = ServerOptions;
constexpr int64_t kDayMs = 24LL * 60 * 60 * 1000;
constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;
constexpr int64_t kGiB = 1024 * kMiB;

// max_top_logprobs: what a step's result has room for (worker_job).
constexpr NumberSetting kNumbers[] = {
    number<&Options::port>("port", 0, 65535),
    number<&Options::num_threads>("num_threads", 1, 64),
    number<&Options::max_connections>("max_connections", 1, 100000),
    number<&Options::retry_after_seconds>("retry_after_seconds", 0, 86400),
    number<&Options::max_header_bytes>("max_header_bytes", kKiB, kMiB),
    number<&Options::max_header_fields>("max_header_fields", 8, 10000),
    number<&Options::max_body_bytes>("max_body_bytes", kKiB, kGiB),
    number<&Options::max_all_bodies_bytes>("max_all_bodies_bytes", kKiB, 1024 * kGiB),
    number<&Options::max_pipelined_bytes>("max_pipelined_bytes", kKiB, 64 * kMiB),
    number<&Options::max_unsent_bytes>("max_unsent_bytes", 4 * kKiB, kGiB),
    number<&Options::max_answer_bytes>("max_answer_bytes", kKiB, 1024 * kGiB),
    number<&Options::header_timeout>("header_timeout_ms", 10, kDayMs),
    number<&Options::body_timeout>("body_timeout_ms", 10, kDayMs),
    number<&Options::idle_timeout>("idle_timeout_ms", 10, kDayMs),
    number<&Options::write_timeout>("write_timeout_ms", 10, kDayMs),
    number<&Options::heartbeat_interval>("stream_heartbeat_ms", 10, kDayMs),
    number<&Options::request_timeout>("request_timeout_ms", 10, kDayMs),
    number<&Options::max_n>("max_n", 1, 128),
    number<&Options::max_prompts>("max_prompts", 1, 4096),
    number<&Options::max_choices>("max_choices", 1, 4096),
    number<&Options::max_prompt_bytes>("max_prompt_bytes", 1, kGiB),
    number<&Options::max_messages>("max_messages", 1, 1000000),
    number<&Options::max_tools>("max_tools", 0, 10000),
    number<&Options::max_stop_strings>("max_stop_strings", 0, 1024),
    number<&Options::max_stop_bytes>("max_stop_bytes", 1, 65536),
    number<&Options::max_stop_token_ids>("max_stop_token_ids", 0, 4096),
    number<&Options::max_top_logprobs>("max_top_logprobs", 0, 20),
    number<&Options::max_json_depth>("max_json_depth", 8, 128),
    number<&Options::max_json_values>("max_json_values", 64, 256 * kMiB),
    number<&Options::max_priority_magnitude>("max_priority", 0, 1000000),
};

constexpr int32_t kDefaultDrainSeconds = 30;  // the job's, not the HTTP server's
constexpr int32_t kMaxDrainSeconds = 86400;

const pb::FieldDescriptor& field_of(const NumberSetting& setting) {
  const auto* field = config::Server::descriptor()->FindFieldByName(setting.field);
  PHALANX_CHECK(field != nullptr, setting.field);
  return *field;
}

int64_t value_of(const config::Server& config, const NumberSetting& setting) {
  const pb::FieldDescriptor& field = field_of(setting);
  return field.cpp_type() == pb::FieldDescriptor::CPPTYPE_INT32
             ? config.GetReflection()->GetInt32(config, &field)
             : config.GetReflection()->GetInt64(config, &field);
}

}  // namespace

void fill_server_defaults(config::Server& config) {
  const ServerOptions defaults;
  for (const NumberSetting& setting : kNumbers) {
    const pb::FieldDescriptor& field = field_of(setting);
    const pb::Reflection& reflection = *config.GetReflection();
    if (reflection.HasField(config, &field)) continue;
    if (field.cpp_type() == pb::FieldDescriptor::CPPTYPE_INT32) {
      reflection.SetInt32(&config, &field, static_cast<int32_t>(setting.get(defaults)));
    } else {
      reflection.SetInt64(&config, &field, setting.get(defaults));
    }
  }
  if (!config.has_address()) config.set_address(defaults.address);
  if (!config.has_cors_origin()) config.set_cors_origin(defaults.cors_allow_origin);
  if (!config.has_default_system_prompt())
    config.set_default_system_prompt(defaults.default_system_prompt);
  if (!config.has_drain_seconds()) config.set_drain_seconds(kDefaultDrainSeconds);
}

Status check_server(const config::Server& config) {
  for (const NumberSetting& setting : kNumbers) {
    PHALANX_RETURN_IF_ERROR(check_range(std::string("server.") + setting.field,
                                        value_of(config, setting), setting.lowest,
                                        setting.highest));
  }
  PHALANX_RETURN_IF_ERROR(
      check_range("server.drain_seconds", config.drain_seconds(), 0, kMaxDrainSeconds));
  if (config.max_all_bodies_bytes() < config.max_body_bytes()) {
    return invalid_argument(
        "server.max_all_bodies_bytes = " + std::to_string(config.max_all_bodies_bytes()) +
        ": allowed at least server.max_body_bytes = " + std::to_string(config.max_body_bytes()));
  }
  if (config.address().empty()) {
    return invalid_argument(
        "server.address = \"\": allowed an IP address or a host name; \"0.0.0.0\" for every "
        "interface");
  }
  for (const char c : config.cors_origin()) {
    if (c <= ' ' || c > '~') {
      return invalid_argument("server.cors_origin = \"" + config.cors_origin() +
                              "\": allowed printable ASCII without spaces, e.g. \"*\" or "
                              "\"https://example.org\"");
    }
  }
  return {};
}

ServerOptions server_options(const config::Server& config) {
  ServerOptions options;
  for (const NumberSetting& setting : kNumbers) setting.set(options, value_of(config, setting));
  options.address = config.address();
  options.cors_allow_origin = config.cors_origin();
  options.default_system_prompt = config.default_system_prompt();
  return options;
}

}  // namespace phalanx::launcher
