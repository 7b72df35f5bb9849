// The rules by which a rank is held to have failed. Called by the leader's monitor thread.
#include "parallel/failure_judge.h"

#include <cstdio>
#include <tuple>

namespace phalanx::parallel {
namespace {

std::string seconds_text(FailureJudge::Clock::duration time) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", std::chrono::duration<double>(time).count());
  return text;
}

}  // namespace

FailureJudge::FailureJudge(std::vector<std::string> rank_names, const JobMonitorOptions& options,
                           Clock::time_point now)
    : options_(options) {
  for (std::string& name : rank_names) ranks_.push_back({std::move(name), {}, now, now});
}

void FailureJudge::observe(int rank, const RankStatus& status, Clock::time_point now) {
  Watched& watched = ranks_[static_cast<size_t>(rank)];
  // Becoming ready is progress too: what the last operation of loading took does not count against
  // the shorter deadline that holds from now on.
  const bool has_moved =
      status.count != watched.status.count || status.step != watched.status.step ||
      status.state != watched.status.state || status.is_ready != watched.status.is_ready;
  if (has_moved || status.state == Progress::State::kIdle) watched.last_progress = now;
  watched.last_heartbeat = now;
  watched.status = status;
}

void FailureJudge::release(int rank) { ranks_[static_cast<size_t>(rank)].is_released = true; }

void FailureJudge::forgive(Clock::duration pause) {
  for (Watched& watched : ranks_) {
    watched.last_heartbeat += pause;
    watched.last_progress += pause;
  }
}

std::string FailureJudge::sentence(int rank, const std::string& what) const {
  const Watched& watched = ranks_[static_cast<size_t>(rank)];
  return watched.name + " " + what + place_text(watched.status);
}

std::optional<std::string> FailureJudge::judge(Clock::time_point now) const {
  if (auto verdict = judge_silence(now)) return verdict;
  return judge_progress(now);
}

std::optional<std::string> FailureJudge::judge_silence(Clock::time_point now) const {
  const Watched* lost = nullptr;
  for (const Watched& watched : ranks_)
    if (!watched.is_released && now - watched.last_heartbeat > options_.silence &&
        (lost == nullptr || watched.last_heartbeat < lost->last_heartbeat))
      lost = &watched;
  if (lost == nullptr) return std::nullopt;
  std::string verdict = sentence(
      static_cast<int>(lost - ranks_.data()),
      "stopped answering (no heartbeat for " + seconds_text(now - lost->last_heartbeat) + ")");
  // A host that is lost takes all its ranks along: they are named too.
  for (const Watched& watched : ranks_)
    if (&watched != lost && !watched.is_released &&
        now - watched.last_heartbeat > options_.silence / 2)
      verdict += "; also silent: " + watched.name;
  return verdict;
}

bool FailureJudge::is_stuck(const Watched& watched, Clock::time_point now) const {
  const auto deadline =
      watched.status.is_ready ? options_.operation_deadline : options_.load_deadline;
  return now - watched.last_progress > deadline;
}

std::optional<std::string> FailureJudge::judge_progress(Clock::time_point now) const {
  const Watched* busy = nullptr;     // stuck the longest
  const Watched* waiting = nullptr;  // stuck in the lowest step, and there the longest
  bool is_anyone_moving = false;
  for (const Watched& watched : ranks_) {
    if (watched.is_released || watched.status.state == Progress::State::kIdle) continue;
    if (!is_stuck(watched, now)) {
      is_anyone_moving = true;
    } else if (watched.status.state == Progress::State::kBusy) {
      if (busy == nullptr || watched.last_progress < busy->last_progress) busy = &watched;
    } else if (waiting == nullptr || std::tie(watched.status.step, watched.last_progress) <
                                         std::tie(waiting->status.step, waiting->last_progress)) {
      waiting = &watched;
    }
  }
  if (busy != nullptr)
    return sentence(
        static_cast<int>(busy - ranks_.data()),
        "hangs (busy without progress for " + seconds_text(now - busy->last_progress) + ")");
  if (waiting != nullptr && !is_anyone_moving)
    return sentence(static_cast<int>(waiting - ranks_.data()),
                    "hangs (waiting without progress for " +
                        seconds_text(now - waiting->last_progress) + ", and no rank is at work)");
  return std::nullopt;
}

}  // namespace phalanx::parallel
