// llm-bench model: prefill and decode rates of an engine, through the leader, scheduler and ranks
// that serve, without HTTP. Under mpirun every rank calls run(); the first one measures.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "launcher/bench/commands.h"
#include "launcher/bench/machine_limits.h"
#include "launcher/bench/model_costs.h"
#include "launcher/bench/shape_engine.h"
#include "launcher/bench/step_account.h"
#include "launcher/stop_signal.h"
#include "launcher/worker_config.h"
#include "launcher/worker_job.h"
#include "launcher/worker_setup.h"

namespace phalanx::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr int kLimitWindows = 4;

std::vector<Flag> flags() {
  std::vector<Flag> all = {{"--engine", "DIR", "", "the engine to measure, instead of a shape's"}};
  for (Flag& flag : shape_flags()) all.push_back(std::move(flag));
  const std::vector<Flag> own = {
      {"--prompt", "N,...", "512", "prompt lengths to measure prefill at; 0: none"},
      {"--batch", "N,...", "1,8,32", "sequences to measure decode at; 0: none"},
      {"--context", "N", "128", "tokens of each prompt before decode is measured"},
      {"--new", "N", "64", "tokens that each sequence decodes"},
      {"--threads", "N", "0", "of each rank; 0: the host's cores shared out"},
      {"--tp", "N", "0", "tp_size; 0: all ranks of mpirun by pp_size"},
      {"--pp", "N", "1", "pp_size"},
      {"--kv", "FORMAT", "bf16", "KV cache: f32, bf16 or int8"},
      {"--isa", "TIER", "auto", "auto, portable, avx2, avx2vnni or avx512"},
      {"--tuning", "FILE", "auto", "of llm-bench tune: auto, off or a file"},
      {"--step-tokens", "N", "1024", "tokens of a step at most"},
      {"--pin", "", "", "bind threads to cores, whatever llm-worker would do by itself"},
      {"--repetitions", "N", "5", "samples of each row"},
      {"--trace", "FILE", "",
       "a timeline for ui.perfetto.dev, and where a decode step's time goes"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

/// What the flags ask for.
struct ModelBench {
  std::string engine;
  std::vector<int64_t> prompts;
  std::vector<int64_t> batches;
  int64_t context = 0;
  int64_t num_new = 0;
  int64_t repetitions = 0;
};

/// Collects the tokens' times of many requests; waits for them. Called by the leader's thread and
/// by the measuring one.
class Stopwatch {
 public:
  explicit Stopwatch(size_t num_requests) : times_(num_requests) {}

  std::shared_ptr<UpdateSink> sink(size_t request) {
    return std::make_shared<Sink>(*this, request);
  }

  /// Blocks until every request has ended. Errors: why one failed.
  Status wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_ended_ == times_.size(); });
    if (!error_.empty()) return unavailable(error_);
    return {};
  }

  /// When each token of a request came; after wait().
  const std::vector<std::vector<Clock::time_point>>& times() const { return times_; }

 private:
  class Sink : public UpdateSink {
   public:
    Sink(Stopwatch& watch, size_t request) : watch_(watch), request_(request) {}
    void on_update(const RequestUpdate& update) override { watch_.add(request_, update); }

   private:
    Stopwatch& watch_;
    size_t request_;
  };

  void add(size_t request, const RequestUpdate& update) {
    const auto now = Clock::now();
    const std::lock_guard lock(mutex_);
    if (update.has_token) times_[request].push_back(now);
    if (!update.finished) return;
    if (update.reason != FinishReason::kLength) error_ = "a request ended early: " + update.error;
    ++num_ended_;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<Clock::time_point>> times_;
  size_t num_ended_ = 0;
  std::string error_;
};

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

/// Drives one job from beside its leader.
class ModelRun {
 public:
  ModelRun(const ModelBench& bench, const launcher::WorkerSetup& setup, Leader& leader,
           Report& report)
      : bench_(bench),
        setup_(setup),
        leader_(leader),
        report_(report),
        costs_(model_costs(setup.engine->manifest(), setup.executor.kv_format)),
        limits_(setup.cpu.num_threads * setup.topology.world_size) {}

  Status measure() {
    for (const int64_t tokens : bench_.prompts) {
      if (tokens > 0) PHALANX_RETURN_IF_ERROR(measure_prefill(tokens));
    }
    for (const int64_t batch : bench_.batches) {
      if (batch > 0) PHALANX_RETURN_IF_ERROR(measure_decode(batch));
    }
    return {};
  }

 private:
  /// Random prompts, fresh ones each time.
  std::vector<Request> make_requests(int64_t count, int64_t prompt, int64_t num_new) {
    std::uniform_int_distribution<int32_t> token(
        0, static_cast<int32_t>(setup_.scheduler.vocab_size) - 1);
    std::vector<Request> requests(static_cast<size_t>(count));
    for (Request& request : requests) {
      for (int64_t i = 0; i < prompt; ++i) request.prompt_token_ids.push_back(token(random_));
      request.max_tokens = num_new;
      request.sampling.temperature = 0.0F;
    }
    return requests;
  }

  Status run(std::vector<Request> requests, Stopwatch& watch) {
    check_stop();
    for (size_t i = 0; i < requests.size(); ++i) {
      const auto id = leader_.submit(std::move(requests[i]), watch.sink(i));
      if (!id.ok()) return id.error();
    }
    return watch.wait();
  }

  struct MachineSample {
    double bytes_per_second = 0;
    double ops_per_second = 0;
  };
  /// Small models stay in the cache that all threads share.
  ReadFrom read_from() const {
    const auto levels = limits_.levels();
    const bool knows_l3 = std::find(levels.begin(), levels.end(), ReadFrom::kL3) != levels.end();
    const bool fits = knows_l3 && costs_.weight_bytes <=
                                      static_cast<double>(limits_.working_set_bytes(ReadFrom::kL3));
    return fits ? ReadFrom::kL3 : ReadFrom::kDram;
  }

  /// The best of some windows: one of 10 ms may fall on a moment when somebody else has a core.
  MachineSample sample_machine() {
    MachineSample sample;
    for (int window = 0; window < kLimitWindows; ++window) {
      sample.bytes_per_second =
          std::max(sample.bytes_per_second, limits_.read_gbs(read_from()) * 1e9);
      sample.ops_per_second =
          std::max(sample.ops_per_second, limits_.peak_gops(peak_kind(costs_.weights)) * 1e9);
    }
    return sample;
  }

  /// Least time of a step whose linears read `bytes` and compute `ops`.
  static double least_seconds(double bytes, double ops, const MachineSample& a,
                              const MachineSample& b) {
    const double memory = 2 * bytes / (a.bytes_per_second + b.bytes_per_second);
    const double compute = 2 * ops / (a.ops_per_second + b.ops_per_second);
    return std::max(memory, compute);
  }

  std::string peak_name() const {
    return std::string(peak_kind_name(peak_kind(costs_.weights))) + " peak";
  }

  Measurement row(const std::string& name) const {
    Measurement measurement;
    measurement.name = name;
    measurement.parameters = {{"model", setup_.engine->manifest().model().name()},
                              {"weights", setup_.engine->manifest().provenance().weights()},
                              {"kv", kernels::kv_format_name(setup_.executor.kv_format)},
                              {"tp", std::to_string(setup_.topology.tp_size)},
                              {"pp", std::to_string(setup_.topology.pp_size)},
                              {"threads", std::to_string(setup_.cpu.num_threads)}};
    measurement.unit = "tok/s";
    return measurement;
  }

  Status measure_prefill(int64_t tokens) {
    Measurement measurement = row("prefill");
    measurement.parameters.emplace_back("prompt", std::to_string(tokens));
    Limit limit;
    const double ops = costs_.layer_ops_per_token * static_cast<double>(tokens) +
                       costs_.head_ops_per_token + costs_.attention_ops(tokens);
    limit.name = peak_name();
    for (int64_t i = -1; i < bench_.repetitions; ++i) {  // the first warms up
      const MachineSample before = sample_machine();
      Stopwatch watch(1);
      const auto begin = Clock::now();
      PHALANX_RETURN_IF_ERROR(run(make_requests(1, tokens, 1), watch));
      const double seconds = seconds_between(begin, watch.times()[0][0]);
      const MachineSample after = sample_machine();
      if (i < 0) continue;
      measurement.samples.push_back(static_cast<double>(tokens) / seconds);
      limit.samples.push_back(static_cast<double>(tokens) /
                              least_seconds(costs_.weight_bytes, ops, before, after));
    }
    measurement.limit = std::move(limit);
    report_.add(std::move(measurement));
    return {};
  }

  /// Rate between the moment when the last sequence has its first token and the moment when the
  /// first one ends: all are decoding then.
  Status measure_decode(int64_t batch) {
    Measurement measurement = row("decode");
    measurement.parameters.emplace_back("batch", std::to_string(batch));
    measurement.parameters.emplace_back("context", std::to_string(bench_.context));
    Limit limit;
    const double context =
        static_cast<double>(bench_.context) + static_cast<double>(bench_.num_new) / 2;
    const auto rows = static_cast<double>(batch);
    const double bytes = costs_.weight_bytes + rows * context * costs_.kv_bytes_per_token;
    const double ops = rows * (costs_.layer_ops_per_token + costs_.head_ops_per_token);
    int64_t num_memory_bound = 0;
    // The same prompts each time: the prefix cache has them from the second time on.
    const std::vector<Request> requests = make_requests(batch, bench_.context, bench_.num_new);
    for (int64_t i = -1; i < bench_.repetitions; ++i) {
      Stopwatch watch(static_cast<size_t>(batch));
      const MachineSample before = sample_machine();
      PHALANX_RETURN_IF_ERROR(run(requests, watch));
      const MachineSample after = sample_machine();
      if (i < 0) continue;
      auto begin = watch.times()[0].front();
      auto end = watch.times()[0].back();
      for (const auto& times : watch.times()) {
        begin = std::max(begin, times.front());
        end = std::min(end, times.back());
      }
      int64_t count = 0;
      for (const auto& times : watch.times()) {
        count += std::count_if(times.begin(), times.end(),
                               [&](Clock::time_point t) { return t > begin && t <= end; });
      }
      if (count == 0)
        return failed_precondition("--new " + std::to_string(bench_.num_new) +
                                   ": the first sequence ends before the last one starts; ask for "
                                   "more, or for more --step-tokens");
      measurement.samples.push_back(static_cast<double>(count) / seconds_between(begin, end));
      const double least = least_seconds(bytes, ops, before, after);
      if (least > least_seconds(0, ops, before, after)) ++num_memory_bound;
      limit.samples.push_back(rows / least);
    }
    limit.name = 2 * num_memory_bound > bench_.repetitions
                     ? std::string(read_from_name(read_from())) + " bandwidth"
                     : peak_name();
    measurement.limit = std::move(limit);
    report_.add(std::move(measurement));
    return {};
  }

  const ModelBench& bench_;
  const launcher::WorkerSetup& setup_;
  Leader& leader_;
  Report& report_;
  const ModelCosts costs_;
  MachineLimits limits_;
  std::mt19937 random_{std::random_device{}()};
};

/// The engine's path, on every rank; the first one makes it when it is not there.
Result<std::string> find_engine(parallel::MpiSession& session, const BenchOptions& options) {
  if (options.is_set("--engine")) return options.text("--engine");
  PHALANX_ASSIGN_OR_RETURN(const ShapeEngineRequest request, read_shape_request(options));
  const auto path = session.rank() == 0 ? ensure_shape_engine(request) : shape_engine_path(request);
  PHALANX_RETURN_IF_ERROR(launcher::agree(session, path.ok() ? Status() : Status(path.error())));
  return path;
}

Result<ModelBench> read_bench(const BenchOptions& options) {
  ModelBench bench;
  PHALANX_ASSIGN_OR_RETURN(bench.prompts, options.integers("--prompt", 0, kMaxTokens));
  PHALANX_ASSIGN_OR_RETURN(bench.batches, options.integers("--batch", 0, 4096));
  PHALANX_ASSIGN_OR_RETURN(bench.context, options.integer("--context", 1, kMaxTokens));
  PHALANX_ASSIGN_OR_RETURN(bench.num_new, options.integer("--new", 2, kMaxTokens));
  PHALANX_ASSIGN_OR_RETURN(bench.repetitions, options.integer("--repetitions", 1, 1000));
  return bench;
}

/// llm-worker's configuration for the job, with room for the largest row of the report.
Result<config::WorkerConfig> make_config(const BenchOptions& options, const ModelBench& bench,
                                         int world_size) {
  PHALANX_ASSIGN_OR_RETURN(const int64_t pp, options.integer("--pp", 1, 1024));
  PHALANX_ASSIGN_OR_RETURN(int64_t tp, options.integer("--tp", 0, 1024));
  PHALANX_ASSIGN_OR_RETURN(const int64_t threads, options.integer("--threads", 0, 1024));
  PHALANX_ASSIGN_OR_RETURN(const int64_t step, options.integer("--step-tokens", 1, 65536));
  PHALANX_ASSIGN_OR_RETURN(const std::string kv, options.one_of("--kv", {"f32", "bf16", "int8"}));
  PHALANX_ASSIGN_OR_RETURN(
      const std::string isa,
      options.one_of("--isa", {"auto", "portable", "avx2", "avx2vnni", "avx512"}));
  if (tp == 0) tp = std::max<int64_t>(1, world_size / pp);
  const int64_t longest_prompt = *std::max_element(bench.prompts.begin(), bench.prompts.end());
  const int64_t largest_batch =
      std::max<int64_t>(1, *std::max_element(bench.batches.begin(), bench.batches.end()));
  const int64_t context = std::max(longest_prompt + 1, bench.context + bench.num_new);
  const int64_t blocks_each = (bench.context + bench.num_new) / kernels::kBlockTokens + 2;
  const int64_t capacity =
      (largest_batch * blocks_each + context / kernels::kBlockTokens + 2) * kernels::kBlockTokens;
  std::string kv_name = kv;
  std::transform(kv.begin(), kv.end(), kv_name.begin(), ::toupper);
  const auto set = [](const std::string& field, int64_t value) {
    return field + "=" + std::to_string(value);
  };
  std::vector<std::string> settings = {
      "log_level=WARNING",
      set("parallel.tp_size", tp),
      set("parallel.pp_size", pp),
      set("cpu.num_threads", threads),
      "cpu.isa=" + isa,
      "cpu.tuning=" + options.text("--tuning"),
      "kv_cache.format=" + kv_name,
      set("kv_cache.capacity_tokens", capacity),
      "kv_cache.prefix_cache=true",
      set("scheduling.max_context_tokens", context),
      set("scheduling.max_step_tokens", std::max(step, largest_batch)),
      set("scheduling.max_chunk_tokens", std::max(step, largest_batch)),
      set("scheduling.max_sequences", largest_batch),
      "engine=" + bench.engine};
  if (options.is_set("--pin")) settings.push_back("cpu.pin_threads=true");
  return launcher::parse_worker_config("", "llm-bench", settings);
}

std::unique_ptr<TraceRecorder> make_trace(int num_threads) {
  constexpr size_t kSpans = size_t{1} << 16;
  std::vector<std::string> tracks = {"executor", "leader"};
  for (int i = 0; i < num_threads; ++i) tracks.push_back("kernels-" + std::to_string(i));
  return std::make_unique<TraceRecorder>(std::move(tracks), kSpans);
}

/// Rank 0 writes the file that was asked for, the others one beside it.
std::string trace_path(const std::string& path, int rank) {
  return rank == 0 ? path : path + ".rank-" + std::to_string(rank);
}

/// The last steps' time by operation, as rows.
void report_account(const TraceRecorder& trace, Report& report) {
  constexpr size_t kMaxSteps = 200;
  const StepAccount account =
      account_steps(trace.spans(kExecutorTrack), "read the plan", kMaxSteps);
  if (account.step_us.empty()) return;
  const auto add = [&](const std::string& name, double calls, const std::vector<double>& samples) {
    Measurement row;
    row.name = "step";
    row.parameters = {{"operation", name}, {"calls", std::to_string(std::lround(calls))}};
    row.unit = "us";
    row.better = Better::kLower;
    row.samples = samples;
    report.add(std::move(row));
  };
  for (const OperationTime& operation : account.operations)
    add(operation.name, operation.calls_per_step, operation.us_per_step);
  add("all", 1, account.step_us);
}

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(ModelBench bench, read_bench(options));
  parallel::MpiSession session(nullptr, nullptr);
  PHALANX_ASSIGN_OR_RETURN(bench.engine, find_engine(session, options));
  PHALANX_ASSIGN_OR_RETURN(const config::WorkerConfig config,
                           make_config(options, bench, session.world_size()));
  PHALANX_ASSIGN_OR_RETURN(launcher::WorkerSetup setup, launcher::make_setup(session, config));

  std::unique_ptr<TraceRecorder> trace;
  if (options.is_set("--trace")) trace = make_trace(setup.cpu.num_threads);
  launcher::WorkerJob job(session, std::move(setup), /*digest_logits=*/false, trace.get());
  Status status;
  std::exception_ptr thrown;
  std::thread client;
  job.run([&] {
    client = std::thread([&] {
      try {
        status = ModelRun(bench, job.setup(), *job.leader(), report).measure();
      } catch (...) {
        thrown = std::current_exception();
      }
      job.leader()->drain(std::chrono::seconds(0));
    });
  });
  if (client.joinable()) client.join();
  if (thrown) std::rethrow_exception(thrown);
  PHALANX_RETURN_IF_ERROR(status);
  if (trace == nullptr) return {};
  if (session.rank() == 0) report_account(*trace, report);
  return trace->write_chrome_json(trace_path(options.text("--trace"), session.rank()),
                                  session.rank());
}

}  // namespace

Command model_command() {
  return {"model", "prefill and decode rates of an engine, on the ranks of mpirun", "", 0, flags,
          run};
}

}  // namespace phalanx::bench
