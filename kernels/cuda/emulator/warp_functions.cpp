// Shuffles, votes and matrix instructions of emulated warps. Called in kernels.
#include "kernels/cuda/emulator/warp_functions.h"

#include <bit>

#include "runtime/base/dtype.h"

namespace phalanx::kernels::cuda::emulator {

namespace {

constexpr uint32_t kWholeWarp = ~0U;

bool is_present(uint32_t present, uint32_t lane) { return ((present >> lane) & 1U) != 0; }

struct VoteOperand {
  bool predicate;
  uint32_t result;
};

void complete_ballot(void* const operands[32], uint32_t present) {
  uint32_t result = 0;
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (is_present(present, lane) && static_cast<VoteOperand*>(operands[lane])->predicate)
      result |= 1U << lane;
  }
  for (uint32_t lane = 0; lane < 32; ++lane)
    if (is_present(present, lane)) static_cast<VoteOperand*>(operands[lane])->result = result;
}

void complete_all(void* const operands[32], uint32_t present) {
  complete_ballot(operands, present);
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (!is_present(present, lane)) continue;
    auto& operand = *static_cast<VoteOperand*>(operands[lane]);
    operand.result = operand.result == present ? 1 : 0;
  }
}

void complete_nothing(void* const* /*operands*/, uint32_t /*present*/) {}

constexpr WarpFunction kBallot{"__ballot_sync", complete_ballot, false, false};
constexpr WarpFunction kAny{"__any_sync", complete_ballot, false, false};
constexpr WarpFunction kAll{"__all_sync", complete_all, false, false};
constexpr WarpFunction kSyncWarp{"__syncwarp", complete_nothing, false, false};

uint32_t vote(const WarpFunction& function, uint32_t mask, bool predicate, const Place& place) {
  VoteOperand operand{predicate, 0};
  warp_call(mask, function, &operand, place);
  return operand.result;
}

struct LoadOperand {
  const uint16_t* row;
  uint32_t* fragment;
};

template <bool kTransposed>
void complete_load(void* const operands[32], uint32_t /*present*/) {
  const auto element = [&](uint32_t matrix, uint32_t row, uint32_t column) -> uint32_t {
    return static_cast<const LoadOperand*>(operands[matrix * 8 + row])->row[column];
  };
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t row = lane / 4;
    const uint32_t column = lane % 4 * 2;
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
      static_cast<const LoadOperand*>(operands[lane])->fragment[matrix] =
          kTransposed ? element(matrix, column, row) | element(matrix, column + 1, row) << 16
                      : element(matrix, row, column) | element(matrix, row, column + 1) << 16;
    }
  }
}

constexpr WarpFunction kLoad{"ldmatrix_x4", complete_load<false>, true, true};
constexpr WarpFunction kLoadTransposed{"ldmatrix_x4_trans", complete_load<true>, true, true};

template <typename Sum>
struct ProductOperand {
  Sum* sums;
  const uint32_t* a;
  const uint32_t* b;
};

/// The k elements that a lane holds come in two halves of k, kPerRegister neighbours in a register.
/// A: registers 0, 1 are rows group and group + 8 of the first half, 2, 3 of the second. B:
/// register h is column group of half h. C: sums 0, 1 are columns 2 * member, + 1 of row group, 2,
/// 3 of row group + 8. With group = lane / 4, member = lane % 4. Source: PTX ISA, "Matrix Fragments
/// for mma.m16n8k16 with floating point type", "... mma.m16n8k32".
template <typename Sum, int kPerRegister, typename Element>
void complete_product(void* const operands[32], Element element) {
  constexpr int kHalf = 4 * kPerRegister;
  const auto lane_operand = [&](int lane) -> const ProductOperand<Sum>& {
    return *static_cast<const ProductOperand<Sum>*>(operands[lane]);
  };
  Sum a[16][2 * kHalf];
  Sum b[2 * kHalf][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4;
    const int member = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < kPerRegister; ++i) {
        const int k = half * kHalf + member * kPerRegister + i;
        a[group][k] = element(lane_operand(lane).a[2 * half], i);
        a[group + 8][k] = element(lane_operand(lane).a[2 * half + 1], i);
        b[k][group] = element(lane_operand(lane).b[half], i);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i / 2) * 8;
      const int column = lane % 4 * 2 + i % 2;
      Sum sum = lane_operand(lane).sums[i];
      for (int k = 0; k < 2 * kHalf; ++k) sum += a[row][k] * b[k][column];
      lane_operand(lane).sums[i] = sum;
    }
  }
}

