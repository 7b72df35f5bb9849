// Row operators through the contract: every tier and team size gives the oracle's bits on ragged
// shapes, strides and aliases; broken calls throw before any work. Attention: attention_test.cpp.
#include "kernels/cpu/cpu_operators.h"

#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "tests/kernels/attention_world.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels {
namespace {

/// A backend and the name it fails under.
struct Backend {
  std::string name;
  std::unique_ptr<Operators> operators;
};

std::vector<Backend> cpu_backends() {
  std::vector<Backend> out;
  for (const IsaTier tier : kIsaTiers) {
    if (tier > best_isa_tier()) continue;
    for (const int num_threads : {1, 2, 3}) {
      CpuBackendOptions options;
      options.isa_tier = tier;
      options.num_threads = num_threads;
      options.spin = false;
      auto operators = make_cpu_operators(options);
      out.push_back({operators->description(), std::move(operators)});
    }
  }
  return out;
}

/// Rows with a stride and a guard after each: random content, NaN in the guards.
struct Matrix {
  int64_t num_rows, num_cols, stride;
  std::vector<float> data;

  Matrix(int64_t rows, int64_t cols, uint32_t seed, int64_t guard = 3)
      : num_rows(rows), num_cols(cols), stride(cols + guard) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, 2.0F);
    data.resize(static_cast<size_t>(rows * stride), NAN);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) data[static_cast<size_t>(r * stride + k)] = normal(random);
    }
  }
  Rows rows() { return {data.data(), stride}; }
};

bool same_bits(const Matrix& a, const Matrix& b) {
  if (a.data.size() != b.data.size()) return false;
  for (size_t i = 0; i < a.data.size(); ++i) {
    if (std::bit_cast<uint32_t>(a.data[i]) != std::bit_cast<uint32_t>(b.data[i])) return false;
  }
  return true;
}

/// Runs `work` on the oracle and on every CPU backend; its result must be the same bits.
void expect_oracle_bits(const std::function<Matrix(Operators&)>& work, const std::string& what) {
  static const std::vector<Backend> backends = cpu_backends();
  static const auto reference = make_reference_operators();
  const Matrix expected = work(*reference);
  for (const Backend& backend : backends) {
    EXPECT_TRUE(same_bits(work(*backend.operators), expected)) << backend.name << ": " << what;
  }
}

std::vector<float> weights(int64_t size) { return Matrix(1, size, 99, 0).data; }

const std::vector<std::pair<int64_t, int64_t>> kShapes = {
    {1, 1}, {1, 15}, {1, 16}, {3, 17}, {2, 255}, {5, 256}, {1, 4096}, {37, 576}, {64, 1031}};

TEST(CpuOperators, RmsNorm) {
  for (const auto& [rows, cols] : kShapes) {
    const std::vector<float> weight = weights(cols);
    const std::string what = std::to_string(rows) + " x " + std::to_string(cols);
    expect_oracle_bits(
        [&, r = rows, c = cols](Operators& ops) {
          Matrix x(r, c, 1);
          Matrix y(r, c, 2);
          ops.rms_norm(x.rows(), weight.data(), 1e-5F, r, c, y.rows());
          return y;
        },
        what);
    expect_oracle_bits(
        [&, r = rows, c = cols](Operators& ops) {
          Matrix x(r, c, 1);
          ops.rms_norm(x.rows(), weight.data(), 1e-6F, r, c, x.rows());
          return x;
        },
        what + " in place");
  }
}

