// llm-bench collectives: what the verbs between ranks cost over each transport, beside the MPI
// library's own in the same run. Every rank of mpirun calls run(); the first one prints.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>

#include "launcher/bench/commands.h"
#include "launcher/host_resources.h"
#include "parallel/mpi_collectives.h"
#include "parallel/mpi_session.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using parallel::Communicator;
using parallel::MpiCollectives;
using parallel::MpiSession;
using Clock = std::chrono::steady_clock;

constexpr int64_t kMostBytes = int64_t{1} << 28;
constexpr int64_t kMostRanks = 4096;
/// From here on a row in GB/s says more than one in microseconds.
constexpr int64_t kBandwidthBytes = int64_t{64} << 10;
/// Calls of one sample move about so much, so that a sample takes about a millisecond.
constexpr int64_t kSampleBytes = int64_t{4} << 20;
constexpr int64_t kMostCalls = 256;
constexpr int64_t kLeastCalls = 4;

const std::vector<std::string> kVerbs = {"all_reduce", "gather", "broadcast", "send_recv"};
const std::vector<std::string> kTransports = {"shm-spin", "shm-sleep", "mpi"};

std::vector<Flag> flags() {
  return {
      {"--sizes", "BYTES,...", "64,1024,4096,16384,65536,262144,1048576,4194304",
       "of a rank's data; multiples of 4"},
      {"--ranks", "N,...", "",
       "members of the group (default: 2, 4, 8, ... as far as ranks were started)"},
      {"--verbs", "NAME,...", "all_reduce,gather,broadcast,send_recv", "what to time"},
      {"--transports", "NAME,...", "shm-spin,shm-sleep,mpi", "shm-spin needs a core for each rank"},
      {"--repetitions", "N", "15", "samples of each row, by turns with MPI's"}};
}

struct Plan {
  std::vector<int64_t> sizes;
  std::vector<int64_t> rank_counts;  ///< empty: as many as there are
  std::vector<std::string> verbs;
  std::vector<std::string> transports;
  int64_t repetitions = 0;
};

