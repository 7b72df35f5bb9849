// ldmatrix and mma against scalar matrix products, every lane and register.
#include "kernels/cuda/tensor_core.h"

#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/launch.h"
#include "runtime/base/dtype.h"
#include "tests/kernels/cuda/memory_kernels.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda::test {
namespace {

TEST(TensorCore, LdmatrixGivesEachLaneItsElements) {
  std::vector<uint16_t> matrices(4 * 8 * 8);
  for (uint32_t i = 0; i < matrices.size(); ++i) matrices[i] = static_cast<uint16_t>(i * 251 + 3);
  const auto fragments = in_every_thread_order([&] {
    std::vector<uint32_t> out(32 * 8);
    launch(load_fragments<uint16_t>, {1, 32, matrices.size() * sizeof(uint16_t)}, nullptr,
           matrices.data(), out.data());
    return out;
  });
  const auto element = [&](uint32_t matrix, uint32_t row, uint32_t column) -> uint32_t {
    return matrices[matrix * 64 + row * 8 + column];
  };
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t i = lane / 4;
      const uint32_t j = lane % 4 * 2;
      EXPECT_EQ(fragments[lane * 8 + m], element(m, i, j) | element(m, i, j + 1) << 16);
      EXPECT_EQ(fragments[lane * 8 + 4 + m], element(m, j, i) | element(m, j + 1, i) << 16);
    }
  }
}

/// multiply_halves of random matrices against the stated order.
template <bool kIsF16>
void expect_stated_order(uint16_t (*to_half)(float), float (*to_f32)(uint16_t)) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 20; ++round) {
    std::vector<uint16_t> a(16 * 16);
    std::vector<uint16_t> b(16 * 8);
    std::vector<float> c(16 * 8);
    for (uint16_t& value : a) value = to_half(normal(random));
    for (uint16_t& value : b) value = to_half(normal(random));
    for (float& value : c) value = normal(random);
    const auto product = in_every_thread_order([&] {
      std::vector<float> out = c;
      launch(multiply_halves<uint16_t, kIsF16>, {1, 32, (a.size() + b.size()) * sizeof(uint16_t)},
             nullptr, a.data(), b.data(), out.data());
      return out;
    });
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        float sum = c[row * 8 + column];  // the stated order
        for (size_t k = 0; k < 16; ++k) sum += to_f32(a[row * 16 + k]) * to_f32(b[k * 8 + column]);
        ASSERT_EQ(product[row * 8 + column], sum) << row << ", " << column;
      }
    }
  }
}

TEST(TensorCore, ProductsOfRandomMatricesOf16Bits) {
  expect_stated_order<false>(phalanx::f32_to_bf16, phalanx::bf16_to_f32);
  expect_stated_order<true>(phalanx::f32_to_f16, phalanx::f16_to_f32);
}

TEST(TensorCore, Int8ProductOfRandomMatricesWraps) {
  std::mt19937 random(10);
  for (int round = 0; round < 20; ++round) {
    std::vector<int8_t> a(16 * 32);
    std::vector<int8_t> b(8 * 32);
    std::vector<int32_t> c(16 * 8);
    for (int8_t& value : a) value = static_cast<int8_t>(round == 0 ? -128 : random());
    for (int8_t& value : b) value = static_cast<int8_t>(round == 0 ? -128 : random());
    for (int32_t& value : c) value = static_cast<int32_t>(round == 0 ? INT32_MAX : random());
    const auto product = in_every_thread_order([&] {
      std::vector<int32_t> out = c;
      launch(multiply_s8<int32_t>, {1, 32}, nullptr, a.data(), b.data(), out.data());
      return out;
    });
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        int64_t sum = c[row * 8 + column];
        for (size_t k = 0; k < 32; ++k) sum += a[row * 32 + k] * b[column * 32 + k];
        ASSERT_EQ(product[row * 8 + column], static_cast<int32_t>(sum)) << row << ", " << column;
      }
    }
  }
}

}  // namespace
}  // namespace phalanx::kernels::cuda::test
