// The event loop of a load: slots hold a connection and the request on it; arrivals fill them.
#include "launcher/bench/serve_load.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include "launcher/bench/serve_workload.h"

namespace phalanx::bench {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{2000};
constexpr int64_t kLeastFailuresToGiveUp = 16;
constexpr size_t kMaxErrorBodyBytes = 16 * 1024;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// A connection and the request on it.
struct Slot {
  Slot(asio::io_context& io, const HttpTarget& target) : client(io, target), pause(io) {}

  HttpClient client;
  asio::steady_timer pause;
  milliseconds next_pause = kFirstPause;
  bool is_busy = false;
  RequestRecord record;
  std::optional<StreamedAnswer> answer;
  std::string error_body;
};

class Load {
 public:
  Load(const HttpTarget& target, const LoadPlan& plan, const PrepareRequest& prepare)
      : target_(target), plan_(plan), prepare_(prepare) {
    if (plan.rate > 0) arrivals_.emplace(plan.rate, plan.seed, plan.run);
  }

  LoadResult run() {
    const double cpu_before = cpu_seconds();
    begin_ = Clock::now();
    signals_.async_wait([this](boost::system::error_code code, int) {
      if (!code) interrupt();
    });
    if (plan_.shows_progress) show_progress_later();
    if (arrivals_) {
      next_due_s_ = arrivals_->next_s();
      await_arrival();
    } else {
      for (int64_t i = 0; i < plan_.streams; ++i) {
        slots_.push_back(std::make_unique<Slot>(io_, target_));
        send_next(*slots_.back());
      }
    }
    end_if_over();
    io_.run();
    if (plan_.shows_progress) std::fprintf(stderr, "\r\033[K");
    for (const auto& slot : slots_) result_.num_connections += slot->client.num_connections();
    result_.client_cpu_s = cpu_seconds() - cpu_before;
    if (result_.steady_s == 0) result_.steady_s = result_.elapsed_s;
    return std::move(result_);
  }

 private:
  double now_s() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  bool may_begin(double at_s) const {
    if (is_stopped_) return false;
    if (plan_.num_requests > 0 && num_begun_ >= plan_.num_requests) return false;
    return plan_.duration_s <= 0 || at_s < plan_.duration_s;
  }

  // Closed loop: a stream's next request.
  void send_next(Slot& slot) {
    const double now = now_s();
    if (may_begin(now)) return send(slot, plan_.first_index + num_begun_++, std::nullopt);
    if (result_.steady_s == 0) result_.steady_s = now;
  }

  // Open loop: the next arrival, and all that have come meanwhile.
  void await_arrival() {
    if (!may_begin(next_due_s_)) {
      is_arriving_ = false;
      return end_if_over();
    }
    arrival_.expires_at(begin_ + std::chrono::duration_cast<Clock::duration>(
                                     std::chrono::duration<double>(next_due_s_)));
    arrival_.async_wait([this](boost::system::error_code code) {
      if (code) return;
      for (const double now = now_s(); next_due_s_ <= now && may_begin(next_due_s_);
           next_due_s_ = arrivals_->next_s()) {
        result_.steady_s = next_due_s_;
        waiting_.emplace_back(plan_.first_index + num_begun_++, next_due_s_);
      }
      send_waiting();
      await_arrival();
    });
  }

  void send_waiting() {
    while (!waiting_.empty()) {
      Slot* slot = idle_slot();
      if (slot == nullptr) return;
      const auto [index, due_s] = waiting_.front();
      waiting_.pop_front();
      send(*slot, index, due_s);
    }
  }

  Slot* idle_slot() {
    if (num_running_ >= plan_.concurrency_limit) return nullptr;
    // The connection used last is the one that the server has least reason to close.
    if (!idle_.empty()) {
      Slot* slot = idle_.back();
      idle_.pop_back();
      return slot;
    }
    slots_.push_back(std::make_unique<Slot>(io_, target_));
    return slots_.back().get();
  }