void complete_bf16(void* const operands[32], uint32_t /*present*/) {
  complete_product<float, 2>(operands, [](uint32_t word, int i) {
    return phalanx::bf16_to_f32(static_cast<uint16_t>(word >> (16 * i)));
  });
}

void complete_f16(void* const operands[32], uint32_t /*present*/) {
  complete_product<float, 2>(operands, [](uint32_t word, int i) {
    return phalanx::f16_to_f32(static_cast<uint16_t>(word >> (16 * i)));
  });
}

void complete_s8(void* const operands[32], uint32_t /*present*/) {
  // Modulo 2^32, which unsigned arithmetic does without overflow.
  complete_product<uint32_t, 4>(operands, [](uint32_t word, int i) {
    return static_cast<uint32_t>(static_cast<int32_t>(static_cast<int8_t>(word >> (8 * i))));
  });
}

constexpr WarpFunction kProductBf16{"mma_m16n8k16_bf16", complete_bf16, true, true};
constexpr WarpFunction kProductF16{"mma_m16n8k16_f16", complete_f16, true, true};
constexpr WarpFunction kProductS8{"mma_m16n8k32_s8", complete_s8, true, true};

}  // namespace

void complete_shuffle(void* const operands[32], uint32_t present) {
  uint64_t values[32];
  for (uint32_t lane = 0; lane < 32; ++lane) {
    values[lane] = is_present(present, lane) ? static_cast<ShuffleOperand*>(operands[lane])->value
                                             : uint64_t{kPoison} << 32 | kPoison;
  }
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (!is_present(present, lane)) continue;
    auto& operand = *static_cast<ShuffleOperand*>(operands[lane]);
    operand.value = values[operand.source];
  }
}

uint32_t indexed_source(uint32_t lane, uint32_t index, uint32_t width) {
  return (lane & ~(width - 1)) | (index & (width - 1));
}

uint32_t up_source(uint32_t lane, uint32_t delta, uint32_t width) {
  return delta > lane % width ? lane : lane - delta;
}

uint32_t down_source(uint32_t lane, uint32_t delta, uint32_t width) {
  return delta >= width - lane % width ? lane : lane + delta;
}

uint32_t xor_source(uint32_t lane, uint32_t lane_mask, uint32_t width) {
  const uint32_t source = (lane ^ lane_mask) % 32;
  return source > (lane | (width - 1)) ? lane : source;
}

void require_shuffle_width(int width, const WarpFunction& function, const Place& place) {
  if (width >= 1 && width <= 32 && std::has_single_bit(static_cast<unsigned>(width))) return;
  fault(FaultKind::kBadArgument,
        std::string(function.name) + ": width " + std::to_string(width) +
            "; allowed are 1, 2, 4, 8, 16, 32",
        place);
}

uint32_t ballot(uint32_t mask, bool predicate, const Place& place) {
  return vote(kBallot, mask, predicate, place);
}
bool any_of(uint32_t mask, bool predicate, const Place& place) {
  return vote(kAny, mask, predicate, place) != 0;
}
bool all_of(uint32_t mask, bool predicate, const Place& place) {
  return vote(kAll, mask, predicate, place) != 0;
}
void sync_warp(uint32_t mask, const Place& place) { warp_call(mask, kSyncWarp, nullptr, place); }

void load_matrices_x4(uint32_t (&fragment)[4], const void* row, bool transposed) {
  const WarpFunction& function = transposed ? kLoadTransposed : kLoad;
  require_aligned(row, 16, function.name);
  require_shared(row, 16, function.name);
  LoadOperand operand{static_cast<const uint16_t*>(row), fragment};
  warp_call(kWholeWarp, function, &operand, {});
}

void multiply_m16n8k16_bf16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ProductOperand<float> operand{sums, a, b};
  warp_call(kWholeWarp, kProductBf16, &operand, {});
}

void multiply_m16n8k16_f16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ProductOperand<float> operand{sums, a, b};
  warp_call(kWholeWarp, kProductF16, &operand, {});
}

void multiply_m16n8k32_s8(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t wrapped[4];
  for (int i = 0; i < 4; ++i) wrapped[i] = static_cast<uint32_t>(sums[i]);
  ProductOperand<uint32_t> operand{wrapped, a, b};
  warp_call(kWholeWarp, kProductS8, &operand, {});
  for (int i = 0; i < 4; ++i) sums[i] = static_cast<int32_t>(wrapped[i]);
}

}  // namespace phalanx::kernels::cuda::emulator
