// Tests opening NCCL: what is refused, and by which words.
#include "parallel/nccl_library.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::parallel::nccl {
namespace {

using ::testing::HasSubstr;

std::string complaint_about(const std::string& name) {
  try {
    open_library(name);
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "none";
}

TEST(NcclLibraryTest, SaysVersionsAsNcclDoes) {
  EXPECT_EQ(version_text(22809), "2.28.9");
  EXPECT_EQ(version_text(21800), "2.18.0");
  EXPECT_EQ(version_text(23007), "2.30.7");
}

TEST(NcclLibraryTest, NamesALibraryThatIsNotThere) {
  EXPECT_THAT(complaint_about("libnccl-of-nowhere.so.2"), HasSubstr("libnccl-of-nowhere.so.2"));
}

TEST(NcclLibraryTest, RefusesAnotherLibrary) {
  EXPECT_THAT(complaint_about("libm.so.6"), HasSubstr("it has no ncclGetVersion"));
}

#if defined(PHALANX_FAKE_NCCL)
TEST(NcclLibraryTest, RefusesAnOldOne) {
  setenv("FAKE_NCCL_VERSION", "21705", 1);
  EXPECT_THAT(complaint_about(PHALANX_FAKE_NCCL), HasSubstr("2.17.5, and 2.18.0 is the oldest"));
  setenv("FAKE_NCCL_VERSION", "21800", 1);
  EXPECT_EQ(open_library(PHALANX_FAKE_NCCL).version, 21800);
  unsetenv("FAKE_NCCL_VERSION");
}
#endif

#if defined(PHALANX_NCCL)
TEST(NcclLibraryTest, OpensTheRealOne) {
  const Library library = open_library(PHALANX_NCCL);
  EXPECT_GE(library.version, kLeastVersion);
  EXPECT_THAT(library.functions.get_error_string(kInvalidUsage), HasSubstr("invalid usage"));
  EXPECT_STREQ(library.functions.get_last_error(nullptr), "");
}
#endif

}  // namespace
}  // namespace phalanx::parallel::nccl