  void send(Slot& slot, int64_t index, std::optional<double> due_s) {
    PreparedRequest request = prepare_(index);
    slot.record = {};
    slot.record.index = index;
    slot.record.asked_prompt = request.prompt_tokens;
    slot.record.asked_output = request.output_tokens;
    slot.record.started_s = now_s();
    slot.record.due_s = due_s.value_or(slot.record.started_s);
    slot.answer.emplace(slot.record, plan_.length_rule);
    slot.error_body.clear();
    slot.is_busy = true;
    result_.worst_delay_s =
        std::max(result_.worst_delay_s, slot.record.started_s - slot.record.due_s);
    ++num_running_;
    slot.client.start(
        std::move(request.bytes), plan_.timeout,
        [this, &slot](const HttpHead& head, std::string_view bytes) {
          return read_body(slot, head, bytes);
        },
        [this, &slot](HttpEnd end, const HttpHead& head, const std::string& reason) {
          end_request(slot, end, head, reason);
        });
  }

  BodyWish read_body(Slot& slot, const HttpHead& head, std::string_view bytes) {
    if (head.status != 200 || !head.content_type.starts_with("text/event-stream")) {
      slot.error_body += bytes.substr(0, kMaxErrorBodyBytes - slot.error_body.size());
      return slot.error_body.size() < kMaxErrorBodyBytes ? BodyWish::kMore : BodyWish::kAbandon;
    }
    const size_t before = slot.record.token_s.size();
    const bool goes_on = slot.answer->push(bytes, now_s());
    num_events_ += static_cast<int64_t>(slot.record.token_s.size() - before);
    if (!goes_on) return BodyWish::kAbandon;
    return slot.answer->is_done() ? BodyWish::kEnough : BodyWish::kMore;
  }

  // Called once for each request.
  void end_request(Slot& slot, HttpEnd end, const HttpHead& head, const std::string& reason) {
    RequestRecord& record = slot.record;
    record.ended_s = now_s();
    record.http_status = head.status;
    decide_outcome(slot, end, head, reason);
    if (record.last_s == 0) record.last_s = record.ended_s;
    result_.elapsed_s = record.ended_s;
    slot.is_busy = false;
    --num_running_;
    const bool is_error = !record.ok() && record.outcome != Outcome::kInterrupted;
    num_errors_ += is_error ? 1 : 0;
    const bool is_lost = record.outcome == Outcome::kRefused || record.outcome == Outcome::kBroken;
    num_lost_in_a_row_ = is_lost ? num_lost_in_a_row_ + 1 : 0;
    if (num_lost_in_a_row_ >= std::max(kLeastFailuresToGiveUp, 2 * plan_.streams) && !is_stopped_) {
      result_.gave_up =
          std::to_string(num_lost_in_a_row_) +
          " requests in a row found no connection or lost it; the last: " + record.message;
      stop();
    }
    result_.records.push_back(std::move(record));
    if (arrivals_) {
      idle_.push_back(&slot);
      send_waiting();
    } else if (is_error) {
      pause(slot);
    } else {
      slot.next_pause = kFirstPause;
      send_next(slot);
    }
    end_if_over();
  }

  void decide_outcome(Slot& slot, HttpEnd end, const HttpHead& head, const std::string& reason) {
    RequestRecord& record = slot.record;
    const auto is = [&](Outcome outcome, std::string message) {
      record.outcome = outcome;
      record.message = std::move(message);
    };
    switch (end) {
      case HttpEnd::kDone:
      case HttpEnd::kAbandoned:
        break;
      case HttpEnd::kNoConnection:
        return is(Outcome::kRefused, reason);
      case HttpEnd::kBroken:
        return is(Outcome::kBroken, reason);
      case HttpEnd::kTimeout:
        return is(Outcome::kTimeout, reason);
      case HttpEnd::kCancelled:
        return is(Outcome::kInterrupted, reason);
    }
    if (!record.ok()) return;  // its answer failed
    if (head.status != 200)
      return is(Outcome::kHttpStatus,
                "HTTP " + std::to_string(head.status) + ": " + error_message_of(slot.error_body));
    if (!head.content_type.starts_with("text/event-stream"))
      return is(Outcome::kMalformed,
                "the answer is \"" + excerpt_of(head.content_type) +
                    "\", must be text/event-stream: " + excerpt_of(slot.error_body));
    slot.answer->finish();
  }

