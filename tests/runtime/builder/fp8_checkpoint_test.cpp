// fp8 checkpoints as they are on the hub: kept as they are, turned into other formats, and broken
// ones, by tensor.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/ceil_div.h"
#include "runtime/builder/checkpoint_reader.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/builder/quantizer.h"
#include "runtime/builder/safetensors_writer.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/textproto.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx::builder {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using testing::TinyFp8;
using testing::TinyModel;

constexpr const char* kGate = "model.layers.0.mlp.gate_proj.weight";

/// 200 rows and 136 columns in ragged blocks.
TinyModel model_of(TinyFp8 layout) {
  TinyModel model;
  model.hidden_size = 136;
  model.intermediate_size = 200;
  model.fp8 = layout;
  return model;
}

/// A checkpoint's tensors, to be changed and written again.
struct Tensor {
  model::StoredTensor stored;
  std::vector<std::byte> bytes;
};
using Tensors = std::map<std::string, Tensor>;

class Fp8Checkpoint : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

  BuildOptions options_for(const TinyModel& model,
                           std::optional<engine::WeightFormat> weights = {}) {
    const Status written = testing::write_tiny_checkpoint(path("checkpoint"), model);
    EXPECT_TRUE(written.ok()) << written.error().message;
    BuildOptions options;
    options.checkpoint = path("checkpoint");
    options.engine = path("engine-" + std::to_string(num_engines_++));
    options.quantization.weights = weights;
    return options;
  }

  std::shared_ptr<const model::EngineFile> build(const BuildOptions& options) {
    const auto report = build_engine(options);
    PHALANX_CHECK(report.ok(), report.ok() ? "" : report.error().message);
    const auto& notes = report->manifest.provenance().notes();
    notes_.assign(notes.begin(), notes.end());
    auto opened = model::EngineFile::open(options.engine);
    PHALANX_CHECK(opened.ok(), opened.ok() ? "" : opened.error().message);
    return *opened;
  }

  void change(const std::function<void(Tensors&)>& how) {
    const std::string file = path("checkpoint/model.safetensors");
    Tensors tensors;
    {
      const auto opened = model::SafetensorsFile::open(file);
      ASSERT_TRUE(opened.ok());
      for (const auto& [name, view] : (*opened)->tensors())
        tensors[name] = {{name, *view.dtype, view.shape},
                         {view.data, view.data + view.num_bytes()}};
    }
    how(tensors);
    std::vector<model::StoredTensor> stored;
    for (const auto& [name, tensor] : tensors)
      stored.push_back({name, tensor.stored.dtype, tensor.stored.shape});
    std::filesystem::remove(file);
    auto writer = SafetensorsWriter::create(file, stored);
    ASSERT_TRUE(writer.ok());
    for (const auto& [name, tensor] : tensors)
      ASSERT_TRUE((*writer)->write(name, 0, tensor.bytes).ok());
    ASSERT_TRUE((*writer)->finish().ok());
  }

  void replace_in(const std::string& name, const std::string& from, const std::string& to) {
    std::string text;
    {
      std::ifstream stream(path(name), std::ios::binary);
      text.assign(std::istreambuf_iterator<char>(stream), {});
    }
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    std::ofstream(path(name), std::ios::binary) << text;
  }

  std::string build_error(const BuildOptions& options) {
    const auto report = build_engine(options);
    EXPECT_FALSE(report.ok());
    return report.ok() ? "" : report.error().message;
  }

  testing::TemporaryDirectory directory_;
  std::vector<std::string> notes_;
  int num_engines_ = 0;
};

/// What the checkpoint says the element is, by the definition of its layout.
float dequantized(const CheckpointReader& checkpoint, const std::string& name, TinyFp8 layout,
                  int64_t block, int64_t row, int64_t col) {
  const CheckpointTensor& codes = *checkpoint.find(name);
  const bool is_block = layout == TinyFp8::kBlock;
  const CheckpointTensor& scales = *checkpoint.find(name + (is_block ? "_scale_inv" : "_scale"));
  const int64_t cols = codes.view.shape[1];
  int64_t index = 0;
  if (layout == TinyFp8::kRow) index = row;
  if (is_block) index = row / block * ceil_div(cols, block) + col / block;
  float scale = 0;
  widen_elements(scales.view.data + index * (layout == TinyFp8::kRow ? 2 : 4), *scales.view.dtype,
                 1, &scale);
  return e4m3_to_f32(std::to_integer<uint8_t>(codes.view.data[row * cols + col])) * scale;
}

