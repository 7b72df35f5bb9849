// The turns of a block's threads. Used by device.cpp; reached from kernels through
// kernel_thread.cpp.
#include "kernels/cuda/emulator/block_runner.h"

#include <bit>
#include <chrono>
#include <cstring>
#include <sstream>
#include <thread>
#include <utility>

namespace phalanx::kernels::cuda::emulator {

namespace {

using State = KernelThread::State;

/// Thrown in a thread that waits when its block is given up; unwinds it.
struct Abandoned {};

std::ostream& operator<<(std::ostream& out, const uint3& index) {
  return out << '(' << index.x << ',' << index.y << ',' << index.z << ')';
}

std::ostream& operator<<(std::ostream& out, const Place& place) {
  if (place.file != nullptr) out << " at " << place.file << ':' << place.line;
  return out;
}

std::string hex(uint32_t value) {
  std::ostringstream text;
  text << "0x" << std::hex << value;
  return text.str();
}

bool same_place(const Place& a, const Place& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

const char* barrier_name(BarrierKind kind) {
  switch (kind) {
    case BarrierKind::kPlain:
      return "__syncthreads";
    case BarrierKind::kOr:
      return "__syncthreads_or";
    case BarrierKind::kAnd:
      return "__syncthreads_and";
    case BarrierKind::kCount:
      return "__syncthreads_count";
  }
  return "";
}

/// splitmix64 (Steele, Lea, Flood 2014): each seed a stream of its own.
class Shuffler {
 public:
  explicit Shuffler(uint64_t seed) : state_(seed) {}
  uint32_t below(uint32_t bound) {
    state_ += 0x9e3779b97f4a7c15U;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
    return static_cast<uint32_t>((mixed ^ (mixed >> 31)) % bound);
  }

 private:
  uint64_t state_;
};

// Threads that only look again leave the processor to the blocks they wait for: at first by
// yielding, then by sleeping.
constexpr int kIdleSweepsBeforeYield = 16;
constexpr int kIdleSweepsBeforeSleep = 256;
constexpr std::chrono::microseconds kIdleSleep{50};

}  // namespace

KernelThread::KernelThread(BlockRunner* runner, uint32_t linear)
    : ThreadIdentity{{}, {}, {}, {}, linear},
      block(runner),
      fiber(&BlockRunner::thread_work, this, linear) {}

int64_t BlockRunner::TurnSet::next(int64_t from) const {
  auto word = static_cast<size_t>(from) / 64;
  if (word >= words_.size()) return -1;
  uint64_t bits = words_[word] & (~uint64_t{0} << from % 64);
  while (bits == 0) {
    if (++word == words_.size()) return -1;
    bits = words_[word];
  }
  return static_cast<int64_t>(word * 64) + std::countr_zero(bits);
}

void BlockRunner::thread_work(void* argument) {
  auto& thread = *static_cast<KernelThread*>(argument);
  const Grid& grid = thread.block->run_->grid();
  try {
    grid.body(grid.arguments);
  } catch (const Abandoned&) {  // NOLINT(bugprone-empty-catch): unwound, which was the point
  } catch (...) {
    thread.error = std::current_exception();
  }
  thread.state = State::kReturned;
}

void BlockRunner::run_block(GridRun& run, uint3 block_index) {
  run_ = &run;
  try {
    prepare(block_index);
    take_turns();
    if (!shared_.guards_intact()) {
      fail(FaultKind::kSharedOverrun, "a thread wrote beside the " +
                                          std::to_string(shared_.bytes()) +
                                          " bytes of shared memory that the launch asked for");
    }
  } catch (...) {
    run.stop(std::current_exception());
  }
  unwind();
}

void BlockRunner::prepare(uint3 block_index) {
  const Grid& grid = run_->grid();
  const dim3& shape = grid.block;
  block_index_ = block_index;
  num_threads_ = shape.x * shape.y * shape.z;
  num_live_ = 0;  // until everything below has succeeded
  while (threads_.size() < num_threads_)
    threads_.push_back(
        std::make_unique<KernelThread>(this, static_cast<uint32_t>(threads_.size())));
  shared_.begin_block(grid.shared_bytes);

  warps_.resize((num_threads_ + 31) / 32);
  for (size_t w = 0; w < warps_.size(); ++w) {
    const auto lanes = std::min<size_t>(32, num_threads_ - w * 32);
    warps_[w].born = warps_[w].live = lanes == 32 ? ~0U : (1U << lanes) - 1;
    warps_[w].calls.clear();
  }
  choose_order(block_index.x +
               uint64_t{grid.grid.x} * (block_index.y + uint64_t{grid.grid.y} * block_index.z));
  ready_.reset(num_threads_);
  for (uint32_t turn = 0; turn < num_threads_; ++turn) {
    KernelThread& thread = *threads_[order_[turn]];
    const uint32_t linear = thread.linear_index;
    thread.thread_index = {linear % shape.x, linear / shape.x % shape.y,
                           linear / shape.x / shape.y};
    thread.block_index = block_index;
    thread.block_dim = shape;
    thread.grid_dim = grid.grid;
    thread.state = State::kUnstarted;
    thread.turn = turn;
    thread.error = nullptr;
    thread.copies.clear();
    thread.num_groups = 0;
    ready_.insert(turn);
  }
  barrier_arrived_ = barrier_true_ = 0;
  num_live_ = num_threads_;
}

void BlockRunner::choose_order(uint64_t block_number) {
  order_.resize(num_threads_);
  const DeviceOptions& options = run_->options();
  const bool descending = options.order == ThreadOrder::kDescending;
  for (uint32_t i = 0; i < num_threads_; ++i) order_[i] = descending ? num_threads_ - 1 - i : i;
  if (options.order != ThreadOrder::kShuffled) return;
  Shuffler shuffler(options.seed * 0x2545f4914f6cdd1dU + block_number);
  for (uint32_t i = num_threads_; i > 1; --i) std::swap(order_[i - 1], order_[shuffler.below(i)]);
}

void BlockRunner::take_turns() {
  for (int idle_sweeps = 0; num_live_ > 0;) {
    if (run_->stopped()) return;
    if (ready_.next(0) < 0) fail(FaultKind::kDeadlock, "no thread can move: " + describe_waits());
    if (sweep()) {
      idle_sweeps = 0;
    } else {
      wait_for_others(++idle_sweeps);
    }
  }
}

bool BlockRunner::sweep() {
  bool moved = false;
  for (int64_t turn = ready_.next(0); turn >= 0; turn = ready_.next(turn + 1)) {
    KernelThread& thread = *threads_[order_[static_cast<size_t>(turn)]];
    ready_.erase(thread.turn);
    resume(thread);
    if (thread.error) std::rethrow_exception(std::exchange(thread.error, nullptr));
    switch (thread.state) {
      case State::kSpinning:
        ready_.insert(thread.turn);
        break;
      case State::kReturned:
        finish(thread);
        moved = true;
        break;
      case State::kUnstarted:
      case State::kRunning:
      case State::kAtBarrier:
      case State::kInWarpCall:
        moved = true;
        break;
    }
  }
  return moved;
}

void BlockRunner::resume(KernelThread& thread) {
  current_identity = &thread;
  thread.state = State::kRunning;
  thread.fiber.resume();
  current_identity = nullptr;
}

void BlockRunner::suspend(KernelThread& thread) {
  thread.fiber.suspend();
  if (unwinding_) throw Abandoned{};
}

void BlockRunner::finish(KernelThread& thread) {
  --num_live_;
  Warp& warp = warps_[thread.linear_index / 32];
  warp.live &= ~(1U << thread.linear_index % 32);
  const uint32_t first_thread = thread.linear_index / 32 * 32;
  for (size_t i = 0; i < warp.calls.size();) {
    const WarpCall& call = warp.calls[i];
    const bool named = ((call.mask >> thread.linear_index % 32) & 1U) != 0;
    if (named && (call.function->needs_live_lanes || call.function->needs_whole_warp)) {
      std::ostringstream text;
      text << "thread " << thread.thread_index << " (lane " << thread.linear_index % 32
           << ") returned, but is in the mask " << hex(call.mask) << " of " << call.function->name
           << ", in which others wait: " << describe_waits();
      fail(FaultKind::kExitedLaneInMask, text.str());
    }
    if (call.arrived == (call.mask & warp.live)) {
      complete(warp, i, first_thread);
    } else {
      ++i;
    }
  }
  if (barrier_arrived_ > 0 && barrier_arrived_ == num_live_) release_barrier();
}

int BlockRunner::barrier(KernelThread& thread, BarrierKind kind, bool predicate,
                         const Place& place) {
  if (barrier_arrived_ == 0) {
    barrier_kind_ = kind;
    barrier_place_ = place;
  } else if (kind != barrier_kind_ || !same_place(place, barrier_place_)) {
    std::ostringstream text;
    text << describe(thread, place) << barrier_name(kind) << ", while " << barrier_arrived_
         << " threads of the block wait in another one, " << barrier_name(barrier_kind_)
         << barrier_place_;
    throw KernelFault(FaultKind::kDivergentBarrier, text.str());
  }
  ++barrier_arrived_;
  if (predicate) ++barrier_true_;
  thread.state = State::kAtBarrier;
  thread.place = place;
  if (barrier_arrived_ == num_live_) {
    release_barrier();
    ready_.erase(thread.turn);  // goes on at once
    thread.state = State::kRunning;
  } else {
    suspend(thread);
  }
  return thread.barrier_result;
}

void BlockRunner::release_barrier() {
  int result = 0;
  switch (barrier_kind_) {
    case BarrierKind::kPlain:
      break;
    case BarrierKind::kOr:
      result = barrier_true_ > 0 ? 1 : 0;
      break;
    case BarrierKind::kAnd:
      result = barrier_true_ == barrier_arrived_ ? 1 : 0;
      break;
    case BarrierKind::kCount:
      result = static_cast<int>(barrier_true_);
      break;
  }
  for (uint32_t i = 0; i < num_threads_; ++i) {
    KernelThread& thread = *threads_[i];
    if (thread.state != State::kAtBarrier) continue;
    thread.state = State::kRunning;
    thread.barrier_result = result;
    ready_.insert(thread.turn);
  }
  barrier_arrived_ = barrier_true_ = 0;
}

void BlockRunner::warp_call(KernelThread& thread, uint32_t mask, const WarpFunction& function,
                            void* operand, const Place& place) {
  const uint32_t lane = thread.linear_index % 32;
  Warp& warp = warps_[thread.linear_index / 32];
  const auto fault_here = [&](FaultKind kind, const std::string& what) {
    throw KernelFault(kind, describe(thread, place) + function.name + ": " + what);
  };
  if (((mask >> lane) & 1U) == 0) {
    fault_here(FaultKind::kLaneOutsideMask, "lane " + std::to_string(lane) +
                                                " calls it with the mask " + hex(mask) +
                                                ", which does not name it");
  }
  const uint32_t exited = mask & warp.born & ~warp.live;
  if (exited != 0 && (function.needs_live_lanes || function.needs_whole_warp)) {
    fault_here(FaultKind::kExitedLaneInMask,
               "the mask " + hex(mask) + " names lanes " + hex(exited) + ", which have returned");
  }
  if (function.needs_whole_warp && warp.born != ~0U) {
    fault_here(FaultKind::kExitedLaneInMask,
               "takes a whole warp, but this one has only lanes " + hex(warp.born));
  }

  size_t index = 0;
  while (index < warp.calls.size() && warp.calls[index].mask != mask) ++index;
  if (index == warp.calls.size()) warp.calls.push_back({&function, mask, 0, {}});
  WarpCall& call = warp.calls[index];
  if (call.function != &function) {
    fault_here(FaultKind::kMixedWarpFunctions, "lanes " + hex(call.arrived) + " of the mask " +
                                                   hex(mask) + " wait in " + call.function->name +
                                                   " (of another type, if the name is the same)");
  }
  call.arrived |= 1U << lane;
  call.operands[lane] = operand;
  thread.state = State::kInWarpCall;
  thread.waits_in = function.name;
  thread.place = place;
  thread.mask = mask;
  if (call.arrived == (mask & warp.live)) {
    complete(warp, index, thread.linear_index - lane);
    ready_.erase(thread.turn);  // goes on at once
  } else {
    suspend(thread);
  }
}

void BlockRunner::complete(Warp& warp, size_t call, uint32_t first_thread) {
  const WarpCall done = warp.calls[call];
  warp.calls[call] = warp.calls.back();
  warp.calls.pop_back();
  done.function->complete(done.operands, done.arrived);
  for (uint32_t lanes = done.arrived; lanes != 0; lanes &= lanes - 1) {
    KernelThread& thread = *threads_[first_thread + std::countr_zero(lanes)];
    thread.state = State::kRunning;
    ready_.insert(thread.turn);
  }
}

void BlockRunner::spin(KernelThread& thread, const char* waits_in, const Place& place) {
  thread.state = State::kSpinning;
  thread.waits_in = waits_in;
  thread.place = place;
  suspend(thread);
}

void BlockRunner::wait_for_others(int idle_sweeps) {
  if (idle_sweeps < kIdleSweepsBeforeYield) return;
  if (run_->past_deadline()) {
    std::ostringstream text;
    text << "not ended after " << run_->options().deadline.count() << " ms, its threads only spin ("
         << (run_->grid().coresident ? "co-resident"
                                     : "not launched co-resident: blocks must not wait for blocks")
         << "): " << describe_waits();
    fail(FaultKind::kDeadline, text.str());
  }
  if (idle_sweeps < kIdleSweepsBeforeSleep) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(kIdleSleep);
  }
}

void BlockRunner::unwind() {
  unwinding_ = true;
  for (uint32_t i = 0; num_live_ > 0 && i < num_threads_; ++i) {
    KernelThread& thread = *threads_[i];
    if (thread.state == State::kUnstarted) continue;
    while (thread.state != State::kReturned) resume(thread);
    thread.error = nullptr;
  }
  unwinding_ = false;
  num_live_ = 0;
}

std::string BlockRunner::block_name() const {
  std::ostringstream text;
  text << "kernel " << kernel_name(run_->grid().kernel) << ", block " << block_index_;
  return text.str();
}

std::string BlockRunner::describe(const KernelThread& thread, const Place& place) const {
  std::ostringstream text;
  text << block_name() << ", thread " << thread.thread_index << place << ": ";
  return text.str();
}

void BlockRunner::fail(FaultKind kind, const std::string& what) const {
  throw KernelFault(kind, block_name() + ": " + what);
}

std::string BlockRunner::describe_waits() const {
  // Threads that wait for the same are told of together, by their first and their number.
  struct Group {
    std::string what;
    const KernelThread* first;
    uint32_t count;
  };
  std::vector<Group> groups;
  uint32_t num_returned = 0;
  for (uint32_t i = 0; i < num_threads_; ++i) {
    const KernelThread& thread = *threads_[i];
    std::ostringstream what;
    switch (thread.state) {
      case State::kReturned:
        ++num_returned;
        continue;
      case State::kUnstarted:
      case State::kRunning:
        what << "ready to run";
        break;
      case State::kSpinning:
        what << "spinning in " << thread.waits_in << thread.place;
        break;
      case State::kAtBarrier:
        what << "waiting in " << barrier_name(barrier_kind_) << thread.place;
        break;
      case State::kInWarpCall: {
        const Warp& warp = warps_[i / 32];
        uint32_t arrived = 0;
        for (const WarpCall& call : warp.calls)
          if (call.mask == thread.mask) arrived = call.arrived;
        what << "waiting in " << thread.waits_in << thread.place << " of warp " << i / 32
             << " with the mask " << hex(thread.mask) << " for lanes "
             << hex(thread.mask & warp.live & ~arrived);
        break;
      }
    }
    bool told = false;
    for (Group& group : groups) {
      if (group.what != what.str()) continue;
      ++group.count;
      told = true;
    }
    if (!told) groups.push_back({what.str(), &thread, 1});
  }
  std::ostringstream text;
  for (const Group& group : groups) {
    text << (&group == groups.data() ? "" : "; ") << group.count
         << (group.count == 1 ? " thread" : " threads, the first of them") << ' '
         << group.first->thread_index << ": " << group.what;
  }
  if (num_returned > 0) text << "; " << num_returned << " returned";
  return text.str();
}

}  // namespace phalanx::kernels::cuda::emulator