/// Most of a layer between begin() and finish(), memory used again on the way: as the oracle, which
/// puts nothing off. Fewer rows than threads, and more.
TEST(CpuOperators, OperatorsPutOffHaveTheSameBits) {
  constexpr int64_t kCols = 64;
  constexpr int64_t kHeads = 4;
  constexpr int64_t kHeadDim = 16;
  constexpr int64_t kGroup = 32;
  const test::StoredMatrix stored({WeightFormat::kW8, 3 * kCols, kCols, kGroup}, 5);
  const std::vector<float> norm_weight = weights(kCols);
  const std::vector<float> angles = weights(kBlockTokens * kHeadDim / 2);
  const RopeTable rope{angles.data(), angles.data(), kHeadDim, kBlockTokens};
  const std::vector<int32_t> kv_heads = {0, 1, 2, 3};
  for (const int64_t rows : {int64_t{2}, int64_t{37}, int64_t{300}}) {
    std::vector<int32_t> blocks;
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < rows; ++i) {
      blocks.push_back(static_cast<int32_t>(rows - 1 - i));
      positions.push_back(static_cast<int32_t>(i % kBlockTokens));
    }
    std::vector<SequenceRows> sequences;
    for (int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(i);
      sequences.push_back({i, 1, positions[at], &blocks[at]});
    }
    expect_oracle_bits(
        [&](Operators& ops) {
          Matrix residual(rows, kCols, 1);
          Matrix delta(rows, kCols, 2);
          Matrix fused(rows, 3 * kCols, 3);
          const auto columns = [&](int64_t part) {
            return Rows{fused.data.data() + part * kCols, fused.stride};
          };
          const auto matrix = ops.pack_matrix(stored.spec());
          const auto memory =
              ops.allocate(activation_bytes(ActivationForm::kS8, rows, kCols, kGroup));
          const ActivationView codes =
              make_activation_view(ActivationForm::kS8, rows, kCols, kGroup, memory.get());
          const auto pool = ops.allocate(rows * kHeads * kv_block_bytes(KvFormat::kBf16, kHeadDim));
          const KvLayerView kv{KvFormat::kBf16, pool.get(), rows, kHeads, kHeadDim};
          const AttentionParams params{kHeads, kv_heads.data(), 0.25F, 0};
          ops.begin();
          ops.add_rms_norm(residual.rows(), delta.rows(), nullptr, norm_weight.data(), 1e-5F, rows,
                           kCols, columns(0));
          ops.convert_rows(columns(0), rows, codes);
          ops.linear(*matrix, codes, rows, fused.rows());  // over the norm's rows
          ops.rope(columns(0), kHeads, kHeadDim, rope, positions);
          ops.rope(columns(1), kHeads, kHeadDim, rope, positions);
          ops.write_kv(columns(1), columns(2), sequences, kv);
          ops.attention(columns(0), sequences, kv, params, delta.rows());
          ops.silu_mul(columns(0), columns(1), rows, kCols, columns(1));
          ops.add_rows(residual.rows(), delta.rows(), nullptr, rows, kCols);
          ops.rms_norm(columns(1), norm_weight.data(), 1e-5F, rows, kCols, delta.rows());
          ops.add_rows(residual.rows(), delta.rows(), nullptr, rows, kCols);
          ops.finish();
          return residual;
        },
        std::to_string(rows) + " rows");
  }
}

TEST(CpuOperators, RmsNormOfZerosIsZero) {
  expect_oracle_bits(
      [](Operators& ops) {
        Matrix x(2, 48, 1);
        std::fill(x.data.begin(), x.data.end(), 0.0F);
        ops.rms_norm(x.rows(), weights(48).data(), 1e-5F, 2, 48, x.rows());
        for (const float v : x.data) EXPECT_EQ(v, 0.0F);
        return x;
      },
      "zeros");
}

