// Ranks as threads of a test, with an exchange among them. Used by the tests of peer memory.
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/peer_memory.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda::test {

/// An all-gather among threads; DeviceError when one does not come.
class ThreadExchange {
 public:
  explicit ThreadExchange(int size) : texts_(static_cast<size_t>(size)) {}

  PeerExchange of(int rank) {
    return [this, rank](const std::string& text) { return gather(rank, text); };
  }

 private:
  std::vector<std::string> gather(int rank, const std::string& text) {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    texts_[static_cast<size_t>(rank)] = text;
    if (++arrived_ == texts_.size()) {
      gathered_ = texts_;
      arrived_ = 0;
      ++round_;
      came_.notify_all();
    } else if (!came_.wait_for(lock, std::chrono::seconds(60), [&] { return round_ != round; })) {
      throw DeviceError("a thread did not come to the exchange");
    }
    return gathered_;  // nobody ends the next round before this thread has come to it
  }

  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<std::string> texts_;
  std::vector<std::string> gathered_;
  size_t arrived_ = 0;
  uint64_t round_ = 0;
};

/// Calls work(rank, exchange) in a thread for each rank; rethrows the first exception.
inline void run_rank_threads(int size, const std::function<void(int, const PeerExchange&)>& work) {
  ThreadExchange exchange(size);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          work(rank, exchange.of(rank));
        } catch (...) {
          errors[static_cast<size_t>(rank)] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace phalanx::kernels::cuda::test
