// All-reduces over peer memory between processes, under mpirun: bits on every rank, and the end of
// a job whose rank has died.
#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/cuda/peer_ranks.h"
#include "tests/support/mpi_test_main.h"

namespace phalanx::kernels::cuda::test {
namespace {

PeerExchange exchange_of_world() {
  return [](const std::string& text) { return parallel::test_session().all_gather(text); };
}

PeerOutput run_as_rank(const PeerCase& test) {
  const auto group = make_peer_group(test.options(), parallel::test_session().rank(), test.size,
                                     exchange_of_world());
  PeerOutput output = run_rank(test, *group);
  parallel::test_session().all_reduce_min(0);
  return output;
}

TEST(PeerProcesses, AddRmsNormGivesTheOraclesBits) {
  const int size = parallel::test_session().world_size();
  for (const ActivationForm form :
       {ActivationForm::kF32, ActivationForm::kBf16, ActivationForm::kS8}) {
    for (const int64_t num_cols : {256, 42}) {
      PeerCase test{size, num_cols, num_cols == 256 ? 64 : 7, form, 4, false, false, {}};
      test.max_delay = 400;
      for (int i = 0; i < 6; ++i) {
        test.steps.push_back({3, 3});
        test.steps.push_back({17, 2});
        test.steps.push_back({1, 4});
      }
      EXPECT_EQ(run_as_rank(test), expected_of_rank(test, parallel::test_session().rank()))
          << "form " << static_cast<int>(form) << ", " << num_cols << " columns";
    }
  }
}

TEST(PeerProcesses, AllReduceGivesTheTreesBits) {
  PeerCase test{
      parallel::test_session().world_size(), 256, 0, ActivationForm::kF32, 4, false, true, {}};
  test.max_delay = 400;
  for (int i = 0; i < 10; ++i) {
    test.steps.push_back({3, 3});
    test.steps.push_back({9, 2});
  }
  EXPECT_EQ(run_as_rank(test), expected_of_rank(test, parallel::test_session().rank()));
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
