// Fibers over Boost.Context. Used by block_runner.cpp.
#include "kernels/cuda/emulator/fiber.h"

#include <memory>
#include <utility>

#include <boost/context/preallocated.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace phalanx::kernels::cuda::emulator {

namespace {

// Kernels keep little on the stack; an exception's way out and a sanitizer's red zones need more.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// Equal distances would put the tops of all stacks into the same few sets of the cache.
constexpr size_t kSetBytes = 128;
constexpr size_t kNumSets = 32;

using StackAllocator = boost::context::protected_fixedsize_stack;

}  // namespace

Fiber::Fiber(void (*work)(void*), void* argument, size_t slot)
    : work_(work), argument_(argument), stack_(StackAllocator(kStackBytes).allocate()) {
  const size_t shift = slot % kNumSets * kSetBytes;
  const boost::context::preallocated place(static_cast<char*>(stack_.sp) - shift,
                                           stack_.size - shift, stack_);
  // Boost.Context enters the new stack here, and comes back before it calls the function: frames
  // begin that outlive this call, and maybe this OS thread.
#if defined(__SANITIZE_ADDRESS__)
  before_leaving_caller();
#endif
#if defined(__SANITIZE_THREAD__)
  own_context_ = __tsan_create_fiber(0);
  caller_context_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(own_context_, 0);
#endif
  context_ = boost::context::fiber(std::allocator_arg, place, StackAllocator(kStackBytes),
                                   [this](boost::context::fiber&& caller) {
                                     caller_ = std::move(caller);
                                     after_entering_fiber();
                                     run();
                                     before_leaving_fiber();
                                     return std::move(caller_);
                                   });
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(caller_context_, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &caller_stack_bottom_, &caller_stack_bytes_);
  __sanitizer_start_switch_fiber(nullptr, caller_stack_bottom_, caller_stack_bytes_);
  after_returning_to_caller();
#endif
}

Fiber::~Fiber() {
  ending_ = true;
  resume();  // runs to its end, and Boost.Context frees the stack
#if defined(__SANITIZE_ADDRESS__)
  // The last frames never returned: what is mapped here next must not find their red zones.
  __asan_unpoison_memory_region(static_cast<char*>(stack_.sp) - stack_.size, stack_.size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(own_context_);
#endif
}

void Fiber::run() {
  while (!ending_) {
    work_(argument_);
    suspend();
  }
}

void Fiber::resume() {
  before_leaving_caller();
  context_ = std::move(context_).resume();
  after_returning_to_caller();
}

void Fiber::suspend() {
  before_leaving_fiber();
  caller_ = std::move(caller_).resume();
  after_entering_fiber();
}

void Fiber::before_leaving_caller() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&caller_fake_stack_, static_cast<char*>(stack_.sp) - stack_.size,
                                 stack_.size);
#endif
#if defined(__SANITIZE_THREAD__)
  caller_context_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(own_context_, 0);
#endif
}

void Fiber::after_returning_to_caller() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(caller_fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::before_leaving_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  // Not null when it leaves for good either, which would free the frames that still end: with
  // detect_stack_use_after_return=1 each fiber that ends costs its fake stack.
  __sanitizer_start_switch_fiber(&own_fake_stack_, caller_stack_bottom_, caller_stack_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(caller_context_, 0);
#endif
}

void Fiber::after_entering_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own_fake_stack_, &caller_stack_bottom_, &caller_stack_bytes_);
#endif
}

}  // namespace phalanx::kernels::cuda::emulator
