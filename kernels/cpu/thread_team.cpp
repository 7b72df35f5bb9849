// ThreadTeam: workers parked on one generation counter, spun on for a while and then slept on.
// Called by every CPU operator.
#include "kernels/cpu/thread_team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/log.h"

namespace phalanx::kernels::cpu {
namespace {

/// How long a worker without work spins before it sleeps. Longer than the serial code between two
/// operators of a step, shorter than what would show as load.
constexpr std::chrono::microseconds kIdleSpin{50};

/// How long the caller spins at a join. Longer than kIdleSpin: the workers it waits for are
/// running, and being woken costs tens of microseconds.
constexpr std::chrono::microseconds kJoinSpin{500};

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

uint32_t* futex_word(std::atomic<uint32_t>& word) { return reinterpret_cast<uint32_t*>(&word); }

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, futex_word(word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, futex_word(word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until done() or `limit` has passed; the clock is read once every 32 tries.
template <typename Done>
bool spin_until(std::chrono::microseconds limit, Done&& done) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      cpu_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

/// Blocks all signals while it lives, so that threads made meanwhile never take one: the process's
/// signals belong to its main thread.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t saved_;
};

/// A processor may have left the cpuset since it was listed: then the thread runs unbound.
void bind_this_thread(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  if (sched_setaffinity(0, sizeof(one), &one) == 0) return;
  static std::atomic<bool> is_said{false};
  if (is_said.exchange(true)) return;
  PHALANX_WARNING("kernel threads run unbound: sched_setaffinity to cpu " << cpu << ": "
                                                                          << std::strerror(errno));
}

/// This thread's place in its team; whoever calls run() is thread 0.
thread_local int thread_index = 0;

}  // namespace

struct ThreadTeam::State {
  // Written by the caller of run(), read by the workers.
  alignas(64) std::atomic<uint32_t> generation{0};  // one more for every run(); futex word
  Entry entry = nullptr;                            // null in the last generation: leave
  void* context = nullptr;
  const char* label = "";  // of the body in the trace

  // Workers asleep on `generation`. On its own line: the caller reads it at every fork.
  alignas(64) std::atomic<uint32_t> num_asleep{0};

  // Written by the workers, read by the caller.
  alignas(64) std::atomic<uint32_t> num_running{0};  // workers still in the body; futex word
  std::atomic<uint32_t> caller_asleep{0};

  alignas(64) int size = 1;
  bool spin = true;
  std::vector<std::thread> workers;
  WorkCounter unwatched;
  WorkCounter* work = &unwatched;
  TraceRecorder* trace = nullptr;

  bool caller_bound = false;  // the affinity mask below is to be given back
  pthread_t caller{};
  cpu_set_t caller_mask{};

  void serve(int index) {
    thread_index = index;
    uint32_t seen = 0;
    for (;;) {
      wait_for_generation_after(seen);
      ++seen;
      if (entry == nullptr) return;
      {
        const TraceScope scope(trace, kFirstKernelTrack + static_cast<size_t>(index), label);
        entry(context, index);
      }
      finish_body();
    }
  }

  void wait_for_generation_after(uint32_t seen) {
    const auto arrived = [&] { return generation.load(std::memory_order_acquire) != seen; };
    if (arrived()) return;
    if (spin && spin_until(kIdleSpin, arrived)) return;
    // Sequentially consistent on both sides: either start() sees this thread counted as asleep, or
    // the futex sees the new generation.
    num_asleep.fetch_add(1, std::memory_order_seq_cst);
    while (generation.load(std::memory_order_seq_cst) == seen) futex_wait(generation, seen);
    num_asleep.fetch_sub(1, std::memory_order_relaxed);
  }

  void finish_body() {
    if (num_running.fetch_sub(1, std::memory_order_seq_cst) != 1) return;
    if (caller_asleep.load(std::memory_order_seq_cst) != 0) futex_wake_all(num_running);
  }

  void start(Entry new_entry, void* new_context) {
    entry = new_entry;
    context = new_context;
    num_running.store(static_cast<uint32_t>(size - 1), std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_seq_cst);
    if (num_asleep.load(std::memory_order_seq_cst) != 0) futex_wake_all(generation);
  }

  void join() {
    const auto finished = [&] { return num_running.load(std::memory_order_acquire) == 0; };
    if (finished()) return;
    if (spin && spin_until(kJoinSpin, finished)) return;
    caller_asleep.store(1, std::memory_order_seq_cst);
    for (uint32_t left = num_running.load(std::memory_order_seq_cst); left != 0;
         left = num_running.load(std::memory_order_seq_cst)) {
      futex_wait(num_running, left);
    }
    caller_asleep.store(0, std::memory_order_relaxed);
  }

