// The threads of one rank: runs a body on all of them and joins; used by every CPU operator.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/base/trace_recorder.h"
#include "runtime/base/work_counter.h"

namespace phalanx::kernels::cpu {

/// A fixed set of threads. run() is a fork and join that costs about a microsecond while threads
/// spin; after ~50 us without work they sleep on a futex, so an idle rank uses no CPU. Not thread
/// safe: one thread (the executor) calls run(), and is thread 0 of the body.
class ThreadTeam {
 public:
  /// spin: false makes waiting threads sleep at once (ranks x threads exceed the cores).
  /// cpus: thread i is bound to cpus[i], before it runs any body; empty binds none. One that the
  /// kernel refuses is warned of once, and its thread runs unbound. The caller is thread 0: what it
  /// starts meanwhile inherits its binding.
  /// work: where the threads count their pieces, not owned; null: nowhere.
  /// trace: where the threads record their bodies and joins, not owned; null: nowhere.
  ThreadTeam(int num_threads, bool spin, const std::vector<int>& cpus = {},
             WorkCounter* work = nullptr, TraceRecorder* trace = nullptr);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const;

  /// What the bodies to come are called in the trace; storage that outlives it.
  void set_label(const char* label) { label_ = label; }

  /// The calling thread's tally, for count_piece(). A body whose time grows with the shapes counts
  /// its pieces, so that a long operator is not taken for a hang.
  uint64_t* tally() const;

  /// Calls body(thread_index) once on each thread, 0 <= thread_index < size(), and returns when all
  /// have returned. The body must not throw and must not call run().
  template <typename Body>
  void run(Body&& body) {
    if (size() == 1) {
      const TraceScope scope(trace_, kFirstKernelTrack, label_);
      body(0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run_erased([](void* context, int index) { (*static_cast<Plain*>(context))(index); },
               const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// Splits [0, num_items) in contiguous parts, one a thread, multiples of `granule` but for the
  /// last, and calls body(begin, end) for each non-empty one. Runs inline when one part suffices.
  template <typename Body>
  void split(int64_t num_items, int64_t granule, Body&& body) {
    const int64_t granules = (num_items + granule - 1) / granule;
    if (size() == 1 || granules <= 1) {
      const TraceScope scope(trace_, kFirstKernelTrack, label_);
      if (num_items > 0) body(int64_t{0}, num_items);
      return;
    }
    run([&](int index) {
      const int64_t begin = granules * index / size() * granule;
      const int64_t end = granules * (index + 1) / size() * granule;
      if (begin < end) body(begin, end < num_items ? end : num_items);
    });
  }

  /// The same cut, but each thread walks its part in pieces of `piece` items, front to back, and
  /// one that is done takes pieces from the back of whoever has most left: a thread that another
  /// process or a slower core holds up does not hold up the rest. body(begin, end, is_first,
  /// goes_on) for each piece; is_first: the thread did not take the items before it; goes_on: it
  /// most likely takes those after it next.
  template <typename Body>
  void share(int64_t num_items, int64_t piece, Body&& body) {
    if (size() == 1 || num_items <= piece) {
      const TraceScope scope(trace_, kFirstKernelTrack, label_);
      for (int64_t i = 0; i < num_items; i += piece) {
        body(i, i + piece < num_items ? i + piece : num_items, i == 0, i + piece < num_items);
      }
      return;
    }
    deal(num_items);
    run([&](int index) {
      int64_t follows = -1;
      for (Piece taken; take(index, piece, &taken); follows = taken.end) {
        body(taken.begin, taken.end, taken.begin != follows, taken.goes_on);
      }
    });
  }

 private:
  struct Piece {
    int64_t begin;
    int64_t end;
    bool goes_on;
  };
  /// A thread's part that nobody has taken yet: begin in the high half, end in the low half.
  struct alignas(64) Part {
    std::atomic<uint64_t> left{0};
  };

  void deal(int64_t num_items);
  bool take(int index, int64_t piece, Piece* taken);
  bool take_of(Part& part, int64_t piece, bool from_back, Piece* taken);

  using Entry = void (*)(void* context, int index);
  void run_erased(Entry entry, void* context);
  struct State;
  std::unique_ptr<State> state_;
  std::unique_ptr<Part[]> parts_;  // [size]
  TraceRecorder* trace_;
  const char* label_ = "work";
};

}  // namespace phalanx::kernels::cpu
