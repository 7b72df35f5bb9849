// A group of ranks with the fake NCCL between them. Used by the tests of nccl_communicator.
#pragma once

#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <stdlib.h>

#include "kernels/cuda/emulator/stream.h"
#include "parallel/nccl_communicator.h"
#include "tests/support/mpi_test_main.h"

namespace phalanx::parallel {

/// Sets variables of the fake while in scope.
class ScopedFault {
 public:
  ScopedFault(const std::string& name, const std::string& value, int rank = -1)
      : name_("FAKE_NCCL_" + name) {
    setenv(name_.c_str(), value.c_str(), 1);
    if (rank >= 0) setenv("FAKE_NCCL_RANK", std::to_string(rank).c_str(), 1);
  }
  ~ScopedFault() {
    unsetenv(name_.c_str());
    unsetenv("FAKE_NCCL_RANK");
  }
  ScopedFault(const ScopedFault&) = delete;
  ScopedFault& operator=(const ScopedFault&) = delete;

 private:
  std::string name_;
};

/// Every rank of the world runs every test.
class NcclTestGroup : public testing::Test {
 protected:
  NcclTestGroup() : ranks_(static_cast<size_t>(test_session().world_size())) {
    std::iota(ranks_.begin(), ranks_.end(), 0);
    CommunicatorOptions options;
    options.deadline = std::chrono::seconds(20);
    options.spin = false;
    host_ = test_session().make_communicator(ranks_, options, nullptr);
    options_.library = PHALANX_FAKE_NCCL;
    options_.connect_deadline = std::chrono::seconds(20);
    options_.call_deadline = std::chrono::seconds(20);
    options_.wait_deadline = std::chrono::seconds(20);
  }

  int rank() const { return test_session().rank(); }
  int size() const { return test_session().world_size(); }
  std::unique_ptr<DeviceCommunicator> make(const AbortFlag* abort = nullptr) {
    return make_nccl_communicator(test_session(), ranks_, *host_, options_, abort);
  }
  /// Waits for the stream as an executor does.
  void wait(DeviceCommunicator& device) {
    const auto start = std::chrono::steady_clock::now();
    stream_.synchronize([&] { device.check(std::chrono::steady_clock::now() - start); });
  }
  /// Returns when every rank has come.
  static void meet() { test_session().all_reduce_min(0); }

  std::vector<int> ranks_;
  std::unique_ptr<Communicator> host_;
  NcclOptions options_;
  kernels::cuda::EmulatedStream stream_;
};

/// What rank `from` sends to `to` in message `number`: every byte depends on all of these.
inline std::vector<std::byte> message(int from, int to, size_t bytes, int number = 0) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i)
    data[i] =
        static_cast<std::byte>(i * 7 + i / 251 + static_cast<size_t>(from) * 31 +
                               static_cast<size_t>(to) * 57 + static_cast<size_t>(number) * 101);
  return data;
}

}  // namespace phalanx::parallel