TEST(CpuOperators, AddRmsNormIsAddRowsThenRmsNorm) {
  for (const auto& [rows, cols] : kShapes) {
    const std::vector<float> weight = weights(cols);
    const Matrix bias(1, cols, 5, 0);
    for (const float* b : {static_cast<const float*>(nullptr), bias.data.data()}) {
      for (const bool fused : {true, false}) {
        const auto run = [&, r = rows, c = cols](Operators& ops) {
          Matrix residual(r, c, 1);
          Matrix delta(r, c, 2);
          Matrix y(r, c, 3);
          if (fused) {
            ops.add_rms_norm(residual.rows(), delta.rows(), b, weight.data(), 1e-5F, r, c,
                             y.rows());
          } else {
            ops.add_rows(residual.rows(), delta.rows(), b, r, c);
            ops.rms_norm(residual.rows(), weight.data(), 1e-5F, r, c, y.rows());
          }
          y.data.insert(y.data.end(), residual.data.begin(), residual.data.end());
          return y;
        };
        static std::vector<float> last;
        expect_oracle_bits(run, std::to_string(rows) + " x " + std::to_string(cols));
        const std::vector<float> now = run(*make_reference_operators()).data;
        if (!fused) {
          for (size_t i = 0; i < now.size(); ++i) {
            ASSERT_EQ(std::bit_cast<uint32_t>(now[i]), std::bit_cast<uint32_t>(last[i]));
          }
        }
        last = now;
      }
    }
  }
}

