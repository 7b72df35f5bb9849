// DeviceCommunicator on NCCL: a non-blocking communicator, whose every call is polled with a
// deadline.
#include "parallel/nccl_communicator.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/mpi_session.h"
#include "parallel/nccl_library.h"
#include "parallel/wait_policy.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

using std::chrono::microseconds;

/// "a, b and c"
std::string list_of(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " and " : ", ";
    text += words[i];
  }
  return text;
}

/// What a member tells before there is a communicator: the version that it has loaded, or why none.
struct Candidate {
  int version = 0;
  char problem[508] = {};
};

/// What member 0 makes of all: an id to meet under, or why not.
struct Verdict {
  nccl::UniqueId id = {};
  char problem[1024] = {};
};

template <size_t kSize>
void set_text(char (&text)[kSize], const std::string& words) {
  std::memcpy(text, words.data(), std::min(words.size(), kSize - 1));
}

template <typename T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span<T>(&value, 1));
}

/// A variable of NCCL's own that would take the deadlines away.
void check_environment() {
  const char* blocking = std::getenv("NCCL_COMM_BLOCKING");
  if (blocking != nullptr && std::string(blocking) == "1")
    throw DeviceError(
        "NCCL_COMM_BLOCKING=1 in the environment lets NCCL wait for a lost rank for good: unset "
        "it");
}

class NcclCommunicator final : public DeviceCommunicator {
 public:
  NcclCommunicator(std::vector<std::string> members, Communicator& group,
                   const NcclOptions& options, const AbortFlag* abort);
  ~NcclCommunicator() override;

  void all_gather(std::span<const std::byte> part, std::span<std::byte> out, void* stream) override;
  void all_gather_ranges(std::span<std::byte> data, std::span<const ByteRange> ranges,
                         void* stream) override;
  void all_to_all(std::span<const std::byte> from, std::span<const ByteRange> to_peers,
                  std::span<std::byte> to, std::span<const ByteRange> from_peers,
                  void* stream) override;
  void send(std::span<const std::byte> data, int peer, void* stream) override;
  void recv(std::span<std::byte> data, int peer, void* stream) override;
  void grouped(const std::function<void()>& enqueue) override;
  void check(std::chrono::nanoseconds waited) override;
  void abort() noexcept override;
  std::string transport() const override { return "nccl " + nccl::version_text(library_.version); }

 private:
  nccl::UniqueId meet_over(Communicator& group);
  void connect(const nccl::UniqueId& id);
  void finish() noexcept;

  void begin(const char* operation);
  template <typename Enqueue>
  void run_group(const Enqueue& enqueue);
  void enqueued(nccl::Result result);
  void complete(nccl::Result result, std::chrono::nanoseconds deadline);
  nccl::Result state_now();
  std::string here() const;
  std::string words_of(nccl::Result result);
  [[noreturn]] void give_up(const std::string& why);
  void check_peer(int peer) const;

  NcclOptions options_;
  const AbortFlag* abort_flag_;
  std::vector<std::string> members_;  ///< "rank 3 on node2"
  nccl::Library library_;
  nccl::Comm comm_ = nullptr;  ///< null: not made yet, or aborted
  const char* operation_ = "start";
  bool is_grouping_ = false;
  std::string failure_;  ///< why it was aborted
  int exceptions_at_start_ = std::uncaught_exceptions();
};

NcclCommunicator::NcclCommunicator(std::vector<std::string> members, Communicator& group,
                                   const NcclOptions& options, const AbortFlag* abort)
    : options_(options), abort_flag_(abort), members_(std::move(members)) {
  rank_ = group.rank();
  size_ = group.size();
  PHALANX_CHECK_EQ(members_.size(), static_cast<size_t>(size_), "a name for each member");
  connect(meet_over(group));
}

// All members tell one what they have, so that all know why there is no group, instead of waiting
// for the one that cannot come.
nccl::UniqueId NcclCommunicator::meet_over(Communicator& group) {
  Candidate candidate;
  try {
    check_environment();
    library_ = nccl::open_library(options_.library);
    candidate.version = library_.version;
  } catch (const DeviceError& error) {
    set_text(candidate.problem, error.what());
  }
  const auto num_members = static_cast<size_t>(size_);
  std::vector<Candidate> candidates(rank_ == 0 ? num_members : 0);
  const std::vector<size_t> sizes(num_members, sizeof(Candidate));
  group.gather(bytes_of(candidate), sizes, std::as_writable_bytes(std::span(candidates)), 0);
  Verdict verdict;
  std::string problem;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& other = candidates[i];
    std::string words = other.problem;
    if (words.empty() && other.version != library_.version && library_.version != 0)
      words = "has NCCL " + nccl::version_text(other.version) + ", but " + members_[0] + " has " +
              nccl::version_text(library_.version);
    if (!words.empty()) problem += (problem.empty() ? "" : "; ") + members_[i] + ": " + words;
  }
  if (rank_ == 0 && problem.empty()) {
    operation_ = "ncclGetUniqueId";
    const nccl::Result result = library_.functions.get_unique_id(&verdict.id);
    if (result != nccl::kSuccess) problem = here() + ": " + words_of(result);
  }
  set_text(verdict.problem, problem);
  group.broadcast(bytes_of(verdict), 0);
  if (verdict.problem[0] != '\0')
    throw DeviceError("no NCCL communicator of " + list_of(members_) + ": " + verdict.problem);
  return verdict.id;
}

