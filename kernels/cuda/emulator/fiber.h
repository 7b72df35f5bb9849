// A call stack of its own that can be left and entered again (Boost.Context), made known to the
// address and thread sanitizers. Used by the emulated device: one fiber a CUDA thread.
#pragma once

#include <cstddef>

#include <boost/context/fiber.hpp>
#include <boost/context/stack_context.hpp>

namespace phalanx::kernels::cuda::emulator {

/// Runs `work(argument)` each time it is resumed after the last call of it returned: a fiber is
/// kept and used again, since its stack is dear. One OS thread at a time may resume it; between two
/// calls of `work` the next resume may come from another one. `work` must not throw. A guard page
/// ends the stack.
class Fiber {
 public:
  /// `slot` spreads the stacks' tops over cache sets: neighbours give different ones.
  Fiber(void (*work)(void*), void* argument, size_t slot);
  /// Only while `work` is not running.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Goes on with `work`, or begins it; returns when it suspends or returns.
  void resume();
  /// Called inside `work`: back to who resumed.
  void suspend();

 private:
  void run();
  void before_leaving_caller();
  void after_returning_to_caller();
  void before_leaving_fiber();
  void after_entering_fiber();

  void (*work_)(void*);
  void* argument_;
  boost::context::stack_context stack_;
  boost::context::fiber context_;
  boost::context::fiber caller_;
  bool ending_ = false;

  // What the sanitizers want to know; unused without them.
  void* caller_fake_stack_ = nullptr;
  void* own_fake_stack_ = nullptr;
  const void* caller_stack_bottom_ = nullptr;
  size_t caller_stack_bytes_ = 0;
  void* caller_context_ = nullptr;
  void* own_context_ = nullptr;
};

}  // namespace phalanx::kernels::cuda::emulator
