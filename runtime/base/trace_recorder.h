// A timeline of what this process's threads did, kept for people: the newest spans of each track,
// written in Chrome's trace format. Filled by the executor, the kernels' threads and the leader
// while llm-bench traces; absent (null) otherwise.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx {

/// Each track has one writer at a time; nothing is allocated or locked after construction. Tracks
/// are rings: when one is full, its oldest spans go.
class TraceRecorder {
 public:
  using Clock = std::chrono::steady_clock;

  struct Span {
    const char* name = "";  ///< storage that outlives the recorder
    int64_t detail = -1;    ///< a layer; -1: none
    int64_t begin_ns = 0;   ///< of Clock
    int64_t end_ns = 0;
  };

  /// A track for each name, of at most `capacity` spans.
  TraceRecorder(std::vector<std::string> tracks, size_t capacity);

  static int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
        .count();
  }

  /// The track's writer only. Tracks that do not exist are not recorded.
  void add(size_t track, const Span& span);

  /// For a writer whose spans follow one another without gaps: ends the one before now.
  void turn_to(size_t track, const char* name, int64_t detail);

  /// Oldest first. While nobody writes.
  std::vector<Span> spans(size_t track) const;
  const std::string& track_name(size_t track) const { return tracks_[track]->name; }
  size_t num_tracks() const { return tracks_.size(); }

  /// All tracks as a JSON object that chrome://tracing and ui.perfetto.dev open; `process` names
  /// and numbers them. Source: "Trace Event Format", complete events ("ph": "X"), microseconds.
  Status write_chrome_json(const std::string& path, int process) const;

 private:
  struct alignas(64) Track {
    std::string name;
    std::vector<Span> ring;
    uint64_t count = 0;  ///< ever added
    Span open;           ///< turn_to's
  };
  std::vector<std::unique_ptr<Track>> tracks_;
};

/// A span of a scope. Costs a test of a pointer when nobody records.
class TraceScope {
 public:
  TraceScope(TraceRecorder* recorder, size_t track, const char* name, int64_t detail = -1)
      : recorder_(recorder), track_(track), span_{name, detail, 0, 0} {
    if (recorder_ != nullptr) span_.begin_ns = TraceRecorder::now_ns();
  }
  ~TraceScope() {
    if (recorder_ == nullptr) return;
    span_.end_ns = TraceRecorder::now_ns();
    recorder_->add(track_, span_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  TraceRecorder* recorder_;
  size_t track_;
  TraceRecorder::Span span_;
};

/// Who writes which track.
inline constexpr size_t kExecutorTrack = 0;     ///< one span an operation
inline constexpr size_t kLeaderTrack = 1;       ///< one span a turn of its loop
inline constexpr size_t kFirstKernelTrack = 2;  ///< thread i of the team: kFirstKernelTrack + i

}  // namespace phalanx
