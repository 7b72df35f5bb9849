// Decode and prefill rates of an engine on one rank, through leader, scheduler and executor (no
// HTTP): model_benchmark ENGINE [THREADS] [KV_FORMAT] [BATCH...]. Batch 0 is prefill. Not a test;
// prints a table.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "tests/support/job_harness.h"

namespace phalanx::testing {
namespace {

struct Subject {
  std::shared_ptr<const model::EngineFile> engine;
  int threads = 2;
  kernels::KvFormat kv_format = kernels::KvFormat::kF32;
};

double seconds_of(const Subject& subject, int batch, int prompt_tokens, int new_tokens) {
  std::mt19937 random(3);
  const auto vocab = static_cast<int32_t>(subject.engine->manifest().model().vocab_size());
  std::vector<TimedRequest> workload(static_cast<size_t>(batch));
  for (auto& [request, after] : workload) {
    for (int i = 0; i < prompt_tokens; ++i) {
      request.prompt_token_ids.push_back(static_cast<int32_t>(random() % vocab));
    }
    request.max_tokens = new_tokens;
    request.sampling.temperature = 0.0F;
    after = 0;
  }
  JobShape shape;
  shape.num_threads = subject.threads;
  shape.kv_format = subject.kv_format;
  shape.spin = true;
  shape.digest_logits = false;
  shape.max_context_tokens = prompt_tokens + new_tokens;
  shape.num_blocks = static_cast<int64_t>(batch) * (shape.max_context_tokens / 32 + 1);
  shape.max_sequences = batch;
  shape.max_step_tokens = std::max(1024, batch);
  shape.max_chunk_tokens = 1024;
  shape.prefix_cache = false;
  const auto begin = std::chrono::steady_clock::now();
  const JobTrace trace = run_job(nullptr, subject.engine, shape, workload);
  const auto end = std::chrono::steady_clock::now();
  for (const RequestTrace& request : trace.requests) {
    if (static_cast<int>(request.tokens.size()) != new_tokens) std::abort();
  }
  return std::chrono::duration<double>(end - begin).count();
}

/// Median over 5 of the rate at which tokens beyond the first are made: two lengths, so that load
/// time and prefill cancel.
void decode_rate(const Subject& subject, int batch) {
  constexpr int kShort = 16;
  constexpr int kLong = 272;
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const double shorter = seconds_of(subject, batch, 32, kShort);
    const double longer = seconds_of(subject, batch, 32, kLong);
    rates.push_back(batch * (kLong - kShort) / (longer - shorter));
  }
  std::sort(rates.begin(), rates.end());
  std::printf("decode   batch %3d: %9.0f tokens/s  (%.0f .. %.0f)\n", batch, rates[2], rates[0],
              rates[4]);
}

void prefill_rate(const Subject& subject) {
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const double one = seconds_of(subject, 1, 16, 1);
    const double many = seconds_of(subject, 32, 512, 1);
    rates.push_back((32 * 512 - 16) / (many - one));
  }
  std::sort(rates.begin(), rates.end());
  std::printf("prefill  512 x 32 : %9.0f tokens/s  (%.0f .. %.0f)\n", rates[2], rates[0], rates[4]);
}

}  // namespace
}  // namespace phalanx::testing

int main(int argc, char** argv) {
  using phalanx::kernels::KvFormat;
  using namespace phalanx::testing;
  if (argc < 2) {
    std::fprintf(stderr, "model_benchmark ENGINE [THREADS] [f32|bf16|int8] [BATCH...]\n");
    return 2;
  }
  const auto engine = phalanx::model::EngineFile::open(argv[1]);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.error().message.c_str());
    return 2;
  }
  Subject subject{*engine};
  if (argc > 2) subject.threads = std::atoi(argv[2]);
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
    if (argc > 3 && std::string_view(argv[3]) == kv_format_name(format)) subject.kv_format = format;
  }
  std::vector<int> batches;
  for (int i = 4; i < argc; ++i) batches.push_back(std::atoi(argv[i]));
  if (batches.empty()) batches = {1, 8, 32, 0};
  std::printf("%s, %d threads, %s KV, median of 5 (least .. most)\n", argv[1], subject.threads,
              kv_format_name(subject.kv_format));
  for (const int batch : batches) {
    batch == 0 ? prefill_rate(subject) : decode_rate(subject, batch);
  }
  return 0;
}