  void stop() {
    start(nullptr, nullptr);
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadTeam::ThreadTeam(int num_threads, bool spin, const std::vector<int>& cpus, WorkCounter* work,
                       TraceRecorder* trace)
    : state_(std::make_unique<State>()), trace_(trace) {
  PHALANX_CHECK_GE(num_threads, 1, "a thread team needs at least the calling thread");
  parts_ = std::make_unique<Part[]>(static_cast<size_t>(num_threads));
  State& state = *state_;
  state.size = num_threads;
  state.spin = spin;
  state.trace = trace;
  if (work != nullptr) state.work = work;

  if (!cpus.empty()) {
    PHALANX_CHECK_EQ(cpus.size(), static_cast<size_t>(num_threads), "a cpu for each thread");
    for (const int cpu : cpus) {
      PHALANX_CHECK_GE(cpu, 0, "a cpu to bind a thread to");
      PHALANX_CHECK_LT(cpu, CPU_SETSIZE, "a cpu to bind a thread to");
    }
    if (sched_getaffinity(0, sizeof(state.caller_mask), &state.caller_mask) != 0) {
      throw DeviceError(std::string("sched_getaffinity: ") + std::strerror(errno));
    }
  }

  {
    const SignalsBlocked blocked;
    try {
      for (int index = 1; index < num_threads; ++index) {
        const int cpu = cpus.empty() ? -1 : cpus[static_cast<size_t>(index)];
        state.workers.emplace_back([&state, index, cpu] {
          pthread_setname_np(pthread_self(), ("kernels-" + std::to_string(index)).c_str());
          if (cpu >= 0) bind_this_thread(cpu);
          state.serve(index);
        });
      }
    } catch (const std::system_error& error) {
      state.stop();
      throw DeviceError("starting kernel thread " + std::to_string(state.workers.size() + 1) +
                        " of " + std::to_string(num_threads) + ": " + error.what());
    }
  }

  if (!cpus.empty()) {
    bind_this_thread(cpus[0]);
    state.caller = pthread_self();
    state.caller_bound = true;
  }
}

ThreadTeam::~ThreadTeam() {
  state_->stop();
  if (state_->caller_bound && pthread_equal(state_->caller, pthread_self()) != 0) {
    sched_setaffinity(0, sizeof(state_->caller_mask), &state_->caller_mask);
  }
}

int ThreadTeam::size() const { return state_->size; }

uint64_t* ThreadTeam::tally() const { return state_->work->tally(thread_index); }

void ThreadTeam::deal(int64_t num_items) {
  PHALANX_CHECK_LE(num_items, int64_t{UINT32_MAX}, "items that threads share");
  for (int i = 0; i < size(); ++i) {
    const auto begin = static_cast<uint64_t>(num_items * i / size());
    const auto end = static_cast<uint64_t>(num_items * (i + 1) / size());
    parts_[static_cast<size_t>(i)].left.store(begin << 32 | end, std::memory_order_relaxed);
  }
}

bool ThreadTeam::take_of(Part& part, int64_t piece, bool from_back, Piece* taken) {
  uint64_t left = part.left.load(std::memory_order_relaxed);
  for (;;) {
    const auto begin = static_cast<int64_t>(left >> 32);
    const auto end = static_cast<int64_t>(left & UINT32_MAX);
    if (begin >= end) return false;
    const int64_t count = std::min(piece, end - begin);
    *taken = from_back ? Piece{end - count, end, false}
                       : Piece{begin, begin + count, begin + count < end};
    const uint64_t rest = from_back ? left - static_cast<uint64_t>(count)
                                    : left + (static_cast<uint64_t>(count) << 32);
    // Relaxed: pieces are disjoint, and the join publishes what was made of them.
    if (part.left.compare_exchange_weak(left, rest, std::memory_order_relaxed)) return true;
  }
}

bool ThreadTeam::take(int index, int64_t piece, Piece* taken) {
  if (take_of(parts_[static_cast<size_t>(index)], piece, false, taken)) return true;
  for (;;) {
    Part* richest = nullptr;
    int64_t most = 0;
    for (int i = 0; i < size(); ++i) {
      const uint64_t left = parts_[static_cast<size_t>(i)].left.load(std::memory_order_relaxed);
      const int64_t count =
          static_cast<int64_t>(left & UINT32_MAX) - static_cast<int64_t>(left >> 32);
      if (count <= most) continue;
      most = count;
      richest = &parts_[static_cast<size_t>(i)];
    }
    if (richest == nullptr) return false;
    if (take_of(*richest, piece, true, taken)) return true;
  }
}

void ThreadTeam::run_erased(Entry entry, void* context) {
  state_->label = label_;
  state_->start(entry, context);
  {
    const TraceScope scope(trace_, kFirstKernelTrack, label_);
    entry(context, 0);
  }
  const TraceScope scope(trace_, kFirstKernelTrack, "join");
  state_->join();
}

}  // namespace phalanx::kernels::cpu
