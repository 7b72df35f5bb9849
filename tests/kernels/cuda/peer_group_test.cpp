// All-reduces over peer memory, ranks as threads: bits against the reference operators in every
// order of threads, races under random delays, and ranks that do not come.
#include "kernels/cuda/peer_group.h"

#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/cuda/peer_ranks.h"
#include "tests/kernels/cuda/rank_processes.h"
#include "tests/kernels/cuda/rank_threads.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// The ranks' outputs, one after another.
PeerOutput run_ranks(const PeerCase& test) {
  std::vector<PeerOutput> outputs(static_cast<size_t>(test.size));
  run_rank_threads(test.size, [&](int rank, const PeerExchange& exchange) {
    const auto group = make_peer_group(test.options(), rank, test.size, exchange);
    outputs[static_cast<size_t>(rank)] = run_rank(test, *group);
    exchange("done");
  });
  PeerOutput all;
  for (const PeerOutput& output : outputs) all.insert(all.end(), output.begin(), output.end());
  return all;
}

PeerOutput expected_of_ranks(const PeerCase& test) {
  PeerOutput all;
  for (int rank = 0; rank < test.size; ++rank) {
    const PeerOutput output = expected_of_rank(test, rank);
    all.insert(all.end(), output.begin(), output.end());
  }
  return all;
}

std::string name_of(const PeerCase& test) {
  return std::to_string(test.size) + " ranks, " + std::to_string(test.num_cols) +
         " columns, form " + std::to_string(static_cast<int>(test.form)) + ", one-shot to " +
         std::to_string(test.one_shot_rows) + " rows";
}

class PeerGroupBits : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, PeerGroupBits, ::testing::Values(2, 4, 8));

// Rows fewer than blocks and ranks, ragged, and more; columns by vectors, with ragged groups, and
// no multiple of 4; steps of an odd and an even number of calls.
TEST_P(PeerGroupBits, AddRmsNormGivesTheOraclesBits) {
  struct Shape {
    int64_t num_cols;
    int64_t group_size;
  };
  for (const ActivationForm form :
       {ActivationForm::kF32, ActivationForm::kBf16, ActivationForm::kS8, ActivationForm::kE4m3}) {
    for (const Shape& shape : {Shape{256, 64}, Shape{120, 24}, Shape{42, 7}}) {
      for (const int64_t one_shot_rows : {0, 4, 17}) {
        PeerCase test{GetParam(),
                      shape.num_cols,
                      shape.group_size,
                      form,
                      one_shot_rows,
                      shape.num_cols == 120,
                      false,
                      {{3, 3}, {1, 1}, {17, 2}}};
        EXPECT_EQ(in_every_thread_order([&] { return run_ranks(test); }), expected_of_ranks(test))
            << name_of(test);
      }
    }
  }
}

TEST_P(PeerGroupBits, AllReduceGivesTheTreesBits) {
  for (const int64_t num_cols : {256, 42}) {
    for (const int64_t one_shot_rows : {0, 17}) {
      PeerCase test{GetParam(),    num_cols, 0,    ActivationForm::kF32,
                    one_shot_rows, false,    true, {{1, 1}, {17, 2}, {3, 3}}};
      EXPECT_EQ(in_every_thread_order([&] { return run_ranks(test); }), expected_of_ranks(test))
          << name_of(test);
    }
  }
}

// Several vectors a thread.
TEST(PeerGroup, TakesRowsLongerThanABlock) {
  for (const int64_t one_shot_rows : {0, 2}) {
    for (const int size : {2, 8}) {
      const PeerCase test{size,  512 * 4 * 5 + 128, 128, ActivationForm::kS8, one_shot_rows, true,
                          false, {{2, 2}}};
      EXPECT_EQ(run_ranks(test), expected_of_ranks(test)) << name_of(test);
    }
  }
}

// Steps of both kinds among one another, short enough that ranks are often a call apart.
TEST_P(PeerGroupBits, RanksThatAreLateChangeNothing) {
  PeerCase test{GetParam(), 64, 32, ActivationForm::kS8, 4, true, false, {}};
  test.max_delay = 400;
  for (int i = 0; i < 6; ++i) {
    test.steps.push_back({3, 1});
    test.steps.push_back({4, 4});
    test.steps.push_back({i % 2 == 0 ? 9 : 2, 3});
  }
  EXPECT_EQ(run_ranks(test), expected_of_ranks(test));
  test.plain = true;
  EXPECT_EQ(run_ranks(test), expected_of_ranks(test));
}

TEST(PeerGroup, StepsOfNoRowsDoNothing) {
  const PeerCase test{2, 64, 32, ActivationForm::kS8, 4, true, false, {{0, 3}, {1, 1}, {0, 1}}};
  EXPECT_EQ(run_ranks(test), expected_of_ranks(test));
}

TEST(PeerGroup, ChoosesByBytesAndSize) {
  const AllReduceThresholds thresholds;
  EXPECT_EQ(thresholds.one_shot_bytes(2), 512 * 8192 * 4);
  EXPECT_EQ(thresholds.one_shot_bytes(4), 128 * 8192 * 4);
  EXPECT_EQ(thresholds.one_shot_bytes(8), 32 * 8192 * 4);
  const PeerCase test{4, 64, 32, ActivationForm::kS8, 4, false, false, {{9, 1}}};
  run_rank_threads(4, [&](int rank, const PeerExchange& exchange) {
    const auto group = make_peer_group(test.options(), rank, 4, exchange);
    EXPECT_TRUE(group->is_one_shot(4));
    EXPECT_FALSE(group->is_one_shot(5));
    EXPECT_EQ(group->own_rows(9).first, 9 * rank / 4);
    EXPECT_EQ(group->own_rows(9).second, 9 * (rank + 1) / 4);
    EXPECT_THROW(group->part(10), InternalError);
  });
}

