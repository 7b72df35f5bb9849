// A libnccl.so.2 for tests: NCCL's functions over memory that the ranks of one host share, for host
// memory and the emulated device's streams. Loaded by parallel/nccl_library in place of NCCL.
//
// It is strict where NCCL would hang, corrupt or be lucky: every first use of a connection stays
// "in progress" for some polls, a call on a communicator in progress is refused, what is called
// while in progress reaches the stream only when polled to its end, messages that do not match are
// an error, and so is a recording that would open connections. An error ends no wait; only an abort
// does.
//
// What goes wrong on purpose is said in the environment, for all ranks or FAKE_NCCL_RANK:
//   FAKE_NCCL_VERSION=21701            another version
//   FAKE_NCCL_UNIQUE_ID=refuse         ncclGetUniqueId fails
//   FAKE_NCCL_INIT=refuse|stuck        ncclCommInitRankConfig fails | the rank never joins
//   FAKE_NCCL_VERB=refuse|group|stuck  a verb fails | the end of its group does | it stays in
//   progress FAKE_NCCL_ASYNC=error              an error in the background, from then on
//   FAKE_NCCL_FINALIZE=stuck           ncclCommFinalize stays in progress
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/emulator/stream.h"
#include "parallel/nccl_library.h"
#include "parallel/shared_segment.h"
#include "tests/parallel/fake_nccl/transfers.h"

namespace nccl = phalanx::parallel::nccl;
using phalanx::fake_nccl::Launch;
using phalanx::fake_nccl::Shared;
using phalanx::fake_nccl::Transfer;
using phalanx::fake_nccl::Verb;
using phalanx::kernels::cuda::EmulatedStream;
using phalanx::parallel::SharedSegment;

namespace {

constexpr int kVersion = 22809;
/// Polls that a call in progress takes.
constexpr int kPolls = 3;
/// Without a stream a verb is done at once, or never.
constexpr int kLongestWaitMs = 20'000;

/// What launches in a stream go on knowing when the communicator is gone.
struct Link {
  SharedSegment segment;
  Shared* shared = nullptr;
  int rank = 0;
  bool is_aborted = false;
  nccl::Result error = nccl::kSuccess;
};

int num_aborts = 0;
int num_alive = 0;
thread_local std::string last_error;
/// Of the thread's group: the communicators with calls in it.
thread_local int group_depth = 0;
thread_local std::vector<nccl::Comm> group_members;
thread_local nccl::Result group_error = nccl::kSuccess;
/// The creator keeps it until all have attached.
SharedSegment created_segment;

nccl::Result refuse(nccl::Result result, const std::string& why) {
  last_error = why;
  return result;
}

}  // namespace

struct phalanx::parallel::nccl::Communicator {
  enum class Pending { kNothing, kInit, kVerbs, kFinalize };

  int rank = 0;
  int size = 0;
  std::shared_ptr<Link> link;
  Pending pending = Pending::kNothing;
  int num_polls = 0;
  Launch launch;  ///< collects the calls of a group
  EmulatedStream* stream = nullptr;
  std::set<std::pair<Verb, int>> connections;  ///< that were used before

  bool is_fault(const char* name, const char* value) const;
  bool opens_connections();
  nccl::Result start_verbs();
  nccl::Result submit();
  nccl::Result poll();
};

namespace {

bool is_fault_of(int rank, const char* name, const char* value) {
  const char* wanted = std::getenv(("FAKE_NCCL_" + std::string(name)).c_str());
  const char* whose = std::getenv("FAKE_NCCL_RANK");
  return wanted != nullptr && std::string(wanted) == value &&
         (whose == nullptr || std::to_string(rank) == whose);
}

}  // namespace

bool nccl::Communicator::is_fault(const char* name, const char* value) const {
  return is_fault_of(rank, name, value);
}

bool nccl::Communicator::opens_connections() {
  bool opens = false;
  for (const Transfer& transfer : launch.transfers)
    opens = connections.insert({transfer.verb(), transfer.peer()}).second || opens;
  return opens;
}

/// The end of a group, or a call outside of one.
nccl::Result nccl::Communicator::start_verbs() {
  const bool is_stuck = is_fault("VERB", "stuck");
  const bool opens = opens_connections();
  if (opens && stream != nullptr && stream->is_recording())
    return refuse(kInvalidUsage, "a recording that opens connections");
  if (!opens && !is_stuck) return submit();
  pending = Pending::kVerbs;
  num_polls = kPolls;
  return kInProgress;
}

