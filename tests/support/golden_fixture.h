// Reads tests/golden/<name>/expected.safetensors (format: tests/golden/make_fixtures.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace phalanx::testing {

/// What transformers computed for one prompt.
struct GoldenPrompt {
  std::vector<int32_t> tokens;     ///< the prompt
  std::vector<int32_t> positions;  ///< of `tokens`, ascending: where logits are kept
  std::vector<float> logits;       ///< [positions, vocab_size]
  int64_t vocab_size = 0;
  std::vector<int32_t> greedy;  ///< continuation of the whole prompt
};

/// Every prompt of a fixture. Errors: kNotFound, kDataLoss.
Result<std::vector<GoldenPrompt>> read_golden_fixture(const std::string& directory);

}  // namespace phalanx::testing
