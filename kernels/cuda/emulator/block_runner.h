// Runs the threads of one block by turns, a fiber each, on the OS thread that calls it: barriers,
// warp functions, deadlocks. Used by run_grid; kernels reach it through kernel_thread.h.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/emulator/fiber.h"
#include "kernels/cuda/emulator/grid_run.h"
#include "kernels/cuda/emulator/kernel_thread.h"
#include "kernels/cuda/emulator/shared_memory.h"

namespace phalanx::kernels::cuda::emulator {

class BlockRunner;

/// One CUDA thread. Reused from block to block for its fiber.
struct KernelThread : ThreadIdentity {
  enum class State : uint8_t {
    kUnstarted,
    kRunning,
    kSpinning,
    kAtBarrier,
    kInWarpCall,
    kReturned
  };

  KernelThread(BlockRunner* runner, uint32_t linear);

  BlockRunner* block;
  Fiber fiber;
  State state = State::kUnstarted;
  uint32_t turn = 0;               ///< its place in the order of the block
  const char* waits_in = nullptr;  ///< the function of kSpinning and kInWarpCall
  Place place;                     ///< where it was called
  uint32_t mask = 0;               ///< of kInWarpCall
  int barrier_result = 0;
  std::exception_ptr error;

  struct AsyncCopy {
    void* target;
    const void* source;  ///< null: zeros
    uint64_t group;
  };
  std::vector<AsyncCopy> copies;  ///< outstanding, oldest first
  uint64_t num_groups = 0;        ///< committed
};

/// Not thread safe; may go from one OS thread to another between blocks.
class BlockRunner {
 public:
  /// Runs the block until all its threads have returned. On an error stops `run` and unwinds.
  void run_block(GridRun& run, uint3 block_index);

  // Called by the thread that runs now.
  int barrier(KernelThread& thread, BarrierKind kind, bool predicate, const Place& place);
  void warp_call(KernelThread& thread, uint32_t mask, const WarpFunction& function, void* operand,
                 const Place& place);
  void spin(KernelThread& thread, const char* waits_in, const Place& place);
  SharedMemory& shared() { return shared_; }
  /// "kernel k, block (0,0,0), thread (1,0,0) at file:line: "
  std::string describe(const KernelThread& thread, const Place& place) const;

 private:
  friend struct KernelThread;

  /// Lanes of one warp that wait for one another.
  struct WarpCall {
    const WarpFunction* function;
    uint32_t mask;
    uint32_t arrived;
    void* operands[32];
  };
  struct Warp {
    uint32_t born = 0;  ///< lanes that the block has
    uint32_t live = 0;  ///< of them, those that have not returned
    std::vector<WarpCall> calls;
  };
  /// Threads that may run, by turn.
  class TurnSet {
   public:
    void reset(size_t size) { words_.assign((size + 63) / 64, 0); }
    void insert(uint32_t turn) { words_[turn / 64] |= uint64_t{1} << turn % 64; }
    void erase(uint32_t turn) { words_[turn / 64] &= ~(uint64_t{1} << turn % 64); }
    /// The first turn >= `from`, or -1.
    int64_t next(int64_t from) const;

   private:
    std::vector<uint64_t> words_;
  };

  static void thread_work(void* thread);
  void prepare(uint3 block_index);
  void choose_order(uint64_t block_number);
  void take_turns();
  /// Whether somebody did more than look again.
  bool sweep();
  void resume(KernelThread& thread);
  void finish(KernelThread& thread);
  void suspend(KernelThread& thread);
  void release_barrier();
  void complete(Warp& warp, size_t call, uint32_t first_thread);
  void wait_for_others(int idle_sweeps);
  void unwind();
  std::string block_name() const;
  std::string describe_waits() const;
  [[noreturn]] void fail(FaultKind kind, const std::string& what) const;

  GridRun* run_ = nullptr;
  uint3 block_index_{};
  uint32_t num_threads_ = 0;
  uint32_t num_live_ = 0;
  std::vector<std::unique_ptr<KernelThread>> threads_;  ///< grows; the first num_threads_ are used
  std::vector<uint32_t> order_;                         ///< turn -> thread
  TurnSet ready_;
  std::vector<Warp> warps_;
  SharedMemory shared_;
  bool unwinding_ = false;

  uint32_t barrier_arrived_ = 0;
  uint32_t barrier_true_ = 0;
  BarrierKind barrier_kind_ = BarrierKind::kPlain;
  Place barrier_place_;
};

}  // namespace phalanx::kernels::cuda::emulator
