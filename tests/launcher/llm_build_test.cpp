// llm-build's command line and its inspect tables.
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/llm_build_inspect.h"
#include "launcher/llm_build_options.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx::launcher {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string parse_error(const std::vector<std::string>& arguments) {
  const auto command = parse_llm_build(arguments);
  EXPECT_FALSE(command.ok());
  return command.ok() ? "" : command.error().message;
}

TEST(LlmBuildOptions, Build) {
  const auto command = parse_llm_build({"in",
                                        "--weights",
                                        "w4",
                                        "out",
                                        "--group-size=64",
                                        "--head-weights=bf16",
                                        "--disable-pass",
                                        "fuse_qkv",
                                        "--disable-pass=fuse_gate_up",
                                        "--dump-graph",
                                        "d",
                                        "--architecture",
                                        "a",
                                        "--threads",
                                        "3",
                                        "--name",
                                        "n",
                                        "--force",
                                        "--ignore-config-key",
                                        "k"});
  ASSERT_TRUE(command.ok()) << command.error().message;
  const auto& options = std::get<builder::BuildOptions>(*command);
  EXPECT_EQ(options.checkpoint, "in");
  EXPECT_EQ(options.engine, "out");
  EXPECT_EQ(options.quantization.weights, engine::W4);
  EXPECT_EQ(options.quantization.head_weights, engine::BF16);
  EXPECT_EQ(options.quantization.group_size, 64);
  EXPECT_THAT(options.passes.disabled, ElementsAre("fuse_qkv", "fuse_gate_up"));
  EXPECT_EQ(options.passes.dump_directory, "d");
  EXPECT_EQ(options.architecture_file, "a");
  EXPECT_EQ(options.num_threads, 3);
  EXPECT_EQ(options.name, "n");
  EXPECT_TRUE(options.force);
  EXPECT_THAT(options.ignored_config_keys, ElementsAre("k"));
}

TEST(LlmBuildOptions, Inspect) {
  const auto command = parse_llm_build({"inspect", "--tp", "4", "e", "--graph"});
  ASSERT_TRUE(command.ok()) << command.error().message;
  const auto& options = std::get<InspectOptions>(*command);
  EXPECT_EQ(options.engine, "e");
  EXPECT_EQ(options.tp_size, 4);
  EXPECT_EQ(options.pp_size, 1);
  EXPECT_TRUE(options.show_graph);
  EXPECT_FALSE(options.show_weights);
}

TEST(LlmBuildOptions, ErrorsNameFlagValueAndAllowed) {
  EXPECT_THAT(parse_error({"a", "b", "--weights", "w5"}),
              HasSubstr("--weights is \"w5\", must be f32, bf16, w8, w4 or fp8"));
  EXPECT_THAT(parse_error({"a", "b", "--group-size", "x"}),
              HasSubstr("--group-size is \"x\", must be an integer between 8 and 4096"));
  EXPECT_THAT(parse_error({"a", "b", "--threads=0"}), HasSubstr("--threads is \"0\""));
  EXPECT_THAT(parse_error({"a", "b", "--weights"}), HasSubstr("--weights needs a value"));
  EXPECT_THAT(parse_error({"a", "b", "--force=yes"}), HasSubstr("takes no value"));
  EXPECT_THAT(parse_error({"a", "b", "--quantize"}), HasSubstr("unknown flag --quantize"));
  EXPECT_THAT(parse_error({"a"}), HasSubstr("CHECKPOINT and ENGINE"));
  EXPECT_THAT(parse_error({"a", "b", "c"}), HasSubstr("not 3"));
  EXPECT_THAT(parse_error({}), HasSubstr("--help"));
  EXPECT_THAT(parse_error({"inspect"}), HasSubstr("one ENGINE"));
  EXPECT_THAT(parse_error({"inspect", "e", "--tp", "-1"}), HasSubstr("--tp is \"-1\""));
  EXPECT_THAT(parse_error({"inspect", "e", "--force"}), HasSubstr("unknown flag --force"));
}

TEST(LlmBuildOptions, Help) {
  for (const char* flag : {"--help", "-h"}) {
    const auto command = parse_llm_build({"x", flag});
    ASSERT_TRUE(command.ok());
    EXPECT_TRUE(std::holds_alternative<HelpRequest>(*command));
  }
  EXPECT_THAT(llm_build_help(), AllOf(HasSubstr("fuse_add_norm"), HasSubstr("qwen3")));
}

class LlmBuildInspect : public ::testing::Test {
 protected:
  void SetUp() override {
    engine_ = testing::build_tiny_engine(directory_.path(), testing::TinyModel{}, "w4");
  }
  std::string inspect(InspectOptions options) {
    options.engine = engine_;
    std::ostringstream out;
    const Status status = inspect_engine(options, out);
    return status.ok() ? out.str() : "error: " + status.error().message;
  }
  testing::TemporaryDirectory directory_;
  std::string engine_;
};

TEST_F(LlmBuildInspect, Summary) {
  EXPECT_THAT(inspect({}),
              AllOf(HasSubstr("4 query heads, 2 KV heads, head_dim 16"), HasSubstr("w4 g32"),
                    HasSubstr("w8 g32"), HasSubstr("reduction_lanes 4: tp_size 1 2 4"),
                    HasSubstr("fuse_qkv fuse_gate_up fuse_add_norm"), HasSubstr("engine hash")));
}

TEST_F(LlmBuildInspect, GraphAndWeights) {
  InspectOptions options;
  options.show_graph = true;
  options.show_weights = true;
  EXPECT_THAT(inspect(options),
              AllOf(HasSubstr("layers.1.gate_up"), HasSubstr("[128, 64]"), HasSubstr("kv_column")));
}

TEST_F(LlmBuildInspect, Topologies) {
  InspectOptions options;
  options.tp_size = 4;
  options.pp_size = 2;
  EXPECT_THAT(inspect(options), AllOf(HasSubstr("tp_size 4, pp_size 2"), HasSubstr("kv cache")));
  options.tp_size = 8;
  EXPECT_THAT(inspect(options), HasSubstr("error: tp_size 8 does not divide"));
  options.tp_size = 1;
  options.pp_size = 3;
  EXPECT_THAT(inspect(options), HasSubstr("between 1 and 2"));
}

TEST_F(LlmBuildInspect, VerifyFindsAFlippedBit) {
  InspectOptions options;
  options.verify = true;
  EXPECT_THAT(inspect(options), HasSubstr("verified"));
  const std::string file = engine_ + "/weights-00001-of-00001.safetensors";
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(-5, std::ios::end);
  const auto byte = static_cast<char>(stream.peek() ^ 1);
  stream.seekp(-5, std::ios::end);
  stream.put(byte);
  stream.close();
  EXPECT_THAT(inspect({}), Not(HasSubstr("error")));
  EXPECT_THAT(inspect(options), HasSubstr("error: "));
}

}  // namespace
}  // namespace phalanx::launcher
