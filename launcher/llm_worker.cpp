// llm-worker: what mpirun starts N times. Parses, sets up, serves until it is told to stop.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <future>
#include <iostream>
#include <memory>
#include <thread>

#include "launcher/offline_client.h"
#include "launcher/server_config.h"
#include "launcher/worker_arguments.h"
#include "launcher/worker_config.h"
#include "launcher/worker_job.h"
#include "launcher/worker_setup.h"
#include "runtime/base/log.h"
#include "runtime/server/http_server.h"
#include "runtime/server/openai_api.h"
#include "runtime/server/tokenizer_text.h"

namespace phalanx::launcher {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

/// Signals that mean "stop": handled by one thread on the leader, left alone by the other ranks,
/// which stop when the leader does.
sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&set, signal);
  return set;
}

LogLevel log_level_of(config::WorkerConfig::LogLevel level) {
  switch (level) {
    case config::WorkerConfig::DEBUG:
      return LogLevel::kDebug;
    case config::WorkerConfig::WARNING:
      return LogLevel::kWarning;
    case config::WorkerConfig::ERROR:
      return LogLevel::kError;
    default:  // protobuf enums are open; the parser refused unknown names
      return LogLevel::kInfo;
  }
}

/// Then the parent is mpirun or its daemon.
bool was_started_by_mpirun() { return std::getenv("OMPI_COMM_WORLD_RANK") != nullptr; }

/// What rank 0 adds to a rank: text, HTTP, signals, the offline answer. Everything here runs beside
/// the executor.
class Front {
 public:
  Front(WorkerJob& job, const WorkerArguments& arguments, std::shared_ptr<const TextCodec> codec,
        std::chrono::steady_clock::time_point started)
      : job_(job),
        arguments_(arguments),
        started_(started),
        options_(server_options(job.setup().config.server())),
        codec_(std::move(codec)) {}

  void start() {
    signal_thread_ = std::thread([this] { wait_for_signals(); });
    if (!arguments_.prompt && !arguments_.chat) {
      serve();
    } else {
      client_thread_ = std::thread([this] { answer(); });
    }
  }

  /// After the executor has returned. The job's exit status.
  int finish() {
    if (client_thread_.joinable()) client_thread_.join();
    if (server_) server_->stop(std::chrono::seconds(2));
    stopped_ = true;
    pthread_kill(signal_thread_.native_handle(), SIGUSR1);
    signal_thread_.join();
    return exit_status_;
  }

 private:
  void answer() {
    if (Status status = answer_offline(arguments_, *job_.leader(), *codec_); !status.ok()) {
      std::cerr << "llm-worker: " << status.error().message << "\n";
      exit_status_ = kExitFailed;
    } else if (arguments_.serve_after) {
      serve();
      return;
    }
    job_.leader()->drain(std::chrono::seconds(0));
  }

  void serve() {
    api_ = std::make_unique<OpenAiApi>(*job_.leader(), *codec_, options_);
    server_ = std::make_unique<HttpServer>(options_, *api_);
    if (Status status = server_->start(); !status.ok()) {
      std::cerr << "llm-worker: " << status.error().message << "\n";
      exit_status_ = kExitUsage;
      job_.leader()->drain(std::chrono::seconds(0));
      return;
    }
    print_banner();
  }

  void print_banner() const {
    const WorkerSetup& setup = job_.setup();
    const engine::EngineManifest& manifest = setup.engine->manifest();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
    std::fprintf(stderr,
                 "phalanx %s  ready in %.2f s\n"
                 "  url        %s  (OpenAI API under /v1, a chat page at /)\n"
                 "  model      %s (%s), %s weights\n"
                 "  topology   tp_size %d x pp_size %d on %zu rank%s; %s\n"
                 "  cores      %s\n"
                 "  kv cache   %lld tokens, %s, prefix cache %s\n",
                 PHALANX_VERSION, seconds, server_->url().c_str(), setup.model_name.c_str(),
                 manifest.model().architecture().c_str(), manifest.provenance().weights().c_str(),
                 setup.topology.tp_size, setup.topology.pp_size,
                 static_cast<size_t>(setup.topology.world_size),
                 setup.topology.world_size > 1 ? "s" : "", job_.describe().c_str(),
                 setup.cores.c_str(),
                 static_cast<long long>(setup.executor.num_kv_blocks * kernels::kBlockTokens),
                 kernels::kv_format_name(setup.executor.kv_format),
                 setup.scheduler.prefix_cache ? "on" : "off");
  }