Result<Plan> read_plan(const BenchOptions& options) {
  Plan plan;
  PHALANX_ASSIGN_OR_RETURN(plan.sizes, options.integers("--sizes", 4, kMostBytes));
  for (const int64_t size : plan.sizes) {
    if (size % 4 != 0)
      return invalid_argument("--sizes has " + std::to_string(size) + ", must be multiples of 4");
  }
  if (options.is_set("--ranks")) {
    PHALANX_ASSIGN_OR_RETURN(plan.rank_counts, options.integers("--ranks", 2, kMostRanks));
  }
  PHALANX_ASSIGN_OR_RETURN(plan.verbs, options.some_of("--verbs", kVerbs));
  PHALANX_ASSIGN_OR_RETURN(plan.transports, options.some_of("--transports", kTransports));
  PHALANX_ASSIGN_OR_RETURN(plan.repetitions, options.integer("--repetitions", 1, 100'000));
  return plan;
}

/// One implementation of the verbs, ours over a transport or MPI's.
struct Contestant {
  std::string name;
  std::function<void(std::span<float>)> all_reduce;
  std::function<void(std::span<const std::byte>, std::span<std::byte>, int)> gather;
  std::function<void(std::span<std::byte>, int)> broadcast;
  std::function<void(std::span<const std::byte>, int)> send;
  std::function<void(std::span<std::byte>, int)> recv;
};

Contestant our_contestant(const std::string& name, std::shared_ptr<Communicator> group) {
  Contestant ours;
  ours.name = name;
  ours.all_reduce = [group](std::span<float> data) { group->all_reduce_sum(data); };
  ours.gather = [group, bytes = std::vector<size_t>(static_cast<size_t>(group->size()))](
                    std::span<const std::byte> part, std::span<std::byte> out, int root) mutable {
    std::fill(bytes.begin(), bytes.end(), part.size());
    group->gather(part, bytes, out, root);
  };
  ours.broadcast = [group](std::span<std::byte> data, int root) { group->broadcast(data, root); };
  ours.send = [group](std::span<const std::byte> data, int peer) { group->send(data, peer); };
  ours.recv = [group](std::span<std::byte> data, int peer) { group->recv(data, peer); };
  return ours;
}

Contestant mpi_contestant(std::span<const int> ranks) {
  const auto mpi = std::make_shared<MpiCollectives>(ranks);
  Contestant theirs;
  theirs.name = MpiCollectives::library();
  theirs.all_reduce = [mpi](std::span<float> data) { mpi->all_reduce_sum(data); };
  theirs.gather = [mpi](std::span<const std::byte> part, std::span<std::byte> out, int root) {
    mpi->gather(part, out, root);
  };
  theirs.broadcast = [mpi](std::span<std::byte> data, int root) { mpi->broadcast(data, root); };
  theirs.send = [mpi](std::span<const std::byte> data, int peer) { mpi->send(data, peer); };
  theirs.recv = [mpi](std::span<std::byte> data, int peer) { mpi->recv(data, peer); };
  return theirs;
}

/// The group's data and one call after another of a verb on it.
class Course {
 public:
  Course(int rank, int num_ranks, int64_t num_bytes)
      : rank_(rank),
        num_ranks_(num_ranks),
        data_(static_cast<size_t>(num_bytes) / sizeof(float)),
        gathered_(static_cast<size_t>(num_bytes * num_ranks)) {}

  /// One call. Roots take turns, so that no rank runs ahead of the others; send_recv is one way of
  /// a ping-pong between the first two ranks, the others rest.
  void call(const std::string& verb, const Contestant& by, int64_t turn) {
    const int root = static_cast<int>(turn % num_ranks_);
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span<float>(data_));
    if (verb == "all_reduce") {
      by.all_reduce(data_);
    } else if (verb == "gather") {
      by.gather(bytes, rank_ == root ? std::span(gathered_) : std::span<std::byte>(), root);
    } else if (verb == "broadcast") {
      by.broadcast(bytes, root);
    } else if (rank_ < 2) {
      const int sender = static_cast<int>(turn % 2);
      if (rank_ == sender) by.send(bytes, 1 - sender);
      if (rank_ != sender) by.recv(bytes, sender);
    }
  }

  /// Microseconds of a call, over so many of them.
  double time_us(const std::string& verb, const Contestant& by, int64_t num_calls) {
    std::fill(data_.begin(), data_.end(), 0.0F);  // sums must not overflow
    const int64_t warm_up = 2 * num_ranks_;       // also brings the ranks together
    for (int64_t turn = 0; turn < warm_up; ++turn) call(verb, by, turn);
    const Clock::time_point start = Clock::now();
    for (int64_t turn = 0; turn < num_calls; ++turn) call(verb, by, turn);
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count() /
           static_cast<double>(num_calls);
  }

  /// A transport that is fast and wrong is not worth a row. Throws DeviceError naming the verb.
  void check(const std::string& verb, const Contestant& by) {
    for (int root = 0; root < num_ranks_; ++root) {
      std::fill(data_.begin(), data_.end(), static_cast<float>(rank_ + 1));
      call(verb, by, root);
      const auto all_are = [&](float wanted) {
        return std::all_of(data_.begin(), data_.end(),
                           [wanted](float value) { return value == wanted; });
      };
      bool is_right = true;
      if (verb == "all_reduce") {
        is_right = all_are(static_cast<float>(num_ranks_ * (num_ranks_ + 1)) / 2);
      } else if (verb == "broadcast") {
        is_right = all_are(static_cast<float>(root + 1));
      } else if (verb == "send_recv" && rank_ < 2) {
        is_right = all_are(static_cast<float>(root % 2 + 1));
      } else if (verb == "gather" && rank_ == root) {
        const auto* values = reinterpret_cast<const float*>(gathered_.data());
        for (size_t i = 0; i < gathered_.size() / sizeof(float); ++i)
          is_right = is_right && values[i] == static_cast<float>(i / data_.size() + 1);
      }
      if (!is_right) throw DeviceError(by.name + ": " + verb + " brought wrong values");
    }
  }

 private:
  int rank_;
  int num_ranks_;
  std::vector<float> data_;
  std::vector<std::byte> gathered_;
};

/// Rows of one verb at one size: each transport by turns with MPI.
void measure(const Plan& plan, const std::string& verb, int64_t num_bytes, int rank, int num_ranks,
             const std::vector<Contestant>& ours, const Contestant& mpi, Report& report) {
  Course course(rank, num_ranks, num_bytes);
  for (const Contestant& by : ours) course.check(verb, by);
  course.check(verb, mpi);
  // Whole rounds of roots, and of the ping-pong.
  const int64_t calls = std::clamp(kSampleBytes / num_bytes, kLeastCalls, kMostCalls) / 2 *
                        std::lcm<int64_t>(2, num_ranks);
  std::vector<std::vector<double>> times(ours.size() + 1);
  for (int64_t i = 0; i < plan.repetitions; ++i) {
    for (size_t c = 0; c < ours.size(); ++c)
      times[c].push_back(course.time_us(verb, ours[c], calls));
    times.back().push_back(course.time_us(verb, mpi, calls));
  }
  const auto gigabytes = [&](std::vector<double> microseconds) {
    for (double& value : microseconds) value = static_cast<double>(num_bytes) / value / 1e3;
    return microseconds;
  };
  for (size_t c = 0; c < ours.size(); ++c) {
    Measurement row;
    row.name = verb;
    row.parameters = {{"ranks", std::to_string(num_ranks)},
                      {"bytes", std::to_string(num_bytes)},
                      {"transport", ours[c].name}};
    row.unit = "us";
    row.better = Better::kLower;
    row.samples = times[c];
    row.limit = Limit{mpi.name, times.back()};
    report.add(row);
    if (num_bytes < kBandwidthBytes) continue;
    row.unit = "GB/s";
    row.better = Better::kHigher;
    row.samples = gigabytes(times[c]);
    row.limit = Limit{mpi.name, gigabytes(times.back())};
    report.add(row);
  }
}

std::vector<Contestant> make_contestants(const Plan& plan, MpiSession& session,
                                         std::span<const int> ranks, bool spins) {
  std::vector<Contestant> ours;
  for (const std::string& name : plan.transports) {
    if (name == "shm-spin" && !spins) continue;
    parallel::CommunicatorOptions options;
    options.spin = spins && name != "shm-sleep";
    options.force_mpi = name == "mpi";
    std::shared_ptr<Communicator> group = session.make_communicator(ranks, options, nullptr);
    // Between hosts there is no shared memory to time.
    if (name != "mpi" && group->transport() == "mpi") continue;
    ours.push_back(our_contestant(
        name == "mpi" || group->transport() == "shm" ? name : group->transport() + name.substr(3),
        group));
  }
  return ours;
}

/// Core for core when every rank of the host has one: two ranks on one core would sleep for each
/// other. The caller's affinity else.
cpu_set_t own_core(const MpiSession& session, int num_cores) {
  const cpu_set_t all = launcher::cpuset_cores();
  if (session.local_size() > num_cores) return launcher::affinity();
  cpu_set_t one;
  CPU_ZERO(&one);
  int place = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &all) && place++ == session.local_rank()) CPU_SET(core, &one);
  }
  return one;
}

