// Timing, rows and random inputs of llm-bench cuda.
#include "launcher/bench/cuda_bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <utility>

#include "kernels/cuda_backend.h"
#include "launcher/stop_signal.h"

namespace phalanx::bench {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::Operators;
using kernels::WeightFormat;

/// A prime, so that no tile's rows are another's.
constexpr int64_t kDistinctRows = 1021;
constexpr int64_t kMostReplays = 1000;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// `run` enqueues one piece of work.
std::vector<double> sample(const CudaBench& bench, Operators& operators,
                           const std::function<void()>& run) {
  run();
  operators.finish();
  auto begin = Clock::now();
  run();
  operators.finish();
  const double once = std::max(1e-7, seconds_since(begin));
  const auto count =
      std::clamp<int64_t>(static_cast<int64_t>(bench.sample_seconds / once), 1, kMostReplays);
  std::vector<double> seconds;
  for (int64_t i = 0; i < bench.repetitions; ++i) {
    check_stop();
    begin = Clock::now();
    for (int64_t n = 0; n < count; ++n) run();
    operators.finish();
    seconds.push_back(seconds_since(begin) / static_cast<double>(count));
  }
  return seconds;
}

void fill_random(std::span<std::byte> bytes, uint64_t mask) {
  std::mt19937_64 random(bytes.size());
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t word = random() & mask;
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
  }
}

constexpr uint64_t kSmallNumbers = 0xbfbfbfbfbfbfbfbfULL;

}  // namespace

std::unique_ptr<Operators> CudaBench::make_operators() const {
  kernels::CudaBackendOptions options;
  options.device_index = device_index;
  options.num_host_threads = num_host_threads;
  return kernels::make_cuda_operators(options);
}

void CudaBench::attempt(const std::string& name, const std::function<void()>& measure) {
  check_stop();
  try {
    measure();
  } catch (const Stopped&) {
    throw;
  } catch (const std::exception& error) {
    report.set_fact("failure " + std::to_string(++num_failures) + ": " + name, error.what());
    std::printf("%s: %s\n", name.c_str(), error.what());
    std::fflush(stdout);
  }
}

std::vector<double> replay_seconds(const CudaBench& bench, Operators& operators, int64_t calls,
                                   const std::function<void(int64_t)>& enqueue) {
  const auto recorded = operators.record([&] {
    operators.begin();
    for (int64_t i = 0; i < calls; ++i) enqueue(i);
  });
  std::vector<double> seconds = sample(bench, operators, [&] { operators.replay(*recorded); });
  for (double& each : seconds) each /= static_cast<double>(calls);
  return seconds;
}

std::vector<double> stream_seconds(const CudaBench& bench, Operators& operators,
                                   const std::function<void()>& enqueue) {
  return sample(bench, operators, [&] {
    operators.begin();
    enqueue();
  });
}

void add_cost_row(CudaBench& bench, const std::string& name,
                  std::vector<std::pair<std::string, std::string>> parameters,
                  const std::vector<double>& seconds, const CudaCost& cost,
                  std::vector<std::pair<std::string, double>> details) {
  const double memory = bench.ceilings.read_gbs > 0 ? cost.bytes / bench.ceilings.read_gbs : 0;
  const double compute = cost.peak_tflops > 0 ? cost.ops / cost.peak_tflops * 1e-3 : 0;
  const bool computes = compute > memory || cost.bytes == 0;
  Measurement row;
  row.name = name;
  row.parameters = std::move(parameters);
  row.unit = computes ? "TFLOP/s" : "GB/s";
  for (const double each : seconds)
    row.samples.push_back(computes ? cost.ops / each * 1e-12 : cost.bytes / each * 1e-9);
  const double ceiling = computes ? cost.peak_tflops : bench.ceilings.read_gbs;
  if (ceiling > 0) {
    row.limit = Limit{computes ? "product rate" : "read bandwidth",
                      std::vector<double>(seconds.size(), ceiling)};
  }
  row.details = std::move(details);
  row.details.emplace_back("us", spread_of(seconds).median * 1e6);
  row.details.emplace_back("bytes", cost.bytes);
  row.details.emplace_back("ops", cost.ops);
  bench.report.add(std::move(row));
}

