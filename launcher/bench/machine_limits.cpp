// MachineLimits: a thread that owns a team of pinned threads and samples on demand. Called by the
// commands of llm-bench.
#include "launcher/bench/machine_limits.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cpu/thread_team.h"
#include "launcher/bench/limit_loops.h"
#include "launcher/core_placement.h"
#include "launcher/host_resources.h"
#include "launcher/machine_topology.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kLeastDramBytes = int64_t{256} << 20;
constexpr int64_t kMostDramBytes = int64_t{2} << 30;
constexpr int64_t kReadStepBytes = 4096;    // granule of a thread's part
constexpr int64_t kChunkBytes = 256 << 10;  // read between two looks at the clock
constexpr int64_t kPeakRounds = 2000;       // between two looks at the clock: about 10 us
constexpr size_t kNumLevels = 4;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

int64_t round_down(int64_t value, int64_t to) { return value / to * to; }

/// Bytes a thread walks in each level, 0 where the level's size is unknown: half of what it has of
/// the cache, which must not fit in the level below.
std::array<int64_t, kNumLevels> bytes_per_thread(const launcher::MachineTopology& topology,
                                                 const std::vector<int>& cores) {
  const auto num_threads = static_cast<int64_t>(cores.size());
  std::array<int64_t, kNumLevels> bytes{};
  int64_t below = 0;
  for (int level = 1; level <= 3; ++level) {
    int64_t share = topology.cache_bytes(level, cores[0]);
    const int num_caches = topology.num_caches(level, cores);
    if (share == 0 || num_caches == 0) continue;
    const int64_t sharers = (num_threads + num_caches - 1) / num_caches;
    share = round_down(share / 2 / sharers, kReadStepBytes);
    if (share <= below) continue;  // a shared cache too small for all threads: no level of its own
    bytes[static_cast<size_t>(level - 1)] = share;
    below = 2 * share;
  }
  int64_t cached = 0;
  for (const launcher::CpuCache& cache : topology.caches) cached += cache.bytes;
  const int64_t dram = std::clamp(4 * cached, kLeastDramBytes, kMostDramBytes);
  bytes[static_cast<size_t>(ReadFrom::kDram)] = round_down(dram / num_threads, kReadStepBytes);
  return bytes;
}

/// What one thread did between the common start and the deadline.
struct alignas(64) Tally {
  double amount = 0;
  double seconds = 0;
  uint64_t read = 0;  // what reading gave, so that no compiler leaves it out
};

}  // namespace

const char* read_from_name(ReadFrom from) {
  switch (from) {
    case ReadFrom::kL1:
      return "L1";
    case ReadFrom::kL2:
      return "L2";
    case ReadFrom::kL3:
      return "L3";
    case ReadFrom::kDram:
      return "DRAM";
  }
  return "unknown";
}

const char* peak_kind_name(PeakKind kind) {
  switch (kind) {
    case PeakKind::kInt8:
      return "int8";
    case PeakKind::kBf16:
      return "bf16";
    case PeakKind::kF32:
      return "f32";
  }
  return "unknown";
}

PeakKind peak_kind(kernels::WeightFormat format) {
  switch (format) {
    case kernels::WeightFormat::kF32:
      return PeakKind::kF32;
    case kernels::WeightFormat::kBf16:
    case kernels::WeightFormat::kFp8:
      return PeakKind::kBf16;
    case kernels::WeightFormat::kW8:
    case kernels::WeightFormat::kW4:
      return PeakKind::kInt8;
  }
  return PeakKind::kF32;
}

struct MachineLimits::State {
  State(int threads, MachineLimitsOptions given)
      : num_threads(threads),
        options(given),
        loops(limit_loops(given.isa_tier)),
        topology(launcher::read_topology()),
        cores(launcher::place_threads(topology, launcher::list_of(launcher::affinity()), threads)),
        is_crowded(std::set<int>(cores.begin(), cores.end()).size() < cores.size()),
        thread_bytes(bytes_per_thread(topology, cores)),
        tallies(static_cast<size_t>(threads)),
        cursors(static_cast<size_t>(threads), 0) {
    driver = std::thread([this] { drive(); });
    try {
      call([this] { team.emplace(num_threads, /*spin=*/!is_crowded, cores); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~State() { stop(); }

  const int num_threads;
  const MachineLimitsOptions options;
  const LimitLoops& loops;
  const launcher::MachineTopology topology;
  const std::vector<int> cores;  // of each thread
  const bool is_crowded;         // threads share cores: waiting ones must not spin
  const std::array<int64_t, kNumLevels> thread_bytes;

  // The driver's, between calls: the team is bound to the thread that makes it and is destroyed by
  // it.
  std::optional<kernels::cpu::ThreadTeam> team;
  std::array<std::shared_ptr<std::byte>, kNumLevels> memory;
  int64_t prefetch_bytes = -1;  // -1: not chosen yet
  std::vector<Tally> tallies;
  std::vector<int64_t> cursors;  // where each thread goes on in its part of DRAM
  std::atomic<int> num_arrived{0};

  std::mutex mutex;
  std::condition_variable changed;
  const std::function<void()>* task = nullptr;  // null: none to do
  std::exception_ptr failure;
  bool leaves = false;
  std::thread driver;

  void drive() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return task != nullptr || leaves; });
      if (task == nullptr) break;
      const std::function<void()>& work = *task;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        work();
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      failure = thrown;
      task = nullptr;
      changed.notify_all();
    }
    lock.unlock();
    team.reset();
  }

