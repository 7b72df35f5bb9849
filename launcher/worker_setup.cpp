// Decides sizes before anything is allocated, and makes ranks agree on them.
#include "launcher/worker_setup.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

#include "launcher/core_placement.h"
#include "launcher/device_placement.h"
#include "launcher/host_resources.h"
#include "launcher/machine_topology.h"
#include "launcher/tuning_file.h"
#include "launcher/worker_config.h"
#include "runtime/base/check.h"
#include "runtime/base/log.h"
#include "runtime/executor/memory_ledger.h"
#include "runtime/scheduler/kv_pool.h"

namespace phalanx::launcher {
namespace {

kernels::KvFormat kv_format(const config::WorkerConfig& config) {
  switch (config.kv_cache().format()) {
    case config::KvCache::BF16:
      return kernels::KvFormat::kBf16;
    case config::KvCache::INT8:
      return kernels::KvFormat::kInt8;
    default:  // protobuf enums are open; the parser refused unknown names
      return kernels::KvFormat::kF32;
  }
}

/// mpirun binds ranks to a core each unless told otherwise; a binding that was asked for shows in
/// its environment as a policy.
bool is_bound_by_default() {
  return std::getenv("OMPI_MCA_orte_bound_at_launch") != nullptr &&
         std::getenv("OMPI_MCA_hwloc_base_binding_policy") == nullptr;
}

StepLimits step_limits(const config::WorkerConfig& config, const engine::ModelConfig& model) {
  StepLimits limits;
  limits.max_rows = config.scheduling().max_step_tokens();
  limits.max_sequences = std::min(config.scheduling().max_sequences(), limits.max_rows);
  limits.max_positions = config.scheduling().max_context_tokens() > 0
                             ? config.scheduling().max_context_tokens()
                             : model.max_position_embeddings();
  return limits;
}

Status check_against_model(const config::WorkerConfig& config, const engine::ModelConfig& model) {
  const int64_t context = config.scheduling().max_context_tokens();
  if (context > model.max_position_embeddings()) {
    return invalid_argument("scheduling.max_context_tokens = " + std::to_string(context) +
                            ": allowed 1.." + std::to_string(model.max_position_embeddings()) +
                            ", the model's max_position_embeddings");
  }
  return {};
}

Result<std::shared_ptr<const model::EngineFile>> open_engine(const config::WorkerConfig& config) {
  auto engine = model::EngineFile::open(config.engine());
  if (engine.ok()) return std::shared_ptr<const model::EngineFile>(std::move(engine).value());
  return Error{engine.error().code, "engine = \"" + config.engine() +
                                        "\": " + engine.error().message +
                                        " (an engine is the directory that llm-build makes)"};
}

kernels::Backend backend_of(const config::WorkerConfig& config) {
  return config.device() == config::WorkerConfig::CUDA ? kernels::Backend::kCuda
                                                       : kernels::Backend::kCpu;
}

/// Blocks the configuration asks for, or that memory gives: its fraction of what is available to
/// this rank, and no more than weights and activations leave. Of a GPU's memory, all they leave.
Result<int64_t> choose_num_blocks(const config::WorkerConfig& config, const StepLimits& limits,
                                  int64_t bytes_per_block, int64_t available_bytes,
                                  int64_t other_bytes) {
  const int64_t context_blocks = blocks_for_tokens(limits.max_positions, kernels::kBlockTokens);
  if (const int64_t tokens = config.kv_cache().capacity_tokens(); tokens > 0) {
    const int64_t blocks = blocks_for_tokens(tokens, kernels::kBlockTokens);
    if (blocks < context_blocks) {
      return invalid_argument("kv_cache.capacity_tokens = " + std::to_string(tokens) +
                              ": allowed 0 or at least one context of " +
                              std::to_string(limits.max_positions) + " tokens");
    }
    return blocks;
  }
  const bool on_cpu = backend_of(config) == kernels::Backend::kCpu;
  const double share =
      static_cast<double>(available_bytes) * (on_cpu ? config.kv_cache().memory_fraction() : 1.0);
  const int64_t kv_bytes = std::clamp<int64_t>(static_cast<int64_t>(share), 0,
                                               std::max<int64_t>(available_bytes - other_bytes, 0));
  const int64_t fitting = kv_bytes / std::max<int64_t>(bytes_per_block, 1);
  if (fitting < context_blocks) {
    return resource_exhausted(
        (on_cpu
             ? "kv_cache.memory_fraction = " + std::to_string(config.kv_cache().memory_fraction())
             : "what cuda.memory_fraction = " + std::to_string(config.cuda().memory_fraction()) +
                   " leaves") +
        " of the " + format_bytes(available_bytes) +
        " available to this rank (weights and "
        "activations take " +
        format_bytes(other_bytes) + ") holds " + std::to_string(fitting * kernels::kBlockTokens) +
        " tokens, fewer than one context of " + std::to_string(limits.max_positions) +
        "; lower scheduling.max_context_tokens or free memory");
  }
  return std::min(fitting, limits.max_sequences * context_blocks);
}

/// What this process may still map under `ulimit -v`.
int64_t address_space_bytes() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return std::numeric_limits<int64_t>::max();
  }
  int64_t mapped_pages = 0;
  std::ifstream("/proc/self/statm") >> mapped_pages;
  const int64_t used = mapped_pages * sysconf(_SC_PAGESIZE);
  return std::max<int64_t>(static_cast<int64_t>(limit.rlim_cur) - used, 0);
}

