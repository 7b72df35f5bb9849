// The monitor thread of a rank: heartbeats, what it makes of the others', and the end of the job.
// Made by the launcher; told about progress by the executor.
#include "parallel/job_monitor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "parallel/failure_judge.h"
#include "parallel/monitor_link.h"
#include "parallel/mpi_session.h"
#include "parallel/rank_status.h"
#include "parallel/tcp_star.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

using Clock = FailureJudge::Clock;
using namespace std::chrono_literals;

constexpr auto kConnectDeadline = 30s;

/// From the declared failure to _exit: the leader's open requests are failed in it. The same on
/// every rank, since a launcher that has seen the first one leave waits for the others to follow
/// (and kills those that do not: the settings of scripts/mpi_env.sh give them a second).
constexpr auto kGrace = 200ms;
/// on_failure may block, a peer may be frozen: nothing outlasts this.
constexpr auto kLongestEnd = 1500ms;
/// A rank that failed because another one died tells of it as fast as the death itself is seen. Its
/// report is held for so long, in case the death is its cause.
constexpr auto kReportDelay = 60ms;
/// From the first finish() to the last.
constexpr auto kFinishDeadline = 60s;
constexpr std::chrono::hours kNever{24 * 365};
constexpr int kExitCode = 1;

}  // namespace

struct JobMonitor::State {
  State(MpiSession& job_session, const JobMonitorOptions& monitor_options);
  ~State();

  bool is_leader() const { return rank == 0; }
  void wake();

  // The monitor thread.
  void run();
  void wait_for_events(Clock::time_point until);
  void tick(Clock::time_point now);
  void handle_requests(Clock::time_point now);
  void handle_message(int sender, MonitorMessage kind, std::string_view text);
  void judge(Clock::time_point now);
  [[noreturn]] void end_job(const std::string& sentence, bool prints);
  bool has_all_finished() const;

  MpiSession& session;
  const JobMonitorOptions options;
  const int rank;
  std::vector<std::string> names;  ///< "rank 3 on node2" for each rank
  Progress progress;
  AbortFlag abort{false};
  std::atomic<bool> is_ready{false};

  // Between fail(), finish(), the destructor and the monitor thread.
  std::mutex mutex;
  std::condition_variable finished_condition;
  std::function<void(const std::string&)> on_failure;  ///< guarded by mutex
  std::optional<std::string> fail_reason;              ///< guarded by mutex
  bool finish_is_requested = false;                    ///< guarded by mutex
  bool is_finished = false;                            ///< guarded by mutex
  bool stops = false;                                  ///< guarded by mutex
  int wake_descriptor = -1;

  // Of the monitor thread alone.
  std::vector<MonitorLink> links;  ///< leader: by rank; others: at 0, to the leader
  FailureJudge judge_of_ranks;     ///< leader: of all; others: of the leader's silence
  std::vector<bool> has_finished;  ///< leader: by rank
  std::optional<Clock::time_point> finish_start;
  struct Report {
    std::string sentence;
    Clock::time_point due;
  };
  std::optional<Report> report;  ///< leader: a failure told by its rank, held for kReportDelay
  bool is_report_sent = false;   ///< others
  Clock::time_point next_tick;

  std::thread thread;
};

namespace {

std::vector<std::string> rank_names(const MpiSession& session) {
  std::vector<std::string> names;
  for (int rank = 0; rank < session.world_size(); ++rank)
    names.push_back("rank " + std::to_string(rank) + " on " +
                    session.hosts()[static_cast<size_t>(rank)]);
  return names;
}

}  // namespace

JobMonitor::State::State(MpiSession& job_session, const JobMonitorOptions& monitor_options)
    : session(job_session),
      options(monitor_options),
      rank(session.rank()),
      names(rank_names(session)),
      judge_of_ranks(names, monitor_options, Clock::now()),
      has_finished(names.size(), false) {
  wake_descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_descriptor < 0) throw DeviceError("job monitor: eventfd failed");
  std::vector<int> workers;
  for (int worker = 1; worker < session.world_size(); ++worker) workers.push_back(worker);
  for (Socket& socket : make_tcp_star(session, workers, "job monitor", kConnectDeadline))
    links.emplace_back(std::move(socket));
  const Clock::time_point now = Clock::now();
  session.watched_by(&abort);
  JobMonitorOptions judged = options;
  if (!is_leader()) judged.operation_deadline = judged.load_deadline = kNever;
  judge_of_ranks = FailureJudge(names, judged, now);
  if (!is_leader())  // the leader judges the ranks; a worker only misses the leader
    for (int other = 1; other < session.world_size(); ++other) judge_of_ranks.release(other);
  next_tick = now;
  thread = std::thread([this] { run(); });
}

