// Stage plans: what ranks own adds up to the model, arenas do not overlap, cuts are where they
// should.
#include "runtime/executor/stage_plan.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/executor/memory_ledger.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/manifest.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx {
namespace {

constexpr StepLimits kLimits{.max_rows = 16, .max_sequences = 4, .max_positions = 64};

class StagePlanTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    testing::TinyModel model;
    model.architecture = "llama";
    model.hidden_size = 64;
    model.num_layers = 3;
    model.num_heads = 8;
    model.num_kv_heads = 2;
    model.head_dim = 16;
    model.intermediate_size = 128;
    model.vocab_size = 101;
    ASSERT_TRUE(testing::write_tiny_checkpoint(directory_.path() + "/c", model).ok());
    builder::BuildOptions options;
    options.checkpoint = directory_.path() + "/c";
    options.engine = directory_.path() + "/e";
    options.quantization.weights = engine::W8;
    options.quantization.group_size = 64;
    if (!GetParam()) options.passes.disabled = {"fuse_qkv", "fuse_gate_up", "fuse_add_norm"};
    const auto built = builder::build_engine(options);
    ASSERT_TRUE(built.ok()) << built.error().message;
    auto opened = model::EngineFile::open(options.engine);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    engine_ = *opened;
  }

  testing::TemporaryDirectory directory_;
  std::shared_ptr<const model::EngineFile> engine_;
};

/// Rows x columns of each weight that are packed by some rank; KV rows may be packed by several.
TEST_P(StagePlanTest, EveryWeightIsPackedExactlyOnce) {
  for (const auto& [tp, pp] : {std::pair{1, 1}, {2, 1}, {4, 2}, {8, 3}, {1, 3}}) {
    std::map<std::string, std::set<std::pair<int64_t, int64_t>>> packed;  // row, first column
    std::map<std::string, int64_t> copies;
    for (int rank = 0; rank < tp * pp; ++rank) {
      const StagePlan plan = make_stage_plan(engine_->manifest(), {tp * pp, rank, tp, pp}, kLimits);
      for (const auto& [name, linear] : plan.linears) {
        for (const MatrixSlice& slice : linear.slices) {
          for (int64_t row = slice.row_begin; row < slice.row_end; ++row) {
            packed[slice.weight].emplace(row, slice.col_begin);
            copies[slice.weight] += slice.col_end - slice.col_begin;
          }
        }
      }
    }
    EXPECT_EQ(packed.size(), 3U * 7U + 1U)
        << "q, k, v, o, gate, up, down of 3 layers, and the head";
    for (const auto& weight : engine_->manifest().weights()) {
      if (weight.cols() == 0 || !packed.contains(weight.name())) continue;  // vectors; embedding
      const bool kv = weight.axis() == engine::KV_COLUMN;
      const int64_t replicas = kv && tp > 2 ? tp / 2 : 1;
      const int64_t parts = weight.axis() == engine::ROW ? tp : 1;
      EXPECT_EQ(static_cast<int64_t>(packed[weight.name()].size()), weight.rows() * parts)
          << weight.name() << " tp " << tp << " pp " << pp;
      EXPECT_EQ(copies[weight.name()], weight.rows() * weight.cols() * replicas) << weight.name();
    }
  }
}

TEST_P(StagePlanTest, StagesCoverEveryLayerOnceAndPassOneValueOn) {
  for (const int pp : {1, 2, 3}) {
    int64_t next_layer = 0;
    int attentions = 0;
    std::string sent;
    for (int rank = 0; rank < pp; ++rank) {
      const StagePlan plan = make_stage_plan(engine_->manifest(), {pp, rank, 1, pp}, kLimits);
      EXPECT_EQ(plan.first_layer, next_layer);
      next_layer = plan.last_layer;
      EXPECT_EQ(plan.input, sent) << "a stage receives what the one before sends";
      sent = plan.output;
      for (const auto& op : plan.ops) {
        if (op.kind() != engine::ATTENTION) continue;
        ++attentions;
        EXPECT_GE(op.layer(), plan.first_layer);
        EXPECT_LT(op.layer(), plan.last_layer);
      }
      EXPECT_EQ(plan.ops.front().kind() == engine::EMBEDDING, rank == 0);
    }
    EXPECT_EQ(next_layer, 3);
    EXPECT_EQ(attentions, 3);
  }
}

