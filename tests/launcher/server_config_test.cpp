// The Server message against its documentation: config.proto states each number's default and
// range, and the parser must keep to exactly these.
#include "launcher/server_config.h"

#include <fstream>
#include <map>
#include <regex>
#include <sstream>

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "launcher/worker_config.h"
#include "runtime/base/check.h"

namespace phalanx::launcher {
namespace {

using ::testing::HasSubstr;
namespace pb = google::protobuf;

struct Documented {
  int64_t initial, lowest, highest;
};

/// What the comment above each number of `message Server` says.
std::map<std::string, Documented> read_documentation() {
  std::ifstream file(std::string(PHALANX_SOURCE_DIR) + "/launcher/config.proto");
  std::map<std::string, Documented> fields;
  std::string comment;
  bool in_server = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("message ")) in_server = line.starts_with("message Server ");
    if (!in_server) continue;
    std::smatch match;
    if (std::regex_match(line, match, std::regex(" *//(.*)"))) {
      comment += match[1];
    } else if (std::regex_match(line, match, std::regex(" *optional int\\d+ (\\w+) = \\d+;"))) {
      std::smatch says;
      EXPECT_TRUE(std::regex_search(
          comment, says, std::regex("Default (\\d+)\\. +Allowed: (\\d+)\\.\\.(\\d+)\\.$")))
          << match[1] << ":" << comment;
      if (says.size() == 4)
        fields[match[1]] = {std::stoll(says[1]), std::stoll(says[2]), std::stoll(says[3])};
      comment.clear();
    } else {
      comment.clear();
    }
  }
  return fields;
}

Result<config::WorkerConfig> set(const std::string& field, int64_t value) {
  std::vector<std::string> overrides{"server." + field + "=" + std::to_string(value)};
  if (field == "max_body_bytes") overrides.emplace_back("server.max_all_bodies_bytes=1073741824");
  if (field == "max_all_bodies_bytes") overrides.emplace_back("server.max_body_bytes=1024");
  return parse_worker_config("engine: \"e\"", "test.textproto", overrides);
}

int64_t value_of(const config::Server& server, const std::string& name) {
  const auto* field = config::Server::descriptor()->FindFieldByName(name);
  return field->cpp_type() == pb::FieldDescriptor::CPPTYPE_INT32
             ? server.GetReflection()->GetInt32(server, field)
             : server.GetReflection()->GetInt64(server, field);
}

TEST(ServerConfig, EveryNumberIsDocumentedDefaultedAndChecked) {
  const auto documented = read_documentation();
  const auto config = parse_worker_config("engine: \"e\"", "test.textproto", {});
  ASSERT_TRUE(config.ok());
  const auto* type = config::Server::descriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const std::string name = type->field(i)->name();
    if (type->field(i)->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING) continue;
    ASSERT_TRUE(documented.contains(name)) << name;
    const auto [initial, lowest, highest] = documented.at(name);
    EXPECT_EQ(value_of(config->server(), name), initial) << name;
    for (const int64_t value : {lowest, highest}) {
      const auto parsed = set(name, value);
      ASSERT_TRUE(parsed.ok()) << parsed.error().message;
      EXPECT_EQ(value_of(parsed->server(), name), value) << name;
    }
    for (const int64_t value : {lowest - 1, highest + 1}) {
      const auto parsed = set(name, value);
      ASSERT_FALSE(parsed.ok()) << name << " = " << value;
      EXPECT_THAT(parsed.error().message,
                  HasSubstr("server." + name + " = " + std::to_string(value) + ": allowed " +
                            std::to_string(lowest) + ".." + std::to_string(highest)));
    }
  }
}

