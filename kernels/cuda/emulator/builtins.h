// CUDA's built-in names for kernels compiled by an ordinary C++ compiler: they run on the emulated
// device. Included by kernels/cuda/simt.h only. Absent on purpose: __shared__ (kernels use
// shared_memory<T>()), __activemask, textures, clusters, and all that only Hopper has.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/emulator/kernel_thread.h"
#include "kernels/cuda/emulator/vector_types.h"
#include "kernels/cuda/emulator/warp_functions.h"

// NOLINTBEGIN(readability-identifier-naming,bugprone-reserved-identifier): the names are CUDA's

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (::phalanx::kernels::cuda::emulator::identity().thread_index)
#define blockIdx (::phalanx::kernels::cuda::emulator::identity().block_index)
#define blockDim (::phalanx::kernels::cuda::emulator::identity().block_dim)
#define gridDim (::phalanx::kernels::cuda::emulator::identity().grid_dim)
inline constexpr int warpSize = 32;

namespace phalanx::kernels::cuda::emulator {

template <typename T>
concept AtomicInteger =
    std::same_as<T, int> || std::same_as<T, unsigned int> || std::same_as<T, unsigned long long>;
template <typename T>
concept AtomicWord = AtomicInteger<T> || std::same_as<T, float>;

/// The type of an argument that follows the pointer's, as with CUDA's overloads.
template <typename T>
using Plain = std::type_identity_t<T>;

/// *address = change(*address), as one step; the old value. Lets other threads run before, since
/// atomics are how threads wait for one another.
template <typename T, typename Change>
T change_atomically(const char* name, T* address, Change change) {
  require_aligned(address, sizeof(T), name);
  yield(name);
  std::atomic_ref<T> word(*address);
  T before = word.load();
  while (!word.compare_exchange_weak(before, change(before))) {
  }
  return before;
}

}  // namespace phalanx::kernels::cuda::emulator

// ---- barriers of the block

inline void __syncthreads(phalanx::kernels::cuda::emulator::Place place =
                              phalanx::kernels::cuda::emulator::Place::here()) {
  using phalanx::kernels::cuda::emulator::BarrierKind;
  phalanx::kernels::cuda::emulator::block_barrier(BarrierKind::kPlain, false, place);
}
inline int __syncthreads_or(int predicate, phalanx::kernels::cuda::emulator::Place place =
                                               phalanx::kernels::cuda::emulator::Place::here()) {
  using phalanx::kernels::cuda::emulator::BarrierKind;
  return phalanx::kernels::cuda::emulator::block_barrier(BarrierKind::kOr, predicate != 0, place);
}
inline int __syncthreads_and(int predicate, phalanx::kernels::cuda::emulator::Place place =
                                                phalanx::kernels::cuda::emulator::Place::here()) {
  using phalanx::kernels::cuda::emulator::BarrierKind;
  return phalanx::kernels::cuda::emulator::block_barrier(BarrierKind::kAnd, predicate != 0, place);
}
inline int __syncthreads_count(int predicate, phalanx::kernels::cuda::emulator::Place place =
                                                  phalanx::kernels::cuda::emulator::Place::here()) {
  using phalanx::kernels::cuda::emulator::BarrierKind;
  return phalanx::kernels::cuda::emulator::block_barrier(BarrierKind::kCount, predicate != 0,
                                                         place);
}

// ---- warps

inline void __syncwarp(unsigned int mask = 0xffffffffU,
                       phalanx::kernels::cuda::emulator::Place place =
                           phalanx::kernels::cuda::emulator::Place::here()) {
  phalanx::kernels::cuda::emulator::sync_warp(mask, place);
}
inline unsigned int __ballot_sync(unsigned int mask, int predicate,
                                  phalanx::kernels::cuda::emulator::Place place =
                                      phalanx::kernels::cuda::emulator::Place::here()) {
  return phalanx::kernels::cuda::emulator::ballot(mask, predicate != 0, place);
}
inline int __any_sync(unsigned int mask, int predicate,
                      phalanx::kernels::cuda::emulator::Place place =
                          phalanx::kernels::cuda::emulator::Place::here()) {
  return phalanx::kernels::cuda::emulator::any_of(mask, predicate != 0, place) ? 1 : 0;
}
inline int __all_sync(unsigned int mask, int predicate,
                      phalanx::kernels::cuda::emulator::Place place =
                          phalanx::kernels::cuda::emulator::Place::here()) {
  return phalanx::kernels::cuda::emulator::all_of(mask, predicate != 0, place) ? 1 : 0;
}

