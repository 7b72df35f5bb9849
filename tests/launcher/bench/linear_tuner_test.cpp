// What the tuner tries and keeps, the products it finds in an engine, and llm-bench tune end to end
// on the tiny shape: the file it writes is the one that the configuration's cpu.tuning finds.
#include "launcher/bench/linear_tuner.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>

#include "launcher/bench/commands.h"
#include "launcher/bench/shape_engine.h"
#include "launcher/tuning_file.h"
#include "runtime/model/engine_file.h"
#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

using kernels::cpu::LinearSplit;
using kernels::cpu::LinearTuning;

TuningBounds bounds(int64_t rows, int64_t panels, int threads) {
  TuningBounds b;
  b.num_rows = rows;
  b.num_panels = panels;
  b.num_threads = threads;
  b.tier_rows = 6;
  b.may_use_one_thread = true;
  return b;
}

TEST(Variations, DifferFromEachOtherAndFromTheStart) {
  for (const TuningStep step : kTuningSteps) {
    for (const int64_t rows : {1, 2, 7, 16, 512}) {
      for (const int threads : {1, 2, 3, 16}) {
        const auto all = variations({}, step, bounds(rows, 48, threads));
        for (size_t i = 0; i < all.size(); ++i) {
          EXPECT_FALSE(all[i].is_default());
          for (size_t j = 0; j < i; ++j) EXPECT_FALSE(all[i] == all[j]);
        }
      }
    }
  }
}

TEST(Variations, OnlyWhatMakesADifference) {
  EXPECT_TRUE(variations({}, TuningStep::kSplit, bounds(8, 48, 1)).empty());
  EXPECT_TRUE(variations({}, TuningStep::kPiece, bounds(8, 48, 1)).empty());
  for (const LinearTuning& t : variations({}, TuningStep::kPiece, bounds(8, 48, 4)))
    EXPECT_LE(t.piece_panels * 4, 48) << "a piece for each thread";
  for (const LinearTuning& t : variations({}, TuningStep::kSplit, bounds(2, 48, 16)))
    EXPECT_LE(t.row_parts, 2) << "a row for each part";
  EXPECT_TRUE(variations({}, TuningStep::kTileRows, bounds(1, 48, 2)).empty());
  EXPECT_TRUE(variations({}, TuningStep::kAhead, bounds(7, 48, 2)).empty()) << "no lone tile";
  LinearTuning grid;
  grid.split = LinearSplit::kGrid;
  grid.row_parts = 2;
  EXPECT_TRUE(variations(grid, TuningStep::kPiece, bounds(8, 48, 4)).empty());
  const auto tiles = variations(grid, TuningStep::kTileRows, bounds(16, 48, 4));
  ASSERT_FALSE(tiles.empty());
  for (const LinearTuning& t : tiles) EXPECT_EQ(t.row_parts, 2) << "other decisions stay";
}

TEST(DescribeTuning, SaysWhatDiffers) {
  EXPECT_EQ(describe_tuning({}), "default");
  EXPECT_EQ(describe_tuning({4, LinearSplit::kGrid, 2, 0, 0}),
            "split=grid row_parts=2 tile_rows=4");
  EXPECT_EQ(describe_tuning({0, LinearSplit::kSharedPanels, 0, 8, 4096}),
            "split=shared_panels piece_panels=8 ahead_bytes=4096");
}

class TuneTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new testing::TemporaryDirectory;
    setenv("XDG_CACHE_HOME", directory_->path().c_str(), 1);
    ShapeEngineRequest request;
    request.shape = "tiny";
    request.weights = "w8";
    request.group_size = 64;
    request.num_threads = 2;
    engine_ = *ensure_shape_engine(request);
  }
  static void TearDownTestSuite() {
    delete directory_;
    unsetenv("XDG_CACHE_HOME");
  }

  /// llm-bench tune with the tiny engine and these flags.
  static Status tune_engine(std::vector<std::string> arguments, Report& report) {
    const Command command = tune_command();
    arguments.insert(arguments.end(), {"--engine", engine_});
    const auto options = BenchOptions::parse(arguments, command.flags());
    if (!options.ok()) return options.error();
    return command.run(*options, report);
  }

  static inline testing::TemporaryDirectory* directory_ = nullptr;
  static inline std::string engine_;
};

