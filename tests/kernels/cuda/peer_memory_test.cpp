// Peer memory of emulated devices: regions of ranks that are threads and processes, what each sees
// of the others', and the reasons why ranks cannot share.
#include "kernels/cuda/peer_memory.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/cuda/rank_processes.h"
#include "tests/kernels/cuda/rank_threads.h"

namespace phalanx::kernels::cuda::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kBytes = 10'000;

TEST(PeerMemory, ThreadsSeeEachOthersRegionsZeroAtFirst) {
  run_rank_threads(4, [](int rank, const PeerExchange& exchange) {
    const auto memory = PeerMemory::create(kBytes, rank, 4, exchange).value();
    EXPECT_EQ(memory->size(), 4);
    EXPECT_EQ(memory->rank(), rank);
    EXPECT_EQ(memory->bytes(), kBytes);
    EXPECT_GE(memory->multiprocessors(), 1);
    for (int other = 0; other < 4; ++other) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->region(other)) % 256, 0U);
      for (int64_t i = 0; i < kBytes; ++i) ASSERT_EQ(memory->region(other)[i], std::byte{0});
    }
    for (int i = 0; i < PeerMemory::kNumHostWords; ++i) EXPECT_EQ(memory->host_words()[i], 0U);
    exchange("looked");
    for (int other = 0; other < 4; ++other)
      memory->region(other)[100 + rank] = static_cast<std::byte>(1 + rank);
    exchange("written");
    for (int other = 0; other < 4; ++other) {
      for (int writer = 0; writer < 4; ++writer)
        EXPECT_EQ(memory->region(other)[100 + writer], static_cast<std::byte>(1 + writer));
    }
    exchange("read");
    memory->clear(102);
    exchange("cleared");
    for (int other = 0; other < 4; ++other) {
      EXPECT_EQ(memory->region(other)[101], std::byte{0});
      EXPECT_EQ(memory->region(other)[102], std::byte{3});
    }
    EXPECT_THROW(memory->clear(kBytes + 1), InternalError);
  });
}

// Rank 0 says that it is elsewhere: all ranks get the reason of the first that cannot reach one.
TEST(PeerMemory, ARankOnAnotherHostIsAReasonForAll) {
  run_rank_threads(2, [](int rank, const PeerExchange& exchange) {
    int round = 0;
    const auto memory = PeerMemory::create(64, rank, 2, [&](const std::string& text) {
      std::string told = text;
      if (rank == 0 && round++ == 0) told.insert(told.find(' ') + 1, "elsewhere-");
      return exchange(told);
    });
    ASSERT_FALSE(memory.ok());
    EXPECT_EQ(memory.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(memory.error().message, AllOf(HasSubstr("rank 0 cannot reach the memory of rank 1"),
                                              HasSubstr("elsewhere-")));
  });
}

TEST(PeerMemory, ARankThatCannotAllocateFailsAllByName) {
  run_rank_threads(3, [](int rank, const PeerExchange& exchange) {
    const int64_t bytes = rank == 1 ? int64_t{1} << 60 : 64;
    try {
      (void)PeerMemory::create(bytes, rank, 3, exchange);
      ADD_FAILURE() << "no DeviceError";
    } catch (const DeviceError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 1 cannot allocate"), HasSubstr("more than")));
    }
  });
}

std::set<std::string> shared_files() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    if (entry.path().filename().string().find("phalanx") != std::string::npos)
      names.insert(entry.path());
  return names;
}

TEST(PeerMemory, ProcessesSeeEachOthersRegionsAndLeaveNothing) {
  const std::set<std::string> before = shared_files();
  const std::vector<int> statuses =
      run_rank_processes(3, [](int rank, const PeerExchange& exchange) {
        const auto memory = PeerMemory::create(5000, rank, 3, exchange).value();
        for (int other = 0; other < 3; ++other) memory->region(other)[rank] = std::byte{7};
        exchange("written");
        for (int other = 0; other < 3; ++other) {
          for (int writer = 0; writer < 3; ++writer)
            if (memory->region(other)[writer] != std::byte{7}) return false;
          if (memory->region(other)[3] != std::byte{0}) return false;
        }
        if (rank == 2) kill(getpid(), SIGKILL);
        return true;
      });
  EXPECT_EQ(statuses[0], 0);
  EXPECT_EQ(statuses[1], 0);
  EXPECT_TRUE(WIFSIGNALED(statuses[2]));
  EXPECT_EQ(shared_files(), before);
}

// The process that a ticket names has other files: nothing of them is mapped.
TEST(PeerMemory, ATicketOfAnotherFileIsAReason) {
  const std::vector<int> statuses =
      run_rank_processes(2, [](int rank, const PeerExchange& exchange) {
        int round = 0;
        const auto memory = PeerMemory::create(64, rank, 2, [&](const std::string& text) {
          std::string told = text;
          if (rank == 0 && round++ == 0) told += "1";  // the inode's last digit
          return exchange(told);
        });
        return !memory.ok() &&
               memory.error().message.find("is not the expected memory") != std::string::npos;
      });
  EXPECT_EQ(statuses, std::vector<int>({0, 0}));
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