JobMonitor::State::~State() {
  {
    const std::lock_guard lock(mutex);
    stops = true;
  }
  wake();
  if (thread.joinable()) thread.join();
  session.watched_by(nullptr);
  if (wake_descriptor >= 0) close(wake_descriptor);
}

void JobMonitor::State::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_descriptor, &one, sizeof(one));
}

void JobMonitor::State::run() {
  Clock::time_point last_run = Clock::now();
  while (true) {
    wait_for_events(report ? std::min(next_tick, report->due) : next_tick);
    const Clock::time_point now = Clock::now();
    // A watcher that was stopped itself must first hear the others before it calls them silent.
    if (now - last_run > 4 * options.heartbeat + 500ms)
      judge_of_ranks.forgive(now - last_run - options.heartbeat);
    last_run = now;
    for (size_t i = 0; i < links.size(); ++i) {
      if (!links[i].is_open()) continue;
      const int sender = static_cast<int>(i);
      const bool is_alive = links[i].receive(
          [&](MonitorMessage kind, std::string_view text) { handle_message(sender, kind, text); });
      {
        const std::lock_guard lock(mutex);
        if (is_finished) return;
      }
      if (!is_alive) end_job(judge_of_ranks.sentence(sender, "died (its connection closed)"), true);
    }
    if (now >= next_tick) tick(now);
    handle_requests(now);
    judge(now);
    const std::lock_guard lock(mutex);
    if (stops || is_finished) return;
  }
}