/// MPI waits at its best: the project's settings for jobs make it give its core away, which costs
/// microseconds where each rank has one. Before MPI starts.
void let_mpi_spin(int num_cores) {
  const char* local_size = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (local_size != nullptr && std::atoi(local_size) <= num_cores)
    setenv("OMPI_MCA_mpi_yield_when_idle", "0", 1);
}

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(Plan plan, read_plan(options));
  const cpu_set_t cores = launcher::cpuset_cores();
  const int num_cores = std::min(CPU_COUNT(&cores), launcher::cpu_quota_cores());
  let_mpi_spin(num_cores);
  MpiSession session(nullptr, nullptr);
  const int world_size = session.world_size();
  if (world_size < 2)
    return invalid_argument(
        "collectives need at least two ranks: scripts/mpirun -np 2 llm-bench collectives");
  if (plan.rank_counts.empty()) {
    for (int count = 2; count <= world_size; count *= 2) plan.rank_counts.push_back(count);
  }
  for (const int64_t count : plan.rank_counts) {
    if (count > world_size)
      return invalid_argument("--ranks has " + std::to_string(count) + ", but mpirun started " +
                              std::to_string(world_size));
  }
  const bool spins = session.local_size() <= num_cores;
  const launcher::AffinityScope bound(own_core(session, num_cores));
  report.set_fact("ranks", world_size);
  report.set_fact("hosts", session.hosts());
  report.set_fact("mpi", MpiCollectives::library());
  report.set_fact("spins", spins);

  for (const int64_t count : plan.rank_counts) {
    if (session.rank() < count) {
      std::vector<int> ranks(static_cast<size_t>(count));
      std::iota(ranks.begin(), ranks.end(), 0);
      const std::vector<Contestant> ours = make_contestants(plan, session, ranks, spins);
      const Contestant mpi = mpi_contestant(ranks);
      for (const std::string& verb : plan.verbs) {
        if (verb == "all_reduce" && !std::has_single_bit(static_cast<uint64_t>(count))) continue;
        for (const int64_t size : plan.sizes)
          measure(plan, verb, size, session.rank(), static_cast<int>(count), ours, mpi, report);
      }
    }
    session.all_reduce_min(0);  // ranks outside of the group sleep here
  }
  return {};
}

}  // namespace

Command collectives_command() {
  return {"collectives",
          "latency and bandwidth between ranks, beside MPI's own (under mpirun)",
          "",
          0,
          flags,
          run};
}

}  // namespace phalanx::bench