/// Replays the ops and checks that no value is overwritten while it is still to be read.
TEST_P(StagePlanTest, LiveValuesDoNotOverlap) {
  for (int rank = 0; rank < 8; ++rank) {
    const StagePlan plan = make_stage_plan(engine_->manifest(), {8, rank, 4, 2}, kLimits);
    std::map<std::string, size_t> last_read{{plan.output, plan.ops.size()}};
    for (size_t i = 0; i < plan.ops.size(); ++i) {
      for (const auto& input : plan.ops[i].inputs())
        last_read[input] = std::max(last_read[input], i);
    }
    const auto bytes_of = [&](const std::string& name) {
      const Placement& place = plan.placements.at(name);
      std::set<int64_t> floats;
      if (place.is_part) return floats;  // outside of the arena
      const int64_t rows = place.selected ? kLimits.max_sequences : kLimits.max_rows;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < place.cols; ++c) {
          floats.insert(place.offset_bytes / 4 + r * place.stride + place.column + c);
        }
      }
      EXPECT_TRUE(floats.empty() || *floats.rbegin() * 4 < plan.arena_bytes) << name;
      return floats;
    };
    std::map<std::string, std::set<int64_t>> alive;
    if (!plan.input.empty()) alive[plan.input] = bytes_of(plan.input);
    for (size_t i = 0; i < plan.ops.size(); ++i) {
      for (const auto& output : plan.ops[i].outputs()) {
        const std::set<int64_t> target = bytes_of(output);
        for (const auto& [name, floats] : alive) {
          const bool in_place =
              plan.placements.at(name).offset_bytes == plan.placements.at(output).offset_bytes &&
              plan.placements.at(name).column == plan.placements.at(output).column &&
              last_read[name] == i;
          if (in_place) continue;
          for (const int64_t at : target) {
            ASSERT_FALSE(floats.contains(at)) << plan.ops[i].name() << " writes " << output
                                              << " over " << name << ", rank " << rank;
          }
        }
      }
      for (const auto& output : plan.ops[i].outputs()) alive[output] = bytes_of(output);
      std::erase_if(alive, [&](const auto& entry) { return last_read[entry.first] <= i; });
    }
  }
}

/// Each layer's two sums go into the adds behind them; what their readers need decides what is
/// shared.
TEST_P(StagePlanTest, SumsOverRanksAreFusedWithTheAddBehindThem) {
  using Readers = FusedReduce::Readers;
  const bool has_fused_norms = GetParam();
  for (const auto& [tp, pp] : {std::pair{2, 1}, {4, 2}, {1, 2}}) {
    for (int rank = 0; rank < tp * pp; ++rank) {
      const StagePlan plan = make_stage_plan(engine_->manifest(), {tp * pp, rank, tp, pp}, kLimits);
      const auto num_layers = static_cast<size_t>(plan.last_layer - plan.first_layer);
      ASSERT_EQ(plan.reduces.size(), tp == 1 ? 0 : 2 * num_layers);
      EXPECT_EQ(plan.can_share_rows, tp > 1);
      const engine::Op* last = nullptr;
      for (const auto& op : plan.ops) {
        EXPECT_NE(op.kind(), engine::ALL_REDUCE);
        if (!plan.reduces.contains(op.name())) continue;
        const Placement& part = plan.placements.at(op.inputs(1));
        EXPECT_TRUE(part.is_part) << op.name();
        EXPECT_EQ(part.cols, 64);
        last = &op;
      }
      if (tp == 1) {
        EXPECT_EQ(plan.part_bytes(), 0);
        continue;
      }
      for (const auto& op : plan.ops) {
        const auto reduce = plan.reduces.find(op.name());
        if (reduce == plan.reduces.end()) continue;
        // The last residual is sent on or selected from; without fused norms every norm reads it.
        const bool is_kept = has_fused_norms && &op != last;
        EXPECT_EQ(reduce->second.residual, is_kept ? Readers::kNone : Readers::kSomeOther)
            << op.name();
        EXPECT_EQ(reduce->second.norm, op.outputs_size() == 2 ? Readers::kLinears : Readers::kNone)
            << op.name();
        if (op.outputs_size() == 2) {
          EXPECT_EQ(reduce->second.form, kernels::ActivationForm::kS8);
        }
      }
      EXPECT_EQ(plan.part_cols, 64);
      EXPECT_EQ(plan.row_granule, 1) << "64 codes are a line";
      EXPECT_EQ(plan.long_part_bytes, kLimits.max_rows * 64 * 4);
      EXPECT_LE(plan.short_part_bytes, plan.long_part_bytes);
      EXPECT_EQ(plan.shared_conversion_bytes > 0, has_fused_norms);
    }
  }
}