/// The fused verbs against sums made first, by add_rows' and add_rms_norm's bits.
TEST(CpuOperators, AddOfPartsIsTheTreeOfPartsThenAdd) {
  for (const size_t num_parts : {1, 2, 4, 8, 16, 64}) {
    for (const auto& [rows, cols] : kShapes) {
      if (num_parts > 8 && rows * cols > 20'000) continue;
      const std::string what = std::to_string(num_parts) + " parts, " + std::to_string(rows) +
                               " x " + std::to_string(cols);
      std::vector<Matrix> parts;
      for (size_t i = 0; i < num_parts; ++i)
        parts.emplace_back(rows, cols, static_cast<uint32_t>(100 + i));
      std::vector<Matrix> sums = parts;
      for (size_t left = num_parts / 2; left > 0; left /= 2) {
        for (size_t i = 0; i < left; ++i) {
          const Matrix& a = sums[2 * i];
          const Matrix& b = sums[2 * i + 1];
          std::vector<float> sum(a.data.size());
          for (size_t k = 0; k < sum.size(); ++k) sum[k] = a.data[k] + b.data[k];
          sums[i].data = sum;
        }
      }
      const std::vector<float> weight = weights(cols);
      const Matrix bias(1, cols, 5, 0);
      for (const float* b : {static_cast<const float*>(nullptr), bias.data.data()}) {
        enum class Way { kFused, kSumFirst, kFusedOntoAPart };
        for (const bool with_norm : {true, false}) {
          const auto run = [&, r = rows, c = cols](Operators& ops, Way way) {
            Matrix residual(r, c, 1);
            Matrix y(r, c, 3);
            std::vector<Matrix> own = parts;
            std::vector<const float*> pointers;
            for (const Matrix& part : own) pointers.push_back(part.data.data());
            const PartRows delta{pointers, own[0].stride};
            Matrix& out = way == Way::kFusedOntoAPart ? own[num_parts / 2] : y;
            if (way == Way::kSumFirst) {
              if (with_norm) {
                ops.add_rms_norm(residual.rows(), sums[0].rows(), b, weight.data(), 1e-5F, r, c,
                                 y.rows());
              } else {
                ops.add_rows(residual.rows(), sums[0].rows(), b, r, c);
              }
            } else if (with_norm) {
              ops.add_rms_norm_of_parts(residual.rows(), delta, b, weight.data(), 1e-5F, r, c,
                                        out.rows());
            } else {
              ops.add_rows_of_parts(residual.rows(), delta, b, r, c);
            }
            Matrix result = residual;
            if (with_norm) {
              for (int64_t i = 0; i < r; ++i)
                result.data.insert(result.data.end(), out.data.begin() + i * out.stride,
                                   out.data.begin() + i * out.stride + c);
            }
            return result;
          };
          const auto oracle = make_reference_operators();
          const Matrix expected = run(*oracle, Way::kSumFirst);
          ASSERT_TRUE(same_bits(run(*oracle, Way::kFused), expected)) << what;
          expect_oracle_bits([&](Operators& ops) { return run(ops, Way::kFused); }, what);
          if (with_norm)
            expect_oracle_bits([&](Operators& ops) { return run(ops, Way::kFusedOntoAPart); },
                               what);
        }
      }
    }
  }
}

TEST(CpuOperators, HeadNormAndRope) {
  struct Case {
    int64_t heads, head_dim, rotary_dim;
  };
  for (const Case& c : {Case{1, 8, 8}, Case{3, 64, 64}, Case{2, 80, 80}, Case{5, 128, 64},
                        Case{4, 24, 6}, Case{32, 256, 256}}) {
    constexpr int64_t kPositions = 50;
    Matrix cosines(kPositions, c.rotary_dim / 2, 11, 0);
    Matrix sines(kPositions, c.rotary_dim / 2, 12, 0);
    const RopeTable table{cosines.data.data(), sines.data.data(), c.rotary_dim, kPositions};
    const std::vector<int32_t> positions = {0, 49, 7, 7, 31};
    const std::vector<float> weight = weights(c.head_dim);
    expect_oracle_bits(
        [&](Operators& ops) {
          Matrix x(5, c.heads * c.head_dim, 13);
          ops.head_norm(x.rows(), c.heads, c.head_dim, weight.data(), 1e-6F, 5);
          ops.rope(x.rows(), c.heads, c.head_dim, table, positions);
          return x;
        },
        std::to_string(c.heads) + " heads of " + std::to_string(c.head_dim));
  }
}

TEST(CpuOperators, RopeRotatesByTheAngle) {
  CpuBackendOptions options;
  const auto ops = make_cpu_operators(options);
  const std::vector<float> cosines = {1.0F, 0.6F};
  const std::vector<float> sines = {0.0F, 0.8F};
  std::vector<float> x = {10.0F, 5.0F, 7.0F};
  ops->rope({x.data(), 3}, 1, 3, {cosines.data(), sines.data(), 2, 2}, std::vector<int32_t>{1});
  EXPECT_FLOAT_EQ(x[0], 10.0F * 0.6F - 5.0F * 0.8F);
  EXPECT_FLOAT_EQ(x[1], 5.0F * 0.6F + 10.0F * 0.8F);
  EXPECT_EQ(x[2], 7.0F);  // beyond rotary_dim
}

TEST(CpuOperators, SiluMul) {
  for (const auto& [rows, cols] : kShapes) {
    expect_oracle_bits(
        [r = rows, c = cols](Operators& ops) {
          Matrix gate_up(r, 2 * c, 21);
          Matrix y(r, c, 22);
          ops.silu_mul(gate_up.rows(), {gate_up.data.data() + c, gate_up.stride}, r, c, y.rows());
          return y;
        },
        std::to_string(rows) + " x " + std::to_string(cols));
    expect_oracle_bits(
        [r = rows, c = cols](Operators& ops) {
          Matrix gate_up(r, 2 * c, 21);
          ops.silu_mul(gate_up.rows(), {gate_up.data.data() + c, gate_up.stride}, r, c,
                       gate_up.rows());
          return gate_up;
        },
        "over the gate");
  }
}

TEST(CpuOperators, SiluOfExtremes) {
  const auto ops = make_cpu_operators({});
  std::vector<float> gate = {0.0F, 100.0F, -100.0F, 1e30F, -1e30F, 1.0F};
  const std::vector<float> up(gate.size(), 2.0F);
  std::vector<float> y(gate.size());
  ops->silu_mul({gate.data(), 6}, {up.data(), 6}, 1, 6, {y.data(), 6});
  EXPECT_EQ(y[0], 0.0F);
  EXPECT_EQ(y[1], 200.0F);
  EXPECT_EQ(y[2], 0.0F);
  EXPECT_EQ(y[3], 2e30F);
  EXPECT_EQ(y[4], 0.0F);
  EXPECT_NEAR(y[5], 2.0 / (1.0 + std::exp(-1.0)), 3e-7);
}

TEST(CpuOperators, GatherRows) {
  const std::vector<int32_t> picked = {4, 0, 4, 2};
  for (const int64_t cols : {1, 100, 9000}) {
    expect_oracle_bits(
        [&](Operators& ops) {
          Matrix x(5, cols, 31);
          Matrix y(4, cols, 32);
          ops.gather_rows(x.rows(), picked, cols, y.rows());
          for (size_t i = 0; i < picked.size(); ++i) {
            EXPECT_EQ(y.data[i * static_cast<size_t>(y.stride)],
                      x.data[static_cast<size_t>(picked[i] * x.stride)]);
          }
          return y;
        },
        std::to_string(cols));
  }
}

TEST(CpuOperators, NoRowsIsNoWork) {
  for (const Backend& backend : cpu_backends()) {
    Operators& ops = *backend.operators;
    const std::vector<float> weight(16, 1.0F);
    EXPECT_NO_THROW(ops.rms_norm({}, weight.data(), 1e-5F, 0, 16, {}));
    EXPECT_NO_THROW(ops.add_rows({}, {}, nullptr, 0, 16));
    EXPECT_NO_THROW(ops.silu_mul({}, {}, 0, 16, {}));
    EXPECT_NO_THROW(ops.gather_rows({}, {}, 16, {}));
  }
}

TEST(CpuOperators, AllocatesZeroedAlignedMemory) {
  const auto ops = make_cpu_operators({});
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100}, int64_t{5} << 20}) {
    const std::shared_ptr<std::byte> memory = ops->allocate(bytes);
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0U);
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(memory.get()[i], std::byte{0});
    if (bytes > 0) memory.get()[bytes - 1] = std::byte{1};
  }
}

