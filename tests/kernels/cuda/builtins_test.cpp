// Every CUDA builtin of the emulated device against a plain scalar expectation, in blocks that are
// not whole warps, of two and three dimensions, and with threads that return early.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/simt.h"
#include "tests/kernels/cuda/builtin_kernels.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

uint32_t num_threads(const dim3& block) { return block.x * block.y * block.z; }

const std::vector<dim3>& blocks() {
  static const std::vector<dim3> all{dim3(1),   dim3(20),     dim3(32),      dim3(33),
                                     dim3(100), dim3(8, 6),   dim3(5, 4, 3), dim3(2, 33, 3),
                                     dim3(256), dim3(16, 64), dim3(1000)};
  return all;
}

std::vector<uint32_t> random_words(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> words(count);
  for (uint32_t& word : words) word = random();
  return words;
}

TEST(SimtBuiltins, EveryThreadKnowsWhereItIs) {
  for (const dim3 grid : {dim3(1), dim3(7), dim3(3, 2), dim3(2, 3, 4)}) {
    for (const dim3 block : {dim3(1), dim3(33), dim3(8, 6), dim3(3, 5, 7)}) {
      const uint32_t num_blocks = num_threads(grid);
      const auto records = in_every_thread_order([&] {
        std::vector<uint32_t> out(size_t{num_blocks} * num_threads(block) * 12);
        launch(record_identity<uint32_t>, {grid, block}, nullptr, out.data());
        return out;
      });
      size_t i = 0;
      for (uint32_t bz = 0; bz < grid.z; ++bz)
        for (uint32_t by = 0; by < grid.y; ++by)
          for (uint32_t bx = 0; bx < grid.x; ++bx)
            for (uint32_t z = 0; z < block.z; ++z)
              for (uint32_t y = 0; y < block.y; ++y)
                for (uint32_t x = 0; x < block.x; ++x) {
                  const std::vector<uint32_t> expected{
                      x, y, z, bx, by, bz, block.x, block.y, block.z, grid.x, grid.y, grid.z};
                  const std::vector<uint32_t> record(&records[i], &records[i] + 12);
                  ASSERT_EQ(record, expected);
                  i += 12;
                }
    }
  }
}

TEST(SimtBuiltins, BarrierMakesStoresVisible) {
  for (const dim3& block : blocks()) {
    const uint32_t threads = num_threads(block);
    const auto reversed = in_every_thread_order([&] {
      std::vector<float> values(threads);
      for (uint32_t i = 0; i < threads; ++i) values[i] = static_cast<float>(i);
      launch(reverse_block<true>, {1, block, threads * sizeof(float)}, nullptr, values.data());
      return values;
    });
    for (uint32_t i = 0; i < threads; ++i)
      ASSERT_EQ(reversed[i], static_cast<float>(threads - 1 - i));
  }
}

TEST(SimtBuiltins, BarrierVotesCountThreadsThatHaveNotReturned) {
  constexpr int kRounds = 5;
  std::mt19937 random(1);
  for (const dim3& block : blocks()) {
    for (const int modulus : {1, 2, 7, 1 << 20}) {
      const uint32_t threads = num_threads(block);
      std::vector<int> rounds(threads);
      for (int& r : rounds) r = static_cast<int>(random() % (kRounds + 1));
      const auto results = in_every_thread_order([&] {
        std::vector<int> out(size_t{threads} * kRounds * 3, -1);
        launch(vote_in_block<int>, {1, block}, nullptr, rounds.data(), modulus, kRounds,
               out.data());
        return out;
      });
      for (int round = 0; round < kRounds; ++round) {
        int live = 0;
        int count = 0;
        for (uint32_t t = 0; t < threads; ++t) {
          if (rounds[t] <= round) continue;
          ++live;
          count += (static_cast<int>(t) + round) % modulus == 0 ? 1 : 0;
        }
        for (uint32_t t = 0; t < threads; ++t) {
          const int* result = &results[(static_cast<size_t>(round) * threads + t) * 3];
          const std::tuple got{result[0], result[1], result[2]};
          const bool returned = rounds[t] <= round;
          const std::tuple expected =
              returned ? std::tuple{-1, -1, -1}
                       : std::tuple{count > 0 ? 1 : 0, count == live ? 1 : 0, count};
          ASSERT_EQ(got, expected) << "thread " << t << " of " << threads << ", round " << round;
        }
      }
    }
  }
}

