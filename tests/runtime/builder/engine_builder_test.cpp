// Checkpoint to engine, end to end: every family and format, determinism, refusals, full disks.
#include "runtime/builder/engine_builder.h"

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/resource.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/builder/checkpoint_reader.h"
#include "runtime/builder/quantizer.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/mapped_file.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx::builder {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TinyModel;

std::map<std::string, std::string> contents_of(const std::string& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::directory_iterator(directory)) {
    std::ifstream stream(entry.path(), std::ios::binary);
    contents[entry.path().filename()] = std::string(std::istreambuf_iterator<char>(stream), {});
  }
  return contents;
}

class EngineBuilderTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

  BuildOptions options_for(const TinyModel& model, engine::WeightFormat weights) {
    const Status written = testing::write_tiny_checkpoint(path("checkpoint"), model);
    EXPECT_TRUE(written.ok()) << written.error().message;
    BuildOptions options;
    options.checkpoint = path("checkpoint");
    options.engine = path("engine");
    options.quantization.weights = weights;
    options.quantization.group_size = 32;
    return options;
  }

  std::string build_error(const BuildOptions& options) {
    const auto report = build_engine(options);
    EXPECT_FALSE(report.ok());
    return report.ok() ? "" : report.error().message;
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(EngineBuilderTest, EveryFamilyAndFormatOpens) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (engine::WeightFormat format : {engine::F32, engine::BF16, engine::W8, engine::W4}) {
      for (bool tied : {false, true}) {
        TinyModel model;
        model.architecture = family;
        model.tied = tied;
        BuildOptions options = options_for(model, format);
        options.force = true;
        const auto report = build_engine(options);
        ASSERT_TRUE(report.ok()) << family << ": " << report.error().message;
        const auto opened = model::EngineFile::open(options.engine);
        ASSERT_TRUE(opened.ok()) << family << ": " << opened.error().message;
        const engine::EngineManifest& manifest = (*opened)->manifest();
        EXPECT_EQ(manifest.model().architecture(), family);
        EXPECT_EQ(manifest.model().tie_word_embeddings(), tied);
        EXPECT_EQ(manifest.reduction_lanes(), 4);
        EXPECT_EQ((*opened)->weight("layers.1.down").format(), format);
        EXPECT_EQ((*opened)->weight("embedding").format(),
                  format == engine::W4 ? engine::W8 : format);
        EXPECT_EQ((*opened)->weight("embedding").axis(),
                  tied ? engine::VOCAB : engine::REPLICATED);
        EXPECT_EQ((*opened)->vector("final_norm").size(), 64U);
      }
    }
  }
}

TEST_F(EngineBuilderTest, Bf16WeightsAreTheCheckpointsBits) {
  const BuildOptions options = options_for(TinyModel{}, engine::BF16);
  ASSERT_TRUE(build_engine(options).ok());
  const auto engine = model::EngineFile::open(options.engine);
  ASSERT_TRUE(engine.ok());
  const auto checkpoint = CheckpointReader::open(options.checkpoint);
  ASSERT_TRUE(checkpoint.ok());
  const model::MatrixView stored = (*engine)->matrix("layers.0.k");
  const CheckpointTensor* source =
      checkpoint->find("model.layers.0.self_attn.k_proj.weight");
  ASSERT_NE(source, nullptr);
  ASSERT_EQ(stored.rows * stored.row_stride_bytes, source->view.num_bytes());
  EXPECT_EQ(std::memcmp(stored.codes, source->view.data,
                        static_cast<size_t>(source->view.num_bytes())),
            0);
}

}  // namespace
}  // namespace phalanx::builder