TEST_F(Fp8Checkpoint, IsKeptAsItIs) {
  for (const TinyFp8 layout : {TinyFp8::kTensor, TinyFp8::kRow, TinyFp8::kBlock}) {
    for (const int64_t block : {128, 24}) {
      if (block != 128 && layout != TinyFp8::kBlock) continue;
      TinyModel model = model_of(layout);
      model.fp8_block = block;
      for (const std::optional<engine::WeightFormat> weights :
           {std::optional<engine::WeightFormat>(), std::optional(engine::FP8)}) {
        const BuildOptions options = options_for(model, weights);
        const auto engine = build(options);
        const auto checkpoint = CheckpointReader::open(options.checkpoint);
        EXPECT_EQ(engine->manifest().provenance().weights(), "fp8");
        EXPECT_EQ(engine->weight("embedding").format(), engine::BF16);
        EXPECT_EQ(engine->weight("lm_head").format(), engine::BF16);
        const engine::Weight& gate = engine->weight("layers.0.gate");
        EXPECT_EQ(gate.format(), engine::FP8);
        const int64_t rows = layout == TinyFp8::kBlock ? block : layout == TinyFp8::kRow ? 1 : 200;
        EXPECT_EQ(gate.scale_rows(), rows);
        EXPECT_EQ(gate.scale_cols(), layout == TinyFp8::kBlock ? block : 136);
        EXPECT_EQ(gate.group_size(), 8);  // of 136, by twos
        const model::MatrixView view = engine->matrix("layers.0.gate");
        for (int64_t r = 0; r < view.rows; ++r) {
          for (int64_t k = 0; k < view.cols; ++k) {
            float scale = 0;
            std::memcpy(&scale,
                        view.scales +
                            (r / view.scale_rows * view.scale_row_stride + k / view.scale_cols) * 4,
                        4);
            const auto code = std::to_integer<uint8_t>(view.codes[r * view.row_stride_bytes + k]);
            ASSERT_EQ(e4m3_to_f32(code) * scale,
                      dequantized(*checkpoint, kGate, layout, block, r, k))
                << r << ", " << k;
          }
        }
        if (layout == TinyFp8::kTensor) {
          EXPECT_THAT(notes_, Contains(AllOf(HasSubstr("static activation scales of 14 matrices"),
                                             HasSubstr("per token and group"))));
        }
      }
    }
  }
}

TEST_F(Fp8Checkpoint, BecomesOtherFormatsByItsNumbers) {
  for (const TinyFp8 layout : {TinyFp8::kTensor, TinyFp8::kRow, TinyFp8::kBlock}) {
    const TinyModel model = model_of(layout);
    const BuildOptions as_f32 = options_for(model, engine::F32);
    const auto checkpoint = CheckpointReader::open(as_f32.checkpoint);
    const auto f32 = build(as_f32);
    const auto bf16 = build(options_for(model, engine::BF16));
    const model::MatrixView floats = f32->matrix("layers.0.gate");
    const model::MatrixView halves = bf16->matrix("layers.0.gate");
    for (int64_t r = 0; r < floats.rows; ++r) {
      for (int64_t k = 0; k < floats.cols; ++k) {
        const float expected = dequantized(*checkpoint, kGate, layout, 128, r, k);
        float value = 0;
        std::memcpy(&value, floats.codes + r * floats.row_stride_bytes + k * 4, 4);
        ASSERT_EQ(value, expected);
        uint16_t bits = 0;
        std::memcpy(&bits, halves.codes + r * halves.row_stride_bytes + k * 2, 2);
        ASSERT_EQ(bits, f32_to_bf16(expected));
      }
    }
    const auto w8 = build(options_for(model, engine::W8));
    EXPECT_EQ(w8->weight("layers.0.gate").format(), engine::W8);
    EXPECT_EQ(w8->weight("lm_head").format(), engine::W8);
    BuildOptions with_head = options_for(model);
    with_head.quantization.head_weights = engine::W8;
    const auto mixed = build(with_head);
    EXPECT_EQ(mixed->weight("layers.0.gate").format(), engine::FP8);
    EXPECT_EQ(mixed->weight("lm_head").format(), engine::W8);
  }
}

/// Layers that the maker left as they were stay bf16, and do not hinder their neighbours.
TEST_F(Fp8Checkpoint, WhatWasNotQuantizedStaysBf16) {
  const BuildOptions options = options_for(model_of(TinyFp8::kBlock));
  change([](Tensors& tensors) {
    Tensor& key = tensors["model.layers.0.self_attn.k_proj.weight"];
    key.stored.dtype = DType::kBf16;
    key.bytes.assign(key.bytes.size() * 2, std::byte{0x3c});
    tensors.erase("model.layers.0.self_attn.k_proj.weight_scale_inv");
  });
  const auto engine = build(options);
  EXPECT_EQ(engine->weight("layers.0.k").format(), engine::BF16);
  EXPECT_EQ(engine->weight("layers.0.q").format(), engine::FP8);
  EXPECT_EQ(engine->weight("layers.1.k").format(), engine::FP8);
}