/// Gives the stream what has been collected.
nccl::Result nccl::Communicator::submit() {
  auto launched = std::make_shared<Launch>(std::move(launch));
  launch = {};
  if (is_fault("ASYNC", "error")) link->error = kRemoteError;
  const auto run = [launched, kept = link] {
    if (kept->is_aborted) return true;
    std::string problem;
    if (kept->error == kSuccess && launched->run(*kept->shared, kept->rank, &problem)) return true;
    if (!problem.empty()) {
      kept->error = kInvalidUsage;
      last_error = problem;
    }
    return false;
  };
  if (stream != nullptr) {
    stream->add(run);
    return kSuccess;
  }
  for (int waited_ms = 0; !run(); ++waited_ms) {
    if (link->error != kSuccess) return link->error;
    if (waited_ms == kLongestWaitMs) return refuse(kSystemError, "nobody comes");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return kSuccess;
}

nccl::Result nccl::Communicator::poll() {
  if (link->error != kSuccess) return link->error;
  switch (pending) {
    case Pending::kNothing:
      return kSuccess;
    case Pending::kInit:
      if (link->shared->num_joined < size) return kInProgress;
      break;
    case Pending::kVerbs:
      if (is_fault("VERB", "stuck")) return kInProgress;
      break;
    case Pending::kFinalize:
      if (is_fault("FINALIZE", "stuck") || link->shared->num_finalized < size) return kInProgress;
      break;
  }
  if (--num_polls > 0) return kInProgress;
  const bool has_verbs = pending == Pending::kVerbs;
  pending = Pending::kNothing;
  if (has_verbs) {
    const Result result = submit();
    if (result != kSuccess) link->error = result;
  }
  return link->error;
}

namespace {

/// A call of a verb: collects transfers, and starts them unless a group is open.
template <typename Collect>
nccl::Result call_verb(nccl::Comm comm, nccl::Stream stream, const Collect& collect) {
  if (comm->pending != nccl::Communicator::Pending::kNothing)
    return refuse(nccl::kInvalidArgument, "a call on a communicator that is in progress");
  if (comm->link->error != nccl::kSuccess) return comm->link->error;
  if (comm->is_fault("VERB", "refuse")) {
    if (group_depth > 0) group_error = nccl::kInvalidArgument;
    return refuse(nccl::kInvalidArgument, "refused on purpose");
  }
  if (group_depth > 0 && comm->is_fault("VERB", "group")) group_error = nccl::kSystemError;
  comm->stream = static_cast<EmulatedStream*>(stream);
  collect(comm->launch);
  if (group_depth == 0) return comm->start_verbs();
  for (const nccl::Comm member : group_members)
    if (member == comm) return nccl::kSuccess;
  group_members.push_back(comm);
  return nccl::kSuccess;
}

std::byte* bytes(const void* data) { return static_cast<std::byte*>(const_cast<void*>(data)); }

void delete_communicator(nccl::Comm comm) {
  --num_alive;
  delete comm;
}

}  // namespace

extern "C" {

int fake_nccl_num_aborts() { return num_aborts; }
int fake_nccl_num_alive() { return num_alive; }

nccl::Result ncclGetVersion(int* version) {
  const char* wanted = std::getenv("FAKE_NCCL_VERSION");
  const char* whose = std::getenv("FAKE_NCCL_RANK");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const bool is_ours = whose == nullptr || rank == nullptr || std::strcmp(whose, rank) == 0;
  *version = wanted != nullptr && is_ours ? std::atoi(wanted) : kVersion;
  return nccl::kSuccess;
}

nccl::Result ncclGetUniqueId(nccl::UniqueId* id) {
  last_error.clear();
  if (is_fault_of(0, "UNIQUE_ID", "refuse"))
    return refuse(nccl::kSystemError, "no network, on purpose");
  created_segment = SharedSegment::create(sizeof(Shared));
  const std::string ticket = created_segment.ticket();
  if (ticket.size() >= sizeof(id->bytes)) return refuse(nccl::kInternalError, "a long ticket");
  std::memset(id->bytes, 0, sizeof(id->bytes));
  std::memcpy(id->bytes, ticket.data(), ticket.size());
  return nccl::kSuccess;
}

nccl::Result ncclCommInitRankConfig(nccl::Comm* comm, int num_ranks, nccl::UniqueId id, int rank,
                                    nccl::Config* config) {
  last_error.clear();
  if (config->magic != 0xcafebeef || config->size != sizeof(nccl::Config) || config->blocking != 0)
    return refuse(nccl::kInvalidArgument, "a configuration that is not as expected");
  if (num_ranks > phalanx::fake_nccl::kMaxRanks)
    return refuse(nccl::kInvalidArgument, "more ranks than the fake has rings for");
  if (is_fault_of(rank, "INIT", "refuse"))
    return refuse(nccl::kInvalidUsage, "Duplicate GPU, on purpose");
  auto link = std::make_shared<Link>();
  link->rank = rank;
  try {
    // Rank 0 created it, and keeps its handle until the last one is here.
    link->segment =
        rank == 0 ? std::move(created_segment) : SharedSegment::attach(std::string(id.bytes));
  } catch (const std::exception& error) {
    return refuse(nccl::kSystemError, error.what());
  }
  link->shared = reinterpret_cast<Shared*>(link->segment.data());
  auto made = std::make_unique<nccl::Communicator>();
  made->rank = rank;
  made->size = num_ranks;
  made->link = std::move(link);
  made->pending = nccl::Communicator::Pending::kInit;
  made->num_polls = kPolls;
  if (!is_fault_of(rank, "INIT", "stuck")) ++made->link->shared->num_joined;
  ++num_alive;
  *comm = made.release();
  return nccl::kInProgress;
}

nccl::Result ncclCommFinalize(nccl::Comm comm) {
  if (comm->pending != nccl::Communicator::Pending::kNothing)
    return refuse(nccl::kInvalidArgument, "finalized while in progress");
  comm->pending = nccl::Communicator::Pending::kFinalize;
  comm->num_polls = kPolls;
  ++comm->link->shared->num_finalized;
  return nccl::kInProgress;
}

nccl::Result ncclCommDestroy(nccl::Comm comm) {
  if (comm->pending != nccl::Communicator::Pending::kNothing) std::abort();  // would wait for good
  delete_communicator(comm);
  return nccl::kSuccess;
}

nccl::Result ncclCommAbort(nccl::Comm comm) {
  if (group_depth > 0) std::abort();  // undefined inside a group
  comm->link->is_aborted = true;
  ++num_aborts;
  delete_communicator(comm);
  return nccl::kSuccess;
}

nccl::Result ncclCommGetAsyncError(nccl::Comm comm, nccl::Result* error) {
  *error = comm->poll();
  return nccl::kSuccess;
}

const char* ncclGetErrorString(nccl::Result result) {
  switch (result) {
    case nccl::kSuccess:
      return "no error";
    case nccl::kUnhandledCudaError:
      return "unhandled cuda error";
    case nccl::kSystemError:
      return "unhandled system error";
    case nccl::kInternalError:
      return "internal error";
    case nccl::kInvalidArgument:
      return "invalid argument";
    case nccl::kInvalidUsage:
      return "invalid usage";
    case nccl::kRemoteError:
      return "remote process exited or there was a network error";
    case nccl::kInProgress:
      return "in progress";
  }
  return "unknown result";
}

const char* ncclGetLastError(nccl::Comm /*comm*/) { return last_error.c_str(); }

nccl::Result ncclGroupStart() {
  if (group_depth++ == 0) group_error = nccl::kSuccess;
  return nccl::kSuccess;
}

nccl::Result ncclGroupEnd() {
  if (group_depth == 0) return refuse(nccl::kInvalidUsage, "the end of no group");
  if (--group_depth > 0) return nccl::kSuccess;
  nccl::Result result = std::exchange(group_error, nccl::kSuccess);
  for (const nccl::Comm comm : std::exchange(group_members, {})) {
    if (result != nccl::kSuccess && result != nccl::kInProgress) {
      comm->launch = {};
    } else if (const nccl::Result started = comm->start_verbs(); started != nccl::kSuccess) {
      result = started;
    }
  }
  return result;
}

nccl::Result ncclAllGather(const void* part, void* out, size_t part_count, nccl::DataType,
                           nccl::Comm comm, nccl::Stream stream) {
  return call_verb(comm, stream, [&](Launch& launch) {
    for (int peer = 0; peer < comm->size; ++peer) {
      std::byte* place = bytes(out) + static_cast<size_t>(peer) * part_count;
      if (peer == comm->rank) {
        if (place != part) launch.copies.push_back({place, bytes(part), part_count});
        continue;
      }
      launch.transfers.emplace_back(Verb::kAllGather, true, peer, bytes(part), part_count);
      launch.transfers.emplace_back(Verb::kAllGather, false, peer, place, part_count);
    }
  });
}

nccl::Result ncclBroadcast(const void* from, void* to, size_t count, nccl::DataType, int root,
                           nccl::Comm comm, nccl::Stream stream) {
  return call_verb(comm, stream, [&](Launch& launch) {
    if (comm->rank != root) {
      launch.transfers.emplace_back(Verb::kBroadcast, false, root, bytes(to), count);
      return;
    }
    if (to != from) launch.copies.push_back({bytes(to), bytes(from), count});
    for (int peer = 0; peer < comm->size; ++peer)
      if (peer != root)
        launch.transfers.emplace_back(Verb::kBroadcast, true, peer, bytes(from), count);
  });
}

nccl::Result ncclSend(const void* data, size_t count, nccl::DataType, int peer, nccl::Comm comm,
                      nccl::Stream stream) {
  return call_verb(comm, stream, [&](Launch& launch) {
    launch.transfers.emplace_back(Verb::kPointToPoint, true, peer, bytes(data), count);
  });
}

nccl::Result ncclRecv(void* data, size_t count, nccl::DataType, int peer, nccl::Comm comm,
                      nccl::Stream stream) {
  return call_verb(comm, stream, [&](Launch& launch) {
    launch.transfers.emplace_back(Verb::kPointToPoint, false, peer, bytes(data), count);
  });
}

}  // extern "C"
