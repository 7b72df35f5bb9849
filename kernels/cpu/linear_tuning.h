// How a product is cut for a team of threads, by shape and number of rows, where a tuner found
// better than linear.cpp's own rules. Filled from a tuning file; asked by cpu_operators at each
// product.
//
// Any tuning gives the same bits: a row's chains do not know its tile, part or piece (linear.h).
#pragma once

#include <compare>
#include <cstdint>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

/// Who computes what of a product.
enum class LinearSplit : uint8_t {
  kDefault,       ///< as linear.cpp decides
  kOneThread,     ///< the caller computes all of it
  kSharedPanels,  ///< all rows; threads take pieces of the panels, and from each other at the end
  kGrid,  ///< row_parts parts of the rows by as many parts of the panels as threads are left
};

/// 0 (and kDefault) leaves a decision to linear.cpp. Values beyond what a tier, a team or a shape
/// has mean the most that it has.
struct LinearTuning {
  int64_t tile_rows = 0;  ///< rows of a tile at most
  LinearSplit split = LinearSplit::kDefault;
  int64_t row_parts = 0;     ///< kGrid only
  int64_t piece_panels = 0;  ///< panels that a thread takes at once of shared ones
  int64_t ahead_bytes = 0;   ///< that a lone tile fetches ahead of what it reads

  bool operator==(const LinearTuning&) const = default;
  bool is_default() const { return *this == LinearTuning{}; }
};

/// The most that a tuning may say.
inline constexpr int64_t kMostTileRows = 64;
inline constexpr int64_t kMostRowParts = 1024;
inline constexpr int64_t kMostPiecePanels = int64_t{1} << 20;
inline constexpr int64_t kMostAheadBytes = int64_t{1} << 20;

/// Numbers of rows that are tuned together.
struct RowBucket {
  int64_t least;
  int64_t most;
};
inline constexpr RowBucket kRowBuckets[] = {
    {1, 1},   {2, 2},   {3, 4},    {5, 8},     {9, 16},
    {17, 32}, {33, 64}, {65, 128}, {129, 256}, {257, std::numeric_limits<int64_t>::max()}};
inline constexpr int kNumRowBuckets = static_cast<int>(std::size(kRowBuckets));

/// Index in kRowBuckets of the one that holds num_rows >= 1.
int row_bucket(int64_t num_rows);
std::string row_bucket_name(int bucket);  ///< "1", "3-4", "257+"

/// The products that share a tuning.
struct LinearKey {
  WeightFormat format = WeightFormat::kF32;
  int64_t num_outputs = 0;
  int64_t num_cols = 0;
  int64_t group_size = 0;
  bool is_gated = false;
  int row_bucket = 0;

  auto operator<=>(const LinearKey&) const = default;
};

LinearKey linear_key(const PackedMatrix& w, int64_t num_rows, bool is_gated);

/// Immutable; any thread may ask.
class LinearTunings {
 public:
  struct Entry {
    LinearKey key;
    LinearTuning tuning;
  };

  LinearTunings() = default;
  /// Throws InternalError when a key comes twice.
  explicit LinearTunings(std::vector<Entry> entries);

  /// That of the key, or the default. Allocates nothing, locks nothing.
  LinearTuning find(const LinearKey& key) const;
  const std::vector<Entry>& entries() const { return entries_; }  ///< ascending by key

 private:
  std::vector<Entry> entries_;
};

}  // namespace phalanx::kernels::cpu
