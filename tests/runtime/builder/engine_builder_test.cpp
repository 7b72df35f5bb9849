// Checkpoint to engine, end to end: every family and format, determinism, refusals, full disks.
#include "runtime/builder/engine_builder.h"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/builder/checkpoint_reader.h"
#include "runtime/builder/quantizer.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/mapped_file.h"
#include "runtime/model/safetensors_reader.h"
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
    for (engine::WeightFormat format :
         {engine::F32, engine::BF16, engine::W8, engine::W4, engine::FP8}) {
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
        EXPECT_EQ((*opened)->weight("embedding").axis(), tied ? engine::VOCAB : engine::REPLICATED);
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
  const CheckpointTensor* source = checkpoint->find("model.layers.0.self_attn.k_proj.weight");
  ASSERT_NE(source, nullptr);
  ASSERT_EQ(stored.rows * stored.row_stride_bytes, source->view.num_bytes());
  EXPECT_EQ(
      std::memcmp(stored.codes, source->view.data, static_cast<size_t>(source->view.num_bytes())),
      0);
}

TEST_F(EngineBuilderTest, SameInputSameBytes) {
  TinyModel model;
  model.architecture = "qwen3";
  for (engine::WeightFormat format : {engine::BF16, engine::W4}) {
    BuildOptions options = options_for(model, format);
    options.force = true;
    std::map<std::string, std::string> first;
    for (int threads : {1, 4, 3}) {
      options.num_threads = threads;
      options.engine = path("engine-" + std::to_string(threads));
      ASSERT_TRUE(build_engine(options).ok());
      const auto contents = contents_of(options.engine);
      if (first.empty()) first = contents;
      EXPECT_EQ(contents, first) << threads << " threads";
    }
  }
}

TEST_F(EngineBuilderTest, ShardsDtypesAndDialectsGiveTheSameEngine) {
  TinyModel model;
  model.dtype = DType::kBf16;
  BuildOptions options = options_for(model, engine::F32);
  options.name = "same";
  ASSERT_TRUE(build_engine(options).ok());
  const auto single = contents_of(options.engine);
  model.num_shards = 3;
  model.old_dialect = true;
  fs::remove_all(path("checkpoint"));
  options = options_for(model, engine::F32);
  options.name = "same";
  options.force = true;
  ASSERT_TRUE(build_engine(options).ok());
  EXPECT_EQ(contents_of(options.engine), single);
}

TEST_F(EngineBuilderTest, SeveralWeightFiles) {
  const BuildOptions options = options_for(TinyModel{}, engine::W8);
  const auto checkpoint = CheckpointReader::open(options.checkpoint);
  ASSERT_TRUE(checkpoint.ok());
  std::vector<BoundTensor> tensors;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    BoundTensor bound;
    bound.checkpoint_name = name;
    bound.source = &tensor;
    bound.weight.set_name(name);
    bound.weight.set_rows(tensor.view.shape[0]);
    if (tensor.view.shape.size() > 1) {
      bound.weight.set_cols(tensor.view.shape[1]);
      bound.weight.set_format(engine::W8);
      bound.weight.set_group_size(16);
    }
    tensors.push_back(bound);
  }
  fs::create_directory(path("weights"));
  const auto files = write_weights(path("weights"), tensors, 2, {}, 20000);
  ASSERT_TRUE(files.ok()) << files.error().message;
  ASSERT_GT(files->size(), 3U);
  size_t num_tensors = 0;
  for (const engine::WeightFile& file : *files) {
    EXPECT_LE(file.size_bytes(), 22000) << file.name();
    const auto opened = model::SafetensorsFile::open(path("weights/" + file.name()));
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    for (const auto& [name, view] : (*opened)->tensors()) {
      ++num_tensors;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 4, 0U) << name;
    }
  }
  EXPECT_GT(num_tensors, tensors.size());
}

TEST_F(EngineBuilderTest, DecodedWeightsAreNearTheCheckpoint) {
  const BuildOptions options = options_for(TinyModel{}, engine::W4);
  ASSERT_TRUE(build_engine(options).ok());
  const auto engine = model::EngineFile::open(options.engine);
  const auto checkpoint = CheckpointReader::open(options.checkpoint);
  const engine::Weight& weight = (*engine)->weight("layers.1.gate");
  const model::MatrixView view = (*engine)->matrix("layers.1.gate");
  const CheckpointTensor* source = checkpoint->find("model.layers.1.mlp.gate_proj.weight");
  std::vector<float> expected(static_cast<size_t>(view.cols));
  std::vector<float> decoded(expected.size());
  double error = 0;
  double power = 0;
  for (int64_t r = 0; r < view.rows; ++r) {
    widen_elements(source->view.data + r * view.cols * 2, DType::kBf16, view.cols, expected.data());
    decode_row(weight, view.codes + r * view.row_stride_bytes,
               reinterpret_cast<const uint16_t*>(view.scales) + r * view.scale_row_stride, decoded);
    for (size_t i = 0; i < expected.size(); ++i) {
      error += std::pow(decoded[i] - expected[i], 2);
      power += std::pow(expected[i], 2);
    }
  }
  EXPECT_LT(std::sqrt(error / power), 0.1);
  EXPECT_GT(std::sqrt(error / power), 0.01);
}