TEST(CpuOperators, BoundThreadsAndSeveralNodesGiveTheSameMemory) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &allowed)) ++cpu;
  CpuBackendOptions options;
  options.num_threads = 3;
  options.spin = false;
  options.cpus = {cpu, cpu, cpu};
  options.memory_nodes = {0, 1};  // the kernel refuses a node that is not there
  constexpr int64_t kBytes = (int64_t{11} << 20) + 100;
  const auto memory = make_cpu_operators(options)->allocate(kBytes);
  for (int64_t i = 0; i < kBytes; ++i) ASSERT_EQ(memory.get()[i], std::byte{0});
  memory.get()[kBytes - 1] = std::byte{1};
}

TEST(CpuOperators, SaysWhatItIs) {
  CpuBackendOptions options;
  options.isa_tier = IsaTier::kPortable;
  options.num_threads = 2;
  EXPECT_EQ(make_cpu_operators(options)->description(), "cpu portable x 2 threads");
  options.num_threads = 1;
  EXPECT_EQ(make_cpu_operators(options)->description(), "cpu portable x 1 thread");
}

TEST(CpuOperatorsErrors, BrokenCallsThrowBeforeAnyWork) {
  CpuBackendOptions options;
  options.num_threads = 0;
  EXPECT_THROW(make_cpu_operators(options), InternalError);
  if (best_isa_tier() < IsaTier::kAvx512) {
    options = {};
    options.isa_tier = IsaTier::kAvx512;
    EXPECT_THROW(make_cpu_operators(options), InternalError);
  }

  const auto ops = make_cpu_operators({});
  std::vector<float> x(64, 1.0F);
  const Rows rows{x.data(), 16};
  EXPECT_THROW(ops->rms_norm(rows, nullptr, 1e-5F, 1, 16, rows), InternalError);
  EXPECT_THROW(ops->rms_norm(rows, x.data(), 1e-5F, 2, 17, rows), InternalError);
  EXPECT_THROW(ops->rms_norm({}, x.data(), 1e-5F, 1, 16, rows), InternalError);
  EXPECT_THROW(ops->add_rows(rows, {x.data(), 8}, nullptr, 2, 16), InternalError);
  const std::vector<const float*> three(3, x.data());
  const std::vector<const float*> hole = {x.data(), nullptr};
  EXPECT_THROW(ops->add_rows_of_parts(rows, {three, 16}, nullptr, 1, 16), InternalError);
  EXPECT_THROW(ops->add_rows_of_parts(rows, {hole, 16}, nullptr, 1, 16), InternalError);
  EXPECT_THROW(ops->add_rows_of_parts(rows, {{}, 16}, nullptr, 1, 16), InternalError);
  EXPECT_THROW(ops->add_rms_norm_of_parts(rows, {std::span(three).first(2), 8}, nullptr, x.data(),
                                          1e-5F, 2, 16, rows),
               InternalError);
  EXPECT_THROW(ops->silu_mul(rows, rows, -1, 16, rows), InternalError);
  EXPECT_THROW(ops->gather_rows(rows, std::vector<int32_t>{-1}, 16, rows), InternalError);
  const RopeTable table{x.data(), x.data(), 8, 4};
  EXPECT_THROW(ops->rope(rows, 2, 8, table, std::vector<int32_t>{4}), InternalError);
  EXPECT_THROW(ops->rope(rows, 4, 4, table, std::vector<int32_t>{0}), InternalError);
  EXPECT_THROW(ops->allocate(-1), InternalError);
  for (const float value : x) ASSERT_EQ(value, 1.0F);

  std::vector<std::byte> codes(64);
  MatrixSource embedding;
  embedding.num_rows = 2;
  embedding.num_cols = 8;
  embedding.codes = codes.data();
  embedding.row_stride_bytes = 32;
  EXPECT_THROW(ops->embedding(embedding, std::vector<int32_t>{2}, rows), InternalError);
  EXPECT_THROW(ops->embedding(embedding, std::vector<int32_t>{-1}, rows), InternalError);
  EXPECT_NO_THROW(ops->embedding(embedding, std::vector<int32_t>{1}, rows));
}