void JobMonitor::State::wait_for_events(Clock::time_point until) {
  std::vector<pollfd> entries{{wake_descriptor, POLLIN, 0}};
  for (const MonitorLink& link : links) {
    if (!link.is_open()) continue;
    const int events = link.has_unsent() ? POLLIN | POLLOUT : POLLIN;
    entries.push_back({link.descriptor(), static_cast<short>(events), 0});
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
  poll(entries.data(), entries.size(), static_cast<int>(std::max<int64_t>(0, left.count())));
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(wake_descriptor, &count, sizeof(count));
  for (MonitorLink& link : links) link.flush();
}

void JobMonitor::State::tick(Clock::time_point now) {
  next_tick = now + options.heartbeat;
  const RankStatus own = read_status(progress, is_ready.load(std::memory_order_relaxed));
  if (is_leader()) judge_of_ranks.observe(0, own, now);
  const std::string bytes = encode_status(own);
  for (MonitorLink& link : links)
    if (!link.has_unsent()) link.send(MonitorMessage::kHeartbeat, bytes);
}

void JobMonitor::State::handle_message(int sender, MonitorMessage kind, std::string_view text) {
  const Clock::time_point now = Clock::now();
  switch (kind) {
    case MonitorMessage::kHeartbeat:
      if (const auto status = decode_status(text)) judge_of_ranks.observe(sender, *status, now);
      return;
    case MonitorMessage::kFail:
      if (is_leader() && !report) report = Report{std::string(text), now + kReportDelay};
      return;
    case MonitorMessage::kAbort:
      if (!is_leader()) end_job(std::string(text), false);
      return;
    case MonitorMessage::kFinish:
      has_finished[static_cast<size_t>(sender)] = true;
      if (!finish_start) finish_start = now;
      return;
    case MonitorMessage::kFinishAgreed: {
      const std::lock_guard lock(mutex);
      is_finished = true;
      finished_condition.notify_all();
      return;
    }
  }
}

bool JobMonitor::State::has_all_finished() const {
  return std::all_of(has_finished.begin(), has_finished.end(), [](bool done) { return done; });
}

void JobMonitor::State::handle_requests(Clock::time_point now) {
  std::unique_lock lock(mutex);
  if (fail_reason && !is_report_sent) {
    is_report_sent = true;
    const RankStatus own = read_status(progress, true);
    const std::string sentence =
        names[static_cast<size_t>(rank)] + " failed" + place_text(own) + ": " + *fail_reason;
    if (!is_leader()) {
      links[0].send(MonitorMessage::kFail, sentence);
    } else if (!report) {
      report = Report{sentence, now + kReportDelay};
    }
  }
  if (finish_is_requested && !has_finished[static_cast<size_t>(rank)]) {
    has_finished[static_cast<size_t>(rank)] = true;
    if (!finish_start) finish_start = now;
    if (!is_leader()) links[0].send(MonitorMessage::kFinish, "");
  }
  if (is_leader() && has_all_finished() && !report) {
    for (MonitorLink& link : links) link.send(MonitorMessage::kFinishAgreed, "");
    is_finished = true;
    finished_condition.notify_all();
  }
}

void JobMonitor::State::judge(Clock::time_point now) {
  {
    const std::lock_guard lock(mutex);
    if (is_finished) return;
  }
  if (report && now >= report->due) end_job(report->sentence, true);
  if (!is_leader()) {
    if (const auto verdict = judge_of_ranks.judge(now)) end_job(*verdict, true);
    return;
  }
  for (size_t i = 0; i < has_finished.size(); ++i)
    if (has_finished[i]) judge_of_ranks.release(static_cast<int>(i));
  if (const auto verdict = judge_of_ranks.judge(now)) end_job(*verdict, true);
  if (finish_start && now - *finish_start > kFinishDeadline) {
    const auto missing = std::find(has_finished.begin(), has_finished.end(), false);
    end_job(judge_of_ranks.sentence(static_cast<int>(missing - has_finished.begin()),
                                    "did not finish with the others and is still"),
            true);
  }
}

void JobMonitor::State::end_job(const std::string& sentence, bool prints) {
  if (prints) {
    // What is known of another rank is as old as its heartbeat: this rank's own place is exact.
    const std::string& own_name = names[static_cast<size_t>(rank)];
    std::string line = "phalanx: " + sentence;
    if (!sentence.starts_with(own_name + " "))
      line += "; " + own_name + " is" + place_text(read_status(progress, true));
    line += "; ending the job\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  }
  if (is_leader())
    for (MonitorLink& link : links) link.send(MonitorMessage::kAbort, sentence);
  const Clock::time_point start = Clock::now();
  std::thread([] {
    std::this_thread::sleep_for(kLongestEnd);
    _exit(kExitCode);
  }).detach();
  abort.store(true);
  std::function<void(const std::string&)> callback;
  {
    const std::lock_guard lock(mutex);
    callback = on_failure;
  }
  if (callback) callback(sentence);
  while (Clock::now() < start + kGrace) {
    for (MonitorLink& link : links) link.flush();
    std::this_thread::sleep_for(10ms);
  }
  _exit(kExitCode);
}

JobMonitor::JobMonitor(MpiSession& session, const JobMonitorOptions& options)
    : state_(std::make_unique<State>(session, options)) {}

JobMonitor::~JobMonitor() = default;

Progress& JobMonitor::progress() { return state_->progress; }

const AbortFlag* JobMonitor::abort_flag() const { return &state_->abort; }

void JobMonitor::set_on_failure(std::function<void(const std::string& reason)> on_failure) {
  const std::lock_guard lock(state_->mutex);
  state_->on_failure = std::move(on_failure);
}

void JobMonitor::mark_ready() { state_->is_ready.store(true, std::memory_order_relaxed); }

void JobMonitor::fail(const std::string& reason) {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->fail_reason) state_->fail_reason = reason;
  }
  state_->wake();
  // The monitor thread ends the process: the leader's by itself, another's on the leader's word. If
  // neither comes, this rank ends anyway.
  std::this_thread::sleep_for(kReportDelay + 2 * kLongestEnd);
  _exit(kExitCode);
}

void JobMonitor::finish() {
  std::unique_lock lock(state_->mutex);
  state_->finish_is_requested = true;
  state_->wake();
  state_->finished_condition.wait(lock, [this] { return state_->is_finished; });
}

}  // namespace phalanx::parallel