RandomMatrix::RandomMatrix(WeightFormat format, int64_t num_rows, int64_t num_cols,
                           int64_t group_size)
    : format_(format),
      num_rows_(num_rows),
      num_distinct_(std::min(num_rows, kDistinctRows)),
      num_cols_(num_cols),
      group_size_(is_quantized(format) ? group_size : 0) {
  codes_.resize(static_cast<size_t>(num_distinct_ * weight_row_bytes(format, num_cols)));
  fill_random(codes_, is_integer(format) ? ~uint64_t{0} : kSmallNumbers);
  if (group_size_ > 0)
    scales_.assign(static_cast<size_t>(num_distinct_ * (num_cols / group_size_)), 0.01F);
}

kernels::MatrixSpec RandomMatrix::spec(int64_t num_lanes) const {
  kernels::MatrixSpec spec;
  spec.num_lanes = num_lanes;
  for (int64_t first = 0; first < num_rows_; first += num_distinct_) {
    kernels::MatrixSource source;
    source.format = format_;
    source.num_rows = std::min(num_distinct_, num_rows_ - first);
    source.num_cols = num_cols_;
    source.codes = codes_.data();
    source.row_stride_bytes = weight_row_bytes(format_, num_cols_);
    if (group_size_ > 0) {
      source.scales = reinterpret_cast<const std::byte*>(scales_.data());
      source.scale_row_stride = num_cols_ / group_size_;
      source.group_size = group_size_;
      source.scale_rows = 1;
      source.scale_cols = group_size_;
    }
    spec.sources.push_back(source);
  }
  return spec;
}

double RandomMatrix::bytes() const {
  const int64_t scales = group_size_ > 0 ? num_cols_ / group_size_ * 4 : 0;
  return static_cast<double>(num_rows_ * (weight_row_bytes(format_, num_cols_) + scales));
}

std::shared_ptr<std::byte> random_memory(Operators& operators, int64_t bytes) {
  constexpr int64_t kPartBytes = int64_t{4} << 20;
  auto memory = operators.allocate(bytes);
  std::vector<std::byte> part(static_cast<size_t>(std::min(bytes, kPartBytes)));
  fill_random(part, kSmallNumbers);
  for (int64_t at = 0; at < bytes; at += kPartBytes)
    operators.upload(memory.get() + at,
                     std::span(part).first(static_cast<size_t>(std::min(kPartBytes, bytes - at))));
  return memory;
}

DeviceFloats::DeviceFloats(Operators& operators, int64_t num_rows, int64_t num_cols)
    : cols(num_cols), memory(random_memory(operators, std::max<int64_t>(1, num_rows) * cols * 4)) {}

DeviceActivationRows::DeviceActivationRows(Operators& operators, WeightFormat format,
                                           int64_t num_rows, int64_t num_cols, int64_t group_size)
    : bytes(kernels::activation_bytes(kernels::activation_form(format), num_rows, num_cols,
                                      is_quantized(format) ? group_size : 0)),
      memory(operators.allocate(bytes)),
      view(kernels::make_activation_view(kernels::activation_form(format), num_rows, num_cols,
                                         is_quantized(format) ? group_size : 0, memory.get())) {}

SequenceStep::SequenceStep(int64_t num_sequences, int64_t rows_each, int64_t context,
                           int64_t blocks_each) {
  for (int64_t block = 0; block < num_sequences * blocks_each; ++block) {
    // Neighbouring blocks of a sequence lie apart, as in a pool that has been in use.
    const int64_t sequence = block / blocks_each;
    tables.push_back(static_cast<int32_t>(block % blocks_each * num_sequences + sequence));
  }
  for (int64_t s = 0; s < num_sequences; ++s) {
    sequences.push_back({s * rows_each, rows_each, context, tables.data() + s * blocks_each});
    for (int64_t i = 0; i < rows_each; ++i) {
      token_ids.push_back(static_cast<int32_t>((s * 31 + i) % 97));
      positions.push_back(static_cast<int32_t>(context + i));
      token_slots.push_back(kernels::kNoSlot);
    }
    sampled.push_back(static_cast<int32_t>(s * rows_each + rows_each - 1));
    draws.push_back({static_cast<uint32_t>(s), context + rows_each});
  }
}

kernels::StepRows SequenceStep::rows() const {
  return {token_ids, positions, sequences, sampled, token_slots, draws};
}

}  // namespace phalanx::bench