TEST(CpuOperatorsErrors, ProductsNeedMatchingActivations) {
  const auto ops = make_cpu_operators({});
  std::vector<float> values(16 * 32, 0.5F);
  MatrixSource source;
  source.num_rows = 16;
  source.num_cols = 32;
  source.codes = reinterpret_cast<const std::byte*>(values.data());
  source.row_stride_bytes = 128;
  MatrixSpec spec;
  spec.sources = {source};
  const auto matrix = ops->pack_matrix(spec);
  const auto memory = ops->allocate(activation_bytes(ActivationForm::kF32, 2, 32, 0));
  ActivationView view = make_activation_view(ActivationForm::kF32, 2, 32, 0, memory.get());
  std::vector<float> x(64, 1.0F);
  std::vector<float> y(32);
  ops->convert_rows({x.data(), 32}, 2, view);
  ops->linear(*matrix, view, 2, {y.data(), 16});
  for (const float value : y) EXPECT_EQ(value, 16.0F);
  EXPECT_THROW(ops->linear(*matrix, view, 2, {y.data(), 15}), InternalError);
  ActivationView wrong = view;
  wrong.num_cols = 31;
  EXPECT_THROW(ops->linear(*matrix, wrong, 2, {y.data(), 16}), InternalError);
  wrong = view;
  wrong.form = ActivationForm::kBf16;
  EXPECT_THROW(ops->linear(*matrix, wrong, 2, {y.data(), 16}), InternalError);
  wrong = view;
  wrong.codes += 4;
  EXPECT_THROW(ops->linear(*matrix, wrong, 1, {y.data(), 16}), InternalError);
  // The oracle refuses a matrix packed by another backend.
  EXPECT_THROW(make_reference_operators()->linear(*matrix, view, 2, {y.data(), 16}), InternalError);
}

TEST(CpuOperators, HostWorkIsDoneOnceEach) {
  for (const Backend& backend : cpu_backends()) {
    for (const int64_t count : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> done(static_cast<size_t>(count));
      backend.operators->for_each_on_host(count,
                                          [&](int64_t i) { ++done[static_cast<size_t>(i)]; });
      for (const auto& times : done) EXPECT_EQ(times, 1) << backend.name << ", count " << count;
    }
  }
}

