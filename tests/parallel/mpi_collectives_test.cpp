// Tests parallel/mpi_collectives under mpirun: each verb moves what its name says.
#include "parallel/mpi_collectives.h"

#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/mpi_test_main.h"

namespace phalanx::parallel {
namespace {

TEST(MpiCollectives, EveryVerbMovesItsBytes) {
  const int rank = test_session().rank();
  const int size = test_session().world_size();
  std::vector<int> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  MpiCollectives mpi(ranks);

  std::vector<float> data(5, static_cast<float>(rank + 1));
  mpi.all_reduce_sum(data);
  EXPECT_EQ(data, std::vector<float>(5, static_cast<float>(size * (size + 1)) / 2));

  const int root = size - 1;
  const std::vector<std::byte> part(3, static_cast<std::byte>(rank));
  std::vector<std::byte> gathered(rank == root ? part.size() * static_cast<size_t>(size) : 0);
  mpi.gather(part, gathered, root);
  for (size_t i = 0; i < gathered.size(); ++i)
    EXPECT_EQ(gathered[i], static_cast<std::byte>(i / part.size()));

  std::vector<std::byte> told(7, static_cast<std::byte>(rank));
  mpi.broadcast(told, root);
  EXPECT_EQ(told, std::vector<std::byte>(7, static_cast<std::byte>(root)));

  if (rank == 0) mpi.send(part, root);
  if (rank == root) {
    std::vector<std::byte> received(part.size(), std::byte{9});
    mpi.recv(received, 0);
    EXPECT_EQ(received, std::vector<std::byte>(part.size(), std::byte{0}));
  }
  EXPECT_NE(MpiCollectives::library(), "");
}

}  // namespace
}  // namespace phalanx::parallel