/// Refuses a plan that cannot fit before anything of it is allocated. `available_bytes`: this
/// rank's; `other_bytes`: its weights and activations.
Status check_memory(int64_t num_blocks, int64_t bytes_per_block, int64_t available_bytes,
                    int64_t other_bytes) {
  const int64_t free_bytes = std::max<int64_t>(available_bytes - other_bytes, 0);
  if (num_blocks <= free_bytes / std::max<int64_t>(bytes_per_block, 1)) return {};
  return resource_exhausted(
      "kv_cache.capacity_tokens = " + std::to_string(num_blocks * kernels::kBlockTokens) +
      " takes " + format_bytes(num_blocks * bytes_per_block) +
      " on this rank, weights and activations " + format_bytes(other_bytes) +
      "; available to it (memory, ulimit -v): " + format_bytes(available_bytes) +
      ". Allowed here: at most " +
      std::to_string(free_bytes / std::max<int64_t>(bytes_per_block, 1) * kernels::kBlockTokens) +
      " tokens");
}

Status check_same_engine(parallel::MpiSession& session, const model::EngineFile& engine) {
  const std::vector<std::string> hashes = session.all_gather(engine.manifest().engine_hash());
  for (int rank = 0; rank < session.world_size(); ++rank) {
    if (hashes[rank] != hashes[0]) {
      return failed_precondition("rank " + std::to_string(rank) + " on " + session.hosts()[rank] +
                                 " reads another engine (hash " + hashes[rank] +
                                 ") than rank 0 (hash " + hashes[0] + ")");
    }
  }
  return {};
}

/// The world's ranks on this host, in order.
std::vector<int> ranks_of_host(const parallel::MpiSession& session) {
  std::vector<int> ranks;
  for (int rank = 0; rank < session.world_size(); ++rank) {
    if (session.hosts()[rank] == session.hosts()[session.rank()]) ranks.push_back(rank);
  }
  return ranks;
}

/// Those of `cpus` that are near, or all where none is.
std::vector<int> within(const std::vector<int>& cpus, const std::vector<int>& near_cpus) {
  std::vector<int> found;
  std::copy_if(cpus.begin(), cpus.end(), std::back_inserter(found), [&](int cpu) {
    return std::find(near_cpus.begin(), near_cpus.end(), cpu) != near_cpus.end();
  });
  return found.empty() ? cpus : found;
}

