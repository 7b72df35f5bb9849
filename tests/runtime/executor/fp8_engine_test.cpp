// Engines of fp8 checkpoints, each layout of scales, against the same numbers in f32.
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "runtime/builder/engine_builder.h"
#include "tests/support/direct_executor.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx {
namespace {

std::vector<std::vector<float>> logits_of(const std::string& directory,
                                          const testing::TinyModel& model,
                                          std::optional<engine::WeightFormat> weights,
                                          kernels::IsaTier tier) {
  const testing::TemporaryDirectory engines;
  builder::BuildOptions options;
  options.checkpoint = directory;
  options.engine = engines.path() + "/engine";
  options.quantization.weights = weights;
  const auto built = builder::build_engine(options);
  PHALANX_CHECK(built.ok(), built.ok() ? "" : built.error().message);
  auto opened = model::EngineFile::open(options.engine);
  PHALANX_CHECK(opened.ok(), opened.ok() ? "" : opened.error().message);
  testing::DirectExecutor executor(*opened, 64, kernels::KvFormat::kF32, tier);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 40; ++i)
    tokens.push_back((i * 37 + 5) % static_cast<int32_t>(model.vocab_size));
  return executor.run(tokens, 0);
}

TEST(Fp8Engine, ComputesWhatItsCheckpointSays) {
  for (const testing::TinyFp8 layout :
       {testing::TinyFp8::kTensor, testing::TinyFp8::kRow, testing::TinyFp8::kBlock}) {
    testing::TinyModel model;
    model.hidden_size = 192;
    model.intermediate_size = 384;
    model.fp8 = layout;
    const testing::TemporaryDirectory directory;
    ASSERT_TRUE(testing::write_tiny_checkpoint(directory.path(), model).ok());
    const auto exact = logits_of(directory.path(), model, engine::F32, kernels::best_isa_tier());
    const auto ours = logits_of(directory.path(), model, {}, kernels::best_isa_tier());
    double error = 0;
    double power = 0;
    for (size_t r = 0; r < exact.size(); ++r) {
      for (size_t v = 0; v < exact[r].size(); ++v) {
        error += std::pow(static_cast<double>(ours[r][v]) - exact[r][v], 2);
        power += std::pow(static_cast<double>(exact[r][v]), 2);
      }
    }
    // What rounding activations to e4m3 costs, some 3% in each of eight linears in a row.
    const double relative = std::sqrt(error / power);
    EXPECT_LT(relative, 0.12) << static_cast<int>(layout);
    EXPECT_GT(relative, 1e-3) << static_cast<int>(layout);
    EXPECT_EQ(logits_of(directory.path(), model, {}, kernels::IsaTier::kPortable), ours)
        << static_cast<int>(layout);
  }
}

}  // namespace
}  // namespace phalanx