  void pause(Slot& slot) {
    if (!may_begin(now_s())) return send_next(slot);
    ++num_pausing_;
    slot.pause.expires_after(slot.next_pause);
    slot.next_pause = std::min(2 * slot.next_pause, kLongestPause);
    slot.pause.async_wait([this, &slot](boost::system::error_code) {
      --num_pausing_;
      send_next(slot);
      end_if_over();
    });
  }

  // Begins nothing more; what runs goes on.
  void stop() {
    is_stopped_ = true;
    is_arriving_ = false;
    result_.num_unsent += static_cast<int64_t>(waiting_.size());
    waiting_.clear();
    arrival_.cancel();
    for (const auto& slot : slots_) slot->pause.cancel();
  }

  void interrupt() {
    result_.is_interrupted = true;
    stop();
    for (const auto& slot : slots_) slot->client.cancel();
    end_if_over();
  }

  // Lets io_.run() return: only what waits for nothing but time or signals is left.
  void end_if_over() {
    if (num_running_ > 0 || num_pausing_ > 0 || !waiting_.empty()) return;
    if (arrivals_ && is_arriving_) return;
    signals_.cancel();
    progress_.cancel();
  }

  void show_progress_later() {
    progress_.expires_after(std::chrono::seconds(1));
    progress_.async_wait([this](boost::system::error_code code) {
      if (code) return;
      const double now = now_s();
      std::string of;
      if (plan_.num_requests > 0) of = "/" + std::to_string(plan_.num_requests);
      std::fprintf(stderr,
                   "\r\033[K%s %.0f s: %zu%s requests ended, %lld running, %zu waiting, %lld "
                   "errors, %.1f events/s",
                   plan_.title.c_str(), now, result_.records.size(), of.c_str(),
                   static_cast<long long>(num_running_), waiting_.size(),
                   static_cast<long long>(num_errors_),
                   static_cast<double>(num_events_ - num_events_shown_) / (now - shown_at_s_));
      num_events_shown_ = num_events_;
      shown_at_s_ = now;
      show_progress_later();
    });
  }

  const HttpTarget& target_;
  const LoadPlan& plan_;
  const PrepareRequest& prepare_;
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGINT, SIGTERM};
  asio::steady_timer arrival_{io_};
  asio::steady_timer progress_{io_};
  Clock::time_point begin_;
  std::optional<PoissonArrivals> arrivals_;
  double next_due_s_ = 0;
  bool is_arriving_ = true;
  bool is_stopped_ = false;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> idle_;                         ///< open loop
  std::deque<std::pair<int64_t, double>> waiting_;  ///< open loop: index and due time
  int64_t num_begun_ = 0;
  int64_t num_running_ = 0;
  int64_t num_pausing_ = 0;
  int64_t num_errors_ = 0;
  int64_t num_lost_in_a_row_ = 0;
  int64_t num_events_ = 0;
  int64_t num_events_shown_ = 0;
  double shown_at_s_ = 0;
  LoadResult result_;
};

}  // namespace

LoadResult run_load(const HttpTarget& target, const LoadPlan& plan, const PrepareRequest& prepare) {
  PHALANX_CHECK(plan.num_requests > 0 || plan.duration_s > 0, "a load without an end");
  return Load(target, plan, prepare).run();
}

}  // namespace phalanx::bench
