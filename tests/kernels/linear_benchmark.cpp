// Speed of packing, conversion and linear beside the limits of the machine, measured in turn with
// them. Run by people: linear_benchmark [threads] [tier] [demo|llama] [format]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu/linear.h"
#include "tests/kernels/stored_matrix.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace phalanx::kernels {
namespace {

using test::is_quantized;
using test::OwnedActivation;
using test::StoredMatrix;

/// One thread is timed by its own CPU time, so that other programs on the core cost only caches and
/// bandwidth; a team is timed by the wall clock.
bool use_thread_time = true;

double seconds() {
  timespec now{};
  clock_gettime(use_thread_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// ------------------------------------------------------------------------------------ limits ----

#if defined(__x86_64__)
constexpr int kPeakRounds = 20000;

/// Sixteen independent chains of one instruction: its throughput, 64-byte vectors.
#define PHALANX_PEAK_LOOP(name, isa, instruction)                                                  \
  __attribute__((target(isa))) void name() {                                                       \
    for (int i = 0; i < kPeakRounds; ++i)                                                          \
      asm volatile(instruction                                                                     \
                   " %%zmm16,%%zmm17,%%zmm0\n" instruction " %%zmm16,%%zmm17,%%zmm1\n" instruction \
                   " %%zmm16,%%zmm17,%%zmm2\n" instruction " %%zmm16,%%zmm17,%%zmm3\n" instruction \
                   " %%zmm16,%%zmm17,%%zmm4\n" instruction " %%zmm16,%%zmm17,%%zmm5\n" instruction \
                   " %%zmm16,%%zmm17,%%zmm6\n" instruction " %%zmm16,%%zmm17,%%zmm7\n" instruction \
                   " %%zmm16,%%zmm17,%%zmm8\n" instruction " %%zmm16,%%zmm17,%%zmm9\n" instruction \
                   " %%zmm16,%%zmm17,%%zmm10\n" instruction " %%zmm16,%%zmm17,%%zmm11\n" ::        \
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",   \
                         "xmm9", "xmm10", "xmm11");                                                \
  }
PHALANX_PEAK_LOOP(int8_peak, "avx512f,avx512vnni", "vpdpbusd")
PHALANX_PEAK_LOOP(bf16_peak, "avx512f,avx512bf16", "vdpbf16ps")
PHALANX_PEAK_LOOP(f32_peak, "avx512f", "vfmadd231ps")
#undef PHALANX_PEAK_LOOP
constexpr double kPeakVectors = 12.0 * kPeakRounds;
#endif

/// GOP/s of the format's dot-product instruction on all threads; 0 where it cannot be measured.
double peak_gops(WeightFormat format, cpu::ThreadTeam& team) {
#if defined(__x86_64__)
  if (best_isa_tier() < IsaTier::kAvx512) return 0;
  const double begin = seconds();
  team.run([format](int) {
    if (is_quantized(format)) {
      int8_peak();
    } else if (format == WeightFormat::kBf16) {
      bf16_peak();
    } else {
      f32_peak();
    }
  });
  const double ops = is_quantized(format) ? 128 : (format == WeightFormat::kBf16 ? 64 : 32);
  return kPeakVectors * ops * team.size() / (seconds() - begin) * 1e-9;
#else
  static_cast<void>(format);
  static_cast<void>(team);
  return 0;
#endif
}

/// GB/s of reading a buffer far larger than the caches on all threads.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(cpu::ThreadTeam& team)
      : team_(team), buffer_(cpu::allocate_zeroed(kBytes)) {
    team_.split(kBytes, 4096, [this](int64_t begin, int64_t end) {
      std::memset(buffer_.get() + begin, 1, static_cast<size_t>(end - begin));
    });
  }
  double measure() {
    const double begin = seconds();
    team_.split(kBytes, 4096, [this](int64_t first, int64_t last) {
      using Line = uint64_t __attribute__((vector_size(64)));
      Line sums[4] = {};
      for (int64_t i = first; i < last; i += 256)
        for (int64_t j = 0; j < 4; ++j) {
          Line line;
          std::memcpy(&line, buffer_.get() + i + j * 64, 64);
          sums[j] |= line;
        }
      const Line all = sums[0] | sums[1] | sums[2] | sums[3];
      sink_ = all[0];
    });
    return static_cast<double>(kBytes) / (seconds() - begin) * 1e-9;
  }

 private:
  static constexpr int64_t kBytes = int64_t{256} << 20;
  cpu::ThreadTeam& team_;
  std::shared_ptr<std::byte> buffer_;
  volatile uint64_t sink_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ------------------------------------------------------------------------------------ linear ----

struct Shape {
  const char* name;
  int64_t num_rows;
  int64_t num_cols;
  int64_t num_lanes;
  int64_t group_size;  ///< quantized formats
};

struct Bench {
  cpu::ThreadTeam& team;
  IsaTier tier;
  ReadBandwidth& bandwidth;
};

/// Copies of one matrix, so many that they cannot stay in a cache smaller than `total_bytes`.
std::vector<std::unique_ptr<PackedMatrix>> packed_copies(const Bench& bench,
                                                         const StoredMatrix& stored,
                                                         int64_t num_lanes, int64_t total_bytes) {
  std::vector<std::unique_ptr<PackedMatrix>> copies;
  int64_t bytes = 0;
  double best_gbs = 0;
  while (copies.empty() || bytes < total_bytes) {
    const double begin = seconds();
    copies.push_back(cpu::pack_matrix(stored.spec(num_lanes), bench.team));
    const auto size = static_cast<double>(copies.back()->bytes());
    best_gbs = std::max(best_gbs, size / (seconds() - begin) * 1e-9);
    bytes += copies.back()->bytes();
  }
  std::printf("  pack %.1f MB x %zu: %.1f GB/s\n", static_cast<double>(copies[0]->bytes()) * 1e-6,
              copies.size(), best_gbs);
  return copies;
}

void bench_shape(const Bench& bench, const Shape& shape, WeightFormat format, int64_t total_bytes) {
  const int64_t group_size = is_quantized(format) ? shape.group_size : 0;
  const StoredMatrix stored({format, shape.num_rows, shape.num_cols, group_size}, 1);
  std::printf("%s %s N=%lld K=%lld L=%lld\n", shape.name, weight_format_name(format),
              static_cast<long long>(shape.num_rows), static_cast<long long>(shape.num_cols),
              static_cast<long long>(shape.num_lanes));
  const auto copies = packed_copies(bench, stored, shape.num_lanes, total_bytes);
  for (int64_t rows : {1, 4, 8, 16, 48, 512}) {
    const auto x = test::random_floats(static_cast<size_t>(rows * shape.num_cols), 2);
    OwnedActivation converted(activation_form(format), rows, shape.num_cols, group_size);
    std::vector<float> y(static_cast<size_t>(rows * shape.num_rows));
    std::vector<double> times, convert_times, peaks, reads;
    size_t copy = 0;
    for (int repeat = 0; repeat < 7; ++repeat) {
      reads.push_back(bench.bandwidth.measure());
      peaks.push_back(peak_gops(format, bench.team));
      int count = 0;
      double begin = seconds();
      do {
        cpu::linear(*copies[copy++ % copies.size()], converted.view, rows,
                    {y.data(), shape.num_rows}, bench.tier, bench.team);
        ++count;
      } while (seconds() - begin < 0.015);
      times.push_back((seconds() - begin) / count);
      begin = seconds();
      for (int i = 0; i < 20; ++i)
        bench.team.split(rows, 1, [&](int64_t first, int64_t last) {
          cpu::convert_rows({x.data(), shape.num_cols}, first, last, converted.view, bench.tier);
        });
      convert_times.push_back((seconds() - begin) / 20);
    }
    const double best = *std::min_element(times.begin(), times.end());
    const double middle = median(times);
    const double ops = 2.0 * static_cast<double>(rows * shape.num_rows * shape.num_cols);
    const auto bytes = static_cast<double>(copies[0]->bytes());
    std::printf(
        "  R=%-4lld %9.1f us (median %9.1f)  %7.1f GOP/s = %5.1f %% of %.0f   %6.1f GB/s = %5.1f "
        "%% "
        "of %.1f   convert %.1f us\n",
        static_cast<long long>(rows), best * 1e6, middle * 1e6, ops / best * 1e-9,
        100 * ops / best * 1e-9 / std::max(median(peaks), 1e-9), median(peaks), bytes / best * 1e-9,
        100 * bytes / best * 1e-9 / median(reads), median(reads), median(convert_times) * 1e6);
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const IsaTier tier =
      argc > 2 ? parse_isa_tier(argv[2]).value_or(best_isa_tier()) : best_isa_tier();
  const std::string_view model = argc > 3 ? argv[3] : "";
  const std::string_view only = argc > 4 ? argv[4] : "";
  use_thread_time = num_threads == 1;
  cpu::ThreadTeam team(num_threads, true);
  ReadBandwidth bandwidth(team);
  const Bench bench{team, tier, bandwidth};
  std::printf("tier %s, %d threads; best of 7 by %s, limits measured in turn (medians)\n",
              isa_tier_name(tier), num_threads, use_thread_time ? "thread time" : "wall clock");
  const std::vector<Shape> demo = {{"demo qkv", 768, 256, 1, 64},
                                   {"demo o", 256, 512, 8, 64},
                                   {"demo gate_up", 2048, 256, 1, 64},
                                   {"demo down", 256, 1024, 8, 64}};
  const std::vector<Shape> llama = {{"1B qkv", 3072, 2048, 1, 128},
                                    {"1B o", 2048, 2048, 8, 128},
                                    {"1B gate_up", 16384, 2048, 1, 128},
                                    {"1B down", 2048, 8192, 8, 128},
                                    {"1B lm_head/4", 32064, 2048, 1, 128}};
  for (WeightFormat format :
       {WeightFormat::kW8, WeightFormat::kW4, WeightFormat::kBf16, WeightFormat::kF32}) {
    if (!only.empty() && only != weight_format_name(format)) continue;
    if (model != "llama")
      for (const Shape& shape : demo) bench_shape(bench, shape, format, int64_t{4} << 20);
    if (model != "demo")
      for (const Shape& shape : llama) bench_shape(bench, shape, format, int64_t{160} << 20);
  }
  return 0;
}

}  // namespace
}  // namespace phalanx::kernels

int main(int argc, char** argv) { return phalanx::kernels::run(argc, argv); }
