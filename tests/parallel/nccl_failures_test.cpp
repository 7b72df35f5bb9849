// Tests how the NCCL transport ends when something goes wrong: soon, by name, with nothing left.
// Over the fake NCCL, under mpirun.
#include <dlfcn.h>

#include <thread>

#include <gmock/gmock.h>

#include "runtime/base/check.h"
#include "tests/parallel/nccl_test_group.h"

namespace phalanx::parallel {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

class NcclFailuresTest : public NcclTestGroup {
 protected:
  NcclFailuresTest() {
    fake_ = dlopen(PHALANX_FAKE_NCCL, RTLD_NOW | RTLD_LOCAL);
    aborts_before_ = count("fake_nccl_num_aborts");
  }
  /// Whatever went wrong, no communicator is left.
  ~NcclFailuresTest() override {
    EXPECT_EQ(count("fake_nccl_num_alive"), 0);
    dlclose(fake_);
    meet();
  }

  int num_aborts() const { return count("fake_nccl_num_aborts") - aborts_before_; }
  std::string me() const { return name_of(rank()); }
  static std::string name_of(int rank) {
    return "rank " + std::to_string(rank) + " on " +
           test_session().hosts()[static_cast<size_t>(rank)];
  }
  /// The words of the DeviceError that `work` throws.
  template <typename Work>
  std::string complaint(const Work& work) {
    try {
      work();
    } catch (const DeviceError& error) {
      return error.what();
    }
    return "none";
  }
  void gather(DeviceCommunicator& device) { device.all_gather(part_, out_, &stream_); }

  Bytes part_ = Bytes(1000);
  Bytes out_ = Bytes(1000 * static_cast<size_t>(size()));