TEST(CpuOperators, AllocatedMemoryIsZeroAndResident) {
  constexpr size_t kBytes = (9U << 20) + 100;
  constexpr size_t kPage = 4096;
  for (const Backend& backend : cpu_backends()) {
    const auto memory = backend.operators->allocate(kBytes);
    std::vector<unsigned char> resident(kBytes / kPage + 1);
    ASSERT_EQ(mincore(memory.get(), kBytes, resident.data()), 0);
    EXPECT_THAT(resident, ::testing::Each(1)) << backend.name;
    for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(memory.get()[i], std::byte{0}) << i;
  }
}

/// What the counter gains by `work`.
uint64_t pieces_of(const WorkCounter& counter, const std::function<void()>& work) {
  const uint64_t before = counter.total();
  work();
  return counter.total() - before;
}

// However long an operator takes, a watcher sees it move: by rows, by tiles of at most 16 rows and
// 64 outputs, by blocks written and by partitions of the context walked.
TEST(CpuOperators, CountPiecesWithinAnOperator) {
  constexpr int64_t kRows = 96;
  constexpr int64_t kCols = 256;
  for (const IsaTier tier : kIsaTiers) {
    if (tier > best_isa_tier()) continue;
    for (const int num_threads : {1, 3}) {
      WorkCounter counter;
      CpuBackendOptions options;
      options.isa_tier = tier;
      options.num_threads = num_threads;
      options.spin = false;
      options.work = &counter;
      const auto ops = make_cpu_operators(options);
      SCOPED_TRACE(ops->description());
      const auto pieces = [&](const std::function<void()>& work) {
        return pieces_of(counter, work);
      };

      Matrix x(kRows, kCols, 1, 0);
      Matrix y(kRows, kCols, 2, 0);
      const std::vector<float> weight = weights(kCols);
      EXPECT_GE(pieces([&] { ops->allocate(1 << 20); }), 256U);
      EXPECT_GE(
          pieces([&] { ops->rms_norm(x.rows(), weight.data(), 1e-5F, kRows, kCols, y.rows()); }),
          kRows / 16U);
      EXPECT_GE(pieces([&] { ops->silu_mul(x.rows(), y.rows(), kRows, kCols, y.rows()); }),
                kRows / 16U);
      EXPECT_GE(pieces([&] { ops->for_each_on_host(7, [](int64_t) {}); }), 7U);
      for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                                        WeightFormat::kW4, WeightFormat::kFp8}) {
        SCOPED_TRACE(weight_format_name(format));
        const test::StoredMatrix stored({format, kCols, kCols, 64}, 1);
        std::unique_ptr<PackedMatrix> matrix;
        EXPECT_GE(pieces([&] { matrix = ops->pack_matrix(stored.spec()); }), 4U);
        const ActivationForm form = activation_form(format);
        const int64_t group_size = matrix->group_size();
        const auto memory = ops->allocate(activation_bytes(form, kRows, kCols, group_size));
        const ActivationView view =
            make_activation_view(form, kRows, kCols, group_size, memory.get());
        EXPECT_GE(pieces([&] { ops->convert_rows(x.rows(), kRows, view); }), 2U);
        EXPECT_GE(pieces([&] { ops->linear(*matrix, view, kRows, y.rows()); }), 4U * kRows / 16);
        const std::vector<int32_t> ids(50, 3);
        EXPECT_GE(pieces([&] { ops->embedding(stored.source(), ids, y.rows()); }), 50U);
      }
      for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
        SCOPED_TRACE(kv_format_name(format));
        constexpr int64_t kTokens = 1024;
        const AttentionShape shape{format, 64, 1, {0}, 0};
        AttentionWorld world(*ops, shape, {SequenceData(shape, kTokens + 1, 1, 0)});
        EXPECT_GE(pieces([&] { world.step({{0, kTokens}}); }), 32U + 32U * 4U);
        EXPECT_GE(pieces([&] { world.step({{0, 1}}); }), 9U);  // one query, nine partitions
      }
    }
  }
}

}  // namespace
}  // namespace phalanx::kernels
