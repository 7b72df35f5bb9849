// What a load client asks for: prompts and lengths of request i, and when requests arrive. Used by
// serve; knows no server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/bench/serve_lengths.h"

namespace phalanx::bench {

enum class PromptKind {
  kIds,  ///< token ids, so that the length is exact
  kText  ///< random words, sized to the length; the server's usage tells what they became
};

struct WorkloadOptions {
  uint64_t seed = 0;  ///< decides everything below
  LengthDistribution prompt_length;
  LengthDistribution output_length;
  std::vector<LengthPair> pairs;  ///< if any: drawn instead of the two distributions
  int64_t shared_prefix = 0;  ///< first tokens (words) that all prompts of the run have in common
  PromptKind kind = PromptKind::kIds;
  int32_t low_id = 0;  ///< ids are drawn from [low_id, high_id]
  int32_t high_id = 0;
};

/// One request's content.
struct WorkItem {
  int64_t prompt_tokens = 0;  ///< asked for; of a text: aimed at
  int64_t output_tokens = 0;  ///< asked for
  std::vector<int32_t> ids;   ///< kIds
  std::string text;           ///< kText
};

/// Content by request number: the same for the same seed, independent between numbers.
class Workload {
 public:
  explicit Workload(WorkloadOptions options) : options_(std::move(options)) {}

  WorkItem item(int64_t index) const;
  const WorkloadOptions& options() const { return options_; }

  /// How many tokens the server makes of a word, as found out by a first request; 1 before.
  void set_tokens_per_word(double ratio) { tokens_per_word_ = ratio; }

 private:
  WorkloadOptions options_;
  double tokens_per_word_ = 1;
};

/// Poisson arrivals, as seconds after the begin: times()[i] is when request i is due.
/// Gaps are independent and exponential with mean 1/rate. Source: the arrival process of "vllm
/// bench serve --request-rate" at burstiness 1.
class PoissonArrivals {
 public:
  PoissonArrivals(double rate, uint64_t seed, uint64_t run);
  double next_s();

 private:
  double mean_gap_s_;
  double now_s_ = 0;
  ServeRandom random_;
};

}  // namespace phalanx::bench
