// Tuning files: what is written reads back, whatever is wrong in one is named with its field, and
// what cpu.tuning makes of files that are there, missing, broken or of another machine.
#include "launcher/tuning_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace phalanx::launcher {
namespace {

using kernels::WeightFormat;
using kernels::cpu::LinearSplit;
using kernels::cpu::LinearTunings;

TuningMachine machine() { return {"A \"fast\" CPU @ 4 GHz", "avx512", 2, 1 << 20, 32 << 20}; }

TuningFile sample() {
  return {
      machine(),
      LinearTunings(
          {{{WeightFormat::kW8, 3072, 2048, 128, false, 2}, {4, LinearSplit::kGrid, 2, 0, 0}},
           {{WeightFormat::kBf16, 128256, 2048, 0, false, 0},
            {0, LinearSplit::kSharedPanels, 0, 8, 16384}},
           {{WeightFormat::kF32, 1024, 256, 0, true, 9}, {0, LinearSplit::kOneThread, 0, 0, 0}}})};
}

void expect_equal(const TuningFile& a, const TuningFile& b) {
  EXPECT_EQ(a.machine, b.machine);
  ASSERT_EQ(a.tunings.entries().size(), b.tunings.entries().size());
  for (size_t i = 0; i < a.tunings.entries().size(); ++i) {
    EXPECT_EQ(a.tunings.entries()[i].key, b.tunings.entries()[i].key);
    EXPECT_EQ(a.tunings.entries()[i].tuning, b.tunings.entries()[i].tuning);
  }
}

void write_text(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

/// The sample's text with one part replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = format_tuning(sample());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(TuningFile, ReadsBackWhatWasWritten) {
  const auto parsed = parse_tuning(format_tuning(sample()), "t");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  expect_equal(*parsed, sample());
  const TuningFile none{machine(), {}};
  const auto empty = parse_tuning(format_tuning(none), "t");
  ASSERT_TRUE(empty.ok()) << empty.error().message;
  expect_equal(*empty, none);

  const testing::TemporaryDirectory directory;
  const std::string path = directory.path() + "/a/b/tuning.json";
  ASSERT_TRUE(write_tuning(path, none).ok());
  ASSERT_TRUE(write_tuning(path, sample()).ok());
  const auto read = read_tuning(path);
  ASSERT_TRUE(read.ok()) << read.error().message;
  expect_equal(*read, sample());
  size_t num_files = 0;
  for ([[maybe_unused]] const auto& file :
       std::filesystem::directory_iterator(directory.path() + "/a/b"))
    ++num_files;
  EXPECT_EQ(num_files, 1U) << "nothing is left beside it";
  EXPECT_FALSE(write_tuning(path + "/below-a-file.json", sample()).ok());
}

TEST(TuningFile, NamesWhatIsWrong) {
  const struct {
    const char* from;
    const char* to;
    const char* says;
  } cases[] = {
      {"\"version\": 1", "\"version\": 2", "version = 2, allowed: 1..1"},
      {"phalanx-tuning", "phalanx-report", "format = \"phalanx-report\""},
      {"\"format\"", "\"fromat\"", "no field \"format\""},
      {"\"threads\":2", "\"threads\":0", "machine has threads = 0, allowed: 1.."},
      {"\"threads\":2", "\"cores\":2", "no field \"threads\""},
      {"\"isa\":\"avx512\"", "\"isa\":7", "isa = 7"},
      {"\"w8\"", "\"w9\"", "products[2] has weights = \"w9\", allowed: f32, bf16, w8, w4, fp8"},
      {"\"outputs\":3072", "\"outputs\":0", "outputs = 0"},
      {"\"outputs\":3072", "\"outputs\":1e3", "outputs = 1000.0"},
      {"\"outputs\":3072", "\"outputs\":18446744073709551615", "outputs = 18446744073709551615"},
      {"\"outputs\":3072", "\"outputs\":99999999999999999999", "outputs = 1"},
      {"\"columns\":2048", "\"columns\":-1", "columns = -1"},
      {"\"group_size\":128", "\"group_size\":null", "group_size = null"},
      {"\"gated\":true", "\"gated\":1", "gated = 1, allowed: true, false"},
      {"\"rows\":\"3-4\"", "\"rows\":\"3-5\"", "rows = \"3-5\", allowed: 1, 2, 3-4, "},
      {"\"tile_rows\":4", "\"tile_rows\":65", "tile_rows = 65, allowed: 0..64"},
      {"\"tile_rows\":4", "\"tile_rows\":-1", "tile_rows = -1"},
      {"\"split\":\"grid\"", "\"split\":\"gird\"",
       "split = \"gird\", allowed: default, one_thread"},
      {"\"split\":\"grid\"", "\"split\":\"default\"", "row_parts = 2, allowed: at least 1 with"},
      {"\"row_parts\":2", "\"row_parts\":0", "row_parts = 0, allowed: at least 1 with"},
      {"\"row_parts\":2", "\"row_parts\":1025", "row_parts = 1025"},
      {"\"piece_panels\":8", "\"piece_panels\":1048577", "piece_panels = 1048577"},
      {"\"ahead_bytes\":16384", "\"ahead_bytes\":1048577", "ahead_bytes = 1048577"},
      {"\"ahead_bytes\":16384", "\"ahead\":16384", "no field \"ahead_bytes\""},
      {"\"tile_rows\":4", "\"tile_rows\":4,\"speed\":9", "unknown field \"speed\""},
      {"\"tile_rows\":4", "\"tile_rows\":4,\"tile_rows\":4", "\"tile_rows\" twice"},
      {"[\n", "[7,\n", "products[0] is no object"},
      {"]}", "}", "not valid JSON at byte"},
      {"]}", "]} x", "not valid JSON at byte"},
      {"\"isa\":\"avx512\"", "\"isa\":[[[[[]]]]]", "nested deeper"},
  };
  for (const auto& c : cases) {
    const auto parsed = parse_tuning(changed(c.from, c.to), "t.json");
    ASSERT_FALSE(parsed.ok()) << c.to;
    EXPECT_NE(parsed.error().message.find(c.says), std::string::npos)
        << c.to << ": " << parsed.error().message;
    EXPECT_EQ(parsed.error().message.rfind("t.json: ", 0), 0U) << parsed.error().message;
  }
  EXPECT_FALSE(parse_tuning("", "t").ok());
  EXPECT_FALSE(parse_tuning("[]", "t").ok());
  EXPECT_FALSE(parse_tuning("{\"products\": {}}", "t").ok());
}

TEST(TuningFile, RefusesAProductThatComesTwice) {
  std::string text = format_tuning(sample());
  const size_t begin = text.find("\n  {") + 1;
  const std::string first = text.substr(begin, text.find('\n', begin) - begin);
  text.insert(begin, first + "\n");
  const auto parsed = parse_tuning(text, "t");
  ASSERT_FALSE(parsed.ok());
  EXPECT_NE(parsed.error().message.find("products[1] is for the same product"), std::string::npos)
      << parsed.error().message;
}

TEST(TuningFile, IsBounded) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory.path() + "/large.json";
  std::ofstream(path) << std::string(static_cast<size_t>(kMostTuningBytes) + 1, ' ');
  EXPECT_FALSE(read_tuning(path).ok());
  std::string text = format_tuning({machine(), {}});
  std::string many;
  for (size_t i = 0; i <= kMostTunedProducts; ++i) many += i == 0 ? "0" : ",0";
  text.insert(text.rfind("]}"), many);
  const auto parsed = parse_tuning(text, "t");
  ASSERT_FALSE(parsed.ok());
  EXPECT_NE(parsed.error().message.find("at most 8192"), std::string::npos);
}

/// Bytes changed at random: refused or read, never more than that.
TEST(TuningFile, SurvivesRandomBytes) {
  std::mt19937 random(1);
  const std::string good = format_tuning(sample());
  int num_refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (uint32_t n = 1 + random() % 4; n > 0; --n)
      text[random() % text.size()] = static_cast<char>(random());
    if (random() % 4 == 0) text.resize(random() % text.size());
    if (!parse_tuning(text, "t").ok()) ++num_refused;
  }
  EXPECT_GT(num_refused, 1000);
}

/// XDG_CACHE_HOME in a directory of its own.
class LoadTunings : public ::testing::Test {
 protected:
  void SetUp() override { setenv("XDG_CACHE_HOME", directory_.path().c_str(), 1); }
  void TearDown() override { unsetenv("XDG_CACHE_HOME"); }
  testing::TemporaryDirectory directory_;
};

TEST_F(LoadTunings, AutoTakesTheFileOfThisMachine) {
  EXPECT_EQ(*load_tunings("auto", machine()), nullptr) << "there is none";
  const std::string path = default_tuning_path(machine());
  EXPECT_EQ(path, directory_.path() +
                      "/phalanx/tuning/"
                      "a-fast-cpu-4-ghz-avx512-2-threads-l2-1024-kib-l3-32768-kib.json");
  ASSERT_TRUE(write_tuning(path, sample()).ok());
  const auto loaded = load_tunings("auto", machine());
  ASSERT_TRUE(loaded.ok() && *loaded != nullptr);
  EXPECT_EQ((*loaded)->entries().size(), 3U);
  EXPECT_EQ(*load_tunings("off", machine()), nullptr);
  for (int field = 0; field < 5; ++field) {
    TuningMachine other = machine();
    if (field == 0) other.processor = "another";
    if (field == 1) other.isa = "avx2";
    if (field == 2) other.threads = 1;
    if (field == 3) other.l2_bytes = 2 << 20;
    if (field == 4) other.l3_bytes = 64 << 20;
    EXPECT_NE(default_tuning_path(other), path);
    EXPECT_EQ(*load_tunings("auto", other), nullptr);
  }
}

TEST_F(LoadTunings, AutoDoesWithoutAFileThatIsOfNoUse) {
  const std::string path = default_tuning_path(machine());
  write_text(path, "{");
  EXPECT_EQ(*load_tunings("auto", machine()), nullptr);
  TuningFile other = sample();
  other.machine.threads = 64;  // copied from elsewhere
  write_text(path, format_tuning(other));
  EXPECT_EQ(*load_tunings("auto", machine()), nullptr);
}

TEST_F(LoadTunings, APathMustBeUsable) {
  const std::string path = directory_.path() + "/mine.json";
  const auto missing = load_tunings(path, machine());
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(missing.error().message.find("cpu.tuning = \"" + path + "\""), std::string::npos);
  write_text(path, changed("\"tile_rows\":4", "\"tile_rows\":65"));
  const auto wrong = load_tunings(path, machine());
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("tile_rows = 65"), std::string::npos);
  TuningFile other = sample();
  other.machine.threads = 64;
  write_text(path, format_tuning(other));
  EXPECT_NE(*load_tunings(path, machine()), nullptr) << "it was named, and gives the same bits";
}

TEST(TuningMachine, IsWhatTheThreadsHave) {
  const MachineTopology topology =
      *topology_of_synthetic("package:1 l3:1(size=32000000) l2:2(size=1000000) core:1 pu:1");
  const TuningMachine two = tuning_machine(topology, kernels::IsaTier::kAvx2, {0, 1});
  EXPECT_EQ(two.threads, 2);
  EXPECT_EQ(two.isa, "avx2");
  EXPECT_EQ(two.l2_bytes, 1000000);
  EXPECT_EQ(two.l3_bytes, 32000000);
  EXPECT_FALSE(two.processor.empty());
  EXPECT_EQ(two, tuning_machine(topology, kernels::IsaTier::kAvx2, {1, 0}));
}

}  // namespace
}  // namespace phalanx::launcher
