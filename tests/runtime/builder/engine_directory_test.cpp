// Engines appear whole, replace others whole, and survive leftovers and file systems that cannot
// exchange names.
#include "runtime/builder/engine_directory.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace phalanx::builder {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string content_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// Makes renameat2(RENAME_EXCHANGE) fail with `error` for this thread until it ends, as a file
/// system does that cannot exchange names. False when the kernel has no seccomp filters.
bool refuse_exchange(int error) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RENAME_EXCHANGE, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {static_cast<unsigned short>(std::size(program)), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

class EngineDirectoryTest : public ::testing::Test {
 protected:
  EngineDirectory made(const std::string& manifest) {
    auto directory = EngineDirectory::create(target_);
    EXPECT_TRUE(directory.ok()) << directory.error().message;
    EXPECT_TRUE(directory->write_file("engine.textproto", manifest).ok());
    return std::move(*directory);
  }
  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      names.push_back(entry.path().filename());
    return names;
  }
  std::string engine() const { return content_of(target_ + "/engine.textproto"); }

  testing::TemporaryDirectory directory_;
  const std::string target_ = directory_.path() + "/e";
};

TEST_F(EngineDirectoryTest, AppearsWholeOrNotAtAll) {
  { const EngineDirectory dropped = made("a"); }
  EXPECT_THAT(entries(), ElementsAre());
  EngineDirectory directory = made("b");
  EXPECT_FALSE(fs::exists(target_));
  ASSERT_TRUE(directory.publish(false).ok());
  EXPECT_EQ(engine(), "b");
  EXPECT_THAT(entries(), ElementsAre("e"));
  // As open to others as any directory that this user makes.
  fs::create_directory(directory_.path() + "/plain");
  EXPECT_EQ(fs::status(target_).permissions(),
            fs::status(directory_.path() + "/plain").permissions());
}

TEST_F(EngineDirectoryTest, LeftoversOfAKilledBuildStayUntouched) {
  // Of this process id, as a build on another host or in another container may have it.
  const std::string leftover = target_ + ".building-" + std::to_string(::getpid());
  fs::create_directories(leftover);
  std::ofstream(leftover + "/weights") << "of a build that may be running elsewhere";
  EngineDirectory directory = made("new");
  ASSERT_TRUE(directory.publish(false).ok());
  EXPECT_EQ(engine(), "new");
  EXPECT_EQ(content_of(leftover + "/weights"), "of a build that may be running elsewhere");
}

TEST_F(EngineDirectoryTest, OfTwoBuildsAtOnceTheSecondKeepsItsWork) {
  EngineDirectory first = made("first");
  EngineDirectory second = made("second");
  ASSERT_TRUE(first.publish(false).ok());
  const std::string where = second.path();
  const Status raced = second.publish(false);
  ASSERT_FALSE(raced.ok());
  EXPECT_EQ(raced.error().code, ErrorCode::kAlreadyExists);
  EXPECT_THAT(raced.error().message,
              AllOf(HasSubstr("appeared while building"), HasSubstr("take it from " + where)));
  EXPECT_EQ(engine(), "first");
  { const EngineDirectory moved = std::move(second); }
  EXPECT_EQ(content_of(where + "/engine.textproto"), "second");
}

TEST_F(EngineDirectoryTest, ForceReplacesAnEngine) {
  EngineDirectory old_engine = made("old");
  ASSERT_TRUE(old_engine.publish(false).ok());
  EngineDirectory new_engine = made("new");
  ASSERT_TRUE(new_engine.publish(true).ok());
  EXPECT_EQ(engine(), "new");
  EXPECT_THAT(entries(), ElementsAre("e"));
}

TEST_F(EngineDirectoryTest, ForceNeedsNoExchangeOfNames) {
  bool has_filters = true;
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    fs::remove_all(target_);
    EngineDirectory old_engine = made("old");
    ASSERT_TRUE(old_engine.publish(false).ok());
    EngineDirectory new_engine = made("new");
    std::thread([&] {  // the filter ends with the thread
      has_filters = refuse_exchange(error);
      if (!has_filters) return;
      const Status published = new_engine.publish(true);
      EXPECT_TRUE(published.ok()) << published.error().message;
      EXPECT_EQ(engine(), "new");
    })
        .join();
    if (!has_filters) GTEST_SKIP() << "this kernel has no seccomp filters";
    EXPECT_THAT(entries(), ElementsAre("e"));
  }
}

TEST_F(EngineDirectoryTest, AnExchangeThatFailsOtherwiseKeepsBothEngines) {
  EngineDirectory old_engine = made("old");
  ASSERT_TRUE(old_engine.publish(false).ok());
  EngineDirectory new_engine = made("new");
  const std::string where = new_engine.path();
  bool has_filters = true;
  std::thread([&] {
    has_filters = refuse_exchange(EIO);
    if (!has_filters) return;
    const Status published = new_engine.publish(true);
    ASSERT_FALSE(published.ok());
    EXPECT_THAT(published.error().message,
                AllOf(HasSubstr("Input/output error"), HasSubstr("take it from " + where)));
  }).join();
  if (!has_filters) GTEST_SKIP() << "this kernel has no seccomp filters";
  EXPECT_EQ(engine(), "old");
  EXPECT_EQ(content_of(where + "/engine.textproto"), "new");
}

}  // namespace
}  // namespace phalanx::builder