/// What each rank of this host may use, `usable` being this one's. Collective.
HostRanks gather_host_ranks(parallel::MpiSession& session, const std::vector<int>& usable) {
  const std::vector<std::string> texts =
      session.all_gather(std::to_string(cpu_quota_cores()) + " " + format_cpu_list(usable));
  HostRanks host;
  for (const int rank : ranks_of_host(session)) {
    std::istringstream words(texts[rank]);
    int quota = 0;
    std::string cpus;
    words >> quota >> cpus;
    host.quota_cores = std::min(host.quota_cores, quota);
    host.allowed.push_back(parse_cpu_list(cpus));
  }
  return host;
}

/// "rank 0 on 0-3, rank 1 on 4-7, bound" or, where ranks share them, "0-7, not bound".
std::string describe_cores(const std::vector<int>& ranks, std::vector<std::vector<int>> cpus,
                           bool binds) {
  for (std::vector<int>& own : cpus) {
    std::sort(own.begin(), own.end());
    own.erase(std::unique(own.begin(), own.end()), own.end());
  }
  const char* how = binds ? "bound" : "not bound";
  if (std::all_of(cpus.begin(), cpus.end(), [&](const auto& own) { return own == cpus.front(); }))
    return format_cpu_list(cpus.front()) + ", " + how;
  std::string text;
  for (size_t i = 0; i < ranks.size(); ++i)
    text += "rank " + std::to_string(ranks[i]) + " on " + format_cpu_list(cpus[i]) + ", ";
  return text + how;
}

/// The sizes of steps that are recorded: close enough that filling one up costs little.
std::vector<int64_t> recorded_sizes(int64_t largest) {
  std::vector<int64_t> sizes;
  for (int64_t size = 1; size < largest; size += std::max<int64_t>(1, size / 4))
    sizes.push_back(size);
  if (largest > 0) sizes.push_back(largest);
  return sizes;
}

/// This rank's GPU, and the processors near it. Collective.
Status choose_cuda(parallel::MpiSession& session, WorkerSetup& setup, std::vector<int>& near_cpus) {
  std::string why_none;
  const auto devices = kernels::find_cuda_devices(&why_none);
  const Status has_one =
      devices.empty() ? Status(failed_precondition("device: CUDA, but no GPU here: " + why_none +
                                                   " (every rank needs one)"))
                      : Status();
  PHALANX_RETURN_IF_ERROR(agree(session, has_one));
  std::string seen;
  for (const kernels::CudaDeviceInfo& device : devices) seen += device.uuid + " ";
  const std::vector<std::string> texts = session.all_gather(seen);
  SeenDevices seen_on_host;
  for (const int rank : ranks_of_host(session)) {
    std::istringstream words(texts[rank]);
    seen_on_host.emplace_back(std::istream_iterator<std::string>(words),
                              std::istream_iterator<std::string>());
  }
  const auto placed = place_on_devices(seen_on_host, setup.config.cuda().share_devices());
  PHALANX_RETURN_IF_ERROR(agree(session, placed.ok() ? Status() : Status(placed.error())));
  const auto local_rank = static_cast<size_t>(session.local_rank());
  const auto taken_by = [&](size_t rank) {
    return seen_on_host[rank][static_cast<size_t>((*placed)[rank])];
  };
  int num_sharing = 0;
  for (size_t rank = 0; rank < placed->size(); ++rank) {
    if (taken_by(rank) == taken_by(local_rank)) ++num_sharing;
  }
  const kernels::CudaDeviceInfo& device = devices[static_cast<size_t>((*placed)[local_rank])];
  PHALANX_DEBUG("device " << device.index << ": " << device.name << " " << device.pci_bus_id);
  setup.cuda.emplace();
  setup.cuda->device_index = device.index;
  setup.device_bytes =
      static_cast<int64_t>(static_cast<double>(kernels::free_cuda_memory(device.index)) *
                           setup.config.cuda().memory_fraction() / num_sharing);
  near_cpus = cpus_near_device(device.pci_bus_id);
  return {};
}

