// A small job for the monitor's tests: steps of all-reduces, in which one rank fails in a chosen
// way. Run under mpirun by job_monitor_test.py: monitor_probe WAY RANK.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

#include "parallel/job_monitor.h"
#include "parallel/mpi_session.h"
#include "parallel/step_channel.h"
#include "runtime/base/work_counter.h"

namespace {

using namespace phalanx::parallel;
using phalanx::count_piece;
using namespace std::chrono_literals;
using State = Progress::State;

constexpr int64_t kFatalStep = 40;
constexpr int64_t kUsualSteps = 80;  // of ten milliseconds

/// One line on stdout at once: "KEY RANK VALUE".
void say(const char* key, int rank, double value) {
  std::printf("%s %d %.6f\n", key, rank, value);
  std::fflush(stdout);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void misbehave(const std::string& way, int rank, Communicator& group, Progress& progress) {
  say("event", rank, seconds_now());
  if (way == "kill") {
    raise(SIGKILL);
  } else if (way == "crash") {
    std::abort();
  } else if (way == "stop") {
    raise(SIGSTOP);
    say("continued", rank, seconds_now());
    // Evicted meanwhile, and gone within moments; else this is a survivor.
    std::this_thread::sleep_for(3s);
    say("survived", rank, seconds_now());
  } else if (way == "pause") {
    std::thread([pid = getpid()] {
      if (fork() == 0) {
        std::this_thread::sleep_for(1s);
        kill(pid, SIGCONT);
        _exit(0);
      }
    }).join();
    raise(SIGSTOP);
  } else if (way == "throw") {
    throw std::runtime_error("the probe throws");
  } else if (way == "hang") {
    progress.set_operation("attention", 5);
    volatile uint64_t turns = 0;
    while (true) turns = turns + 1;
  } else if (way == "long") {
    // One operation that takes longer than the deadline, and shows that it works.
    progress.set_operation("attention", 5);
    for (int piece = 0; piece < 16; ++piece) {
      std::this_thread::sleep_for(300ms);
      count_piece(progress.work().tally(1));
    }
  } else if (way == "lose") {
    // Waits for a message that nobody sends, while the others wait in the all-reduce.
    progress.set_operation("recv", 5);
    progress.set_state(State::kWaiting);
    std::byte token{};
    group.recv(std::span(&token, 1), (group.rank() + 1) % group.size());
  }
}

void run_steps(MpiSession& session, JobMonitor& monitor, const std::string& way, int culprit,
               int64_t num_steps) {
  std::vector<int> ranks;
  for (int rank = 0; rank < session.world_size(); ++rank) ranks.push_back(rank);
  CommunicatorOptions options;
  options.spin = false;
  options.force_mpi = std::getenv("PHALANX_PROBE_MPI") != nullptr;
  const auto group = session.make_communicator(ranks, options, monitor.abort_flag());
  Progress& progress = monitor.progress();
  monitor.mark_ready();
  std::vector<float> data(1024);
  const bool can_meet = !group->share_memory(1).empty();
  for (int64_t step = 0; step < num_steps; ++step) {
    progress.set_step(step);
    progress.set_state(State::kBusy);
    progress.set_operation("linear", 5);
    std::this_thread::sleep_for(10ms);
    if (step == kFatalStep && session.rank() == culprit) misbehave(way, culprit, *group, progress);
    progress.set_operation("all_reduce", 5);
    progress.set_state(State::kWaiting);
    if (can_meet) group->meet();
    group->all_reduce_sum(data);
  }
}

void run_idle(MpiSession& session, JobMonitor& monitor) {
  StepChannelOptions options;
  options.spin = false;
  const StepChannelEnds ends = make_step_channel(session, options, monitor.abort_flag());
  monitor.progress().set_state(State::kIdle);
  monitor.mark_ready();
  const double start = cpu_seconds();
  const double wall_start = seconds_now();
  while (seconds_now() < wall_start + 5) ends.subscriber->next(1000ms);
  say("idle_cpu", session.rank(), (cpu_seconds() - start) / (seconds_now() - wall_start));
  session.all_gather("done");  // the leader's end of the channel lives until all have left it
}

/// One rank stops before there is a monitor, and does not come to an exchange.
[[noreturn]] void be_absent(MpiSession& session, int culprit) {
  say("event", session.rank(), seconds_now());
  if (session.rank() == culprit) raise(SIGSTOP);
  try {
    session.all_gather("here");
  } catch (const std::exception& error) {
    const std::string line = std::string("phalanx: ") + error.what() + "; ending the job\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  }
  _exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: monitor_probe WAY RANK [STEPS]\n");
    return 2;
  }
  const std::string way = argv[1];
  const int culprit = std::atoi(argv[2]);
  const int64_t num_steps = argc > 3 ? std::atoll(argv[3]) : kUsualSteps;
  // Like the server, which drains on it: mpirun's first signal after a death must not cut off the
  // leader's last words.
  signal(SIGTERM, SIG_IGN);
  MpiSessionOptions options;
  if (way == "absent") options.start_up_deadline = 1s;
  MpiSession session(&argc, &argv, options);
  say("pid", session.rank(), getpid());
  if (way == "absent") be_absent(session, culprit);
  JobMonitor monitor(session, {});
  try {
    if (way == "idle") {
      run_idle(session, monitor);
    } else {
      run_steps(session, monitor, way, culprit, num_steps);
    }
  } catch (const std::exception& error) {
    monitor.fail(error.what());
  }
  monitor.progress().set_state(State::kIdle);
  monitor.finish();
  return 0;
}
