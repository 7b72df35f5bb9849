// Finding places in a row's ranking without sorting the row: by number of tokens or by the sum of
// their weights, exactly. One block works on one row. Included by draw_kernel.h.
//
// The bins of weigh_rows tell which part of the ranking holds the place; the tokens up to there, or
// those of the one bin, are gathered into shared memory and sorted. Sub-blocks whose best token is
// not good enough are not read. When even one bin holds more tokens than the list takes (flat rows,
// ties), the range of ranking keys is split into 1024 parts by another pass over those sub-blocks,
// until few enough are left: ids differ, so that always ends, after 6 passes at most.
#pragma once

#include <cstdint>

#include "kernels/cuda/sampling_rows.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr int kDrawThreads = 512;
inline constexpr int kDrawWarps = kDrawThreads / 32;
/// Tokens that are sorted at once.
inline constexpr uint32_t kListTokens = 2048;
/// A place that has no more tokens before it is listed with them all: the next place to be found is
/// often among them (top_k, then top_p, then the draw). Beyond, only its bin is.
inline constexpr uint32_t kPrefixTokens = 1024;
inline constexpr int kBinsPerThread = kBins / kDrawThreads;
static_assert(kBins % kDrawThreads == 0 && sizeof(BinSums) <= kListTokens * sizeof(Units));

/// Tokens and the sum of their weights.
struct Tally {
  uint32_t count;
  Units units;
};

/// What a place is measured by.
enum class Measure { kCount, kUnits };

__device__ __forceinline__ Units measured(Measure measure, const Tally& tally) {
  return measure == Measure::kCount ? tally.count : tally.units;
}

/// A part of the ranking.
struct RankingRange {
  Units first, last;      ///< ranking keys, both in it
  Tally before, through;  ///< tokens with a weight before it; and with it
};

struct SelectionShared {
  Units list[kListTokens];   ///< ranking keys; between uses, BinSums of a split
  Units units[kListTokens];  ///< sum of weights up to each token of the list and with it
  Tally warp_tallies[kDrawWarps];
  RankingRange listed;  ///< what the list holds
  Tally before, after;  ///< of the bin that was found
  Units found_key, found_units;
  uint32_t warps[kDrawWarps];
  uint32_t num_listed;
  int32_t bin;
};

/// Bins in ranking order, spread over the block: each thread has kBinsPerThread consecutive ones.
struct SpreadBins {
  Tally own[kBinsPerThread];
  Tally before;  ///< of all bins before them
};

/// All threads of the block call all functions, with the same arguments.
class RankingSelector {
 public:
  __device__ __forceinline__ RankingSelector(const RowValues& row, const Scale& scale,
                                             SelectionShared* shared)
      : row_(row), scale_(scale), shared_(shared) {}

  /// Takes the bins that weigh_rows made of the row; returns what they hold together. They are read
  /// again for each place that the list does not have: registers are dearer.
  __device__ Tally set_bins(const uint32_t* counts, const Units* units) {
    bin_counts_ = counts;
    bin_units_ = units;
    SpreadBins bins;
    return load_bins(&bins);
  }

  struct Place {
    Units key;    ///< ranking key of the token
    Units units;  ///< sum of weights up to it and with it
  };

  /// The first token at which the measure of the ranking reaches `wanted`: in [1, what set_bins
  /// returned].
  __device__ Place find(Measure measure, Units wanted) {
    if (num_listed_ > 0 && wanted > measured(measure, shared_->listed.before) &&
        wanted <= measured(measure, shared_->listed.through)) {
      return find_in_list(measure, wanted);
    }
    RankingRange range{0, 0, {0, 0}, {0, 0}};
    SpreadBins bins;
    load_bins(&bins);
    const int bin = cross(bins, measure, wanted, {0, 0}, &range);
    range.first = bin == 0 ? 0 : (static_cast<Units>(last_key_of_bin(bin - 1)) + 1) << 32;
    range.last = static_cast<Units>(last_key_of_bin(bin)) << 32 | 0xffffffffU;
    while (range.through.count - range.before.count > kListTokens) split(measure, wanted, &range);
    if (range.through.count <= kPrefixTokens) {
      range.first = 0;
      range.before = {0, 0};
    }
    list(range);
    weigh_list();
    return find_in_list(measure, wanted);
  }