TEST_F(TuneTest, ProductsAreThoseOfTheGraphOnce) {
  const auto engine = model::EngineFile::open(engine_);
  ASSERT_TRUE(engine.ok());
  const auto products = products_of((*engine)->manifest(), 1);
  ASSERT_EQ(products.size(), 5U) << "qkv, o, gate_up, down, head";
  EXPECT_EQ(std::count_if(products.begin(), products.end(),
                          [](const TunedProduct& p) { return p.key.is_gated; }),
            1);
  int64_t num_all = 0;
  for (const TunedProduct& product : products) {
    num_all += product.shape.num_in_model;
    EXPECT_EQ(product.most_rows > 0, product.shape.num_rows == 1024 && !product.key.is_gated)
        << "the head's rows are few";
    EXPECT_EQ(product.key.format, kernels::WeightFormat::kW8);
    EXPECT_EQ(product.key.group_size, 64);
  }
  EXPECT_EQ(num_all, 2 * 4 + 1) << "two layers and the head";
  const auto halves = products_of((*engine)->manifest(), 2);
  EXPECT_EQ(halves.front().shape.num_rows, products.front().shape.num_rows / 2);
}

TEST_F(TuneTest, WritesTheFileThatIsFoundByItself) {
  Report report({}, /*prints=*/false);
  const std::vector<std::string> quick = {"--rows",        "1,4,33", "--threads",   "2",
                                          "--repetitions", "2",      "--sample-ms", "1"};
  const Status status = tune_engine(quick, report);
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(report.measurements().size(), 15U);
  const std::string path = report.to_json()["facts"]["tuning_file"];
  EXPECT_EQ(path.rfind(directory_->path() + "/phalanx/tuning/", 0), 0U) << path;
  const auto file = launcher::read_tuning(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->machine.threads, 2);
  EXPECT_EQ(launcher::default_tuning_path(file->machine), path);
  ASSERT_NE(*launcher::load_tunings("auto", file->machine), nullptr);
  for (const auto& [key, tuning] : file->tunings.entries()) EXPECT_FALSE(tuning.is_default());
  const size_t num_tuned = static_cast<size_t>(std::count_if(
      report.measurements().begin(), report.measurements().end(), [](const Measurement& row) {
        return row.parameters.back() != std::pair<std::string, std::string>("tuning", "default");
      }));
  EXPECT_EQ(file->tunings.entries().size(), num_tuned);

  // What another run does not measure stays, what it measures is as it found it.
  launcher::TuningFile more = *file;
  const kernels::cpu::LinearKey kept{kernels::WeightFormat::kF32, 77, 88, 0, false, 0};
  std::vector<kernels::cpu::LinearTunings::Entry> entries = file->tunings.entries();
  entries.push_back({kept, {3, LinearSplit::kDefault, 0, 0, 0}});
  more.tunings = kernels::cpu::LinearTunings(entries);
  ASSERT_TRUE(launcher::write_tuning(path, more).ok());
  ASSERT_TRUE(tune_engine(quick, report).ok());
  EXPECT_EQ(launcher::read_tuning(path)->tunings.find(kept).tile_rows, 3);
}

TEST_F(TuneTest, NamesWrongFlags) {
  Report report({}, /*prints=*/false);
  const auto message_of = [&](const std::vector<std::string>& arguments) {
    const Status status = tune_engine(arguments, report);
    return status.ok() ? "" : status.error().message;
  };
  EXPECT_NE(
      message_of({"--rows", "3,4"}).find("--rows has 3 and 4, which are tuned together (3-4)"),
      std::string::npos);
  EXPECT_NE(message_of({"--tp", "3"}).find("tp_size"), std::string::npos);
  const std::string path = directory_->path() + "/precious.txt";
  std::ofstream(path) << "not a tuning file";
  EXPECT_NE(message_of({"--out", path}).find("--out: " + path), std::string::npos);
  EXPECT_TRUE(report.measurements().empty());
}

TEST(IsClearlyFaster, AsksForMoreThanTheSpread) {
  const std::vector<double> ten(8, 10.0);
  EXPECT_TRUE(is_clearly_faster(ten, std::vector<double>(8, 9.0)));
  EXPECT_FALSE(is_clearly_faster(ten, std::vector<double>(8, 9.9))) << "1 %";
  EXPECT_FALSE(is_clearly_faster(ten, ten));
  EXPECT_FALSE(is_clearly_faster(ten, std::vector<double>(8, 11.0)));
  EXPECT_FALSE(is_clearly_faster(ten, {9, 9, 9, 9, 9, 10.5, 10.5, 10.5})) << "faster at the median";
  // The machine slowed down half way: rounds are compared, not medians.
  EXPECT_TRUE(is_clearly_faster({10, 10, 10, 10, 20, 20, 20, 20}, {9, 9, 9, 9, 18, 18, 18, 18}));
}

}  // namespace
}  // namespace phalanx::bench