TEST_P(StagePlanTest, LedgerAddsUp) {
  const auto one =
      make_memory_ledger(engine_->manifest(), 1, 1, kLimits, kernels::KvFormat::kF32, 10);
  const auto four =
      make_memory_ledger(engine_->manifest(), 2, 2, kLimits, kernels::KvFormat::kF32, 10);
  ASSERT_EQ(one.size(), 1U);
  ASSERT_EQ(four.size(), 4U);
  int64_t kv = 0;
  for (const RankLedger& rank : four) kv += rank.kv_bytes;
  EXPECT_EQ(kv, one[0].kv_bytes) << "KV heads divide by 2: no replication";
  EXPECT_EQ(one[0].kv_bytes, 10 * one[0].kv_bytes_per_block);
  EXPECT_GT(four[0].mapped_bytes, 0);
  EXPECT_EQ(four[2].mapped_bytes, 0) << "the second stage has no embedding";
  const std::string table = format_memory_ledger(four);
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 6);
}

/// Packs zeros of every linear's shape and compares the bytes taken with those planned.
void expect_planned_bytes(const engine::EngineManifest& manifest, int tp_size) {
  const Status valid = model::verify_description(manifest);
  ASSERT_TRUE(valid.ok()) << valid.error().message;
  const auto operators = kernels::make_cpu_operators({});
  const std::vector<std::byte> zeros(1 << 16);
  const StagePlan plan = make_stage_plan(manifest, {tp_size, 0, tp_size, 1}, kLimits);
  for (const auto& [name, linear] : plan.linears) {
    kernels::MatrixSpec spec;
    spec.num_lanes = linear.num_lanes;
    for (const MatrixSlice& slice : linear.slices) {
      kernels::MatrixSource source;
      source.format = linear.format;
      source.num_rows = slice.row_end - slice.row_begin;
      source.num_cols = linear.num_cols;
      source.codes = zeros.data();
      source.scales = zeros.data();
      source.group_size = linear.group_size;
      source.scale_rows = linear.num_cols;
      source.scale_cols = linear.num_cols;
      for (const engine::Weight& weight : manifest.weights()) {
        if (weight.name() == slice.weight && weight.has_zeros())
          source.zeros = reinterpret_cast<const uint8_t*>(zeros.data());
      }
      spec.sources.push_back(source);
    }
    EXPECT_EQ(linear.packed_bytes, operators->pack_matrix(spec)->bytes()) << name;
  }
}

TEST_P(StagePlanTest, PackedBytesAreWhatPackingTakes) {
  engine::EngineManifest manifest = engine_->manifest();
  expect_planned_bytes(manifest, 1);
  expect_planned_bytes(manifest, 4);
  for (engine::Weight& weight : *manifest.mutable_weights()) {
    if (weight.format() == engine::W8) weight.set_has_zeros(true);
  }
  expect_planned_bytes(manifest, 1);
  expect_planned_bytes(manifest, 4);
}

TEST(StagePlan, Fp8TakesWhatPackingTakes) {
  const testing::TemporaryDirectory directory;
  const auto engine = model::EngineFile::open(
      testing::build_tiny_engine(directory.path(), testing::TinyModel{}, "fp8"));
  expect_planned_bytes((*engine)->manifest(), 1);
  expect_planned_bytes((*engine)->manifest(), 2);
}

TEST(StagePlan, LanesOfOddLengthArePaddedInThePlanToo) {
  const testing::TemporaryDirectory directory;
  testing::TinyModel model;
  model.num_heads = 2;
  model.intermediate_size = 6;
  const auto engine =
      model::EngineFile::open(testing::build_tiny_engine(directory.path(), model, "bf16"));
  engine::EngineManifest manifest = (*engine)->manifest();
  ASSERT_EQ(manifest.reduction_lanes(), 1) << "the builder avoids odd lanes";
  manifest.set_reduction_lanes(2);
  expect_planned_bytes(manifest, 1);
  expect_planned_bytes(manifest, 2);
}

INSTANTIATE_TEST_SUITE_P(Passes, StagePlanTest, ::testing::Bool(),
                         [](const auto& instance) { return instance.param ? "fused" : "unfused"; });

TEST(FormatBytes, ThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(int64_t{15} << 20), "15.0 MiB");
  EXPECT_EQ(format_bytes(int64_t{300} << 30), "300 GiB");
}

}  // namespace
}  // namespace phalanx