template <typename T>
T __shfl_sync(unsigned int mask, T value, int source_lane, int width = warpSize,
              phalanx::kernels::cuda::emulator::Place place =
                  phalanx::kernels::cuda::emulator::Place::here()) {
  namespace emulator = phalanx::kernels::cuda::emulator;
  constexpr const auto& kFunction = emulator::kShuffleIndexed<T>;
  emulator::require_shuffle_width(width, kFunction, place);
  const auto source = emulator::indexed_source(
      emulator::lane_index(), static_cast<uint32_t>(source_lane), static_cast<uint32_t>(width));
  return emulator::shuffle(kFunction, mask, value, source, place);
}
template <typename T>
T __shfl_up_sync(unsigned int mask, T value, unsigned int delta, int width = warpSize,
                 phalanx::kernels::cuda::emulator::Place place =
                     phalanx::kernels::cuda::emulator::Place::here()) {
  namespace emulator = phalanx::kernels::cuda::emulator;
  constexpr const auto& kFunction = emulator::kShuffleUp<T>;
  emulator::require_shuffle_width(width, kFunction, place);
  const auto source =
      emulator::up_source(emulator::lane_index(), delta, static_cast<uint32_t>(width));
  return emulator::shuffle(kFunction, mask, value, source, place);
}
template <typename T>
T __shfl_down_sync(unsigned int mask, T value, unsigned int delta, int width = warpSize,
                   phalanx::kernels::cuda::emulator::Place place =
                       phalanx::kernels::cuda::emulator::Place::here()) {
  namespace emulator = phalanx::kernels::cuda::emulator;
  constexpr const auto& kFunction = emulator::kShuffleDown<T>;
  emulator::require_shuffle_width(width, kFunction, place);
  const auto source =
      emulator::down_source(emulator::lane_index(), delta, static_cast<uint32_t>(width));
  return emulator::shuffle(kFunction, mask, value, source, place);
}
template <typename T>
T __shfl_xor_sync(unsigned int mask, T value, int lane_mask, int width = warpSize,
                  phalanx::kernels::cuda::emulator::Place place =
                      phalanx::kernels::cuda::emulator::Place::here()) {
  namespace emulator = phalanx::kernels::cuda::emulator;
  constexpr const auto& kFunction = emulator::kShuffleXor<T>;
  emulator::require_shuffle_width(width, kFunction, place);
  const auto source = emulator::xor_source(emulator::lane_index(), static_cast<uint32_t>(lane_mask),
                                           static_cast<uint32_t>(width));
  return emulator::shuffle(kFunction, mask, value, source, place);
}

// ---- atomics: stronger than CUDA's relaxed ones (sequentially consistent)

template <phalanx::kernels::cuda::emulator::AtomicInteger T>
T atomicAdd(T* address, phalanx::kernels::cuda::emulator::Plain<T> value) {
  using Unsigned = std::make_unsigned_t<T>;  // wraps
  return phalanx::kernels::cuda::emulator::change_atomically("atomicAdd", address, [=](T before) {
    return static_cast<T>(static_cast<Unsigned>(before) + static_cast<Unsigned>(value));
  });
}
inline float atomicAdd(float* address, float value) {
  return phalanx::kernels::cuda::emulator::change_atomically(
      "atomicAdd", address, [=](float before) { return before + value; });
}
template <phalanx::kernels::cuda::emulator::AtomicInteger T>
T atomicMax(T* address, phalanx::kernels::cuda::emulator::Plain<T> value) {
  return phalanx::kernels::cuda::emulator::change_atomically(
      "atomicMax", address, [=](T before) { return std::max(before, value); });
}
template <phalanx::kernels::cuda::emulator::AtomicInteger T>
T atomicMin(T* address, phalanx::kernels::cuda::emulator::Plain<T> value) {
  return phalanx::kernels::cuda::emulator::change_atomically(
      "atomicMin", address, [=](T before) { return std::min(before, value); });
}
template <phalanx::kernels::cuda::emulator::AtomicInteger T>
T atomicOr(T* address, phalanx::kernels::cuda::emulator::Plain<T> value) {
  return phalanx::kernels::cuda::emulator::change_atomically(
      "atomicOr", address, [=](T before) { return before | value; });
}
template <phalanx::kernels::cuda::emulator::AtomicWord T>
T atomicExch(T* address, phalanx::kernels::cuda::emulator::Plain<T> value) {
  return phalanx::kernels::cuda::emulator::change_atomically("atomicExch", address,
                                                             [=](T) { return value; });
}
template <phalanx::kernels::cuda::emulator::AtomicInteger T>
T atomicCAS(T* address, phalanx::kernels::cuda::emulator::Plain<T> compare,
            phalanx::kernels::cuda::emulator::Plain<T> value) {
  return phalanx::kernels::cuda::emulator::change_atomically(
      "atomicCAS", address, [=](T before) { return before == compare ? value : before; });
}

