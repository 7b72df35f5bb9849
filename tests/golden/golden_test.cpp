// Against transformers in float32: logits of every position and greedy tokens of every fixture. The
// other formats are measured by KL divergence and perplexity on the same positions.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/safetensors_reader.h"
#include "tests/support/direct_executor.h"
#include "tests/support/temporary_directory.h"

namespace phalanx {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(PHALANX_SOURCE_DIR) / "tests/golden";

struct Prompt {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<std::vector<float>> logits;
  std::vector<int32_t> greedy;
};

template <typename T>
std::vector<T> read_tensor(const model::SafetensorsFile& file, const std::string& name) {
  const model::TensorView* view = file.find(name);
  PHALANX_CHECK(view != nullptr, name);
  std::vector<T> values(static_cast<size_t>(view->num_elements));
  std::memcpy(values.data(), view->data, values.size() * sizeof(T));
  return values;
}

std::vector<Prompt> read_expected(const std::string& fixture) {
  auto file = model::SafetensorsFile::open(kGolden / fixture / "expected.safetensors");
  PHALANX_CHECK(file.ok(), file.ok() ? "" : file.error().message);
  std::vector<Prompt> prompts;
  for (int i = 0; (*file)->find("prompt" + std::to_string(i) + ".tokens") != nullptr; ++i) {
    const std::string name = "prompt" + std::to_string(i);
    Prompt prompt;
    prompt.tokens = read_tensor<int32_t>(**file, name + ".tokens");
    prompt.positions = read_tensor<int32_t>(**file, name + ".positions");
    prompt.greedy = read_tensor<int32_t>(**file, name + ".greedy");
    const auto flat = read_tensor<float>(**file, name + ".logits");
    const size_t vocab = flat.size() / prompt.positions.size();
    for (size_t p = 0; p < prompt.positions.size(); ++p) {
      prompt.logits.emplace_back(flat.begin() + static_cast<int64_t>(p * vocab),
                                 flat.begin() + static_cast<int64_t>((p + 1) * vocab));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

/// Every directory with an expected.safetensors. The demo's checkpoint is models/demo.
std::vector<std::string> fixtures() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    if (fs::exists(entry.path() / "expected.safetensors")) {
      names.push_back(entry.path().filename());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

fs::path checkpoint_of(const std::string& fixture) {
  return fixture == "demo" ? fs::path(PHALANX_SOURCE_DIR) / "models/demo"
                           : kGolden / fixture / "checkpoint";
}

std::vector<double> log_softmax(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float value : logits) sum += std::exp(value - top);
  std::vector<double> result;
  for (const float value : logits) result.push_back(value - top - std::log(sum));
  return result;
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const model::EngineFile> build(engine::WeightFormat weights) {
    builder::BuildOptions options;
    options.checkpoint = checkpoint_of(GetParam());
    options.engine = directory_.path() + "/" + engine::WeightFormat_Name(weights);
    options.quantization.weights = weights;
    options.quantization.group_size = 32;
    const auto built = builder::build_engine(options);
    PHALANX_CHECK(built.ok(), built.ok() ? "" : built.error().message);
    auto opened = model::EngineFile::open(options.engine);
    PHALANX_CHECK(opened.ok(), opened.ok() ? "" : opened.error().message);
    return *opened;
  }

  static constexpr int64_t kMaxTokens = 512;
  testing::TemporaryDirectory directory_;
};

TEST_P(Golden, F32LogitsAndGreedyTokens) {
  const auto engine = build(engine::F32);
  for (const Prompt& prompt : read_expected(GetParam())) {
    testing::DirectExecutor executor(engine, kMaxTokens);
    const auto logits = executor.run(prompt.tokens, 0);
    double worst = 0;
    for (size_t p = 0; p < prompt.positions.size(); ++p) {
      const auto& ours = logits[static_cast<size_t>(prompt.positions[p])];
      ASSERT_EQ(ours.size(), prompt.logits[p].size());
      for (size_t v = 0; v < ours.size(); ++v) {
        worst = std::max(worst, std::fabs(static_cast<double>(ours[v]) - prompt.logits[p][v]));
      }
    }
    EXPECT_LE(worst, 1e-4);
    RecordProperty("worst_logit_error", std::to_string(worst));
    EXPECT_EQ(executor.generate(prompt.tokens, static_cast<int64_t>(prompt.greedy.size())),
              prompt.greedy);
  }
}

/// The tiers of this machine give the same bits, so one golden run on each is enough to say that
/// all are right.
TEST_P(Golden, TiersAgreeBitByBit) {
  for (const auto weights : {engine::F32, engine::BF16, engine::W8, engine::W4, engine::FP8}) {
    const auto engine = build(weights);
    const Prompt prompt = read_expected(GetParam()).front();
    testing::DirectExecutor portable(engine, kMaxTokens, kernels::KvFormat::kInt8,
                                     kernels::IsaTier::kPortable);
    const auto expected = portable.run(prompt.tokens, 0);
    for (const auto tier :
         {kernels::IsaTier::kAvx2, kernels::IsaTier::kAvx2Vnni, kernels::IsaTier::kAvx512}) {
      if (tier > kernels::best_isa_tier()) continue;
      testing::DirectExecutor executor(engine, kMaxTokens, kernels::KvFormat::kInt8, tier);
      EXPECT_EQ(executor.run(prompt.tokens, 0), expected)
          << engine::WeightFormat_Name(weights) << " " << kernels::isa_tier_name(tier);
    }
  }
}

TEST_P(Golden, QuantizedFormatsStayClose) {
  struct Format {
    engine::WeightFormat weights;
    kernels::KvFormat kv;
    double max_kl;  ///< nats a position; random weights are harsher than trained ones
  };
  const Format formats[] = {{engine::BF16, kernels::KvFormat::kBf16, 0.002},
                            {engine::W8, kernels::KvFormat::kInt8, 0.01},
                            {engine::W4, kernels::KvFormat::kInt8, 0.25},
                            {engine::FP8, kernels::KvFormat::kBf16, 0.05}};
  for (const Format& format : formats) {
    const auto engine = build(format.weights);
    double kl = 0;
    double ours_nll = 0;
    double reference_nll = 0;
    int64_t positions = 0;
    int64_t targets = 0;
    for (const Prompt& prompt : read_expected(GetParam())) {
      testing::DirectExecutor executor(engine, kMaxTokens, format.kv);
      const auto logits = executor.run(prompt.tokens, 0);
      for (size_t p = 0; p < prompt.positions.size(); ++p) {
        const auto position = static_cast<size_t>(prompt.positions[p]);
        const auto reference = log_softmax(prompt.logits[p]);
        const auto ours = log_softmax(logits[position]);
        for (size_t v = 0; v < ours.size(); ++v) {
          kl += std::exp(reference[v]) * (reference[v] - ours[v]);
        }
        ++positions;
        if (position + 1 >= prompt.tokens.size()) continue;
        const auto next = static_cast<size_t>(prompt.tokens[position + 1]);
        ours_nll -= ours[next];
        reference_nll -= reference[next];
        ++targets;
      }
    }
    kl /= static_cast<double>(positions);
    std::printf("%-18s %-4s weights, %-4s KV: KL %.6f, perplexity %.4f (f32 %.4f)\n",
                GetParam().c_str(), engine::WeightFormat_Name(format.weights).c_str(),
                kernels::kv_format_name(format.kv), kl,
                std::exp(ours_nll / static_cast<double>(targets)),
                std::exp(reference_nll / static_cast<double>(targets)));
    EXPECT_LE(kl, format.max_kl) << engine::WeightFormat_Name(format.weights);
    EXPECT_GE(kl, 0.0);
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Golden, ::testing::ValuesIn(fixtures()),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace phalanx
