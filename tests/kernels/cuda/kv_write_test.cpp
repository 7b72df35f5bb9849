// The kernel that writes KV blocks, on the emulated device: head norm, rotation and stored codes
// against the reference operators, bit by bit, in every order of threads.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/kv_write_launches.h"
#include "kernels/operators.h"
#include "tests/kernels/cuda/thread_orders.h"
#include "tests/kernels/float_rows.h"

namespace phalanx::kernels::cuda {
namespace {

using kernels::test::bits_of;
using kernels::test::random_values;
using test::in_every_thread_order;

constexpr float kEps = 1e-6F;

struct Shape {
  int64_t head_dim;
  int64_t num_query_heads;
  int64_t num_kv_heads;
  int64_t rotary_dim;
};

/// Rows of three sequences (a chunk that crosses KV blocks, padding, a decode), and rows of none.
struct Step {
  Shape shape;
  int64_t num_rows = 12;
  int64_t stride;
  int64_t num_blocks = 7;
  std::vector<int32_t> chunk_table{5, 2, -1}, decode_table{-1, 0, 4};
  std::vector<SequenceRows> sequences;
  std::vector<float> fused, q_weight, k_weight, cosines, sines;

  explicit Step(const Shape& s)
      : shape(s), stride((s.num_query_heads + 2 * s.num_kv_heads) * s.head_dim + 5) {
    sequences = {
        {2, 8, 27, chunk_table.data()}, {3, 0, 1, nullptr}, {1, 1, 95, decode_table.data()}};
    fused = random_values(static_cast<size_t>(num_rows * stride), 1);
    fused[static_cast<size_t>(2 * stride + s.num_query_heads * s.head_dim)] = 1e30F;
    q_weight = random_values(static_cast<size_t>(s.head_dim), 2);
    k_weight = random_values(static_cast<size_t>(s.head_dim), 3);
    cosines = random_values(static_cast<size_t>(96 * s.rotary_dim / 2), 4);
    sines = random_values(static_cast<size_t>(96 * s.rotary_dim / 2), 5);
  }
  int64_t k_at() const { return shape.num_query_heads * shape.head_dim; }
  int64_t v_at() const { return k_at() + shape.num_kv_heads * shape.head_dim; }
  RopeTable rope() const { return {cosines.data(), sines.data(), shape.rotary_dim, 96}; }
  std::vector<std::byte> pool(KvFormat format) const {
    return std::vector<std::byte>(static_cast<size_t>(num_blocks * shape.num_kv_heads *
                                                      kv_block_bytes(format, shape.head_dim)) +
                                      64,
                                  std::byte{0xff});
  }
  KvLayerView view(KvFormat format, std::vector<std::byte>& memory) const {
    auto* aligned =
        reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    return {format, aligned, num_blocks, shape.num_kv_heads, shape.head_dim};
  }
};

/// Where (token, d) of a part lies in bytes from its block, and its scale: here and in the oracle.
struct Place {
  int64_t element;
  int64_t scale;
};

template <KvFormat kFormat>
Place device_place(int head_dim, bool is_key, int token, int d) {
  return {is_key
              ? int64_t{key_index<kFormat>(head_dim, token, d)} * kv_element_bytes<kFormat>()
              : values_offset<kFormat>(head_dim) +
                    int64_t{value_index<kFormat>(head_dim, token, d)} * kv_element_bytes<kFormat>(),
          (is_key ? key_scales_offset<kFormat>(head_dim) : value_scales_offset<kFormat>(head_dim)) +
              token * 4};
}

/// All that lies in the blocks, in the oracle's order: elements, then scales.
template <KvFormat kFormat>
std::vector<std::byte> contents(const KvLayerView& kv, bool of_device) {
  const auto head_dim = static_cast<int>(kv.head_dim);
  const int bytes = kv_element_bytes<kFormat>();
  std::vector<std::byte> out;
  for (int64_t b = 0; b < kv.num_blocks * kv.num_kv_heads; ++b) {
    const std::byte* block = kv.data + b * kv_block_bytes(kFormat, head_dim);
    for (int part = 0; part < 2; ++part) {
      for (int t = 0; t < kTokensOfBlock; ++t) {
        const int64_t row = int64_t{part} * kTokensOfBlock + t;
        const int64_t scale = 2 * kTokensOfBlock * head_dim * bytes + row * 4;
        for (int d = 0; d < head_dim; ++d) {
          const int64_t at = of_device ? device_place<kFormat>(head_dim, part == 0, t, d).element
                                       : (row * head_dim + d) * bytes;
          out.insert(out.end(), block + at, block + at + bytes);
        }
        if (!kv_has_scales<kFormat>()) continue;
        const int64_t at =
            of_device ? device_place<kFormat>(head_dim, part == 0, t, 0).scale : scale;
        out.insert(out.end(), block + at, block + at + 4);
      }
    }
  }
  return out;
}

template <KvFormat kFormat>
void expect_the_oracles_blocks(const Shape& shape, bool has_norm, bool has_rope) {
  const Step step(shape);
  const auto reference = make_reference_operators();
  std::vector<float> expected_rows = step.fused;
  std::vector<std::byte> expected_pool = step.pool(kFormat);
  const KvLayerView expected_kv = step.view(kFormat, expected_pool);
  for (const SequenceRows& s : step.sequences) {
    if (s.num_rows == 0) continue;
    float* first = expected_rows.data() + s.first_row * step.stride;
    const Rows q{first, step.stride};
    const Rows k{first + step.k_at(), step.stride};
    if (has_norm) {
      reference->head_norm(q, shape.num_query_heads, shape.head_dim, step.q_weight.data(), kEps,
                           s.num_rows);
      reference->head_norm(k, shape.num_kv_heads, shape.head_dim, step.k_weight.data(), kEps,
                           s.num_rows);
    }
    if (has_rope) {
      std::vector<int32_t> positions(static_cast<size_t>(s.num_rows));
      std::iota(positions.begin(), positions.end(), static_cast<int32_t>(s.first_position));
      reference->rope(q, shape.num_query_heads, shape.head_dim, step.rope(), positions);
      reference->rope(k, shape.num_kv_heads, shape.head_dim, step.rope(), positions);
    }
    SequenceRows alone = s;
    alone.first_row = 0;
    reference->write_kv(k, {first + step.v_at(), step.stride}, {&alone, 1}, expected_kv);
    for (int64_t r = 0; r < s.num_rows; ++r) {  // the kernel leaves rows of k as they are
      std::copy_n(step.fused.data() + (s.first_row + r) * step.stride + step.k_at(),
                  step.v_at() - step.k_at(), first + r * step.stride + step.k_at());
    }
  }
  const auto got = in_every_thread_order([&] {
    std::vector<float> rows = step.fused;
    std::vector<std::byte> pool = step.pool(kFormat);
    const KvLayerView kv = step.view(kFormat, pool);
    KvRows work;
    work.q = {rows.data(), step.stride};
    work.num_query_heads = shape.num_query_heads;
    work.k = {rows.data() + step.k_at(), step.stride};
    work.v = {rows.data() + step.v_at(), step.stride};
    work.eps = kEps;
    if (has_norm) {
      work.q_weight = step.q_weight.data();
      work.k_weight = step.k_weight.data();
    }
    if (has_rope) work.rope = step.rope();
    launch_write_kv(work, {step.sequences.data(), 3}, step.num_rows, kv, nullptr);
    return std::make_tuple(bits_of(rows), contents<kFormat>(kv, true));
  });
  EXPECT_EQ(std::get<0>(got), bits_of(expected_rows)) << "rows, head_dim " << shape.head_dim;
  EXPECT_EQ(std::get<1>(got), contents<kFormat>(expected_kv, false))
      << "blocks, head_dim " << shape.head_dim;
}

constexpr Shape kShapes[] = {{8, 1, 1, 8}, {80, 7, 1, 32}, {128, 4, 2, 128}};

template <KvFormat kFormat>
void expect_the_oracles_blocks_of_all() {
  for (const Shape& shape : kShapes) {
    for (const bool has_norm : {false, true}) {
      for (const bool has_rope : {false, true}) {
        SCOPED_TRACE(std::string(kv_format_name(kFormat)) + (has_norm ? ", norm" : "") +
                     (has_rope ? ", rope" : ""));
        expect_the_oracles_blocks<kFormat>(shape, has_norm, has_rope);
      }
    }
  }
}

TEST(KvWrite, F32BlocksAreTheOracles) { expect_the_oracles_blocks_of_all<KvFormat::kF32>(); }
TEST(KvWrite, Bf16BlocksAreTheOracles) { expect_the_oracles_blocks_of_all<KvFormat::kBf16>(); }
TEST(KvWrite, Int8BlocksAreTheOracles) { expect_the_oracles_blocks_of_all<KvFormat::kInt8>(); }

TEST(KvWrite, HeadNormAlone) {
  const auto reference = make_reference_operators();
  for (const int64_t head_dim : {8, 40, 128}) {
    const std::vector<float> x = random_values(static_cast<size_t>(3 * (9 * head_dim + 1)), 6);
    const std::vector<float> weight = random_values(static_cast<size_t>(head_dim), 7);
    std::vector<float> expected = x;
    reference->head_norm({expected.data(), 9 * head_dim + 1}, 9, head_dim, weight.data(), kEps, 3);
    const auto got = in_every_thread_order([&] {
      std::vector<float> y = x;
      launch_head_norm({y.data(), 9 * head_dim + 1}, 9, head_dim, weight.data(), kEps, 3, nullptr);
      return bits_of(y);
    });
    EXPECT_EQ(got, bits_of(expected)) << head_dim;
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda
