// Names and detection of instruction-set tiers.
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"

namespace phalanx::kernels {
namespace {

TEST(IsaTier, NamesParseBack) {
  for (const IsaTier tier : kIsaTiers) {
    EXPECT_EQ(parse_isa_tier(isa_tier_name(tier)), tier);
  }
  EXPECT_EQ(parse_isa_tier("avx"), std::nullopt);
  EXPECT_EQ(parse_isa_tier(""), std::nullopt);
  EXPECT_EQ(parse_isa_tier("AVX2"), std::nullopt);
}

TEST(IsaTier, DetectionAgreesWithTheKernel) {
  std::ifstream file("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) flags.insert(word);
    break;
  }
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo lists no flags on this processor";
  const auto has = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (flags.count(name) == 0) return false;
    }
    return true;
  };
  IsaTier expected = IsaTier::kPortable;
  if (has({"avx2", "fma", "f16c"})) expected = IsaTier::kAvx2;
  if (expected == IsaTier::kAvx2 &&
      (has({"avx_vnni"}) || has({"avx512f", "avx512vl", "avx512_vnni"}))) {
    expected = IsaTier::kAvx2Vnni;
  }
  EXPECT_EQ(has_vex_vnni(), has({"avx_vnni"}));
  if (expected == IsaTier::kAvx2Vnni &&
      has({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"})) {
    expected = IsaTier::kAvx512;
  }
  EXPECT_EQ(best_isa_tier(), expected);
}

}  // namespace
}  // namespace phalanx::kernels