TEST_F(Fp8Checkpoint, ABf16CheckpointIsQuantizedByBlocks) {
  TinyModel model = model_of(TinyFp8::kNone);
  model.dtype = DType::kF32;
  BuildOptions options = options_for(model, engine::FP8);
  options.num_threads = 2;
  const auto engine = build(options);
  const auto exact = build(options_for(model, engine::F32));
  for (const char* name : {"layers.0.gate", "layers.1.down", "lm_head", "embedding"}) {
    const engine::Weight& weight = engine->weight(name);
    EXPECT_EQ(weight.format(), engine::FP8);
    EXPECT_EQ(weight.scale_rows(), 128);
    EXPECT_EQ(weight.scale_cols(), 128);
    const model::MatrixView view = engine->matrix(name);
    const model::MatrixView floats = exact->matrix(name);
    EXPECT_EQ(view.scale_row_stride, ceil_div(weight.cols(), 128));
    for (int64_t r = 0; r < view.rows; ++r) {
      for (int64_t k = 0; k < view.cols; ++k) {
        float scale = 0;
        float expected = 0;
        std::memcpy(&scale, view.scales + (r / 128 * view.scale_row_stride + k / 128) * 4, 4);
        std::memcpy(&expected, floats.codes + r * floats.row_stride_bytes + k * 4, 4);
        const auto code = std::to_integer<uint8_t>(view.codes[r * view.row_stride_bytes + k]);
        ASSERT_LE(std::fabs(e4m3_to_f32(code) * scale - expected),
                  std::max(std::fabs(expected) / 16.0F * 1.0001F, 0x1p-10F * scale))
            << name << " " << r << ", " << k;
      }
    }
  }
}

TEST_F(Fp8Checkpoint, BrokenOnesNameTheTensor) {
  const std::string scale = std::string(kGate) + "_scale_inv";
  const auto error_after = [&](const std::function<void(Tensors&)>& how) {
    const BuildOptions options = options_for(model_of(TinyFp8::kBlock));
    change(how);
    return build_error(options);
  };
  EXPECT_THAT(error_after([&](Tensors& t) { t.erase(scale); }),
              AllOf(HasSubstr(kGate), HasSubstr("lacks its scales, " + scale),
                    HasSubstr("of shape [2, 2]")));
  EXPECT_THAT(error_after([&](Tensors& t) { t[scale].stored.shape = {4}; }),
              AllOf(HasSubstr("tensor " + scale + " is [4]"), HasSubstr("must be [2, 2]")));
  EXPECT_THAT(error_after([&](Tensors& t) { t[scale].stored.dtype = DType::kI32; }),
              AllOf(HasSubstr("tensor " + scale + " is I32"),
                    HasSubstr("scales must be F32, F16 or BF16")));
  for (const float bad : {-1.0F, std::nanf(""), HUGE_VALF}) {
    EXPECT_THAT(
        error_after([&](Tensors& t) { std::memcpy(t[scale].bytes.data() + 8, &bad, 4); }),
        AllOf(HasSubstr(scale), HasSubstr("at element 2; scales must be finite and not negative")));
  }
  EXPECT_THAT(error_after([&](Tensors& t) { t[kGate].bytes[3 * 136 + 5] = std::byte{0xff}; }),
              AllOf(HasSubstr(kGate), HasSubstr("nan at row 3, column 5")));
  EXPECT_THAT(error_after([&](Tensors& t) { t[kGate].stored.dtype = DType::kI8; }),
              AllOf(HasSubstr(std::string(kGate) + " is I8"),
                    HasSubstr("must be F32, F16 or BF16, or F8_E4M3")));
  EXPECT_THAT(error_after([&](Tensors& t) {
                Tensor& norm = t["model.norm.weight"];
                norm.stored.dtype = DType::kF8E4M3;
                norm.bytes.resize(136);
              }),
              AllOf(HasSubstr("model.norm.weight is F8_E4M3"), HasSubstr("F32, F16 or BF16")));
  // A scale of what is not quantized is a tensor that nothing reads.
  EXPECT_THAT(error_after([&](Tensors& t) {
                t[kGate].stored.dtype = DType::kBf16;
                t[kGate].bytes.assign(t[kGate].bytes.size() * 2, std::byte{0});
              }),
              AllOf(HasSubstr(scale), HasSubstr("is read by nothing")));

  const BuildOptions e5m2 = options_for(model_of(TinyFp8::kBlock));
  replace_in("checkpoint/model.safetensors", "F8_E4M3", "F8_E5M2");
  EXPECT_THAT(build_error(e5m2), AllOf(HasSubstr("is F8_E5M2"), HasSubstr("or F8_E4M3")));

  const BuildOptions unsaid = options_for(model_of(TinyFp8::kBlock));
  replace_in("checkpoint/config.json", "\"quantization_config\"", "\"use_cache\"");
  EXPECT_THAT(build_error(unsaid), HasSubstr("has no quantization_config that says how"));

  // Blocks of 12 columns admit no group of 8 or more.
  TinyModel narrow = model_of(TinyFp8::kBlock);
  narrow.fp8_block = 12;
  EXPECT_THAT(build_error(options_for(narrow)),
              AllOf(HasSubstr("weight layers.0.q has 136 columns and a scale every 12"),
                    HasSubstr("use --weights bf16 or f32")));
}

}  // namespace
}  // namespace phalanx::builder
