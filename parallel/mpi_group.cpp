// The exchanges of start-up over MPI messages. Called by MpiSession and while communicators are
// made.
#include "parallel/mpi_group.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <limits>
#include <thread>
#include <utility>

#include "parallel/wait_policy.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

constexpr int kTag = 3;  // apart from the links'

}  // namespace

void check_mpi(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw DeviceError(std::string(operation) + ": " + text);
}

MpiGroup::MpiGroup(MPI_Comm communicator, StartUpWait wait)
    : communicator_(communicator), wait_(std::move(wait)) {
  check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
}

MpiGroup MpiGroup::duplicate_of_world(StartUpWait wait) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return MpiGroup(copy, std::move(wait));
}

MpiGroup::~MpiGroup() {
  // While an error unwinds, the peers may not be at the same place: better leave it unfreed.
  if (communicator_ == MPI_COMM_NULL || std::uncaught_exceptions() != 0) return;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Comm_free(&communicator_);
}

MpiGroup::MpiGroup(MpiGroup&& other) noexcept
    : communicator_(std::exchange(other.communicator_, MPI_COMM_NULL)),
      rank_(other.rank_),
      size_(other.size_),
      wait_(std::move(other.wait_)) {}

template <typename Done>
void MpiGroup::wait_until(const Done& done, int member, const char* operation) const {
  using namespace std::chrono_literals;
  constexpr int kTestsBeforeSleep = 100;
  // Member 0 knows best who is missing: the others let it speak first.
  constexpr auto kCourtesy = 2s;
  const WaitPolicy policy =
      make_wait_policy(wait_.deadline + (rank_ == 0 ? 0s : kCourtesy), false, wait_.abort);
  const SlowWait slow(policy);
  const auto text = [&] {
    const auto index = static_cast<size_t>(member);
    return std::string(operation) + " at start-up: waiting for " +
           (wait_.members.empty() ? "rank " + std::to_string(member) : wait_.members[index]);
  };
  for (int num_tests = 0; !done(); ++num_tests) {
    slow.check(text);
    if (num_tests < kTestsBeforeSleep) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::min(1000us, 20us * (num_tests - kTestsBeforeSleep + 1)));
    }
  }
}

void MpiGroup::finish(MPI_Request request, int member, const char* operation) const {
  const auto is_done = [&] {
    int flag = 0;
    check_mpi(MPI_Test(&request, &flag, MPI_STATUS_IGNORE), operation);
    return flag != 0;
  };
  wait_until(is_done, member, operation);
}

void MpiGroup::send(const std::string& text, int member, const char* operation) const {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(text.data(), static_cast<int>(text.size()), MPI_BYTE, member, kTag,
                      communicator_, &request),
            operation);
  finish(request, member, operation);
}

std::string MpiGroup::receive(int member, const char* operation) const {
  MPI_Status status;
  const auto has_come = [&] {
    int flag = 0;
    check_mpi(MPI_Iprobe(member, kTag, communicator_, &flag, &status), operation);
    return flag != 0;
  };
  wait_until(has_come, member, operation);
  int count = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), operation);
  std::string text(static_cast<size_t>(count), '\0');
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Irecv(text.data(), count, MPI_BYTE, member, kTag, communicator_, &request),
            operation);
  finish(request, member, operation);
  return text;
}

std::vector<std::string> MpiGroup::all_gather(const std::string& text) const {
  PHALANX_CHECK_LE(text.size(), size_t{1} << 20, "start-up messages are small");
  constexpr const char* kOperation = "all_gather";
  std::string all;  // each text behind its size
  const auto append = [&all](const std::string& one) {
    const uint64_t size = one.size();
    all.append(reinterpret_cast<const char*>(&size), sizeof(size));
    all += one;
  };
  if (rank_ == 0) {
    append(text);
    for (int member = 1; member < size_; ++member) append(receive(member, kOperation));
    for (int member = 1; member < size_; ++member) send(all, member, kOperation);
  } else {
    send(text, 0, kOperation);
    all = receive(0, kOperation);
  }
  std::vector<std::string> texts;
  for (size_t offset = 0; offset < all.size();) {
    uint64_t size = 0;
    PHALANX_CHECK_LE(offset + sizeof(size), all.size(), "a start-up message is cut short");
    std::memcpy(&size, all.data() + offset, sizeof(size));
    offset += sizeof(size);
    PHALANX_CHECK_LE(size, all.size() - offset, "a start-up message is cut short");
    texts.push_back(all.substr(offset, size));
    offset += size;
  }
  PHALANX_CHECK_EQ(texts.size(), static_cast<size_t>(size_), "a start-up message of each rank");
  return texts;
}

std::string MpiGroup::broadcast(const std::string& text, int root) const {
  PHALANX_CHECK(rank_ != root || text.size() <= std::numeric_limits<int>::max(),
                "a start-up message of 2 GiB");
  constexpr const char* kOperation = "broadcast";
  if (rank_ != root) return receive(root, kOperation);
  for (int member = 0; member < size_; ++member)
    if (member != root) send(text, member, kOperation);
  return text;
}

int64_t MpiGroup::all_reduce_min(int64_t value) const {
  int64_t least = value;
  for (const std::string& other : all_gather(std::to_string(value)))
    least = std::min<int64_t>(least, std::stoll(other));
  return least;
}

}  // namespace phalanx::parallel
