// A stream of the emulated device: a queue of launches and copies, run in order. Called by launch.h
// and by the emulated Device.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace phalanx::kernels::cuda {

/// What is added runs when synchronize() is called, not before: a caller that reads results without
/// waiting, or changes inputs too early, sees it here as on a GPU. One host thread.
class EmulatedStream {
 public:
  /// Returns whether it is done; else it is called again, and nothing behind it runs before.
  using Work = std::function<bool()>;
  /// Work that was recorded instead of queued.
  using Recording = std::vector<Work>;

  EmulatedStream() = default;
  EmulatedStream(const EmulatedStream&) = delete;
  EmulatedStream& operator=(const EmulatedStream&) = delete;

  /// work() returns nothing, or as Work does: what waits for other ranks.
  template <typename Callable>
  void add(Callable work) {
    if constexpr (std::is_void_v<std::invoke_result_t<Callable&>>) {
      append([work = std::move(work)]() mutable {
        work();
        return true;
      });
    } else {
      append(std::move(work));
    }
  }
  void begin_recording() { recording_.emplace(); }
  Recording end_recording() {
    Recording recording = std::move(*recording_);
    recording_.reset();
    return recording;
  }
  bool is_recording() const { return recording_.has_value(); }

  /// Work added and not run yet.
  size_t num_queued() const { return queue_.size(); }
  /// Work run, or dropped, so far.
  uint64_t num_done() const { return num_done_; }

  /// Runs what is queued, and while some of it waits for others calls `on_wait`, as a host polls
  /// whose stream does not pass. Throws what these throw, and then the rest is dropped.
  void synchronize(const std::function<void()>& on_wait = {}) { run(queue_.size(), on_wait); }
  /// The same of the first `count`.
  void run(size_t count, const std::function<void()>& on_wait = {}) {
    constexpr std::chrono::microseconds kWait{20};
    try {
      for (size_t i = 0; i < count; ++i) {
        while (!queue_.front()()) {
          if (on_wait) on_wait();
          std::this_thread::sleep_for(kWait);
        }
        queue_.pop_front();
        ++num_done_;
      }
    } catch (...) {
      num_done_ += queue_.size();
      queue_.clear();
      throw;
    }
  }

 private:
  void append(Work work) {
    if (recording_) {
      recording_->push_back(std::move(work));
    } else {
      queue_.push_back(std::move(work));
    }
  }

  std::deque<Work> queue_;
  uint64_t num_done_ = 0;
  std::optional<Recording> recording_;
};

}  // namespace phalanx::kernels::cuda
