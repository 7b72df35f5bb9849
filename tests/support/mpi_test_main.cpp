// main() of the tests with label mpi: every rank runs every test, rank 0 reports, and a failure of
// any rank fails the program.
#include "tests/support/mpi_test_main.h"

#include <cstdlib>
#include <iostream>
#include <string>

#include <gtest/gtest.h>

namespace phalanx::parallel {
namespace {

MpiSession* current_session = nullptr;

/// On ranks above 0: failures only, each with the rank.
class FailurePrinter : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
    std::cerr << "rank " + std::to_string(rank_) + ": " +
                     (test != nullptr ? test->name() : "outside tests") + ": " +
                     (result.file_name() != nullptr ? result.file_name() : "") + ":" +
                     std::to_string(result.line_number()) + ": " + result.message() + "\n";
  }

 private:
  int rank_;
};

}  // namespace

MpiSession& test_session() { return *current_session; }

}  // namespace phalanx::parallel

int main(int argc, char** argv) {
  using namespace phalanx::parallel;
  testing::InitGoogleTest(&argc, argv);
  MpiSessionOptions options;
  if (const char* pattern = std::getenv("PHALANX_TEST_HOSTS"); pattern != nullptr && *pattern != 0)
    options.host_of_rank = [hosts = std::string(pattern)](int rank) {
      return std::string("host-") + hosts[static_cast<size_t>(rank) % hosts.size()];
    };
  MpiSession session(&argc, &argv, options);
  current_session = &session;
  if (session.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(session.rank()));
  }
  const int64_t passed = RUN_ALL_TESTS() == 0 ? 1 : 0;
  return session.all_reduce_min(passed) == 1 ? 0 : 1;
}
