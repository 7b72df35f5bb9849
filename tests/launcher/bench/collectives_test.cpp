// llm-bench collectives refuses wrong flags before MPI starts. Its measurements are run under
// mpirun by the tests bench_collectives_np*.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/bench/commands.h"

namespace phalanx::bench {
namespace {

using ::testing::HasSubstr;

std::string complaint_about(const std::vector<std::string>& arguments) {
  const Command command = collectives_command();
  const auto options = BenchOptions::parse(arguments, command.flags(), command.max_places);
  if (!options.ok()) return options.error().message;
  Report report(arguments, false);
  const Status status = command.run(*options, report);
  EXPECT_TRUE(report.measurements().empty());
  if (status.ok()) return "none";
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  return status.error().message;
}

TEST(Collectives, WrongFlagsAreNamedWithWhatIsAllowed) {
  EXPECT_THAT(complaint_about({"--sizes", "64,66"}),
              HasSubstr("--sizes has 66, must be multiples"));
  EXPECT_THAT(complaint_about({"--sizes", "0"}), HasSubstr("--sizes"));
  EXPECT_THAT(complaint_about({"--ranks", "1"}), HasSubstr("--ranks is \"1\""));
  EXPECT_THAT(complaint_about({"--verbs", "scatter"}), HasSubstr("all_reduce, gather"));
  EXPECT_THAT(complaint_about({"--transports", "nccl"}), HasSubstr("shm-spin, shm-sleep, mpi"));
  EXPECT_THAT(complaint_about({"--repetitions", "0"}), HasSubstr("--repetitions is \"0\""));
  EXPECT_THAT(complaint_about({"--quick"}), HasSubstr("unknown flag --quick"));
}

}  // namespace
}  // namespace phalanx::bench
