// The best tokens of a row of logits, in order, found without sorting the vocabulary. Called by
// sampler.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace phalanx {

/// One row's tokens by descending logit, ties by ascending id. NaN and -infinity are not in it.
/// Keeps its buffers between rows. One thread.
class TokenRanking {
 public:
  /// Reads the row once. The row must stay as it is until the next reset().
  void reset(std::span<const float> logits);

  /// The largest logit; -infinity when the ranking is empty.
  float max() const { return max_; }

  /// The first token. Only when max() > -infinity. Cost: one block of the row.
  int32_t best() const;

  /// Makes at least min(count, tokens in the ranking) tokens known and returns how many are.
  /// Cost: about `count` blocks of the row plus sorting what they hold; the whole row when `count`
  /// is a large part of it.
  size_t extend(size_t count);

  /// Token number `rank` of the ranking; rank < the result of extend().
  int32_t token(size_t rank) const { return static_cast<int32_t>(keys_[rank] & 0xffffffffU); }

  /// No token is left beyond those that are known.
  bool complete() const { return complete_; }

 private:
  void gather(float threshold);
  void sort_all();

  std::span<const float> logits_;
  float max_ = 0.0F;
  std::vector<float> block_max_;     // of each kBlock logits
  std::vector<float> threshold_of_;  // scratch of extend()
  std::vector<uint64_t> keys_;    // ascending: descending logit in the upper half, id in the lower
  std::vector<uint64_t> sorted_;  // scratch of sort_all()
  bool complete_ = false;
};

}  // namespace phalanx