/// What the PTX ISA says of shfl, by another road: the lane read, or -1 for the own value.
int shuffle_source(int kind, int lane, int argument, int width) {
  const int begin = lane / width * width;
  switch (kind) {
    case 0:
      return begin + ((argument % width) + width) % width;
    case 1:
      return lane - argument >= begin ? lane - argument : -1;
    case 2:
      return lane + argument < begin + width ? lane + argument : -1;
    default:
      return (lane ^ argument) < begin + width ? lane ^ argument : -1;
  }
}

template <typename T>
void expect_shuffles() {
  const T poison = [] {
    T value;
    emulator::fill_with_poison(&value, sizeof(value));
    return value;
  }();
  for (const uint32_t threads : {1U, 20U, 32U, 33U, 96U}) {
    std::vector<T> values(threads);
    for (uint32_t i = 0; i < threads; ++i) values[i] = static_cast<T>(1000 + 7 * i);
    for (const int width : {1, 2, 4, 8, 16, 32}) {
      for (const int argument : {0, 1, 2, 3, 5, 8, 15, 16, 31}) {
        const auto results = in_every_thread_order([&] {
          std::vector<T> out(size_t{threads} * 4);
          launch(shuffle_warps<T>, {1, threads}, nullptr, values.data(), argument, width,
                 out.data());
          return out;
        });
        for (uint32_t t = 0; t < threads; ++t) {
          for (int kind = 0; kind < 4; ++kind) {
            const int source = shuffle_source(kind, static_cast<int>(t % 32), argument, width);
            const uint32_t from = source < 0 ? t : t / 32 * 32 + static_cast<uint32_t>(source);
            const T expected = from < threads ? values[from] : poison;
            ASSERT_EQ(
                std::memcmp(&results[t * 4 + static_cast<uint32_t>(kind)], &expected, sizeof(T)), 0)
                << "kind " << kind << ", thread " << t << " of " << threads << ", argument "
                << argument << ", width " << width;
          }
        }
      }
    }
  }
}

TEST(SimtBuiltins, ShufflesReadTheLanesThatPtxSays) {
  expect_shuffles<int>();
  expect_shuffles<float>();
  expect_shuffles<uint64_t>();
  expect_shuffles<double>();
}

TEST(SimtBuiltins, PartsOfAWarpActApart) {
  constexpr uint32_t kThreads = 64;
  const auto values = random_words(kThreads, 3);
  const auto results = in_every_thread_order([&] {
    std::vector<uint32_t> out(kThreads * 2);
    launch(diverge<uint32_t>, {1, kThreads}, nullptr, values.data(), out.data());
    return out;
  });
  for (uint32_t t = 0; t < kThreads; ++t) {
    EXPECT_EQ(results[t * 2], values[t ^ 2U]);
    uint32_t ballot = 0;
    for (uint32_t lane = t % 2; lane < 32; lane += 2)
      if (values[t / 32 * 32 + lane] % 3 == 0) ballot |= 1U << lane;
    EXPECT_EQ(results[t * 2 + 1], ballot);
  }
}

TEST(SimtBuiltins, VotesLeaveOutLanesThatReturned) {
  for (const uint32_t threads : {1U, 20U, 32U, 50U, 96U}) {
    for (const uint32_t exit_from : {threads, threads / 2, threads / 3 + 1}) {
      for (const uint32_t pattern : {0U, 1U, 2U, 3U}) {
        std::vector<uint32_t> predicates(threads);
        for (uint32_t i = 0; i < threads; ++i)
          predicates[i] = pattern == 3 ? 1 : i % 4 < pattern ? 1 : 0;
        const auto results = in_every_thread_order([&] {
          std::vector<uint32_t> out(size_t{threads} * 3, 0xdeadU);
          launch(vote_in_warps<uint32_t>, {1, threads}, nullptr, predicates.data(), exit_from,
                 out.data());
          return out;
        });
        // Which lanes still were there when an early vote met is not determined while some have yet
        // to return; here they return before any vote completes, since a vote waits for them.
        for (uint32_t t = 0; t < exit_from && t < threads; ++t) {
          uint32_t ballot = 0;
          uint32_t live = 0;
          for (uint32_t lane = 0; lane < 32 && t / 32 * 32 + lane < exit_from; ++lane) {
            live |= 1U << lane;
            if (predicates[t / 32 * 32 + lane] != 0) ballot |= 1U << lane;
          }
          EXPECT_EQ(results[t * 3], ballot);
          EXPECT_EQ(results[t * 3 + 1], ballot != 0 ? 1U : 0U);
          EXPECT_EQ(results[t * 3 + 2], ballot == live ? 1U : 0U);
        }
      }
    }
  }
}

