// Nonblocking MPI messages with a deadline. Called by GroupCommunicator.
#include "parallel/mpi_link.h"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "parallel/mpi_group.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

constexpr int kTag = 1;

/// Larger messages go in parts, each counted as work when it is through: 0.13 s of a gigabit
/// network, a hundred times the latency of a fast one.
constexpr size_t kMaxPartBytes = size_t{16} << 20;

/// Sleeps between tests, growing: short enough not to be felt beside a network's latency, long
/// enough that a waiting rank takes a few percent of a core.
constexpr std::chrono::microseconds kFirstSleep{20};
constexpr std::chrono::microseconds kLongestSleep{100};
/// Tests before the first sleep of a rank that must not spin.
constexpr int kTestsWithoutSpin = 4;

/// Lets this thread's sleeps end when they say; by default Linux adds up to 50 us.
void sharpen_sleeps() {
  thread_local const int done = prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
  static_cast<void>(done);
}

}  // namespace

MPI_Request MpiLink::start_send(std::span<const std::byte> part) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(part.data(), static_cast<int>(part.size()), MPI_BYTE, peer_, kTag,
                      communicator_, &request),
            "MPI_Isend");
  return request;
}

MPI_Request MpiLink::start_recv(std::span<std::byte> part) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Irecv(part.data(), static_cast<int>(part.size()), MPI_BYTE, peer_, kTag,
                      communicator_, &request),
            "MPI_Irecv");
  return request;
}

void MpiLink::wait(std::span<MPI_Request> requests, std::span<MPI_Status> statuses,
                   size_t num_bytes) {
  const auto text = [this] {
    return std::string(context_.operation) + ": waiting for " +
           context_.peers[static_cast<size_t>(peer_)];
  };
  const auto done = [&] {
    int flag = 0;
    const int code =
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &flag, statuses.data());
    if (code != MPI_SUCCESS) {
      for (const MPI_Status& status : statuses)
        if (code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS &&
            status.MPI_ERROR != MPI_ERR_PENDING)
          check_mpi(status.MPI_ERROR, text().c_str());
      check_mpi(code, text().c_str());
    }
    return flag != 0;
  };
  if (context_.policy.spin) {
    // MPI moves a long message only while someone looks: at least at a gigabyte a second.
    if (spin_until(done, kSpinTime + std::chrono::nanoseconds(num_bytes))) return;
  } else {
    for (int i = 0; i < kTestsWithoutSpin; ++i) {
      if (done()) return;
      sched_yield();
    }
  }
  sharpen_sleeps();
  const SlowWait slow(context_.policy);
  std::chrono::microseconds sleep = kFirstSleep;
  try {
    while (!done()) {
      slow.check(text);
      std::this_thread::sleep_for(sleep);
      sleep = std::min(kLongestSleep, sleep + sleep / 2);
    }
  } catch (...) {
    // The buffers go with the caller's stack: MPI must forget them.
    for (MPI_Request& request : requests) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
    throw;
  }
}

void MpiLink::check_received(const MPI_Status& status, size_t expected) const {
  int count = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
  PHALANX_CHECK_EQ(static_cast<size_t>(count), expected,
                   std::string(context_.operation) + ": a message from " +
                       context_.peers[static_cast<size_t>(peer_)] + " is not as long as expected");
}

void MpiLink::send(std::span<const std::byte> data) {
  do {
    const auto part = data.first(std::min(data.size(), kMaxPartBytes));
    MPI_Request request = start_send(part);
    MPI_Status status;
    wait(std::span(&request, 1), std::span(&status, 1), part.size());
    context_.count_moved();
    data = data.subspan(part.size());
  } while (!data.empty());
}

/// As a rule nothing is left: who posts also waits for the end.
MpiLink::~MpiLink() {
  for (Posted& message : posted_) {
    if (message.request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&message.request);
    MPI_Request_free(&message.request);
  }
}

void MpiLink::post(std::span<const std::byte> data) {
  do {
    const auto part = data.first(std::min(data.size(), kMaxPartBytes));
    Posted& message = posted_.emplace_back();
    message.bytes.assign(part.begin(), part.end());
    message.request = start_send(message.bytes);
    data = data.subspan(part.size());
  } while (!data.empty());
  push_posted();
}

bool MpiLink::push_posted() {
  while (!posted_.empty()) {
    int is_done = 0;
    check_mpi(MPI_Test(&posted_.front().request, &is_done, MPI_STATUS_IGNORE), "MPI_Test");
    if (is_done == 0) return false;
    posted_.pop_front();
    context_.count_moved();
  }
  return true;
}

void MpiLink::recv(std::span<std::byte> data) {
  do {
    const auto part = data.first(std::min(data.size(), kMaxPartBytes));
    MPI_Request request = start_recv(part);
    MPI_Status status;
    wait(std::span(&request, 1), std::span(&status, 1), part.size());
    check_received(status, part.size());
    context_.count_moved();
    data = data.subspan(part.size());
  } while (!data.empty());
}

void MpiLink::exchange(std::span<const std::byte> out, std::span<std::byte> in) {
  PHALANX_CHECK_EQ(out.size(), in.size(), "exchange sends as much as it receives");
  do {
    const size_t count = std::min(out.size(), kMaxPartBytes);
    MPI_Request requests[2] = {start_recv(in.first(count)), start_send(out.first(count))};
    MPI_Status statuses[2];
    wait(requests, statuses, count);
    check_received(statuses[0], count);
    context_.count_moved();
    out = out.subspan(count);
    in = in.subspan(count);
  } while (!out.empty());
}

bool MpiLink::can_recv() {
  int flag = 0;
  check_mpi(MPI_Iprobe(peer_, kTag, communicator_, &flag, MPI_STATUS_IGNORE), "MPI_Iprobe");
  return flag != 0;
}

}  // namespace phalanx::parallel