TEST_F(EngineBuilderTest, RefusesToOverwrite) {
  BuildOptions options = options_for(TinyModel{}, engine::BF16);
  fs::create_directory(options.engine);  // empty is fine
  ASSERT_TRUE(build_engine(options).ok());
  const auto before = contents_of(options.engine);
  EXPECT_THAT(build_error(options), HasSubstr("--force replaces it"));
  EXPECT_EQ(contents_of(options.engine), before);
  options.quantization.weights = engine::W8;
  options.force = true;
  ASSERT_TRUE(build_engine(options).ok());
  EXPECT_NE(contents_of(options.engine), before);

  fs::create_directory(path("photos"));
  std::ofstream(path("photos/cat.jpg")) << "meow";
  options.engine = path("photos");
  EXPECT_THAT(build_error(options), HasSubstr("not replaced, also with --force"));
  EXPECT_TRUE(fs::exists(path("photos/cat.jpg")));
  options.engine = path("photos/cat.jpg");
  EXPECT_THAT(build_error(options), HasSubstr("is not a directory"));
  options.engine = path("no/such/parent");
  EXPECT_THAT(build_error(options), HasSubstr("create it first"));
}

TEST_F(EngineBuilderTest, CheckpointErrorsNameTheTensor) {
  BuildOptions options = options_for(TinyModel{}, engine::BF16);
  const auto edit_config = [&](const std::string& from, const std::string& to) {
    const auto text = model::read_text_file(path("checkpoint/config.json"), 1 << 20);
    std::string edited = *text;
    const size_t at = edited.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    edited.replace(at, from.size(), to);
    std::ofstream(path("checkpoint/config.json")) << edited;
  };
  edit_config("\"intermediate_size\": 128", "\"intermediate_size\": 120");
  EXPECT_THAT(build_error(options), AllOf(HasSubstr("model.layers.0.mlp.gate_proj.weight"),
                                          HasSubstr("[128, 64]"), HasSubstr("[120, 64]")));
  edit_config("\"intermediate_size\": 120", "\"intermediate_size\": 128");
  edit_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  EXPECT_THAT(build_error(options), HasSubstr("lacks tensor model.layers.2.input_layernorm"));
  edit_config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1");
  EXPECT_THAT(build_error(options),
              AllOf(HasSubstr("model.layers.1."), HasSubstr("is read by nothing")));
  edit_config("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2");
  edit_config("\"model_type\": \"llama\"", "\"model_type\": \"gpt_neox\"");
  EXPECT_THAT(build_error(options), HasSubstr("llama, mistral, qwen2, qwen3"));
  EXPECT_FALSE(fs::exists(options.engine));
}

TEST_F(EngineBuilderTest, TiedHeads) {
  // Untied, but the checkpoint has no lm_head: an error when config.json says so ...
  TinyModel model;
  model.tied = true;
  BuildOptions options = options_for(model, engine::BF16);
  const auto text = model::read_text_file(path("checkpoint/config.json"), 1 << 20);
  std::string edited = *text;
  const std::string key = "\"tie_word_embeddings\": true";
  edited.replace(edited.find(key), key.size(), "\"tie_word_embeddings\": false");
  std::ofstream(path("checkpoint/config.json")) << edited;
  EXPECT_THAT(build_error(options), HasSubstr("lacks tensor lm_head.weight"));
  // ... and a tied head with a note when it says nothing.
  edited = *text;
  edited.replace(edited.find(key), key.size(), "\"tie_word_embeddings\": null");
  std::ofstream(path("checkpoint/config.json")) << edited;
  const auto report = build_engine(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report->manifest.model().tie_word_embeddings());
  EXPECT_THAT(report->manifest.provenance().notes(),
              ::testing::Contains(HasSubstr("does not say tie_word_embeddings")));
}