  /// Runs `work` on the driver and waits for it. Throws what it throws.
  void call(const std::function<void()>& work) {
    std::unique_lock lock(mutex);
    task = &work;
    changed.notify_all();
    changed.wait(lock, [this] { return task == nullptr; });
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      leaves = true;
    }
    changed.notify_all();
    driver.join();
  }

  /// Sum of the threads' rates of work(thread_index, tally), which returns the amount it did.
  template <typename Work>
  double sample(double seconds, Work&& work) {
    num_arrived.store(0);
    team->run([&](int index) {
      num_arrived.fetch_add(1);
      while (num_arrived.load(std::memory_order_acquire) < num_threads) {
        if (is_crowded) std::this_thread::yield();
      }
      Tally tally;
      const Clock::time_point begin = Clock::now();
      do {
        tally.amount += work(index, tally);
        tally.seconds = seconds_since(begin);
      } while (tally.seconds < seconds);
      tallies[static_cast<size_t>(index)] = tally;
    });
    double rate = 0;
    for (const Tally& tally : tallies) rate += tally.amount / tally.seconds;
    return rate * 1e-9;
  }

  std::byte* prepare(ReadFrom from) {
    const auto level = static_cast<size_t>(from);
    const int64_t part = thread_bytes[level];
    PHALANX_CHECK_GT(part, 0, "the size of the cache to read from is unknown");
    if (memory[level] == nullptr) {
      memory[level] = kernels::cpu::allocate_zeroed(part * num_threads);
      team->run([&](int index) {
        std::memset(memory[level].get() + index * part, 1, static_cast<size_t>(part));
      });
    }
    return memory[level].get();
  }

  double sample_read(ReadFrom from, int64_t prefetch, double seconds) {
    std::byte* data = prepare(from);
    const int64_t part = thread_bytes[static_cast<size_t>(from)];
    const int64_t chunk = std::min(part, kChunkBytes);
    const bool is_small = from != ReadFrom::kDram;
    return sample(seconds, [&](int index, Tally& tally) {
      std::byte* own = data + index * part;
      if (is_small) {  // the whole of it, again and again
        const int64_t repeats = std::max<int64_t>(1, kChunkBytes / part);
        tally.read |= loops.read(own, part, repeats, prefetch);
        return static_cast<double>(part * repeats);
      }
      int64_t& cursor = cursors[static_cast<size_t>(index)];
      const int64_t bytes = std::min(chunk, part - cursor);
      tally.read |= loops.read(own + cursor, bytes, 1, prefetch);
      cursor = cursor + bytes == part ? 0 : cursor + bytes;
      return static_cast<double>(bytes);
    });
  }

  /// Which prefetch distance reads DRAM fastest here: the best of the medians, tried in turn.
  int64_t choose_prefetch() {
    constexpr std::array<int64_t, 4> kDistances = {0, 512, 2048, 4096};
    std::array<std::array<double, 3>, kDistances.size()> rates{};
    for (size_t round = 0; round < 3; ++round) {
      for (size_t i = 0; i < kDistances.size(); ++i)
        rates[i][round] = sample_read(ReadFrom::kDram, kDistances[i], options.sample_seconds / 2);
    }
    size_t best = 0;
    for (auto& tried : rates) std::sort(tried.begin(), tried.end());
    for (size_t i = 1; i < kDistances.size(); ++i) {
      if (rates[i][1] > rates[best][1]) best = i;
    }
    return kDistances[best];
  }
};

MachineLimits::MachineLimits(int num_threads, MachineLimitsOptions options) {
  PHALANX_CHECK_GE(num_threads, 1, "threads of the limits");
  PHALANX_CHECK(options.sample_seconds > 0, "a sample of the limits takes time");
  state_ = std::make_unique<State>(num_threads, options);
}

MachineLimits::~MachineLimits() = default;

int MachineLimits::num_threads() const { return state_->num_threads; }

double MachineLimits::read_gbs(ReadFrom from) {
  double gbs = 0;
  state_->call([&] {
    State& state = *state_;
    const bool is_dram = from == ReadFrom::kDram;
    if (is_dram && state.prefetch_bytes < 0) state.prefetch_bytes = state.choose_prefetch();
    gbs = state.sample_read(from, is_dram ? state.prefetch_bytes : 0, state.options.sample_seconds);
  });
  return gbs;
}

std::vector<ReadFrom> MachineLimits::levels() const {
  std::vector<ReadFrom> known;
  for (const ReadFrom from : {ReadFrom::kL1, ReadFrom::kL2, ReadFrom::kL3, ReadFrom::kDram}) {
    if (working_set_bytes(from) > 0) known.push_back(from);
  }
  return known;
}

int64_t MachineLimits::working_set_bytes(ReadFrom from) const {
  return state_->thread_bytes[static_cast<size_t>(from)] * state_->num_threads;
}

namespace {

const PeakLoop& loop_of(const LimitLoops& loops, PeakKind kind) {
  switch (kind) {
    case PeakKind::kInt8:
      return loops.int8;
    case PeakKind::kBf16:
      return loops.bf16;
    case PeakKind::kF32:
      return loops.f32;
  }
  return loops.f32;
}

}  // namespace

double MachineLimits::peak_gops(PeakKind kind) {
  const PeakLoop& loop = loop_of(state_->loops, kind);
  double gops = 0;
  state_->call([&] {
    gops = state_->sample(state_->options.sample_seconds, [&](int, Tally&) {
      loop.run(kPeakRounds);
      return loop.ops_per_round * kPeakRounds;
    });
  });
  return gops;
}

const char* MachineLimits::peak_instruction(PeakKind kind) const {
  return loop_of(state_->loops, kind).instruction;
}

}  // namespace phalanx::bench
