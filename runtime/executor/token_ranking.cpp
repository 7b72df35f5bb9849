// The best tokens of a row, in order. The largest values of k blocks bound the k-th largest value
// of the row from below, so only blocks whose maximum reaches that bound are searched.
#include "runtime/executor/token_ranking.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

constexpr size_t kBlock = 64;  // logits under one maximum: four cache lines
constexpr size_t kLanes = 16;
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Comparisons with NaN are false, so a NaN never replaces the maximum.
float max_of_block(const float* values) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = kNone;
  for (size_t i = 0; i < kBlock; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t lane = 0; lane < width; ++lane)
      lanes[lane] = lanes[lane + width] > lanes[lane] ? lanes[lane + width] : lanes[lane];
  return lanes[0];
}

// Ascending keys are descending logits, then ascending ids. Adding zero makes -0 and +0 tie.
uint64_t ranking_key(float logit, size_t token) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0F);
  const uint32_t descending = (bits & 0x80000000U) != 0 ? bits : ~bits & 0x7fffffffU;
  return static_cast<uint64_t>(descending) << 32 | token;
}

}  // namespace

void TokenRanking::reset(std::span<const float> logits) {
  logits_ = logits;
  keys_.clear();
  complete_ = false;
  const size_t num_whole = logits.size() / kBlock;
  block_max_.resize((logits.size() + kBlock - 1) / kBlock);
  for (size_t block = 0; block < num_whole; ++block)
    block_max_[block] = max_of_block(logits.data() + block * kBlock);
  if (num_whole < block_max_.size()) {
    float largest = kNone;
    for (size_t i = num_whole * kBlock; i < logits.size(); ++i)
      largest = logits[i] > largest ? logits[i] : largest;
    block_max_.back() = largest;
  }
  max_ = kNone;
  for (const float value : block_max_) max_ = value > max_ ? value : max_;
}

int32_t TokenRanking::best() const {
  PHALANX_CHECK(max_ > kNone, "no token in the ranking");
  const auto block = std::find(block_max_.begin(), block_max_.end(), max_);
  const auto first = logits_.begin() + (block - block_max_.begin()) * static_cast<int64_t>(kBlock);
  return static_cast<int32_t>(std::find(first, logits_.end(), max_) - logits_.begin());
}

void TokenRanking::gather(float threshold) {
  keys_.clear();
  for (size_t block = 0; block < block_max_.size(); ++block) {
    if (!(block_max_[block] >= threshold)) continue;
    const size_t end = std::min(logits_.size(), (block + 1) * kBlock);
    for (size_t token = block * kBlock; token < end; ++token)
      if (logits_[token] >= threshold) keys_.push_back(ranking_key(logits_[token], token));
  }
}

// Radix sort of the upper halves in three stable passes. The lower halves, the ids, were gathered
// in ascending order, so ties keep it. A comparison sort takes several times as long on a large
// row.
void TokenRanking::sort_all() {
  constexpr int kDigitBits = 11;
  constexpr size_t kDigits = size_t{1} << kDigitBits;
  sorted_.resize(keys_.size());
  for (int shift = 32; shift < 64; shift += kDigitBits) {
    std::array<uint32_t, kDigits + 1> begin = {};
    for (const uint64_t key : keys_) ++begin[((key >> shift) & (kDigits - 1)) + 1];
    for (size_t digit = 0; digit < kDigits; ++digit) begin[digit + 1] += begin[digit];
    for (const uint64_t key : keys_) sorted_[begin[(key >> shift) & (kDigits - 1)]++] = key;
    keys_.swap(sorted_);
  }
}

size_t TokenRanking::extend(size_t count) {
  if (complete_ || count <= keys_.size()) return keys_.size();
  // Beyond this the bound leaves so many candidates that sorting all costs no more.
  const bool use_bound = count <= block_max_.size() / 4;
  float threshold = kNone;
  if (use_bound) {
    threshold_of_ = block_max_;
    const auto nth = threshold_of_.begin() + static_cast<int64_t>(count) - 1;
    std::nth_element(threshold_of_.begin(), nth, threshold_of_.end(), std::greater<>());
    threshold = *nth;
  }
  if (threshold > kNone) {  // everything that reaches the bound: a prefix of the ranking, with ties
    gather(threshold);
    std::sort(keys_.begin(), keys_.end());
    return keys_.size();
  }
  gather(std::numeric_limits<float>::lowest());
  sort_all();
  complete_ = true;
  return keys_.size();
}

}  // namespace phalanx
