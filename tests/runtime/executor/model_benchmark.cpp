// Decode and prefill rates of an engine on one rank, through leader, scheduler and executor (no
// HTTP): model_benchmark ENGINE [THREADS]. Not a test; prints a table.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "tests/support/job_harness.h"

namespace phalanx::testing {
namespace {

double seconds_of(const std::shared_ptr<const model::EngineFile>& engine, int threads, int batch,
                  int prompt_tokens, int new_tokens) {
  std::mt19937 random(3);
  const auto vocab = static_cast<int32_t>(engine->manifest().model().vocab_size());
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
  shape.num_threads = threads;
  shape.spin = true;
  shape.digest_logits = false;
  shape.max_context_tokens = prompt_tokens + new_tokens;
  shape.num_blocks = static_cast<int64_t>(batch) * (shape.max_context_tokens / 32 + 1);
  shape.max_sequences = batch;
  shape.max_step_tokens = std::max(1024, batch);
  shape.max_chunk_tokens = 1024;
  shape.prefix_cache = false;
  const auto begin = std::chrono::steady_clock::now();
  const JobTrace trace = run_job(nullptr, engine, shape, workload);
  const auto end = std::chrono::steady_clock::now();
  for (const RequestTrace& request : trace.requests) {
    if (static_cast<int>(request.tokens.size()) != new_tokens) std::abort();
  }
  return std::chrono::duration<double>(end - begin).count();
}

/// Median over 5 of the rate at which tokens beyond the first are made: two lengths, so that load
/// time and prefill cancel.
void decode_rate(const std::shared_ptr<const model::EngineFile>& engine, int threads, int batch) {
  constexpr int kShort = 16;
  constexpr int kLong = 272;
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const double shorter = seconds_of(engine, threads, batch, 32, kShort);
    const double longer = seconds_of(engine, threads, batch, 32, kLong);
    rates.push_back(batch * (kLong - kShort) / (longer - shorter));
  }
  std::sort(rates.begin(), rates.end());
  std::printf("decode   batch %3d: %9.0f tokens/s  (%.0f .. %.0f)\n", batch, rates[2], rates[0],
              rates[4]);
}

void prefill_rate(const std::shared_ptr<const model::EngineFile>& engine, int threads) {
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const double one = seconds_of(engine, threads, 1, 16, 1);
    const double many = seconds_of(engine, threads, 32, 512, 1);
    rates.push_back((32 * 512 - 16) / (many - one));
  }
  std::sort(rates.begin(), rates.end());
  std::printf("prefill  512 x 32 : %9.0f tokens/s  (%.0f .. %.0f)\n", rates[2], rates[0], rates[4]);
}

}  // namespace
}  // namespace phalanx::testing

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "model_benchmark ENGINE [THREADS]\n");
    return 2;
  }
  const auto engine = phalanx::model::EngineFile::open(argv[1]);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.error().message.c_str());
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  std::printf("%s, %d threads, median of 5 (least .. most)\n", argv[1], threads);
  for (const int batch : {1, 8, 32}) phalanx::testing::decode_rate(*engine, threads, batch);
  phalanx::testing::prefill_rate(*engine, threads);
  return 0;
}