  /// Sorts the best tokens into list(): at least min(wanted, how many there are), and returns how
  /// many they are. Needs no bins. wanted <= kDrawThreads.
  __device__ uint32_t list_best(uint32_t wanted) {
    // The tokens that are as good as the `wanted`-th best of the threads' best ones.
    uint32_t own = kNoKey;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < row_.num_sub_blocks; i += kDrawThreads)
      own = row_.best_keys[i] < own ? row_.best_keys[i] : own;
    uint32_t worst = 0;
    for (uint32_t bit = 0x80000000U; bit != 0; bit >>= 1) {
      const uint32_t below = worst | (bit - 1);
      if (__syncthreads_count(static_cast<int>(own <= below)) < static_cast<int>(wanted))
        worst |= bit;
    }
    worst = worst < kWorstKey ? worst : kWorstKey;
    RankingRange range{0, static_cast<Units>(worst) << 32 | 0xffffffffU, {0, 0}, {0, 0}};
    range.through.count = list(range);
    if (range.through.count > kListTokens) {
      while (range.through.count > kListTokens) split(Measure::kCount, wanted, &range);
      range.first = 0;
      range.before = {0, 0};
      list(range);
    }
    return num_listed_;
  }

  __device__ __forceinline__ Units listed(uint32_t rank) const { return shared_->list[rank]; }

 private:
  __device__ Tally load_bins(SpreadBins* bins) {
    for (int j = 0; j < kBinsPerThread; ++j) {
      const int bin = static_cast<int>(threadIdx.x) * kBinsPerThread + j;
      bins->own[j] = {bin_counts_[bin], bin_units_[bin]};
    }
    return scan(bins);
  }

  /// Makes `before` of each thread from the bins' own tallies; returns the sum of all.
  __device__ Tally scan(SpreadBins* bins) {
    Tally sum{0, 0};
    for (const Tally& own : bins->own) {
      sum.count += own.count;
      sum.units += own.units;
    }
    return scan_threads(sum, &bins->before);
  }

  /// The sum over threads before this one, and over all.
  __device__ Tally scan_threads(const Tally& own, Tally* before) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    Tally through = own;
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t count = __shfl_up_sync(kAllLanes, through.count, step);
      const Units units = __shfl_up_sync(kAllLanes, through.units, step);
      if (lane >= step) {
        through.count += count;
        through.units += units;
      }
    }
    if (lane == 31) shared_->warp_tallies[warp] = through;
    __syncthreads();
    Tally all{0, 0};
    *before = {through.count - own.count, through.units - own.units};
    for (uint32_t i = 0; i < kDrawWarps; ++i) {
      const Tally tally = shared_->warp_tallies[i];
      if (i < warp) {
        before->count += tally.count;
        before->units += tally.units;
      }
      all.count += tally.count;
      all.units += tally.units;
    }
    __syncthreads();
    return all;
  }

  /// The bin in which base + bins reach `wanted`; *range's tallies become the bin's.
  __device__ int cross(const SpreadBins& bins, Measure measure, Units wanted, const Tally& base,
                       RankingRange* range) {
    Tally through{base.count + bins.before.count, base.units + bins.before.units};
    for (int j = 0; j < kBinsPerThread; ++j) {
      const Tally before = through;
      through.count += bins.own[j].count;
      through.units += bins.own[j].units;
      if (measured(measure, before) < wanted && wanted <= measured(measure, through)) {
        shared_->before = before;
        shared_->after = through;
        shared_->bin = static_cast<int>(threadIdx.x) * kBinsPerThread + j;
      }
    }
    __syncthreads();
    range->before = shared_->before;
    range->through = shared_->after;
    const int bin = shared_->bin;
    __syncthreads();
    return bin;
  }

  /// The worst key whose bin is at most `bin`: nine bits a round, a thread for each value.
  __device__ uint32_t last_key_of_bin(int bin) {
    uint32_t key = descending_key(scale_.max);
    for (int shift = 27; shift >= 0; shift -= 9) {
      const uint64_t mine = key + (static_cast<uint64_t>(threadIdx.x) << shift);
      bool in = mine <= kWorstKey;
      if (in) {
        const float scaled = scale_.scaled_key(static_cast<uint32_t>(mine));
        in = scaled >= kLowestScaled && bin_of(scaled) <= bin;
      }
      const int num_in = __syncthreads_count(static_cast<int>(in));
      key += static_cast<uint32_t>(num_in - 1) << shift;
    }
    return key;
  }

  /// Calls visit(ranking key) for all tokens of [first, last], each by some thread.
  template <typename Visit>
  __device__ void for_each_token(Units first, Units last, Visit visit) const {
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
    const auto warp = static_cast<int32_t>(threadIdx.x / 32);
    const auto worst = static_cast<uint32_t>(last >> 32);
    for (int32_t base = warp * 32; base < row_.num_sub_blocks; base += kDrawThreads) {
      const uint32_t best =
          base + lane < row_.num_sub_blocks ? row_.best_keys[base + lane] : kNoKey;
      uint32_t left = __ballot_sync(kAllLanes, static_cast<int>(best <= worst));
      while (left != 0) {
        FourLogits four[kGroup];
        int32_t tokens[kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          tokens[i] = -1;
          if (left == 0) continue;
          tokens[i] = (base + __ffs(static_cast<int>(left)) - 1) * kSubBlock + lane * 4;
          left &= left - 1;
          four[i] = row_.load(tokens[i]);
        }
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          if (tokens[i] < 0) continue;
          row_.make_values(&four[i], row_.load_seen(tokens[i]));
          for (int j = 0; j < 4; ++j) {
            const uint32_t key = key_of_value(four[i].x[j]);
            const Units rank = ranking_key(key, static_cast<uint32_t>(tokens[i] + j));
            if (key <= worst && rank >= first && rank <= last) visit(rank);
          }
        }
      }
    }
  }

  __device__ __forceinline__ Units units_of(Units rank) const {
    return unit_weight(scale_.scaled_key(static_cast<uint32_t>(rank >> 32)));
  }

  /// Narrows the range to the part of it in which `wanted` is reached.
  __device__ void split(Measure measure, Units wanted, RankingRange* range) {
    num_listed_ = 0;
    auto* sums = reinterpret_cast<BinSums*>(shared_->list);
    int shift = 0;
    while ((range->last - range->first) >> shift >= kBins) ++shift;
    sums->clear();
    __syncthreads();
    for_each_token(range->first, range->last, [&](Units rank) {
      sums->add(static_cast<int>((rank - range->first) >> shift), units_of(rank));
    });
    __syncthreads();
    SpreadBins parts;
    for (int j = 0; j < kBinsPerThread; ++j) {
      const int bin = static_cast<int>(threadIdx.x) * kBinsPerThread + j;
      parts.own[j] = {sums->counts[bin], sums->units(bin)};
    }
    scan(&parts);
    const Tally base = range->before;
    const int bin = cross(parts, measure, wanted, base, range);
    range->first += static_cast<Units>(bin) << shift;
    const Units last = range->first + ((Units{1} << shift) - 1);
    range->last = last < range->last ? last : range->last;
  }

  /// Gathers the range's tokens and sorts them; returns how many there are. When these are more
  /// than kListTokens the list is not to be used.
  __device__ uint32_t list(const RankingRange& range) {
    if (threadIdx.x == 0) {
      shared_->num_listed = 0;
      shared_->listed = range;
    }
    __syncthreads();
    for_each_token(range.first, range.last, [&](Units rank) {
      const uint32_t place = atomicAdd(&shared_->num_listed, 1U);
      if (place < kListTokens) shared_->list[place] = rank;
    });
    __syncthreads();
    const uint32_t count = shared_->num_listed;
    __syncthreads();
    num_listed_ = count <= kListTokens ? count : 0;
    if (count <= kListTokens) sort_list(count);
    return count;
  }

  /// A bitonic sort. Pairs up to 32 apart stay within the warp that made them.
  __device__ void sort_list(uint32_t count) {
    Units* list = shared_->list;
    uint32_t size = 2;
    while (size < count) size *= 2;
    for (uint32_t i = count + threadIdx.x; i < size; i += kDrawThreads) list[i] = ~Units{0};
    __syncthreads();
    for (uint32_t run = 2; run <= size; run *= 2) {
      for (uint32_t distance = run / 2; distance > 0; distance /= 2) {
        for (uint32_t i = threadIdx.x; i < size / 2; i += kDrawThreads) {
          const uint32_t low = 2 * i - (i & (distance - 1));
          const uint32_t high = low + distance;
          const Units a = list[low];
          const Units b = list[high];
          if ((a > b) == ((low & run) == 0)) {
            list[low] = b;
            list[high] = a;
          }
        }
        const uint32_t next = distance > 1 ? distance / 2 : run;
        if (distance > 32 || next > 32) {
          __syncthreads();
        } else {
          __syncwarp();
        }
      }
    }
    __syncthreads();
  }

  /// Sums up the weights along the list, from what is before it.
  __device__ void weigh_list() {
    const uint32_t each = (num_listed_ + kDrawThreads - 1) / kDrawThreads;
    const uint32_t first = threadIdx.x * each;
    const uint32_t end = first + each < num_listed_ ? first + each : num_listed_;
    Tally own{0, 0};
    for (uint32_t i = first; i < end; ++i) own.units += units_of(shared_->list[i]);
    Tally before;
    scan_threads(own, &before);
    Units sum = shared_->listed.before.units + before.units;
    for (uint32_t i = first; i < end; ++i) {
      sum += units_of(shared_->list[i]);
      shared_->units[i] = sum;
    }
    __syncthreads();
  }

  __device__ Place find_in_list(Measure measure, Units wanted) {
    if (measure == Measure::kCount) {
      const auto i = static_cast<uint32_t>(wanted) - shared_->listed.before.count - 1;
      return {shared_->list[i], shared_->units[i]};
    }
    for (uint32_t i = threadIdx.x; i < num_listed_; i += kDrawThreads) {
      const Units before = i == 0 ? shared_->listed.before.units : shared_->units[i - 1];
      if (before < wanted && wanted <= shared_->units[i]) {
        shared_->found_key = shared_->list[i];
        shared_->found_units = shared_->units[i];
      }
    }
    __syncthreads();
    const Place place{shared_->found_key, shared_->found_units};
    __syncthreads();
    return place;
  }

  const RowValues& row_;
  Scale scale_;
  SelectionShared* shared_;
  const uint32_t* bin_counts_ = nullptr;
  const Units* bin_units_ = nullptr;
  uint32_t num_listed_ = 0;
};

}  // namespace phalanx::kernels::cuda