TEST(PeerGroup, OptionsThatDifferAreAnError) {
  std::vector<std::string> errors(2);
  run_rank_threads(2, [&](int rank, const PeerExchange& exchange) {
    PeerGroupOptions options;
    options.max_rows = 4;
    options.num_cols = 64 + rank;
    try {
      make_peer_group(options, rank, 2, exchange);
    } catch (const InternalError& error) {
      errors[static_cast<size_t>(rank)] = error.what();
    }
  });
  for (const std::string& error : errors)
    EXPECT_THAT(error, AllOf(HasSubstr("rank 1"), HasSubstr("num_cols 65"))) << error;
}

class PeerGroupFailures : public ::testing::TestWithParam<int64_t> {};

INSTANTIATE_TEST_SUITE_P(OneAndTwoShot, PeerGroupFailures, ::testing::Values(0, 4));

// Rank 2 of 4 does not come to the second call. Rank 0's deadline is short; the others learn of it
// from rank 0, long before their own.
TEST_P(PeerGroupFailures, TheRankThatDoesNotComeIsNamedToAll) {
  const PeerCase test{4, 64, 32, ActivationForm::kS8, GetParam(), true, false, {{4, 1}}};
  run_rank_threads(4, [&](int rank, const PeerExchange& exchange) {
    PeerGroupOptions options = test.options();
    options.deadline = rank == 0 ? 200ms : 50s;
    const auto group = make_peer_group(options, rank, 4, exchange);
    const PeerOutput output = run_rank(test, *group);
    EXPECT_FALSE(group->failure().has_value());
    const auto start = std::chrono::steady_clock::now();
    std::vector<float> rows(static_cast<size_t>(4 * test.num_cols));
    if (rank != 2) {
      group->all_reduce(4, {rows.data(), test.num_cols}, nullptr);
      ASSERT_TRUE(group->failure().has_value());
      EXPECT_EQ(group->failure()->missing, 2);
      EXPECT_EQ(group->failure()->reporter, 0);
      EXPECT_FALSE(group->failure()->aborted);
      try {
        group->require_no_failure();
        ADD_FAILURE() << "no DeviceError";
      } catch (const DeviceError& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 2"), HasSubstr("rank 0 waited")));
      }
      // What follows in the stream ends soon, and the failure stays.
      const auto failed = std::chrono::steady_clock::now();
      for (int i = 0; i < 5; ++i) group->all_reduce(4, {rows.data(), test.num_cols}, nullptr);
      group->meet(nullptr);
      EXPECT_LT(std::chrono::steady_clock::now() - failed, 5s);
      EXPECT_EQ(group->failure()->missing, 2);
      EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
    }
    exchange("failed");
    // The rank that comes late finds flags of ranks that went on, and learns that they gave up.
    if (rank == 2) {
      group->all_reduce(4, {rows.data(), test.num_cols}, nullptr);
      ASSERT_TRUE(group->failure().has_value());
      EXPECT_EQ(group->failure()->missing, 2);
    }
    group->reset(exchange);
    EXPECT_FALSE(group->failure().has_value());
    EXPECT_EQ(run_rank(test, *group), output);
    exchange("done");
  });
}

// A process that is killed in the middle of a step: the others end by their deadline and name it.
TEST(PeerGroup, AKilledProcessIsNamed) {
  const std::vector<int> statuses =
      run_rank_processes(2, [](int rank, const PeerExchange& exchange) {
        const PeerCase test{2, 64, 32, ActivationForm::kS8, 4, true, false, {{4, 2}, {9, 1}}};
        PeerGroupOptions options = test.options();
        options.deadline = 300ms;
        const auto group = make_peer_group(options, rank, 2, exchange);
        if (run_rank(test, *group) != expected_of_rank(test, rank)) return false;
        if (rank == 1) kill(getpid(), SIGKILL);
        std::vector<float> rows(static_cast<size_t>(9 * test.num_cols));
        const auto start = std::chrono::steady_clock::now();
        group->all_reduce(9, {rows.data(), test.num_cols}, nullptr);
        return std::chrono::steady_clock::now() - start < 10s && group->failure().has_value() &&
               group->failure()->missing == 1;
      });
  EXPECT_EQ(statuses[0], 0);
  EXPECT_TRUE(WIFSIGNALED(statuses[1]));
}

TEST(PeerGroup, AHostsAbortEndsTheWaitsOfAllRanks) {
  const PeerCase test{2, 64, 32, ActivationForm::kS8, 4, true, false, {{4, 1}}};
  run_rank_threads(2, [&](int rank, const PeerExchange& exchange) {
    const auto group = make_peer_group(test.options(), rank, 2, exchange);
    if (rank == 0) {
      const std::jthread monitor([&] {
        std::this_thread::sleep_for(100ms);
        group->abort();
      });
      group->meet(nullptr);
      ASSERT_TRUE(group->failure().has_value());
      EXPECT_TRUE(group->failure()->aborted);
      EXPECT_EQ(group->failure()->missing, 1);
    }
    exchange("aborted");
    if (rank == 1) {
      group->meet(nullptr);
      ASSERT_TRUE(group->failure().has_value());
      EXPECT_EQ(group->failure()->reporter, 0);
      EXPECT_THAT(group->failure()->text(test.options()), HasSubstr("the host of rank 0"));
    }
    exchange("done");
  });
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
