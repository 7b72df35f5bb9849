// Blocking MPI exchanges of start-up. Called by MpiSession and while communicators are made.
#include "parallel/mpi_group.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <numeric>
#include <thread>
#include <utility>

#include "runtime/base/check.h"

namespace phalanx::parallel {

void check_mpi(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw DeviceError(std::string(operation) + ": " + text);
}

MpiGroup::MpiGroup(MPI_Comm communicator) : communicator_(communicator) {
  check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
}

MpiGroup MpiGroup::duplicate_of_world() {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return MpiGroup(copy);
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
      size_(other.size_) {}

void MpiGroup::wait(MPI_Request request, const char* operation) {
  using namespace std::chrono_literals;
  constexpr int kTestsBeforeSleep = 100;  // each yields the processor
  for (int num_tests = 0;; ++num_tests) {
    int is_done = 0;
    check_mpi(MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), operation);
    if (is_done != 0) return;
    if (num_tests >= kTestsBeforeSleep)
      std::this_thread::sleep_for(std::min(1000us, 20us * (num_tests - kTestsBeforeSleep + 1)));
  }
}

std::vector<std::string> MpiGroup::all_gather(const std::string& text) const {
  PHALANX_CHECK_LE(text.size(), size_t{1} << 20, "start-up messages are small");
  MPI_Request request = MPI_REQUEST_NULL;
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(static_cast<size_t>(size_));
  check_mpi(
      MPI_Iallgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, communicator_, &request),
      "MPI_Iallgather");
  wait(request, "MPI_Iallgather");
  std::vector<int> offsets(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), offsets.begin(), 0);
  std::string all(static_cast<size_t>(offsets.back() + lengths.back()), '\0');
  check_mpi(MPI_Iallgatherv(text.data(), length, MPI_BYTE, all.data(), lengths.data(),
                            offsets.data(), MPI_BYTE, communicator_, &request),
            "MPI_Iallgatherv");
  wait(request, "MPI_Iallgatherv");
  std::vector<std::string> texts;
  for (size_t i = 0; i < lengths.size(); ++i)
    texts.push_back(all.substr(static_cast<size_t>(offsets[i]), static_cast<size_t>(lengths[i])));
  return texts;
}

std::string MpiGroup::broadcast(const std::string& text, int root) const {
  PHALANX_CHECK(rank_ != root || text.size() <= std::numeric_limits<int>::max(),
                "a start-up message of 2 GiB");
  MPI_Request request = MPI_REQUEST_NULL;
  int length = static_cast<int>(text.size());
  check_mpi(MPI_Ibcast(&length, 1, MPI_INT, root, communicator_, &request), "MPI_Ibcast");
  wait(request, "MPI_Ibcast");
  std::string received = rank_ == root ? text : std::string(static_cast<size_t>(length), '\0');
  check_mpi(MPI_Ibcast(received.data(), length, MPI_BYTE, root, communicator_, &request),
            "MPI_Ibcast");
  wait(request, "MPI_Ibcast");
  return received;
}

long long MpiGroup::all_reduce_min(long long value) const {
  MPI_Request request = MPI_REQUEST_NULL;
  long long least = value;
  check_mpi(MPI_Iallreduce(&value, &least, 1, MPI_LONG_LONG, MPI_MIN, communicator_, &request),
            "MPI_Iallreduce");
  wait(request, "MPI_Iallreduce");
  return least;
}

}  // namespace phalanx::parallel
