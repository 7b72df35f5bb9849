// What the parts of llm-bench cuda share: ceilings, timing of recorded operators, random weights
// and inputs in a device's memory. Made by cuda.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda_limits.h"
#include "kernels/operators.h"
#include "launcher/bench/report.h"

namespace phalanx::bench {

/// Medians, measured before anything else; 0: could not be measured.
struct CudaCeilings {
  double read_gbs = 0;
  double copy_gbs = 0;
  double bf16_tflops = 0;
  double fp8_tflops = 0;
};

/// One run of the command. Not thread safe.
struct CudaBench {
  Report& report;
  int device_index = 0;
  int num_host_threads = 1;
  int64_t repetitions = 5;
  double sample_seconds = 0.005;
  bool has_fp8 = true;  ///< the backend has products of e4m3 weights
  bool tiny = false;    ///< shapes for the emulated device: no figure means anything
  CudaCeilings ceilings{};
  kernels::CudaLimits* limits = nullptr;

  std::unique_ptr<kernels::Operators> make_operators() const;
  /// Runs one case; what it throws becomes a row of "failures" in the report's facts.
  void attempt(const std::string& name, const std::function<void()>& measure);
  int64_t num_failures = 0;
};

/// What a call moves and computes, of which the slower part bounds it.
struct CudaCost {
  double bytes = 0;
  double ops = 0;
  double peak_tflops = 0;  ///< of the ops; 0: unknown
};

/// Seconds of one call: `calls` of them recorded and replayed until a sample lasts long enough.
std::vector<double> replay_seconds(const CudaBench& bench, kernels::Operators& operators,
                                   int64_t calls, const std::function<void(int64_t)>& enqueue);
/// The same of what cannot be recorded: one after another in the stream.
std::vector<double> stream_seconds(const CudaBench& bench, kernels::Operators& operators,
                                   const std::function<void()>& enqueue);

/// Adds a row in GB/s or, when operations bound the call, in TFLOP/s; microseconds in its details.
void add_cost_row(CudaBench& bench, const std::string& name,
                  std::vector<std::pair<std::string, std::string>> parameters,
                  const std::vector<double>& seconds, const CudaCost& cost,
                  std::vector<std::pair<std::string, double>> details = {});

/// A matrix of random codes, of which only some rows are different; packed as often as wanted.
class RandomMatrix {
 public:
  RandomMatrix(kernels::WeightFormat format, int64_t num_rows, int64_t num_cols,
               int64_t group_size);
  kernels::MatrixSpec spec(int64_t num_lanes = 1) const;
  double bytes() const;  ///< of codes and scales of the whole matrix

 private:
  kernels::WeightFormat format_;
  int64_t num_rows_, num_distinct_, num_cols_, group_size_;
  std::vector<std::byte> codes_;
  std::vector<float> scales_;
};

/// Memory of the device filled with random numbers: as f32, bf16 and e4m3 finite and below 2.
std::shared_ptr<std::byte> random_memory(kernels::Operators& operators, int64_t bytes);

/// Rows of f32, random or zero.
struct DeviceFloats {
  DeviceFloats(kernels::Operators& operators, int64_t num_rows, int64_t num_cols);
  kernels::Rows rows() const { return {reinterpret_cast<float*>(memory.get()), cols}; }
  float* data() const { return reinterpret_cast<float*>(memory.get()); }
  int64_t cols;
  std::shared_ptr<std::byte> memory;
};

/// An ActivationView with its memory; what a linear of `format` reads.
struct DeviceActivationRows {
  DeviceActivationRows(kernels::Operators& operators, kernels::WeightFormat format,
                       int64_t num_rows, int64_t num_cols, int64_t group_size);
  int64_t bytes;
  std::shared_ptr<std::byte> memory;
  kernels::ActivationView view;
};

/// A step of sequences that each have `rows_each` tokens after `context` others, with blocks of
/// their own; on the host.
struct SequenceStep {
  SequenceStep(int64_t num_sequences, int64_t rows_each, int64_t context, int64_t blocks_each);
  kernels::StepRows rows() const;
  std::vector<int32_t> token_ids, positions, sampled, tables;
  std::vector<kernels::SequenceRows> sequences;
  std::vector<uint32_t> token_slots;
  std::vector<kernels::DrawRow> draws;
};

/// Where the parts are told what they shall measure: their own files.
void measure_cuda_linears(CudaBench& bench);
void measure_cuda_attention(CudaBench& bench);
void measure_cuda_rows(CudaBench& bench);
void measure_cuda_sampling(CudaBench& bench);
void measure_cuda_peers(CudaBench& bench);
/// models: names of shape_engine.h, or "tiny"; formats as weight_format_name says.
void measure_cuda_steps(CudaBench& bench, const std::vector<std::string>& models,
                        const std::vector<std::string>& formats);

}  // namespace phalanx::bench