/// Instruction set, threads and their places, tuned products. Collective.
Status choose_cpu(parallel::MpiSession& session, const std::vector<int>& near_cpus,
                  WorkerSetup& setup) {
  const config::Cpu& config = setup.config.cpu();
  kernels::CpuBackendOptions& cpu = setup.cpu;
  cpu.isa_tier = static_cast<kernels::IsaTier>(
      session.all_reduce_min(static_cast<int64_t>(kernels::best_isa_tier())));
  // mpirun's default of a core or so a rank is nobody's will: what the cpuset has counts.
  if (is_bound_by_default()) {
    const cpu_set_t cpuset = cpuset_cores();
    sched_setaffinity(0, sizeof(cpuset), &cpuset);
  }
  const std::vector<int> usable = within(list_of(affinity()), near_cpus);
  const HostRanks host = gather_host_ranks(session, usable);
  const MachineTopology topology = read_topology();
  const HostPlacement placement = place_ranks(topology, host, config.num_threads());
  const std::vector<int>& cpus = placement.cpus[static_cast<size_t>(session.local_rank())];
  const bool binds = config.has_pin_threads() ? config.pin_threads() : placement.pins;
  cpu.num_threads = static_cast<int>(cpus.size());
  cpu.spin = placement.fits;
  if (binds) cpu.cpus = cpus;
  cpu.memory_nodes = topology.nodes_of(binds ? cpus : usable);
  setup.spin = placement.fits;
  setup.cores =
      describe_cores(ranks_of_host(session), binds ? placement.cpus : host.allowed, binds);
  if (session.local_rank() == 0 && session.rank() != 0) {
    PHALANX_INFO("cores of " << session.hosts()[session.rank()] << ": " << setup.cores);
  }

  if (config.isa() != "auto") {
    const auto asked = kernels::parse_isa_tier(config.isa());
    if (!asked || *asked > cpu.isa_tier) {
      return invalid_argument("cpu.isa = \"" + config.isa() +
                              "\": the best that every rank's processor runs is " +
                              kernels::isa_tier_name(cpu.isa_tier));
    }
    cpu.isa_tier = *asked;
  }
  PHALANX_ASSIGN_OR_RETURN(
      cpu.tunings, load_tunings(config.tuning(), tuning_machine(topology, cpu.isa_tier, cpus)));
  return {};
}

/// What a rank of a planned job has: its part of this host, as if all shared it, or a GPU like the
/// first one here.
Result<int64_t> planned_bytes(const config::WorkerConfig& config, int64_t num_ranks) {
  if (backend_of(config) == kernels::Backend::kCpu) return available_memory_bytes() / num_ranks;
  std::string why_none;
  const auto devices = kernels::find_cuda_devices(&why_none);
  if (devices.empty()) {
    if (config.kv_cache().capacity_tokens() > 0) return 0;  // not asked for
    return failed_precondition("device: CUDA, but no GPU here to plan for: " + why_none +
                               " (a plan with kv_cache.capacity_tokens needs none)");
  }
  return static_cast<int64_t>(static_cast<double>(devices.front().total_bytes) *
                              config.cuda().memory_fraction());
}

/// What the backend takes for itself.
int64_t workspace_bytes(const config::WorkerConfig& config, const engine::ModelConfig& model,
                        const StagePlan& plan) {
  if (backend_of(config) == kernels::Backend::kCpu) return 0;
  return kernels::cuda_workspace_bytes(
      step_bounds(plan, step_limits(config, model), model.head_dim(), kv_format(config)),
      model.vocab_size());
}