void NcclCommunicator::connect(const nccl::UniqueId& id) {
  operation_ = "connecting";
  nccl::Config config;
  config.blocking = 0;
  complete(library_.functions.comm_init_rank_config(&comm_, size_, id, rank_, &config),
           options_.connect_deadline);
}

NcclCommunicator::~NcclCommunicator() {
  if (comm_ == nullptr) return;
  if (std::uncaught_exceptions() > exceptions_at_start_) {
    abort();
  } else {
    finish();
  }
}

// ncclCommFinalize waits, without blocking, until nothing moves any more; only then ncclCommDestroy
// does not wait.
void NcclCommunicator::finish() noexcept {
  try {
    operation_ = "finish";
    complete(library_.functions.comm_finalize(comm_), options_.finish_deadline);
    library_.functions.comm_destroy(std::exchange(comm_, nullptr));
  } catch (const std::exception&) {
    abort();  // a peer ended in another way: whoever waits for it says so
  }
}

void NcclCommunicator::abort() noexcept {
  if (comm_ == nullptr) return;
  library_.functions.comm_abort(std::exchange(comm_, nullptr));
}

/// "all_gather by NCCL 2.28.9 on rank 1 on node2, in the group of rank 0 on node1 and rank 1 on
/// node2"
std::string NcclCommunicator::here() const {
  return std::string(operation_) + " by NCCL " + nccl::version_text(library_.version) + " on " +
         members_[static_cast<size_t>(rank_)] + ", in the group of " + list_of(members_);
}

std::string NcclCommunicator::words_of(nccl::Result result) {
  std::string words = library_.functions.get_error_string(result);
  const char* detail = library_.functions.get_last_error(comm_);
  if (detail != nullptr && *detail != '\0') words += std::string(": ") + detail;
  return words;
}

void NcclCommunicator::give_up(const std::string& why) {
  failure_ = why;
  if (!is_grouping_) abort();  // else run_group does, once the group has ended
  throw DeviceError(failure_);
}

nccl::Result NcclCommunicator::state_now() {
  nccl::Result state = nccl::kSuccess;
  const nccl::Result result = library_.functions.comm_get_async_error(comm_, &state);
  return result == nccl::kSuccess ? state : result;
}

/// Polls a call that goes on in the background.
void NcclCommunicator::complete(nccl::Result result, std::chrono::nanoseconds deadline) {
  if (result == nccl::kSuccess) return;
  constexpr int kPollsBeforeSleep = 100;
  constexpr microseconds kPollEvery{100};
  const WaitPolicy policy{deadline, false, abort_flag_};
  const SlowWait slow(policy);
  for (int num_polls = 0; result == nccl::kInProgress; ++num_polls) {
    try {
      slow.check([&] { return here(); });
    } catch (const DeviceError& error) {
      give_up(error.what());
    }
    if (num_polls < kPollsBeforeSleep) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kPollEvery);
    }
    result = state_now();
  }
  if (result != nccl::kSuccess) give_up(here() + ": " + words_of(result));
}

void NcclCommunicator::begin(const char* operation) {
  if (comm_ == nullptr)
    throw DeviceError(std::string(operation) + " after the group's end: " +
                      (failure_.empty() ? "it was aborted" : failure_));
  operation_ = operation;
}

void NcclCommunicator::enqueued(nccl::Result result) {
  if (!is_grouping_) {
    complete(result, options_.call_deadline);
  } else if (result != nccl::kSuccess && result != nccl::kInProgress) {
    give_up(here() + ": " + words_of(result));
  }
}

/// In the group that is open, or else in one of its own.
template <typename Enqueue>
void NcclCommunicator::run_group(const Enqueue& enqueue) {
  if (is_grouping_) {
    enqueue();
    return;
  }
  const auto& functions = library_.functions;
  if (const nccl::Result result = functions.group_start(); result != nccl::kSuccess)
    give_up(here() + ": " + words_of(result));
  is_grouping_ = true;
  try {
    enqueue();
  } catch (...) {
    is_grouping_ = false;
    functions.group_end();  // the thread's group must end; the communicator is lost with its peers
    abort();
    throw;
  }
  is_grouping_ = false;
  complete(functions.group_end(), options_.call_deadline);
}

void NcclCommunicator::grouped(const std::function<void()>& enqueue) {
  PHALANX_CHECK(!is_grouping_, "a group of verbs inside another");
  begin("group");
  run_group(enqueue);
}

void NcclCommunicator::check_peer(int peer) const {
  PHALANX_CHECK(peer >= 0 && peer < size_ && peer != rank_,
                std::string(operation_) + ": no such peer: " + std::to_string(peer));
}