  /// First signal: drain. Second: at once. At once too when mpirun itself ends the job (Ctrl-C, or
  /// SIGTERM to it): it passes SIGTERM on and kills a second later, and clients shall hear why.
  void wait_for_signals() {
    const sigset_t set = stop_signals();
    for (int count = 0;; ++count) {
      siginfo_t info{};
      if (sigwaitinfo(&set, &info) < 0) continue;  // interrupted by a signal that is not of the set
      if (stopped_) return;
      const bool is_killed_soon = info.si_signo == SIGTERM && info.si_code <= 0 &&
                                  info.si_pid == getppid() && was_started_by_mpirun();
      const bool drains = count == 0 && !is_killed_soon;
      const int seconds = drains ? job_.setup().config.server().drain_seconds() : 0;
      PHALANX_INFO(strsignal(info.si_signo)
                   << ": no new requests; running ones have " << seconds << " s");
      job_.leader()->drain(std::chrono::seconds(seconds));
    }
  }

  WorkerJob& job_;
  const WorkerArguments& arguments_;
  const std::chrono::steady_clock::time_point started_;
  const ServerOptions options_;
  const std::shared_ptr<const TextCodec> codec_;
  std::unique_ptr<OpenAiApi> api_;
  std::unique_ptr<HttpServer> server_;
  std::thread client_thread_;
  std::thread signal_thread_;
  std::atomic<bool> stopped_{false};
  std::atomic<int> exit_status_{0};
};

int usage_error(const std::string& message) {
  if (!parallel::is_first_rank_of_environment()) return kExitUsage;
  std::cerr << "llm-worker: " << message << "\n";
  return kExitUsage;
}

/// The work of one rank. Errors that concern everybody are printed once, by rank 0.
int run_rank(parallel::MpiSession& session, const WorkerArguments& arguments,
             std::chrono::steady_clock::time_point started) {
  const auto refuse = [&](const Error& error) {
    if (session.rank() == 0) usage_error(error.message);
    return kExitUsage;
  };
  Result<config::WorkerConfig> config = share_config(session, arguments);
  if (!config.ok()) return refuse(config.error());
  set_log_level(log_level_of(config->log_level()));
  Result<WorkerSetup> setup = make_setup(session, *config);
  if (!setup.ok()) return refuse(setup.error());

  // The leader reads the tokenizer while the weights are packed.
  using Text = Result<std::shared_ptr<const TextCodec>>;
  std::future<Text> loading;
  if (session.rank() == 0) {
    loading = std::async(std::launch::async, load_tokenizer_text, setup->engine->directory());
  }
  WorkerJob job(session, std::move(setup).value(), arguments.digest);
  Text text = session.rank() == 0 ? loading.get() : Text(std::shared_ptr<const TextCodec>());
  if (Status status = agree(session, text.ok() ? Status() : Status(text.error())); !status.ok()) {
    job.abandon();
    return refuse(status.error());
  }
  std::unique_ptr<Front> front;
  if (job.leader() != nullptr) {
    front = std::make_unique<Front>(job, arguments, std::move(text).value(), started);
  }
  job.run([&] { front->start(); });
  return front ? front->finish() : 0;
}

int print_plan(const WorkerArguments& arguments) {
  std::string text;
  if (!arguments.config_path.empty()) {
    Result<std::string> read = read_config_file(arguments.config_path);
    if (!read.ok()) return usage_error(read.error().message);
    text = std::move(read).value();
  }
  const std::string name = arguments.config_path.empty() ? "configuration" : arguments.config_path;
  const Result<config::WorkerConfig> config = parse_worker_config(text, name, arguments.overrides);
  if (!config.ok()) return usage_error(config.error().message);
  const Result<std::string> plan = describe_plan(*config);
  if (!plan.ok()) return usage_error(plan.error().message);
  std::cout << *plan;
  return 0;
}

int run_main(int argc, char** argv) {
  const auto started = std::chrono::steady_clock::now();
  const Result<WorkerArguments> arguments =
      parse_worker_arguments(std::vector<std::string>(argv + 1, argv + argc));
  if (!arguments.ok()) return usage_error(arguments.error().message);
  if (arguments->help) {
    std::cout << worker_usage();
    return 0;
  }
  if (arguments->version) {
    std::cout << "phalanx " << PHALANX_VERSION << "\n";
    return 0;
  }
  if (arguments->plan) return print_plan(*arguments);

  const sigset_t signals = stop_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread exists
  signal(SIGPIPE, SIG_IGN);
  parallel::MpiSession session(&argc, &argv);
  if (session.world_size() > 1) set_log_tag("rank " + std::to_string(session.rank()));
  return run_rank(session, *arguments, started);
}

}  // namespace
}  // namespace phalanx::launcher

int main(int argc, char** argv) {
  try {
    return phalanx::launcher::run_main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "llm-worker: " << phalanx::launcher::explain(error) << "\n";
    return 1;
  }
}