SchedulerConfig scheduler_config(const WorkerSetup& setup) {
  const auto& scheduling = setup.config.scheduling();
  SchedulerConfig scheduler;
  scheduler.num_blocks = setup.executor.num_kv_blocks;
  scheduler.block_tokens = kernels::kBlockTokens;
  scheduler.max_step_tokens = setup.executor.limits.max_rows;
  scheduler.max_chunk_tokens = scheduling.max_chunk_tokens();
  scheduler.max_sequences = setup.executor.limits.max_sequences;
  scheduler.max_waiting = scheduling.max_waiting();
  scheduler.max_context_tokens = setup.executor.limits.max_positions;
  scheduler.vocab_size = setup.engine->manifest().model().vocab_size();
  scheduler.pp_size = setup.topology.pp_size;
  scheduler.prefix_cache = setup.config.kv_cache().prefix_cache();
  scheduler.policy = scheduling.policy() == config::Scheduling::GUARANTEED_NO_EVICT
                         ? SchedulingPolicy::kGuaranteedNoEvict
                         : SchedulingPolicy::kMaxUtilization;
  scheduler.ageing_steps = scheduling.ageing_steps();
  return scheduler;
}

}  // namespace

Status agree(parallel::MpiSession& session, const Status& local) {
  const std::string text = local.ok() ? ""
                                      : std::to_string(static_cast<int>(local.error().code)) + " " +
                                            local.error().message;
  const std::vector<std::string> all = session.all_gather(text);
  for (int rank = 0; rank < session.world_size(); ++rank) {
    if (all[rank].empty()) continue;
    const auto space = all[rank].find(' ');
    const std::string where = session.world_size() > 1 ? "rank " + std::to_string(rank) + " on " +
                                                             session.hosts()[rank] + ": "
                                                       : "";
    return Error{static_cast<ErrorCode>(std::stoi(all[rank].substr(0, space))),
                 where + all[rank].substr(space + 1)};
  }
  return {};
}

Result<config::WorkerConfig> share_config(parallel::MpiSession& session,
                                          const WorkerArguments& arguments) {
  std::string message;  // "=" and the serialized configuration, or "!" and why there is none
  if (session.rank() == 0) {
    const auto read = [&]() -> Result<config::WorkerConfig> {
      std::string text;
      if (!arguments.config_path.empty()) {
        PHALANX_ASSIGN_OR_RETURN(text, read_config_file(arguments.config_path));
      }
      const std::string name =
          arguments.config_path.empty() ? "configuration" : arguments.config_path;
      return parse_worker_config(text, name, arguments.overrides);
    };
    const Result<config::WorkerConfig> parsed = read();
    message = parsed.ok() ? "=" + parsed->SerializeAsString() : "!" + parsed.error().message;
  }
  message = session.broadcast(message, 0);
  if (message.empty() || message[0] == '!') return invalid_argument(message.substr(1));
  config::WorkerConfig config;
  PHALANX_CHECK(config.ParseFromString(message.substr(1)), "a broadcast configuration");
  return config;
}