TEST_F(EngineBuilderTest, ATiedHeadThatIsThereMustBeACopy) {
  const BuildOptions options = options_for(TinyModel{}, engine::BF16);  // writes lm_head.weight
  const std::string text = *model::read_text_file(path("checkpoint/config.json"), 1 << 20);
  std::string tied = text;
  const std::string key = "\"tie_word_embeddings\": false";
  tied.replace(tied.find(key), key.size(), "\"tie_word_embeddings\": true");
  std::ofstream(path("checkpoint/config.json")) << tied;
  const auto refused = build_engine(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("model.embed_tokens.weight and lm_head.weight differ"),
                    HasSubstr("at byte 0 of 16384"), HasSubstr("tie_word_embeddings to false")));

  const std::string weights = path("checkpoint/model.safetensors");
  std::streamoff head = 0;
  std::string copy;
  {
    const auto file = model::SafetensorsFile::open(weights);
    const model::TensorView* embedding = (*file)->find("model.embed_tokens.weight");
    const model::TensorView* own = (*file)->find("lm_head.weight");
    ASSERT_TRUE(embedding != nullptr && own != nullptr);
    copy.assign(reinterpret_cast<const char*>(embedding->data),
                static_cast<size_t>(embedding->num_bytes()));
    head = own->data - (*file)->bytes().data();
  }
  const auto write_head = [&](const std::string& bytes) {
    std::fstream stream(weights, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(head);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  std::string flipped = copy;
  flipped[12345] ^= 1;
  write_head(flipped);
  EXPECT_THAT(build_error(options), HasSubstr("at byte 12345 of 16384"));
  write_head(copy);
  const auto report = build_engine(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report->manifest.model().tie_word_embeddings());
  EXPECT_THAT(report->manifest.provenance().notes(),
              ::testing::Contains(HasSubstr("lm_head.weight was left out: a copy")));
}

TEST_F(EngineBuilderTest, WeightsMustBeFinite) {
  const BuildOptions options = options_for(TinyModel{}, engine::W8);
  std::streamoff offset = 0;
  {
    const auto file = model::SafetensorsFile::open(path("checkpoint/model.safetensors"));
    const model::TensorView* tensor = (*file)->find("model.layers.1.mlp.up_proj.weight");
    ASSERT_NE(tensor, nullptr);
    offset = tensor->data - (*file)->bytes().data() + (3 * 64 + 5) * 2;
  }
  std::fstream stream(path("checkpoint/model.safetensors"),
                      std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(offset);
  stream.write("\x80\x7f", 2);  // bf16 infinity
  stream.close();
  EXPECT_THAT(build_error(options), AllOf(HasSubstr("model.layers.1.mlp.up_proj.weight"),
                                          HasSubstr("inf at row 3, "), HasSubstr("column 5")));
  EXPECT_FALSE(fs::exists(options.engine));
}

TEST_F(EngineBuilderTest, HugeWeightsAreKeptOrRefused) {
  TinyModel model;
  model.dtype = DType::kF32;
  BuildOptions options = options_for(model, engine::BF16);
  std::streamoff offset = 0;
  {
    const auto file = model::SafetensorsFile::open(path("checkpoint/model.safetensors"));
    const model::TensorView* tensor = (*file)->find("model.layers.0.mlp.gate_proj.weight");
    offset = tensor->data - (*file)->bytes().data() + (2 * 64 + 7) * 4;
  }
  std::fstream stream(path("checkpoint/model.safetensors"),
                      std::ios::in | std::ios::out | std::ios::binary);
  const float huge = -3.4e38F;
  stream.seekp(offset);
  stream.write(reinterpret_cast<const char*>(&huge), sizeof(huge));
  stream.close();
  EXPECT_THAT(build_error(options),
              AllOf(HasSubstr("model.layers.0.mlp.gate_proj.weight holds -3.4"),
                    HasSubstr("at row 2, column 7; bf16 holds at most 3.39e38")));
  for (const engine::WeightFormat format : {engine::W8, engine::W4}) {
    options.quantization.weights = format;
    options.force = true;
    ASSERT_TRUE(build_engine(options).ok());
    const auto engine = model::EngineFile::open(options.engine);
    const model::MatrixView gate = (*engine)->matrix("layers.0.gate");
    std::vector<float> row(64);
    decode_row((*engine)->weight("layers.0.gate"), gate.codes + 2 * gate.row_stride_bytes,
               reinterpret_cast<const uint16_t*>(gate.scales) + 2 * gate.scale_row_stride, row);
    EXPECT_LT(row[7], -3.1e38F);
    EXPECT_TRUE(std::isfinite(row[7]));
  }
}

TEST_F(EngineBuilderTest, AFullDiskLeavesNothingBehind) {
  const BuildOptions options = options_for(TinyModel{}, engine::F32);
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {0, 100, 5000, 100000, 300000}) {
    struct rlimit small = before;
    small.rlim_cur = limit;
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto report = build_engine(options);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    ASSERT_FALSE(report.ok()) << limit;
    EXPECT_EQ(report.error().code, ErrorCode::kIoError);
    EXPECT_THAT(report.error().message, HasSubstr("File too large"));
    std::vector<std::string> left;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      left.push_back(entry.path().filename());
    EXPECT_THAT(left, ::testing::ElementsAre("checkpoint")) << limit;
  }
  std::signal(SIGXFSZ, old_handler);
  EXPECT_TRUE(build_engine(options).ok());
}

TEST_F(EngineBuilderTest, TokenizerFilesAndTemplate) {
  BuildOptions options = options_for(TinyModel{}, engine::BF16);
  options.force = true;
  std::ofstream(path("checkpoint/tokenizer.json")) << "{\"model\":{}}";
  std::ofstream(path("checkpoint/tokenizer_config.json"))
      << R"({"chat_template":[{"name":"tool","template":"t"},{"name":"default","template":"d"}]})";
  ASSERT_TRUE(build_engine(options).ok());
  auto contents = contents_of(options.engine);
  EXPECT_EQ(contents["tokenizer.json"], "{\"model\":{}}");
  EXPECT_EQ(contents["chat_template.jinja"], "d");
  std::ofstream(path("checkpoint/tokenizer_config.json")) << R"({"chat_template":"text"})";
  ASSERT_TRUE(build_engine(options).ok());
  EXPECT_EQ(contents_of(options.engine)["chat_template.jinja"], "text");
  std::ofstream(path("checkpoint/chat_template.jinja")) << "file wins";
  ASSERT_TRUE(build_engine(options).ok());
  EXPECT_EQ(contents_of(options.engine)["chat_template.jinja"], "file wins");
  fs::remove(path("checkpoint/chat_template.jinja"));
  std::ofstream(path("checkpoint/tokenizer_config.json")) << R"({"chat_template":7})";
  EXPECT_THAT(build_error(options), HasSubstr("tokenizer_config.json: chat_template"));
}

TEST_F(EngineBuilderTest, LanesLimitedByShapeAreExplained) {
  TinyModel model;
  model.num_heads = 6;
  model.num_kv_heads = 3;
  const auto report = build_engine(options_for(model, engine::W8));
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->manifest.reduction_lanes(), 2);
  EXPECT_THAT(report->lanes_reason, HasSubstr("num_attention_heads 6 is no multiple of 4"));
}

