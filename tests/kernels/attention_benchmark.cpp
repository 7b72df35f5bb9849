// Speed of attention and KV writes beside the limits of the machine, measured in turn with them.
// Run by people: attention_benchmark [threads] [tier]
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/thread_team.h"
#include "kernels/cpu_backend.h"

namespace phalanx::kernels {
namespace {

/// One thread is timed by its own CPU time, so that other programs on the core cost only caches and
/// bandwidth; a team is timed by the wall clock.
bool use_thread_time = true;

double seconds() {
  timespec now{};
  clock_gettime(use_thread_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// Median of the times of `rounds` calls.
template <typename Work>
double median_seconds(int rounds, Work&& work) {
  std::vector<double> times;
  work();
  for (int i = 0; i < rounds; ++i) {
    const double begin = seconds();
    work();
    times.push_back(seconds() - begin);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

#if defined(__x86_64__)
/// GFLOP/s of 512-bit f32 multiply-adds in registers, one thread.
__attribute__((target("avx512f"))) double f32_peak() {
  constexpr int kRounds = 2000000;
  const double begin = seconds();
  for (int i = 0; i < kRounds; ++i) {
    asm volatile(
        "vfmadd231ps %%zmm16,%%zmm17,%%zmm0\n vfmadd231ps %%zmm16,%%zmm17,%%zmm1\n"
        "vfmadd231ps %%zmm16,%%zmm17,%%zmm2\n vfmadd231ps %%zmm16,%%zmm17,%%zmm3\n"
        "vfmadd231ps %%zmm16,%%zmm17,%%zmm4\n vfmadd231ps %%zmm16,%%zmm17,%%zmm5\n"
        "vfmadd231ps %%zmm16,%%zmm17,%%zmm6\n vfmadd231ps %%zmm16,%%zmm17,%%zmm7\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
  }
  return 8.0 * kRounds * 32 / (seconds() - begin) * 1e-9;
}
#endif

double read_gbps(const std::byte* memory, int64_t bytes, cpu::ThreadTeam& team) {
  std::vector<uint64_t> sums(static_cast<size_t>(team.size()) * 8);
  const double time = median_seconds(5, [&] {
    team.run([&](int index) {
      const auto* words = reinterpret_cast<const uint64_t*>(memory);
      const int64_t count = bytes / 8 / team.size();
      uint64_t sum = 0;
      for (int64_t i = index * count; i < (index + 1) * count; ++i) sum += words[i];
      sums[static_cast<size_t>(index) * 8] += sum;
    });
  });
  volatile uint64_t keep = sums[0];
  static_cast<void>(keep);
  return static_cast<double>(bytes) / time * 1e-9;
}

struct ModelShape {
  const char* name;
  int64_t num_query_heads, num_kv_heads, head_dim;
};

/// A pool with `batch` sequences of `context` tokens, and a step that adds `rows` more to each.
class Scene {
 public:
  Scene(Operators& operators, const ModelShape& shape, KvFormat format, int64_t batch,
        int64_t context, int64_t rows)
      : operators_(operators), shape_(shape), batch_(batch), context_(context), rows_(rows) {
    const int64_t blocks = (context + rows + kBlockTokens - 1) / kBlockTokens;
    table_.resize(static_cast<size_t>(batch * blocks));
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
    pool_bytes_ = batch * blocks * shape.num_kv_heads * kv_block_bytes(format, shape.head_dim);
    pool_ = operators.allocate(pool_bytes_);
    view_ = {format, pool_.get(), batch * blocks, shape.num_kv_heads, shape.head_dim};
    for (int64_t h = 0; h < shape.num_query_heads; ++h) {
      heads_.push_back(static_cast<int32_t>(h * shape.num_kv_heads / shape.num_query_heads));
    }
    q_cols_ = shape.num_query_heads * shape.head_dim;
    kv_cols_ = shape.num_kv_heads * shape.head_dim;
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    const int64_t longest = std::max(batch * rows, int64_t{256});
    q_.resize(static_cast<size_t>(longest * q_cols_));
    kv_.resize(static_cast<size_t>(longest * kv_cols_));
    y_.resize(q_.size());
    for (float& x : q_) x = normal(random);
    for (float& x : kv_) x = normal(random);
    for (int64_t s = 0; s < batch; ++s) {
      const int32_t* table = table_.data() + s * blocks;
      for (int64_t p = 0; p < context; p += 256) {
        const SequenceRows fill{0, std::min(int64_t{256}, context - p), p, table};
        operators.write_kv({kv_.data(), kv_cols_}, {kv_.data(), kv_cols_}, {&fill, 1}, view_);
      }
      sequences_.push_back({s * rows, rows, context, table});
    }
  }

  void write() {
    operators_.write_kv({kv_.data(), kv_cols_}, {kv_.data(), kv_cols_}, sequences_, view_);
  }
  void attend() {
    AttentionParams params;
    params.num_query_heads = shape_.num_query_heads;
    params.kv_head_of_query = heads_.data();
    params.scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim));
    operators_.attention({q_.data(), q_cols_}, sequences_, view_, params, {y_.data(), q_cols_});
  }

  double kv_bytes() const { return static_cast<double>(pool_bytes_); }
  /// Multiplies and adds of the visible scores and values.
  double flops() const {
    double tokens = 0;
    for (int64_t r = 0; r < rows_; ++r) tokens += static_cast<double>(context_ + r + 1);
    return 4.0 * tokens * static_cast<double>(q_cols_ * batch_);
  }

 private:
  Operators& operators_;
  const ModelShape shape_;
  const int64_t batch_, context_, rows_;
  int64_t q_cols_ = 0, kv_cols_ = 0, pool_bytes_ = 0;
  std::vector<int32_t> table_, heads_;
  std::vector<float> q_, kv_, y_;
  std::vector<SequenceRows> sequences_;
  std::shared_ptr<std::byte> pool_;
  KvLayerView view_;
};

int run(int num_threads, IsaTier tier) {
  CpuBackendOptions options;
  options.num_threads = num_threads;
  options.isa_tier = tier;
  const auto operators = make_cpu_operators(options);
  use_thread_time = num_threads == 1;
  std::printf("%s, timed by %s; per layer\n", operators->description().c_str(),
              use_thread_time ? "CPU time" : "the wall clock");
  {
    cpu::ThreadTeam team(num_threads, true);
    const double fork = median_seconds(50, [&] {
      for (int i = 0; i < 100; ++i) team.run([](int) {});
    });
    const int64_t bytes = int64_t{1} << 29;
    const auto memory = operators->allocate(bytes);
    for (int64_t i = 0; i < bytes; i += 64) memory.get()[i] = std::byte{1};
    std::printf("limits: read %.1f GB/s", read_gbps(memory.get(), bytes, team));
#if defined(__x86_64__)
    if (best_isa_tier() == IsaTier::kAvx512) std::printf(", f32 %.0f GFLOP/s a thread", f32_peak());
#endif
    std::printf("; fork and join %.2f us\n", fork * 1e4);
  }
  std::printf("%-8s %-5s %6s %8s %6s %11s %9s %9s %11s\n", "shape", "kv", "batch", "context",
              "rows", "us", "GB/s", "GFLOP/s", "write us");
  for (const ModelShape& shape :
       {ModelShape{"demo", 8, 2, 64}, ModelShape{"1b", 32, 8, 64}, ModelShape{"8b", 32, 8, 128}}) {
    for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
      struct Load {
        int64_t batch, context, rows;
      };
      for (const Load& load : {Load{1, 200, 1}, Load{1, 4096, 1}, Load{32, 500, 1}, Load{1, 0, 512},
                               Load{1, 2048, 64}}) {
        Scene scene(*operators, shape, format, load.batch, load.context, load.rows);
        const double write = median_seconds(7, [&] { scene.write(); });
        const double attend = median_seconds(7, [&] { scene.attend(); });
        std::printf("%-8s %-5s %6ld %8ld %6ld %11.1f %9.1f %9.1f %11.1f\n", shape.name,
                    kv_format_name(format), static_cast<long>(load.batch),
                    static_cast<long>(load.context), static_cast<long>(load.rows), attend * 1e6,
                    scene.kv_bytes() / attend * 1e-9, scene.flops() / attend * 1e-9, write * 1e6);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace phalanx::kernels

int main(int argc, char** argv) {
  using phalanx::kernels::best_isa_tier;
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const auto tier = argc > 2 ? phalanx::kernels::parse_isa_tier(argv[2]) : best_isa_tier();
  if (num_threads < 1 || !tier || *tier > best_isa_tier()) {
    std::fprintf(stderr, "usage: attention_benchmark [threads] [portable|avx2|avx512]\n");
    return 2;
  }
  return phalanx::kernels::run(num_threads, *tier);
}
