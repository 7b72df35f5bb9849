// Tests the Communicator of a group, made by MpiSession, under mpirun: bits, order, errors.
#include "parallel/group_communicator.h"

#include <bit>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "tests/parallel/tree_model.h"
#include "tests/support/mpi_test_main.h"

namespace phalanx::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

std::vector<int> world_ranks() {
  std::vector<int> ranks(static_cast<size_t>(test_session().world_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Returns when every rank of the world has come.
void meet() { test_session().all_reduce_min(0); }

/// Both ways to talk, with small slots (everything goes in parts) and with the default ones.
struct Setting {
  bool force_mpi;
  size_t max_message_bytes;
};

class GroupCommunicatorTest : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    options_.deadline = 20s;
    options_.spin =
        test_session().local_size() <= static_cast<int>(std::thread::hardware_concurrency());
    options_.force_mpi = GetParam().force_mpi;
    options_.max_message_bytes = GetParam().max_message_bytes;
    group_ = test_session().make_communicator(world_ranks(), options_, nullptr);
  }
  bool is_power_of_two() const {
    return std::has_single_bit(static_cast<unsigned>(group_->size()));
  }

  CommunicatorOptions options_;
  std::unique_ptr<Communicator> group_;
};

INSTANTIATE_TEST_SUITE_P(Transports, GroupCommunicatorTest,
                         testing::Values(Setting{false, 64U << 20}, Setting{false, 1000},
                                         Setting{true, 64U << 20}),
                         [](const auto& setting) {
                           return std::string(setting.param.force_mpi ? "Mpi" : "Chosen") +
                                  std::to_string(setting.param.max_message_bytes);
                         });

TEST_P(GroupCommunicatorTest, KnowsItsPlaceAndTransport) {
  const MpiSession& session = test_session();
  EXPECT_EQ(group_->rank(), session.rank());
  EXPECT_EQ(group_->size(), session.world_size());
  const std::set<std::string> hosts(session.hosts().begin(), session.hosts().end());
  std::string expected = "shm";
  if (options_.force_mpi || hosts.size() == session.hosts().size()) {
    expected = "mpi";
  } else if (hosts.size() > 1) {
    expected = "shm+mpi";
  }
  EXPECT_EQ(group_->transport(), expected);
}

TEST_P(GroupCommunicatorTest, AllReduceHasTheBitsOfTheTree) {
  if (!is_power_of_two()) {
    std::vector<float> data(4);
    EXPECT_THROW(group_->all_reduce_sum(data), InternalError);
    return;
  }
  const size_t longest = options_.max_message_bytes < 10'000 ? 20'000 : 1'000'000;
  for (size_t count :
       {0,   1,   2,    3,    15,   16,   17,   31,     32,      33,      255,     511,
        512, 513, 1023, 1024, 1025, 4096, 8191, 16'385, 131'072, 131'073, 262'145, 1'000'000}) {
    if (count > longest) continue;
    auto data = scattered_values(count, group_->rank(), count);
    group_->all_reduce_sum(data);
    ASSERT_EQ(data, tree_values(count, group_->size(), count)) << count << " floats";
  }
}

TEST_P(GroupCommunicatorTest, ManySmallAllReducesDoNotMix) {
  if (!is_power_of_two()) return;
  std::mt19937 random(42);  // the same on every rank
  for (uint64_t call = 0; call < 300; ++call) {
    const size_t count = 1 + random() % 3000;
    const int sleeper = static_cast<int>(random() % static_cast<unsigned>(group_->size()));
    if (call % 50 == 0 && sleeper == group_->rank()) std::this_thread::sleep_for(3ms);
    auto data = scattered_values(call, group_->rank(), count);
    group_->all_reduce_sum(data);
    ASSERT_EQ(data, tree_values(call, group_->size(), count)) << "call " << call;
  }
}

TEST_P(GroupCommunicatorTest, SharedMemoryIsSeenAfterAMeeting) {
  constexpr size_t kCount = 1500;  // floats; not whole pages
  const MpiSession& session = test_session();
  const std::vector<int>& domains = session.memory_domains();
  const bool is_one_domain =
      !options_.force_mpi && std::set<int>(domains.begin(), domains.end()).size() == 1;
  const auto first = group_->share_memory(kCount * sizeof(float));
  ASSERT_EQ(first.size(), is_one_domain ? static_cast<size_t>(group_->size()) : 0U);
  if (!is_one_domain) return;
  const auto second = group_->share_memory(1);  // a second lot, with the same meetings
  ASSERT_EQ(second.size(), first.size());
  for (size_t rank = 0; rank < first.size(); ++rank) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first[rank]) % 4096, 0U);
    EXPECT_EQ(first[rank][kCount * sizeof(float) - 1], std::byte{0});
    if (rank == 0) continue;
    EXPECT_EQ(first[rank] - first[rank - 1], 2 * 4096);
    EXPECT_EQ(second[rank] - second[rank - 1], 4096);
  }
  // Two turns of memory, as the executor has: one meeting a sum suffices. All-reduces in between
  // must not upset the meetings.
  const auto turn_of = [&](int rank, uint64_t call) {
    return std::span(
        reinterpret_cast<float*>(first[static_cast<size_t>(rank)]) + call % 2 * (kCount / 2),
        kCount / 2);
  };
  for (uint64_t call = 0; call < 300; ++call) {
    const auto own = scattered_values(call, group_->rank(), kCount / 2);
    std::copy(own.begin(), own.end(), turn_of(group_->rank(), call).begin());
    group_->meet();
    for (int rank = 0; rank < group_->size(); ++rank) {
      const auto seen = turn_of(rank, call);
      const auto expected = scattered_values(call, rank, kCount / 2);
      ASSERT_TRUE(std::equal(seen.begin(), seen.end(), expected.begin())) << "call " << call;
    }
    if (call % 7 == 0 && is_power_of_two()) {
      std::vector<float> data(1, 1.0F);
      group_->all_reduce_sum(data);
      ASSERT_EQ(data[0], static_cast<float>(group_->size()));
    }
  }
}