TEST_F(EngineBuilderTest, OptionsAreChecked) {
  BuildOptions options = options_for(TinyModel{}, engine::W8);
  options.quantization.group_size = 48;
  EXPECT_THAT(build_error(options), HasSubstr("group size is 48"));
  options.quantization.group_size = 32;
  options.passes.disabled = {"fuse_everything"};
  EXPECT_THAT(build_error(options), HasSubstr("fuse_qkv, fuse_gate_up, fuse_add_norm"));
  options.passes.disabled.clear();
  options.checkpoint = path("nowhere");
  EXPECT_THAT(build_error(options), HasSubstr("nowhere/config.json"));
}

TEST_F(EngineBuilderTest, DamagedEnginesDoNotOpen) {
  const BuildOptions options = options_for(TinyModel{}, engine::W8);
  ASSERT_TRUE(build_engine(options).ok());
  const std::string manifest = options.engine + "/engine.textproto";
  const std::string weights = options.engine + "/weights-00001-of-00001.safetensors";
  const std::string text = *model::read_text_file(manifest, 1 << 24);
  const auto open_error = [&] {
    const auto opened = model::EngineFile::open(options.engine);
    EXPECT_FALSE(opened.ok());
    return opened.ok() ? "" : opened.error().message;
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string edited = text;
    edited.replace(edited.find(from), from.size(), to);
    std::ofstream(manifest) << edited;
  };
  replaced("eos_token_ids: 2", "eos_token_ids: 3");
  EXPECT_THAT(open_error(), HasSubstr("engine_hash"));
  replaced("format_version: 1", "format_version: 9");
  EXPECT_EQ(model::EngineFile::open(options.engine).error().code, ErrorCode::kUnsupported);
  replaced("reduction_lanes: 4", "reduction_laness: 4");
  EXPECT_THAT(open_error(), HasSubstr("reduction_laness"));
  std::ofstream(manifest) << text;
  ASSERT_TRUE(model::EngineFile::open(options.engine).ok());
  fs::resize_file(weights, fs::file_size(weights) - 1);
  EXPECT_THAT(open_error(), HasSubstr("weights-00001-of-00001.safetensors"));
  fs::remove(weights);
  EXPECT_EQ(model::EngineFile::open(options.engine).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace phalanx::builder