// ---- memory order: a block's threads run by turns, so their stores are seen in order as they are;
// those of other blocks are ordered by the atomics and by load_acquire / store_release

inline void __threadfence_block() { std::atomic_signal_fence(std::memory_order_seq_cst); }
inline void __threadfence() {
#if !defined(__SANITIZE_THREAD__)  // which knows no fences; the atomics order as much
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}
inline void __threadfence_system() { __threadfence(); }

template <typename T>
T __ldg(const T* address) {
  phalanx::kernels::cuda::emulator::require_aligned(address, alignof(T), "__ldg");
  return *address;
}

inline void __nanosleep(unsigned int /*nanoseconds*/,
                        phalanx::kernels::cuda::emulator::Place place =
                            phalanx::kernels::cuda::emulator::Place::here()) {
  phalanx::kernels::cuda::emulator::yield("__nanosleep", place);
}

[[noreturn]] inline void __trap(phalanx::kernels::cuda::emulator::Place place =
                                    phalanx::kernels::cuda::emulator::Place::here()) {
  using phalanx::kernels::cuda::emulator::FaultKind;
  phalanx::kernels::cuda::emulator::fault(FaultKind::kTrap, "__trap()", place);
}

// ---- bits and integers

inline unsigned int __float_as_uint(float value) { return std::bit_cast<unsigned int>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __uint_as_float(unsigned int bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __popc(unsigned int value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned int>(value)); }
/// One more than the index of the lowest set bit; 0 for 0.
inline int __ffs(int value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned int>(value)) + 1;
}
inline unsigned int __umulhi(unsigned int a, unsigned int b) {
  return static_cast<unsigned int>((uint64_t{a} * b) >> 32);
}
/// sum + the products of the four bytes, wrapping.
inline int __dp4a(int a, int b, int sum) {
  auto total = static_cast<unsigned int>(sum);
  for (int i = 0; i < 32; i += 8)
    total += static_cast<unsigned int>(static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i));
  return static_cast<int>(total);
}
inline unsigned int __dp4a(unsigned int a, unsigned int b, unsigned int sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 0xffU) * (b >> i & 0xffU);
  return sum;
}
/// Byte i of the result is byte selector[4i+2 : 4i] of y:x.
inline unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned int result = 0;
  for (unsigned int i = 0; i < 4; ++i)
    result |= static_cast<unsigned int>(bytes >> (selector >> 4 * i & 7U) * 8 & 0xffU) << 8 * i;
  return result;
}
inline int __float2int_rn(float value) {  // saturates; NaN gives 0
  if (std::isnan(value)) return 0;
  if (value >= 0x1p31F) return INT32_MAX;
  if (value <= -0x1p31F) return INT32_MIN;
  return static_cast<int>(std::nearbyint(value));
}
inline float __int2float_rn(int value) { return static_cast<float>(value); }

// ---- floats; what hardware approximates (rsqrtf, __expf, __fdividef) is exactly rounded or nearly
// so here: the device's bits differ

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0F / a; }
inline float rsqrtf(float a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float a) { return a > 0.0F ? std::min(a, 1.0F) : 0.0F; }

// CUDA has these for all arithmetic types, in the global namespace.
template <typename T>
requires std::is_arithmetic_v<T>
constexpr T min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmin(a, b);
  } else {
    return b < a ? b : a;
  }
}
template <typename T>
requires std::is_arithmetic_v<T>
constexpr T max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmax(a, b);
  } else {
    return a < b ? b : a;
  }
}

// NOLINTEND(readability-identifier-naming,bugprone-reserved-identifier)
