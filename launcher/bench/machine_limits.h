// What this machine can do at most, measured now: bytes read from each level of memory and
// operations of the dot-product instructions. Asked by every command of llm-bench, in turn with its
// own samples.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu_backend.h"
#include "kernels/operators.h"

namespace phalanx::bench {

/// Where the bytes of a read come from: half of that cache as the threads share it, or memory far
/// larger than all caches.
enum class ReadFrom : uint8_t { kL1, kL2, kL3, kDram };
const char* read_from_name(ReadFrom from);  ///< "L1", "L2", "L3", "DRAM"

/// What the dot products of a kernel are made of.
enum class PeakKind : uint8_t { kInt8, kBf16, kF32 };
const char* peak_kind_name(PeakKind kind);         ///< "int8", "bf16", "f32"
PeakKind peak_kind(kernels::WeightFormat format);  ///< what linear multiplies that format with

struct MachineLimitsOptions {
  kernels::IsaTier isa_tier = kernels::best_isa_tier();  ///< at most best_isa_tier()
  double sample_seconds = 0.010;                         ///< that one sample takes
};

/// Measures on `num_threads` threads of its own, bound as launcher::place_threads says; the caller
/// sleeps meanwhile, and its binding stays as it is. Between samples the threads sleep.
/// The cores are those that the caller may use when this is made: make it before operators or a
/// thread team bind the caller to a core.
/// Each sample is one number: threads start together, each counts what it did until a common
/// deadline, and the rates are added. No program does better at that moment, so a share of it is
/// free of a neighbour's doing, up to what changes within milliseconds. One caller at a time.
class MachineLimits {
 public:
  explicit MachineLimits(int num_threads, MachineLimitsOptions options = {});
  ~MachineLimits();
  MachineLimits(const MachineLimits&) = delete;
  MachineLimits& operator=(const MachineLimits&) = delete;

  int num_threads() const;

  /// GB/s (1e9) of reading. The first call for a level allocates and touches its memory: for DRAM
  /// at least 256 MiB, which takes tens of milliseconds more. `from` must be in levels().
  double read_gbs(ReadFrom from = ReadFrom::kDram);
  /// The levels whose size is known; DRAM always.
  std::vector<ReadFrom> levels() const;
  /// Bytes that read_gbs(from) walks, all threads together.
  int64_t working_set_bytes(ReadFrom from) const;

  /// GOP/s, a multiply and an add being two, of that instruction in registers:
  ///   int8  avx512: vpdpbusd zmm. avx2vnni: vpdpbusd ymm. avx2: vpmaddubsw + vpmaddwd + vpaddd
  ///   ymm. bf16  avx512: vdpbf16ps zmm. avx2, avx2vnni: as f32. f32   avx512, avx2, avx2vnni:
  ///   vfmadd231ps.
  /// portable: all three are the compiler's f32 multiply and add.
  double peak_gops(PeakKind kind);
  double int8_gops() { return peak_gops(PeakKind::kInt8); }
  double bf16_gops() { return peak_gops(PeakKind::kBf16); }
  double f32_gops() { return peak_gops(PeakKind::kF32); }
  const char* peak_instruction(PeakKind kind) const;  ///< "vpdpbusd zmm"

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phalanx::bench