TEST(ServerConfig, EveryFieldReachesTheOptions) {
  const ServerOptions defaults;
  // Every number one above its default (or below, where that is the highest), so that none can be
  // mistaken for another's.
  std::vector<std::string> overrides{"server.address=::1", "server.cors_origin=https://a.example",
                                     "server.default_system_prompt=Be \"brief\"."};
  const auto documented = read_documentation();
  for (const auto& [name, range] : documented) {
    const int64_t value = range.initial < range.highest ? range.initial + 1 : range.initial - 1;
    overrides.push_back("server." + name + "=" + std::to_string(value));
  }
  const auto config = parse_worker_config("engine: \"e\"", "test.textproto", overrides);
  ASSERT_TRUE(config.ok()) << config.error().message;
  const ServerOptions options = server_options(config->server());
  EXPECT_EQ(options.address, "::1");
  EXPECT_EQ(options.cors_allow_origin, "https://a.example");
  EXPECT_EQ(options.default_system_prompt, "Be \"brief\".");
  EXPECT_EQ(options.port, defaults.port + 1);
  EXPECT_EQ(options.num_threads, defaults.num_threads + 1);
  EXPECT_EQ(options.max_connections, defaults.max_connections + 1);
  EXPECT_EQ(options.retry_after_seconds, defaults.retry_after_seconds + 1);
  EXPECT_EQ(options.max_header_bytes, defaults.max_header_bytes + 1);
  EXPECT_EQ(options.max_header_fields, defaults.max_header_fields + 1);
  EXPECT_EQ(options.max_body_bytes, defaults.max_body_bytes + 1);
  EXPECT_EQ(options.max_all_bodies_bytes, defaults.max_all_bodies_bytes + 1);
  EXPECT_EQ(options.max_pipelined_bytes, defaults.max_pipelined_bytes + 1);
  EXPECT_EQ(options.max_unsent_bytes, defaults.max_unsent_bytes + 1);
  EXPECT_EQ(options.max_answer_bytes, defaults.max_answer_bytes + 1);
  EXPECT_EQ(options.header_timeout.count(), defaults.header_timeout.count() + 1);
  EXPECT_EQ(options.body_timeout.count(), defaults.body_timeout.count() + 1);
  EXPECT_EQ(options.idle_timeout.count(), defaults.idle_timeout.count() + 1);
  EXPECT_EQ(options.write_timeout.count(), defaults.write_timeout.count() + 1);
  EXPECT_EQ(options.heartbeat_interval.count(), defaults.heartbeat_interval.count() + 1);
  EXPECT_EQ(options.request_timeout.count(), defaults.request_timeout.count() + 1);
  EXPECT_EQ(options.max_n, defaults.max_n + 1);
  EXPECT_EQ(options.max_prompts, defaults.max_prompts + 1);
  EXPECT_EQ(options.max_choices, defaults.max_choices + 1);
  EXPECT_EQ(options.max_prompt_bytes, defaults.max_prompt_bytes + 1);
  EXPECT_EQ(options.max_messages, defaults.max_messages + 1);
  EXPECT_EQ(options.max_tools, defaults.max_tools + 1);
  EXPECT_EQ(options.max_stop_strings, defaults.max_stop_strings + 1);
  EXPECT_EQ(options.max_stop_bytes, defaults.max_stop_bytes + 1);
  EXPECT_EQ(options.max_stop_token_ids, defaults.max_stop_token_ids + 1);
  EXPECT_EQ(options.max_top_logprobs, defaults.max_top_logprobs - 1);
  EXPECT_EQ(options.max_json_depth, defaults.max_json_depth + 1);
  EXPECT_EQ(options.max_json_values, defaults.max_json_values + 1);
  EXPECT_EQ(options.max_priority_magnitude, defaults.max_priority_magnitude + 1);
}

TEST(ServerConfig, SenselessStringsAndPairsAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"server { address: \"\" }", "server.address"},
      {"server { cors_origin: \"a\\r\\nb\" }", "server.cors_origin"},
      {"server { cors_origin: \"\\303\\244\" }", "server.cors_origin"},
      {"server { max_all_bodies_bytes: 4096 }",
       "server.max_all_bodies_bytes = 4096: allowed at least server.max_body_bytes = 8388608"},
  };
  for (const auto& [text, says] : cases) {
    const auto config =
        parse_worker_config(std::string("engine: \"e\" ") + text, "test.textproto", {});
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_THAT(config.error().message, HasSubstr(says));
  }
  EXPECT_TRUE(parse_worker_config("engine: \"e\" server { cors_origin: \"\" }", "t", {}).ok());
}

}  // namespace
}  // namespace phalanx::launcher