Result<WorkerSetup> make_setup(parallel::MpiSession& session, const config::WorkerConfig& config) {
  WorkerSetup setup;
  setup.config = config;
  PHALANX_ASSIGN_OR_RETURN(
      setup.topology,
      parallel::make_rank_topology(session.world_size(), session.rank(),
                                   config.parallel().tp_size(), config.parallel().pp_size()));
  auto engine = open_engine(config);
  PHALANX_RETURN_IF_ERROR(agree(session, engine.ok() ? Status() : Status(engine.error())));
  setup.engine = std::move(engine).value();
  PHALANX_RETURN_IF_ERROR(check_same_engine(session, *setup.engine));
  const engine::EngineManifest& manifest = setup.engine->manifest();
  PHALANX_RETURN_IF_ERROR(
      model::check_topology(manifest, setup.topology.tp_size, setup.topology.pp_size));
  PHALANX_RETURN_IF_ERROR(check_against_model(config, manifest.model()));
  setup.model_name = config.model_name().empty() ? manifest.model().name() : config.model_name();

  std::vector<int> near_cpus;
  if (backend_of(config) == kernels::Backend::kCuda)
    PHALANX_RETURN_IF_ERROR(choose_cuda(session, setup, near_cpus));
  PHALANX_RETURN_IF_ERROR(agree(session, choose_cpu(session, near_cpus, setup)));
  if (setup.cuda) {
    setup.cuda->num_host_threads = setup.cpu.num_threads;
    setup.executor.draws_on_device = true;
    setup.executor.recorded_sizes = recorded_sizes(
        std::min(config.cuda().max_recorded_sequences(), config.scheduling().max_sequences()));
  }

  setup.executor.limits = step_limits(config, manifest.model());
  setup.executor.kv_format = kv_format(config);
  const StagePlan plan =
      make_stage_plan(manifest, setup.topology, setup.executor.limits, backend_of(config));
  const KvCacheShape kv{setup.executor.kv_format, plan.last_layer - plan.first_layer,
                        plan.num_kv_heads, manifest.model().head_dim(), 0};
  const int64_t available_bytes =
      setup.cuda ? setup.device_bytes
                 : std::min(available_memory_bytes() / session.local_size(), address_space_bytes());
  const int64_t other_bytes =
      plan.weight_bytes + plan.activation_bytes() + workspace_bytes(config, manifest.model(), plan);
  const auto blocks = choose_num_blocks(config, setup.executor.limits, kv.bytes_per_block(),
                                        available_bytes, other_bytes);
  PHALANX_RETURN_IF_ERROR(agree(session, blocks.ok() ? Status() : Status(blocks.error())));
  setup.executor.num_kv_blocks = session.all_reduce_min(*blocks);
  PHALANX_RETURN_IF_ERROR(
      agree(session, check_memory(setup.executor.num_kv_blocks, kv.bytes_per_block(),
                                  available_bytes, other_bytes)));
  setup.scheduler = scheduler_config(setup);
  return setup;
}

Result<std::string> describe_plan(const config::WorkerConfig& config) {
  PHALANX_ASSIGN_OR_RETURN(const auto engine, open_engine(config));
  const engine::EngineManifest& manifest = engine->manifest();
  const int tp_size = config.parallel().tp_size();
  const int pp_size = config.parallel().pp_size();
  PHALANX_RETURN_IF_ERROR(model::check_topology(manifest, tp_size, pp_size));
  PHALANX_RETURN_IF_ERROR(check_against_model(config, manifest.model()));
  const StepLimits limits = step_limits(config, manifest.model());
  const kernels::Backend backend = backend_of(config);
  auto ledger =
      make_memory_ledger(manifest, tp_size, pp_size, limits, kv_format(config), 1, backend);
  int64_t bytes_per_block = 0;
  int64_t other_bytes = 0;
  const parallel::RankTopology first{tp_size * pp_size, 0, tp_size, pp_size};
  const int64_t workspace =
      workspace_bytes(config, manifest.model(), make_stage_plan(manifest, first, limits, backend));
  for (RankLedger& rank : ledger) {
    rank.activation_bytes += workspace;
    bytes_per_block = std::max(bytes_per_block, rank.kv_bytes_per_block);
    other_bytes = std::max(other_bytes, rank.weight_bytes + rank.activation_bytes);
  }
  PHALANX_ASSIGN_OR_RETURN(const int64_t available_bytes,
                           planned_bytes(config, static_cast<int64_t>(ledger.size())));
  PHALANX_ASSIGN_OR_RETURN(const int64_t blocks, choose_num_blocks(config, limits, bytes_per_block,
                                                                   available_bytes, other_bytes));
  ledger =
      make_memory_ledger(manifest, tp_size, pp_size, limits, kv_format(config), blocks, backend);
  for (RankLedger& rank : ledger) rank.activation_bytes += workspace;
  std::ostringstream text;
  text << manifest.model().name() << ", tp_size " << tp_size << ", pp_size " << pp_size << ", "
       << manifest.provenance().weights() << " weights, "
       << kernels::kv_format_name(kv_format(config)) << " KV cache of "
       << blocks * kernels::kBlockTokens << " tokens (" << blocks << " blocks of "
       << kernels::kBlockTokens << ")\n"
       << format_memory_ledger(ledger);
  return text.str();
}

}  // namespace phalanx::launcher