TEST(SimtBuiltins, SyncWarpMakesStoresVisible) {
  const auto rotated = in_every_thread_order([&] {
    std::vector<uint32_t> values(128);
    for (uint32_t i = 0; i < 128; ++i) values[i] = i;
    launch(rotate_warps<uint32_t>, {1, 128, 128 * sizeof(uint32_t)}, nullptr, values.data());
    return values;
  });
  for (uint32_t i = 0; i < 128; ++i) EXPECT_EQ(rotated[i], i / 32 * 32 + (i + 1) % 32);
}

TEST(SimtBuiltins, AtomicsAreAtomicAcrossBlocks) {
  constexpr uint32_t kBlocks = 9;
  constexpr uint32_t kThreads = 50;
  constexpr uint32_t kAll = kBlocks * kThreads;
  constexpr uint32_t kSum = kAll * (kAll - 1) / 2;
  for (const int os_threads : {1, 4}) {
    emulator::DeviceOptions options = emulator::device_options();
    options.num_os_threads = os_threads;
    const emulator::ScopedDeviceOptions scope(options);
    const auto [words, integers, wide, floats] = in_every_thread_order([&] {
      std::vector<uint32_t> w{0, 0, 99, 0, 0, 0, 0, 0};
      std::vector<int> s{0, -1000000, 0};
      std::vector<unsigned long long> l{0};
      std::vector<float> f{0, 0};
      launch(use_atomics<uint32_t>, {kBlocks, kThreads}, nullptr, w.data(), s.data(), l.data(),
             f.data());
      return std::tuple(w, s, l, f);
    });
    EXPECT_EQ(words, (std::vector<uint32_t>{kSum, kAll - 1, 0, ~0U, 7, kSum, kAll, 1}));
    EXPECT_EQ(integers,
              (std::vector<int>{-static_cast<int>(kSum), -5, 1 - static_cast<int>(kAll)}));
    EXPECT_EQ(wide[0], (uint64_t{kAll} << 40) + kSum);
    EXPECT_EQ(floats, (std::vector<float>{0.5F * kAll, 2.5F}));
  }
}