void NcclCommunicator::all_gather(std::span<const std::byte> part, std::span<std::byte> out,
                                  void* stream) {
  begin("all_gather");
  PHALANX_CHECK_EQ(part.size() * static_cast<size_t>(size_), out.size(),
                   "all_gather: the output holds all parts");
  if (part.empty()) return;
  enqueued(library_.functions.all_gather(part.data(), out.data(), part.size(), nccl::kUint8, comm_,
                                         stream));
}

// Broadcasts and not sends: each range then crosses a network once, along rings over all ranks, and
// not once for each of a host's GPUs.
void NcclCommunicator::all_gather_ranges(std::span<std::byte> data,
                                         std::span<const ByteRange> ranges, void* stream) {
  begin("all_gather_ranges");
  PHALANX_CHECK_EQ(ranges.size(), members_.size(), "all_gather_ranges: a range for each rank");
  for (const ByteRange& range : ranges)
    PHALANX_CHECK(range.offset <= data.size() && range.bytes <= data.size() - range.offset,
                  "all_gather_ranges: a range outside the data");
  run_group([&] {
    for (int root = 0; root < size_; ++root) {
      const ByteRange& range = ranges[static_cast<size_t>(root)];
      std::byte* place = data.data() + range.offset;
      if (range.bytes == 0) continue;
      enqueued(library_.functions.broadcast(place, place, range.bytes, nccl::kUint8, root, comm_,
                                            stream));
    }
  });
}

void NcclCommunicator::all_to_all(std::span<const std::byte> from,
                                  std::span<const ByteRange> to_peers, std::span<std::byte> to,
                                  std::span<const ByteRange> from_peers, void* stream) {
  begin("all_to_all");
  PHALANX_CHECK_EQ(to_peers.size(), members_.size(), "all_to_all: a range to each rank");
  PHALANX_CHECK_EQ(from_peers.size(), members_.size(), "all_to_all: a range from each rank");
  const auto self = static_cast<size_t>(rank_);
  for (size_t peer = 0; peer < members_.size(); ++peer) {
    if (peer == self) continue;
    const ByteRange& sent = to_peers[peer];
    const ByteRange& received = from_peers[peer];
    PHALANX_CHECK(sent.offset <= from.size() && sent.bytes <= from.size() - sent.offset,
                  "all_to_all: a sent range outside the data");
    PHALANX_CHECK(received.offset <= to.size() && received.bytes <= to.size() - received.offset,
                  "all_to_all: a received range outside the memory");
  }
  run_group([&] {
    // Rank r begins with r + 1, so that not all begin with the same peer.
    for (int distance = 1; distance < size_; ++distance) {
      const int next = (rank_ + distance) % size_;
      const int previous = (rank_ + size_ - distance) % size_;
      const ByteRange& sent = to_peers[static_cast<size_t>(next)];
      const ByteRange& received = from_peers[static_cast<size_t>(previous)];
      if (sent.bytes > 0)
        enqueued(library_.functions.send(from.data() + sent.offset, sent.bytes, nccl::kUint8, next,
                                         comm_, stream));
      if (received.bytes > 0)
        enqueued(library_.functions.recv(to.data() + received.offset, received.bytes, nccl::kUint8,
                                         previous, comm_, stream));
    }
  });
}

void NcclCommunicator::send(std::span<const std::byte> data, int peer, void* stream) {
  begin("send");
  check_peer(peer);
  if (data.empty()) return;
  enqueued(library_.functions.send(data.data(), data.size(), nccl::kUint8, peer, comm_, stream));
}

void NcclCommunicator::recv(std::span<std::byte> data, int peer, void* stream) {
  begin("recv");
  check_peer(peer);
  if (data.empty()) return;
  enqueued(library_.functions.recv(data.data(), data.size(), nccl::kUint8, peer, comm_, stream));
}

void NcclCommunicator::check(std::chrono::nanoseconds waited) {
  if (comm_ == nullptr) begin("check");
  const auto where = [&] { return "waiting for the stream, last given " + here(); };
  if (abort_flag_ != nullptr && abort_flag_->load(std::memory_order_relaxed))
    give_up(where() + ": given up, because the job is ending");
  const nccl::Result state = state_now();
  if (state != nccl::kSuccess && state != nccl::kInProgress)
    give_up(where() + ": " + words_of(state));
  if (abort_flag_ == nullptr && waited >= options_.wait_deadline)
    give_up(where() + ": not done within the deadline of " +
            std::to_string(options_.wait_deadline.count()) + " ms");
}

}  // namespace

std::unique_ptr<DeviceCommunicator> make_nccl_communicator(const MpiSession& session,
                                                           std::span<const int> ranks,
                                                           Communicator& group,
                                                           const NcclOptions& options,
                                                           const AbortFlag* abort) {
  PHALANX_CHECK_GE(ranks.size(), size_t{2}, "an NCCL communicator of one rank");
  std::vector<std::string> members;
  for (const int rank : ranks)
    members.push_back("rank " + std::to_string(rank) + " on " +
                      session.hosts()[static_cast<size_t>(rank)]);
  return std::make_unique<NcclCommunicator>(std::move(members), group, options, abort);
}

}  // namespace phalanx::parallel