 private:
  int count(const char* name) const { return reinterpret_cast<int (*)()>(dlsym(fake_, name))(); }
  void* fake_ = nullptr;
  int aborts_before_ = 0;
};

// ------------------------------------------------------------------------------- making one ----

TEST_F(NcclFailuresTest, AllSayWhoHasNoNccl) {
  if (rank() == 1) options_.library = "libnccl-of-nowhere.so.2";
  EXPECT_THAT(complaint([&] { make(); }),
              AllOf(HasSubstr(name_of(1) + ": NCCL cannot be loaded from \"libnccl-of-nowhere"),
                    HasSubstr("no NCCL communicator of " + name_of(0))));
}

TEST_F(NcclFailuresTest, AllSayWhoHasAnotherVersion) {
  const ScopedFault fault("VERSION", "22104", size() - 1);
  EXPECT_THAT(
      complaint([&] { make(); }),
      HasSubstr(name_of(size() - 1) + ": has NCCL 2.21.4, but " + name_of(0) + " has 2.28.9"));
}

TEST_F(NcclFailuresTest, AllSayWhatIsTooOld) {
  const ScopedFault fault("VERSION", "21701", 0);
  EXPECT_THAT(complaint([&] { make(); }), HasSubstr(name_of(0) + ": "));
}

TEST_F(NcclFailuresTest, AllSayWhoseEnvironmentTakesTheDeadlinesAway) {
  if (rank() == 1) setenv("NCCL_COMM_BLOCKING", "1", 1);
  EXPECT_THAT(complaint([&] { make(); }), HasSubstr(name_of(1) + ": NCCL_COMM_BLOCKING=1"));
  unsetenv("NCCL_COMM_BLOCKING");
}

TEST_F(NcclFailuresTest, AllSayThatThereIsNoId) {
  const ScopedFault fault("UNIQUE_ID", "refuse");
  EXPECT_THAT(complaint([&] { make(); }),
              AllOf(HasSubstr("ncclGetUniqueId by NCCL 2.28.9 on " + name_of(0)),
                    HasSubstr("unhandled system error: no network, on purpose")));
}

TEST_F(NcclFailuresTest, ARefusedInitEndsTheRankAndSoonTheOthers) {
  options_.connect_deadline = 300ms;
  const ScopedFault fault("INIT", "refuse", 1);
  const std::string words = complaint([&] { make(); });
  EXPECT_THAT(
      words, HasSubstr("connecting by NCCL 2.28.9 on " + me() + ", in the group of " + name_of(0)));
  EXPECT_THAT(words, HasSubstr(rank() == 1 ? "invalid usage: Duplicate GPU, on purpose"
                                           : "within the deadline of 0.3 s"));
  EXPECT_EQ(num_aborts(), rank() == 1 ? 0 : 1);
}

TEST_F(NcclFailuresTest, ARankThatNeverJoinsEndsAllByTheDeadline) {
  options_.connect_deadline = 300ms;
  const AbortFlag flag = false;  // a monitor does not know how long NCCL should take
  const ScopedFault fault("INIT", "stuck", 0);
  EXPECT_THAT(complaint([&] { make(&flag); }),
              AllOf(HasSubstr("connecting"), HasSubstr("within the deadline of 0.3 s")));
  EXPECT_EQ(num_aborts(), 1);
}

TEST_F(NcclFailuresTest, TheEndOfTheJobEndsConnecting) {
  AbortFlag flag = false;
  const ScopedFault fault("INIT", "stuck", 1);
  std::thread monitor([&] {
    std::this_thread::sleep_for(100ms);
    flag = true;
  });
  EXPECT_THAT(complaint([&] { make(&flag); }),
              AllOf(HasSubstr("connecting"), HasSubstr("the job is ending")));
  monitor.join();
  EXPECT_EQ(num_aborts(), 1);
}

// ------------------------------------------------------------------------- calls of the verbs ----

TEST_F(NcclFailuresTest, ARefusedVerbNamesItselfAndTheGroupIsOver) {
  const auto device = make();
  {
    const ScopedFault fault("VERB", "refuse");
    const std::string words = complaint([&] { gather(*device); });
    EXPECT_THAT(words, HasSubstr("all_gather by NCCL 2.28.9 on " + me()));
    EXPECT_THAT(words, HasSubstr("invalid argument: refused on purpose"));
  }
  EXPECT_EQ(num_aborts(), 1);
  const auto over = AllOf(HasSubstr("after the group's end"), HasSubstr("refused on purpose"));
  EXPECT_THAT(complaint([&] { gather(*device); }), over);
  EXPECT_THAT(complaint([&] { device->grouped([] {}); }), over);
  EXPECT_THAT(complaint([&] { device->check(0ms); }), over);
  EXPECT_EQ(num_aborts(), 1);
}

TEST_F(NcclFailuresTest, ARefusedVerbInAGroupEndsTheGroupFirst) {
  const auto device = make();
  const ScopedFault fault("VERB", "refuse");
  const std::vector<ByteRange> ranges(static_cast<size_t>(size()), ByteRange{0, 10});
  EXPECT_THAT(
      complaint([&] { device->grouped([&] { gather(*device); }); }),
      AllOf(HasSubstr("all_gather"), HasSubstr("refused on purpose"), HasSubstr(name_of(0))));
  EXPECT_EQ(num_aborts(), 1);
  const auto another = make();  // this thread's group is closed
  EXPECT_THAT(complaint([&] { another->all_to_all(part_, ranges, out_, ranges, &stream_); }),
              AllOf(HasSubstr("all_to_all"), HasSubstr("refused on purpose")));
}

TEST_F(NcclFailuresTest, AFailingEndOfAGroupIsAnError) {
  const auto device = make();
  const ScopedFault fault("VERB", "group");
  EXPECT_THAT(complaint([&] { device->grouped([&] { gather(*device); }); }),
              HasSubstr("unhandled system error"));
  EXPECT_EQ(num_aborts(), 1);
}

TEST_F(NcclFailuresTest, AnExceptionInsideAGroupGoesOnAndEndsIt) {
  const auto device = make();
  EXPECT_THROW(device->grouped([&] { throw std::out_of_range("of the caller"); }),
               std::out_of_range);
  EXPECT_EQ(num_aborts(), 1);
  const auto another = make();
  EXPECT_THROW(another->grouped([&] { another->grouped([] {}); }), InternalError);
  EXPECT_THAT(complaint([&] { gather(*another); }), HasSubstr("it was aborted"));
}

TEST_F(NcclFailuresTest, ACallThatStaysInProgressEndsByItsDeadline) {
  options_.call_deadline = 200ms;
  const auto device = make();
  const ScopedFault fault("VERB", "stuck");
  EXPECT_THAT(complaint([&] { gather(*device); }),
              AllOf(HasSubstr("all_gather"), HasSubstr("within the deadline of 0.2 s")));
  EXPECT_EQ(num_aborts(), 1);
}

TEST_F(NcclFailuresTest, TheEndOfTheJobEndsACallInProgress) {
  AbortFlag flag = false;
  const auto device = make(&flag);
  const ScopedFault fault("VERB", "stuck");
  flag = true;
  EXPECT_THAT(complaint([&] { gather(*device); }), HasSubstr("the job is ending"));
}

TEST_F(NcclFailuresTest, ARecordingMustNotOpenConnections) {
  const auto device = make();
  stream_.begin_recording();
  EXPECT_THAT(complaint([&] { gather(*device); }), HasSubstr("a recording that opens connections"));
  stream_.end_recording();
}

// ---------------------------------------------------------------------- waiting for the stream
// ----

TEST_F(NcclFailuresTest, AnErrorInTheBackgroundEndsTheWait) {
  const auto device = make();
  gather(*device);
  wait(*device);  // connected
  const ScopedFault fault("ASYNC", "error");
  gather(*device);
  EXPECT_THAT(complaint([&] { wait(*device); }),
              AllOf(HasSubstr("waiting for the stream, last given all_gather by NCCL 2.28.9 on " +
                              me() + ", in the group of " + name_of(0)),
                    HasSubstr("remote process exited or there was a network error")));
  EXPECT_EQ(num_aborts(), 1);
  stream_.synchronize();  // nothing waits in the stream any more
}

TEST_F(NcclFailuresTest, APeerThatNeverComesEndsTheWaitByItsDeadline) {
  options_.wait_deadline = 1s;
  auto device = make();
  gather(*device);
  wait(*device);  // connected
  if (rank() != 0) {
    gather(*device);
    EXPECT_THAT(complaint([&] { wait(*device); }),
                AllOf(HasSubstr("last given all_gather"), HasSubstr("deadline of 1000 ms")));
    EXPECT_EQ(num_aborts(), 1);
    stream_.synchronize();
  } else {
    device->abort();
    EXPECT_EQ(num_aborts(), 1);
  }
}

TEST_F(NcclFailuresTest, WithAMonitorTheEndOfTheJobEndsTheWait) {
  options_.wait_deadline = 1ms;  // does not count
  AbortFlag flag = false;
  const auto device = make(&flag);
  gather(*device);
  wait(*device);
  meet();
  if (rank() == 0) return device->abort();
  gather(*device);
  std::thread monitor([&] {
    std::this_thread::sleep_for(100ms);
    flag = true;
  });
  EXPECT_THAT(complaint([&] { wait(*device); }),
              AllOf(HasSubstr("last given all_gather"), HasSubstr("the job is ending")));
  monitor.join();
}

TEST_F(NcclFailuresTest, RanksThatCallDifferentVerbsDoNotCorrupt) {
  options_.wait_deadline = 500ms;
  const auto device = make();
  const Bytes shorter(10);
  Bytes out(10 * static_cast<size_t>(size()));
  if (rank() == 0) {
    device->all_gather(shorter, out, &stream_);
  } else {
    gather(*device);
  }
  EXPECT_THAT(complaint([&] { wait(*device); }),
              AnyOf(HasSubstr("invalid usage: verb 1 awaits"), HasSubstr("deadline of 500 ms")));
}

// ---------------------------------------------------------------------------------- the end ----

TEST_F(NcclFailuresTest, AnOrderlyEndAbortsNothing) {
  auto device = make();
  gather(*device);
  wait(*device);
  device.reset();
  EXPECT_EQ(num_aborts(), 0);
}

TEST_F(NcclFailuresTest, AnEndThatDoesNotComeIsAborted) {
  options_.finish_deadline = 100ms;
  auto device = make();
  const ScopedFault fault("FINALIZE", "stuck");
  device.reset();
  EXPECT_EQ(num_aborts(), 1);
}

TEST_F(NcclFailuresTest, ARankThatFailsOtherwiseDoesNotWaitForTheOthers) {
  options_.finish_deadline = 60s;
  const auto start = std::chrono::steady_clock::now();
  try {
    const auto device = make();
    throw DeviceError("of a kernel");
  } catch (const DeviceError&) {
    EXPECT_EQ(num_aborts(), 1);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

}  // namespace
}  // namespace phalanx::parallel