TEST(SimtBuiltins, IntegerFunctions) {
  constexpr uint32_t kThreads = 1024;
  auto a = random_words(kThreads, 4);
  auto b = random_words(kThreads, 5);
  auto c = random_words(kThreads, 6);
  a[0] = b[0] = 0x80808080U;  // the most negative bytes
  a[1] = 0;
  a[2] = 1;
  a[3] = 0x80000000U;
  c[0] = 0x7fffffffU;
  std::vector<uint32_t> results(kThreads * 20);
  launch(compute_words<uint32_t>, {1, kThreads}, nullptr, a.data(), b.data(), c.data(),
         results.data());
  for (uint32_t t = 0; t < kThreads; ++t) {
    const uint32_t* r = &results[t * 20];
    int64_t signed_sum = static_cast<int32_t>(c[t]);
    uint64_t unsigned_sum = c[t];
    uint32_t permuted = 0;
    int ones = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      const auto byte = [i](uint32_t word) { return static_cast<uint8_t>(word >> 8 * i); };
      signed_sum += static_cast<int8_t>(byte(a[t])) * static_cast<int8_t>(byte(b[t]));
      unsigned_sum += uint64_t{byte(a[t])} * byte(b[t]);
      const uint32_t from = c[t] >> 4 * i & 7U;
      permuted |= ((from < 4 ? a[t] : b[t]) >> 8 * (from % 4) & 0xffU) << 8 * i;
    }
    for (int bit = 0; bit < 32; ++bit) ones += static_cast<int>(a[t] >> bit & 1U);
    int leading = 0;
    while (leading < 32 && (a[t] >> (31 - leading) & 1U) == 0) ++leading;
    int lowest = 0;
    while (lowest < 32 && (a[t] >> lowest & 1U) == 0) ++lowest;
    const auto signed_a = static_cast<int>(a[t]);
    EXPECT_EQ(r[0], static_cast<uint32_t>(signed_sum));
    EXPECT_EQ(r[1], static_cast<uint32_t>(unsigned_sum));
    EXPECT_EQ(r[2], permuted);
    EXPECT_EQ(r[3], static_cast<uint32_t>(ones));
    EXPECT_EQ(r[4], static_cast<uint32_t>(leading));
    EXPECT_EQ(r[5], lowest == 32 ? 0U : static_cast<uint32_t>(lowest + 1));
    EXPECT_EQ(r[6], static_cast<uint32_t>(uint64_t{a[t]} * b[t] / (uint64_t{1} << 32)));
    EXPECT_EQ(r[7], a[t]);
    EXPECT_EQ(r[8], a[t]);
    EXPECT_EQ(static_cast<int>(r[9]), std::min(signed_a, static_cast<int>(b[t])));
    EXPECT_EQ(r[10], std::max(a[t], b[t]));
    EXPECT_EQ(r[11], c[t]);
    EXPECT_EQ(r[12], std::bit_cast<uint32_t>(static_cast<float>(signed_a)));
    EXPECT_EQ(r[13], 32U);
    const double scaled = static_cast<double>(static_cast<float>(signed_a) * 1.5F);
    EXPECT_EQ(static_cast<int>(r[14]),
              static_cast<int>(std::nearbyint(std::clamp(scaled, -0x1p31, 0x1p31 - 1))));
    const int half = signed_a % 64;  // halves go to the even neighbour
    const int down = (half - (half % 2 != 0 ? (half > 0 ? 1 : -1) : 0)) / 2;  // towards zero
    const int even = half % 2 == 0 || down % 2 == 0 ? down : down + (half > 0 ? 1 : -1);
    EXPECT_EQ(static_cast<int>(r[15]), even);
    EXPECT_EQ(r[16], 0U);
  }
}

TEST(SimtBuiltins, FloatFunctions) {
  constexpr uint32_t kThreads = 512;
  std::mt19937 random(7);
  std::uniform_real_distribution<float> positive(0.01F, 50.0F);
  std::uniform_real_distribution<float> any(-8.0F, 8.0F);
  std::vector<float> a(kThreads);
  std::vector<float> b(kThreads);
  std::vector<float> c(kThreads);
  for (uint32_t i = 0; i < kThreads; ++i) {
    a[i] = positive(random);
    b[i] = positive(random);
    c[i] = any(random);
  }
  std::vector<float> results(kThreads * 16);
  launch(compute_floats<float>, {1, kThreads}, nullptr, a.data(), b.data(), c.data(),
         results.data());
  for (uint32_t t = 0; t < kThreads; ++t) {
    const float* r = &results[t * 16];
    const double x = a[t];
    const double y = b[t];
    const double z = c[t];
    EXPECT_EQ(r[0], std::fma(a[t], b[t], c[t]));
    EXPECT_EQ(r[1], std::fma(a[t], b[t], c[t]));
    // One operation of f32 is the rounded one of f64.
    EXPECT_EQ(r[2], static_cast<float>(x + z));
    EXPECT_EQ(r[3], static_cast<float>(x - z));
    EXPECT_EQ(r[4], static_cast<float>(x * z));
    EXPECT_EQ(r[5], static_cast<float>(z / x));
    EXPECT_EQ(r[6], static_cast<float>(std::sqrt(x)));
    EXPECT_EQ(r[7], static_cast<float>(1 / x));
    EXPECT_EQ(r[8], c[t] < 0 ? 0 : c[t] > 1 ? 1 : c[t]);
    EXPECT_EQ(r[9], std::min(a[t], c[t]) + std::max(b[t], c[t]) + std::abs(c[t]));
    const auto near = [](float got, double expected) {
      EXPECT_NEAR(got, expected, 1e-6 * (1 + std::abs(expected)));
    };
    near(r[10], 1 / std::sqrt(x));
    near(r[11], std::exp(z));
    near(r[12], std::log(x));
    near(r[13], z / y);
    near(r[14], std::exp(z) + std::log(y) + std::tanh(z));
    near(r[15], std::exp2(z) + std::sin(x) + std::cos(x));
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
