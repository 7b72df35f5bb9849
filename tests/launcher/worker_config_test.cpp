// Configuration text: defaults, overrides, and errors that a person can act on.
#include "launcher/worker_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::launcher {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Result<config::WorkerConfig> parse(const std::string& text,
                                   const std::vector<std::string>& overrides = {}) {
  return parse_worker_config(text, "test.textproto", overrides);
}

TEST(WorkerConfig, DefaultsAreFilled) {
  const auto config = parse("engine: \"e\"");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->parallel().tp_size(), 1);
  EXPECT_EQ(config->server().port(), 8000);
  EXPECT_EQ(config->server().address(), "127.0.0.1");
  EXPECT_TRUE(config->kv_cache().prefix_cache());
  EXPECT_EQ(config->cpu().isa(), "auto");
  EXPECT_EQ(config->cpu().tuning(), "auto");
  EXPECT_EQ(config->failure().silence_ms(), 3000);
}

TEST(WorkerConfig, ExplicitZeroIsKept) {
  const auto config = parse("engine: \"e\" server { port: 0 } kv_cache { prefix_cache: false }");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->server().port(), 0);
  EXPECT_FALSE(config->kv_cache().prefix_cache());
}

TEST(WorkerConfig, OverridesWinInOrder) {
  const auto config = parse("engine: \"e\" parallel { tp_size: 4 }",
                            {"parallel.tp_size=2", "parallel.tp_size=8", "engine=a \"b\\ c",
                             "kv_cache.format=INT8", "server.address=\"::1\""});
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->parallel().tp_size(), 8);
  EXPECT_EQ(config->engine(), "a \"b\\ c");
  EXPECT_EQ(config->kv_cache().format(), config::KvCache::INT8);
  EXPECT_EQ(config->server().address(), "\"::1\"");  // taken as it stands, quotes and all
}

struct BadText {
  const char* text;
  std::vector<const char*> says;
};

TEST(WorkerConfig, ErrorsNameFilePlaceFieldValueAndWhatIsAllowed) {
  const BadText cases[] = {
      {"", {"test.textproto", "engine", "required"}},
      {"engine: \"e\"\nparalel { }", {"test.textproto", "line 2", "paralel", "parallel"}},
      {"engine: \"e\"\nparallel { tp: 2 }", {"line 2", "\"tp\"", "tp_size, pp_size"}},
      {"engine: 7", {"line 1", "7"}},
      {"engine: \"e\"\n\nserver { port: \"x\" }", {"line 3", "x"}},
      {"engine: \"e\" kv_cache { format: FP3 }", {"FP3", "F32, BF16, INT8"}},
      {"engine: \"e\" server { port: 70000 }", {"server.port = 70000", "0..65535"}},
      {"engine: \"e\" parallel { tp_size: 0 }", {"parallel.tp_size = 0", "1..1024"}},
      {"engine: \"e\" cpu { isa: \"sse9\" }", {"cpu.isa", "sse9", "avx512"}},
      {"engine: \"e\" cpu { tuning: \"\" }", {"cpu.tuning", "auto, off"}},
      {"engine: \"e\" kv_cache { memory_fraction: nan }", {"memory_fraction", "0.01..0.95"}},
      {"engine: \"e\" server { port: 99999999999 }", {"line 1", "99999999999"}},
      {"engine: \"e", {"line 1"}},
      {"engine: \"e\" failure { heartbeat_ms: 1000 silence_ms: 1500 }",
       {"silence_ms = 1500", "1000"}},
  };
  for (const BadText& test : cases) {
    const auto config = parse(test.text);
    ASSERT_FALSE(config.ok()) << test.text;
    for (const char* part : test.says) {
      EXPECT_THAT(config.error().message, HasSubstr(part)) << test.text;
    }
  }
}

TEST(WorkerConfig, BadOverrides) {
  const BadText cases[] = {
      {"server.port", {"--set", "field=value"}},
      {"=3", {"--set", "field=value"}},
      {"server.prt=3", {"prt", "port"}},
      {"server=3", {"server", "group", "port"}},
      {"engine.x=3", {"engine", "no fields"}},
      {"server.port=high", {"--set server.port=high", "high"}},
      {"server.port=", {"--set server.port=", "expected one number"}},
      {"server.port=80 } cpu { num_threads: 3", {"server.port", "expected one number"}},
      {"server.port=80\ncpu { }", {"server.port", "expected one number"}},
      {"log_level=\"INFO\"", {"log_level", "expected one"}},
      {"server.port=70000", {"test.textproto with --set: server.port = 70000"}},
      {"scheduling.max_context_tokens=1", {"scheduling.max_context_tokens = 1", "at least 2"}},
      {"nothing=1", {"nothing", "engine"}},
  };
  for (const BadText& test : cases) {
    const auto config = parse("engine: \"e\"", {test.text});
    ASSERT_FALSE(config.ok()) << test.text;
    for (const char* part : test.says) {
      EXPECT_THAT(config.error().message, HasSubstr(part)) << test.text;
    }
  }
}

TEST(WorkerConfig, MissingFile) {
  const auto text = read_config_file("/nonexistent/x.textproto");
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(text.error().message,
              AllOf(HasSubstr("/nonexistent/x.textproto"), HasSubstr("No such")));
}

TEST(WorkerConfig, ShippedConfigsParse) {
  for (const char* name : {"demo", "cpu_tp2_pp2", "your_model"}) {
    const std::string path = std::string(PHALANX_SOURCE_DIR) + "/configs/" + name + ".textproto";
    const auto text = read_config_file(path);
    ASSERT_TRUE(text.ok()) << path;
    const auto config = parse_worker_config(*text, path, {});
    EXPECT_TRUE(config.ok()) << (config.ok() ? "" : config.error().message);
  }
}

}  // namespace
}  // namespace phalanx::launcher
