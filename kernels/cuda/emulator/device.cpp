// The emulated device: spreads a grid's blocks over OS threads. Called through launch.h.
#include "kernels/cuda/emulator/device.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include <cxxabi.h>

#include "kernels/cuda/emulator/block_runner.h"
#include "kernels/cuda/emulator/grid_run.h"
#include "kernels/cuda/emulator/kernel_thread.h"

namespace phalanx::kernels::cuda::emulator {

namespace {

constexpr uint64_t kMaxThreadsPerBlock = 1024;
constexpr uint32_t kMaxBlockDepth = 64;
constexpr uint32_t kMaxGridWidth = 0x7fffffff;
constexpr uint32_t kMaxGridHeight = 65535;  // and depth

struct SharedOptions {
  std::mutex mutex;
  DeviceOptions options;
};
SharedOptions& shared_options() {
  static SharedOptions shared;
  return shared;
}

/// Runners that wait for a block: fibers are dear to make. Thread safe.
class RunnerPool {
 public:
  std::unique_ptr<BlockRunner> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<BlockRunner>();
    auto runner = std::move(idle_.back());
    idle_.pop_back();
    return runner;
  }
  void give_back(std::unique_ptr<BlockRunner> runner) {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kMaxIdle) idle_.push_back(std::move(runner));
  }

 private:
  static constexpr size_t kMaxIdle = 24;  // eight ranks of three blocks
  std::mutex mutex_;
  std::vector<std::unique_ptr<BlockRunner>> idle_;
};
RunnerPool& runner_pool() {
  static RunnerPool pool;
  return pool;
}

[[noreturn]] void refuse(const Grid& grid, const std::string& why) {
  std::ostringstream text;
  text << "kernel " << kernel_name(grid.kernel) << " cannot be launched: " << why;
  throw KernelFault(FaultKind::kBadLaunch, text.str());
}

uint64_t count(const dim3& shape) { return uint64_t{shape.x} * shape.y * shape.z; }

void require_launchable(const Grid& grid, const DeviceOptions& options) {
  std::ostringstream text;
  const dim3& block = grid.block;
  const dim3& blocks = grid.grid;
  if (count(block) == 0 || block.x > kMaxThreadsPerBlock || block.y > kMaxThreadsPerBlock ||
      block.z > kMaxBlockDepth || count(block) > kMaxThreadsPerBlock) {
    text << "a block of " << block.x << " x " << block.y << " x " << block.z
         << " threads; allowed are 1 to 1024 threads, z at most 64";
  } else if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > kMaxGridWidth ||
             blocks.y > kMaxGridHeight || blocks.z > kMaxGridHeight) {
    text << "a grid of " << blocks.x << " x " << blocks.y << " x " << blocks.z
         << " blocks; allowed are 1 to 2^31-1 in x, 1 to 65535 in y and z";
  } else if (grid.shared_bytes > options.max_shared_bytes) {
    text << grid.shared_bytes << " bytes of shared memory a block; allowed are "
         << options.max_shared_bytes;
  } else if (grid.coresident && count(blocks) > options.max_coresident_blocks) {
    text << count(blocks) << " co-resident blocks; allowed are " << options.max_coresident_blocks;
  } else {
    return;
  }
  refuse(grid, text.str());
}

/// The blocks in the order of the options; empty stands for ascending, which needs no list.
std::vector<uint32_t> block_order(uint64_t num_blocks, const DeviceOptions& options) {
  if (options.order == ThreadOrder::kAscending || num_blocks > UINT32_MAX) return {};
  std::vector<uint32_t> order(num_blocks);
  if (options.order == ThreadOrder::kDescending) {
    std::iota(order.rbegin(), order.rend(), 0U);
    return order;
  }
  std::iota(order.begin(), order.end(), 0U);
  std::mt19937_64 random(options.seed);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

/// Takes blocks until none is left or the launch is stopped. Does not throw.
class BlockFeed {
 public:
  BlockFeed(GridRun& run, uint64_t num_blocks)
      : run_(run), num_blocks_(num_blocks), order_(block_order(num_blocks, run.options())) {}

  void work() {
    try {
      auto runner = runner_pool().take();
      for (uint64_t i = next_++; i < num_blocks_ && !run_.stopped(); i = next_++)
        runner->run_block(run_, index_of(order_.empty() ? i : order_[i]));
      runner_pool().give_back(std::move(runner));
    } catch (...) {
      run_.stop(std::current_exception());
    }
  }

 private:
  uint3 index_of(uint64_t block) const {
    const dim3& grid = run_.grid().grid;
    return {static_cast<uint32_t>(block % grid.x), static_cast<uint32_t>(block / grid.x % grid.y),
            static_cast<uint32_t>(block / grid.x / grid.y)};
  }

  GridRun& run_;
  const uint64_t num_blocks_;
  const std::vector<uint32_t> order_;
  std::atomic<uint64_t> next_{0};
};

/// A feed of one block for each of its workers, all of which must have begun for any to end.
/// With fewer OS threads than blocks, some would spin for ever: then the launch is stopped.
void run_workers(GridRun& run, BlockFeed& feed, uint64_t num_workers) {
  std::vector<std::jthread> others;
  try {
    others.reserve(num_workers - 1);
    while (others.size() + 1 < num_workers) others.emplace_back([&feed] { feed.work(); });
  } catch (...) {
    run.stop(std::current_exception());
  }
  feed.work();
}

}  // namespace

void set_device_options(const DeviceOptions& options) {
  PHALANX_CHECK_GE(options.num_os_threads, 1, "DeviceOptions::num_os_threads");
  SharedOptions& shared = shared_options();
  const std::lock_guard lock(shared.mutex);
  shared.options = options;
}

DeviceOptions device_options() {
  SharedOptions& shared = shared_options();
  const std::lock_guard lock(shared.mutex);
  return shared.options;
}

std::string kernel_name(const void* kernel) {
  Dl_info info{};
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr || info.dli_saddr != kernel) {
    std::ostringstream text;
    text << "at " << kernel;
    return text.str();
  }
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : info.dli_sname;
}

void run_grid(const Grid& grid) {
  PHALANX_CHECK(current_identity == nullptr, "a kernel launches a kernel");
  const DeviceOptions options = device_options();
  require_launchable(grid, options);
  const uint64_t num_blocks = count(grid.grid);
  GridRun run(grid, options);
  BlockFeed feed(run, num_blocks);
  run_workers(run, feed,
              grid.coresident
                  ? num_blocks
                  : std::min<uint64_t>(num_blocks, static_cast<uint64_t>(options.num_os_threads)));
  run.rethrow();
}

}  // namespace phalanx::kernels::cuda::emulator