std::vector<std::byte> pattern(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// Mostly small, sometimes far more than a ring holds.
size_t random_size(std::mt19937& random) {
  return random() % 8 == 0 ? random() % 400'000 : random() % 600;
}

TEST_P(GroupCommunicatorTest, GatherKeepsRankOrder) {
  std::mt19937 random(7);
  for (uint64_t call = 0; call < 30; ++call) {
    const int root = static_cast<int>(random() % static_cast<unsigned>(group_->size()));
    std::vector<size_t> part_bytes;
    std::vector<std::byte> expected;
    for (int rank = 0; rank < group_->size(); ++rank) {
      part_bytes.push_back(random() % 5 == 0 ? 0 : random_size(random));
      const auto part = pattern(call * 100 + static_cast<uint64_t>(rank), part_bytes.back());
      expected.insert(expected.end(), part.begin(), part.end());
    }
    const auto own = pattern(call * 100 + static_cast<uint64_t>(group_->rank()),
                             part_bytes[static_cast<size_t>(group_->rank())]);
    const bool is_root = root == group_->rank();
    std::vector<std::byte> out(is_root ? expected.size() : 0);
    group_->gather(own, part_bytes, out, root);
    if (!is_root) continue;
    ASSERT_EQ(out, expected) << "call " << call;
  }
}

TEST_P(GroupCommunicatorTest, BroadcastReachesEveryone) {
  std::mt19937 random(8);
  for (uint64_t call = 0; call < 30; ++call) {
    const int root = static_cast<int>(random() % static_cast<unsigned>(group_->size()));
    const auto expected = pattern(call, random_size(random));
    std::vector<std::byte> data = expected;
    if (group_->rank() != root) std::fill(data.begin(), data.end(), std::byte{0});
    group_->broadcast(data, root);
    ASSERT_EQ(data, expected) << "call " << call;
  }
}

TEST_P(GroupCommunicatorTest, RandomPairsTalkInOrder) {
  std::mt19937 random(9);
  for (uint64_t call = 0; call < 200; ++call) {
    const int from = static_cast<int>(random() % static_cast<unsigned>(group_->size()));
    const int to = static_cast<int>(random() % static_cast<unsigned>(group_->size()));
    const size_t size = random_size(random);
    if (from == to) continue;
    if (group_->rank() == from) group_->send(pattern(call, size), to);
    if (group_->rank() == to) {
      std::vector<std::byte> received(size);
      group_->recv(received, from);
      ASSERT_EQ(received, pattern(call, size)) << "call " << call;
    }
  }
}

// The pipeline's pattern: activations go from rank to rank, results from the last back to the
// first, both far longer than a ring or an eager message, and rank 0 is ahead by a step.
TEST_P(GroupCommunicatorTest, PostedMessagesDoNotWaitInACircle) {
  constexpr uint64_t kSteps = 12;
  constexpr size_t kActivationBytes = 300'000;
  constexpr size_t kResultBytes = 400'000;
  const int last = group_->size() - 1;
  const auto receive_result = [&](uint64_t step) {
    std::vector<std::byte> result(kResultBytes);
    group_->recv(result, last);
    ASSERT_EQ(result, pattern(1000 + step, kResultBytes));
  };
  for (uint64_t step = 0; step < kSteps; ++step) {
    std::vector<std::byte> activations = pattern(step, kActivationBytes);
    if (group_->rank() != 0) {
      std::fill(activations.begin(), activations.end(), std::byte{0});
      group_->recv(activations, group_->rank() - 1);
      ASSERT_EQ(activations, pattern(step, kActivationBytes));
    }
    if (group_->rank() != last) group_->send(activations, group_->rank() + 1);
    if (group_->rank() == last) group_->post(pattern(1000 + step, kResultBytes), 0);
    if (group_->rank() == 0 && step >= 2) receive_result(step - 2);
  }
  if (group_->rank() == 0) {
    receive_result(kSteps - 2);
    receive_result(kSteps - 1);
  }
  group_->finish_posted();
  EXPECT_TRUE(group_->push_posted());
}

TEST_P(GroupCommunicatorTest, PostsAndSendsKeepTheirOrder) {
  std::mt19937 random(11);
  for (uint64_t call = 0; call < 100; ++call) {
    const size_t size = random_size(random);
    const bool posts = random() % 2 == 0;
    if (group_->rank() == 1 && posts) group_->post(pattern(call, size), 0);
    if (group_->rank() == 1 && !posts) group_->send(pattern(call, size), 0);
    if (group_->rank() != 0) continue;
    std::vector<std::byte> received(size);
    group_->recv(received, 1);
    ASSERT_EQ(received, pattern(call, size)) << "call " << call;
  }
  group_->finish_posted();
}

TEST_P(GroupCommunicatorTest, CanRecvTellsWhetherAMessageIsThere) {
  std::byte token{5};
  const auto span = std::span(&token, 1);
  if (group_->rank() == 1) {
    EXPECT_FALSE(group_->can_recv(0));
    meet();
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (!group_->can_recv(0) && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(1ms);
    EXPECT_TRUE(group_->can_recv(0));
    group_->recv(span, 0);
    EXPECT_FALSE(group_->can_recv(0));
  } else {
    meet();
    if (group_->rank() == 0) group_->send(span, 1);
  }
}

TEST_P(GroupCommunicatorTest, ADeadlineNamesOperationPeerAndHost) {
  options_.deadline = 100ms;
  const auto impatient = test_session().make_communicator(world_ranks(), options_, nullptr);
  if (impatient->rank() == 0) {
    std::byte token{};
    try {
      impatient->recv(std::span(&token, 1), 1);
      ADD_FAILURE() << "recv returned";
    } catch (const DeviceError& error) {
      EXPECT_THAT(error.what(),
                  AllOf(HasSubstr("recv: waiting for rank 1 on " + test_session().hosts()[1]),
                        HasSubstr("deadline of 0.1 s")));
    }
  }
  meet();
}

TEST_P(GroupCommunicatorTest, AnAbortEndsEveryKindOfWait) {
  AbortFlag abort{false};
  const auto doomed = test_session().make_communicator(world_ranks(), options_, &abort);
  meet();
  const auto start = std::chrono::steady_clock::now();
  std::thread killer([&] {
    std::this_thread::sleep_for(30ms);
    abort = true;
  });
  std::vector<float> data(5000);
  std::byte token{};
  const int last = doomed->size() - 1;
  if (doomed->rank() == last) {
    // Does not take part: the others wait for it in vain.
  } else if (doomed->rank() % 2 == 0 && is_power_of_two()) {
    EXPECT_THROW(doomed->all_reduce_sum(data), DeviceError);
  } else {
    EXPECT_THROW(doomed->recv(std::span(&token, 1), last), DeviceError);
  }
  killer.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  meet();
}

TEST_P(GroupCommunicatorTest, WhereAMonitorMayAbortASlowPeerIsWaitedFor) {
  const AbortFlag abort{false};
  options_.deadline = 20ms;
  const auto patient = test_session().make_communicator(world_ranks(), options_, &abort);
  std::byte token{3};
  const auto span = std::span(&token, 1);
  if (patient->rank() == 1) {
    std::this_thread::sleep_for(200ms);
    patient->send(span, 0);
  } else if (patient->rank() == 0) {
    token = std::byte{0};
    EXPECT_NO_THROW(patient->recv(span, 1));
    EXPECT_EQ(token, std::byte{3});
  }
  meet();
}

TEST_P(GroupCommunicatorTest, CountsWhatMoves) {
  WorkCounter counter;
  options_.work = &counter;
  const auto watched = test_session().make_communicator(world_ranks(), options_, nullptr);
  if (is_power_of_two()) {
    std::vector<float> data(300'000);  // two slots of half a megabyte, many small ones
    watched->all_reduce_sum(data);
    EXPECT_GE(counter.total(), 2U);
  }
  const size_t part_bytes = options_.force_mpi || watched->transport() != "shm"
                                ? size_t{16} << 20
                                : std::min<size_t>(options_.max_message_bytes, 128 << 10);
  const uint64_t before = counter.total();
  std::vector<std::byte> message(part_bytes * 3);
  if (watched->rank() == 1) watched->send(message, 0);
  if (watched->rank() == 0) watched->recv(message, 1);
  if (watched->rank() <= 1) {
    EXPECT_GE(counter.total() - before, 3U);
  }
  meet();
}

TEST(MpiSession, GroupsOfNeighboursAndOfStagesWorkSideBySide) {
  const MpiSession& session = test_session();
  if (session.world_size() % 2 != 0) return;
  const int rank = session.rank();
  const int half = session.world_size() / 2;
  std::vector<int> own_pair = {rank / 2 * 2, rank / 2 * 2 + 1};
  std::vector<int> across = {rank % half, rank % half + half};
  CommunicatorOptions options;
  options.deadline = 20s;
  options.spin = false;
  const auto pair = test_session().make_communicator(own_pair, options, nullptr);
  const auto stages = test_session().make_communicator(across, options, nullptr);
  for (int call = 0; call < 20; ++call) {
    std::vector<float> data = {static_cast<float>(rank), 1};
    pair->all_reduce_sum(data);
    EXPECT_EQ(data[0], static_cast<float>(own_pair[0] + own_pair[1]));
    data = {static_cast<float>(rank), 1};
    stages->all_reduce_sum(data);
    EXPECT_EQ(data[0], static_cast<float>(across[0] + across[1]));
    EXPECT_EQ(data[1], 2.0F);
  }
}

TEST(MpiSession, KnowsHostsAndStartUpExchanges) {
  MpiSession& session = test_session();
  ASSERT_EQ(session.hosts().size(), static_cast<size_t>(session.world_size()));
  int num_local = 0;
  int place = -1;
  for (int rank = 0; rank < session.world_size(); ++rank) {
    if (session.hosts()[static_cast<size_t>(rank)] !=
        session.hosts()[static_cast<size_t>(session.rank())])
      continue;
    if (rank == session.rank()) place = num_local;
    ++num_local;
  }
  EXPECT_EQ(session.local_size(), num_local);
  EXPECT_EQ(session.local_rank(), place);
  const std::string own(static_cast<size_t>(session.rank() * 100), 'x');
  const auto texts = session.all_gather(own);
  for (size_t rank = 0; rank < texts.size(); ++rank) EXPECT_EQ(texts[rank].size(), rank * 100);
  const int last = session.world_size() - 1;
  EXPECT_EQ(session.broadcast(session.rank() == last ? "hello" : "", last), "hello");
  EXPECT_EQ(session.all_reduce_min(5 - session.rank()), 5 - last);
}

TEST(MpiSession, RefusesGroupsThatAreNotOne) {
  const std::vector<int> without_self = {(test_session().rank() + 1) % test_session().world_size()};
  EXPECT_THROW(test_session().make_communicator(without_self, {}, nullptr), InternalError);
  const std::vector<int> twice = {test_session().rank(), test_session().rank()};
  EXPECT_THROW(test_session().make_communicator(twice, {}, nullptr), InternalError);
}

TEST(MpiSession, NothingOfOursIsInDevShm) {
  const auto group = test_session().make_communicator(world_ranks(), {}, nullptr);
  meet();
  DIR* folder = opendir("/dev/shm");
  ASSERT_NE(folder, nullptr);
  while (const dirent* entry = readdir(folder))
    EXPECT_EQ(std::string(entry->d_name).find("phalanx"), std::string::npos) << entry->d_name;
  closedir(folder);
}

TEST(GroupLayout, FindsTheLargestAlignedBlocks) {
  const auto block_size = [](const std::string& domains) {
    std::vector<GroupMember> members;
    for (char domain : domains) members.push_back({0, "", domain});
    return group_layout(members).block_size;
  };
  EXPECT_EQ(block_size("aaaa"), 4);
  EXPECT_EQ(block_size("aabb"), 2);
  EXPECT_EQ(block_size("abab"), 1);
  EXPECT_EQ(block_size("abba"), 1);
  EXPECT_EQ(block_size("aaab"), 1);
  EXPECT_EQ(block_size("aaaabbbb"), 4);
  EXPECT_EQ(block_size("aabbaabb"), 2);
  EXPECT_EQ(block_size("aaa"), 1);
}

}  // namespace
}  // namespace phalanx::parallel
