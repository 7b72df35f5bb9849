// Lays out the regions of a group, chooses the kernels and starts them.
#include <algorithm>
#include <bit>
#include <sstream>

#include "kernels/cuda/all_reduce_kernels.h"
#include "kernels/cuda/peer_group.h"
#include "kernels/cuda/row_launches.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) { return round_up(bytes, kAlignment); }

int64_t part_bytes(int64_t num_rows, int64_t num_cols) {
  return num_rows * num_cols * static_cast<int64_t>(sizeof(float));
}

bool takes_one_shot(const PeerGroupOptions& options, int size, int64_t num_rows) {
  return part_bytes(num_rows, options.num_cols) <= options.thresholds.one_shot_bytes(size);
}

/// Bytes from the start of a region.
struct Layout {
  int64_t short_parts[2] = {};
  int64_t long_part = 0;
  int64_t conversion = 0;
  int64_t end = 0;
};

Layout layout_of(const PeerGroupOptions& options, int size) {
  Layout layout;
  const int64_t long_bytes = part_bytes(options.max_rows, options.num_cols);
  const int64_t short_bytes =
      aligned(std::min(long_bytes, options.thresholds.one_shot_bytes(size)));
  layout.short_parts[0] = aligned(sizeof(PeerControl));
  layout.short_parts[1] = layout.short_parts[0] + short_bytes;
  layout.long_part = layout.short_parts[1] + short_bytes;
  layout.conversion = layout.long_part +
                      (takes_one_shot(options, size, options.max_rows) ? 0 : aligned(long_bytes));
  layout.end = layout.conversion + aligned(options.conversion_bytes);
  return layout;
}

/// What must be alike on all ranks.
std::string text_of(const PeerGroupOptions& options, int size) {
  std::ostringstream text;
  text << "max_rows " << options.max_rows << ", num_cols " << options.num_cols
       << ", conversion_bytes " << options.conversion_bytes << ", one_shot_bytes "
       << options.thresholds.one_shot_bytes(size) << ", max_blocks " << options.max_blocks;
  return text.str();
}

void check(const PeerGroupOptions& options, int size) {
  PHALANX_CHECK(
      size >= 2 && size <= PeerGroup::kMaxSize && std::has_single_bit(static_cast<unsigned>(size)),
      "peer memory serves 2, 4 or 8 ranks, not " + std::to_string(size));
  PHALANX_CHECK_GT(options.max_rows, 0, "max_rows of a peer group");
  PHALANX_CHECK_GT(options.num_cols, 0, "num_cols of a peer group");
  PHALANX_CHECK_GT(options.max_blocks, 0, "max_blocks of a peer group");
  PHALANX_CHECK_GE(options.thresholds.one_shot_bytes(size), 0, "one-shot bytes of a peer group");
  PHALANX_CHECK_GT(options.deadline.count(), 0, "deadline of a peer group");
}

bool is_vector_aligned(const float* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(float4) == 0 && stride % 4 == 0;
}

PeerFailure failure_of(uint32_t word) {
  return {(word & 0x40000000U) != 0, static_cast<int>(word >> 20 & 0xfU),
          static_cast<int>(word >> 16 & 0xfU), static_cast<int>(word & 0xffffU)};
}

template <int kRanks>
void start(bool one_shot, const LaunchShape& shape, Stream stream, const PeerReduce& reduce) {
  if (one_shot) {
    launch_coresident(all_reduce_one_shot<kRanks>, shape, stream, reduce);
  } else {
    launch_coresident(all_reduce_two_shot<kRanks>, shape, stream, reduce);
  }
}

}  // namespace

std::string PeerFailure::text(const PeerGroupOptions& options) const {
  std::ostringstream text;
  text << "all-reduce over peer memory: rank " << missing << " of the group did not come, ";
  if (aborted) {
    text << "and the host of rank " << reporter << " ended the wait";
  } else {
    text << "rank " << reporter << " waited " << options.deadline.count() << " ms for it";
  }
  text << " (block " << block << ")";
  return text.str();
}

int64_t PeerGroup::region_bytes(const PeerGroupOptions& options, int size) {
  check(options, size);
  return layout_of(options, size).end;
}

PeerGroup::PeerGroup(std::unique_ptr<PeerMemory> memory, const PeerGroupOptions& options,
                     const PeerExchange& exchange)
    : memory_(std::move(memory)), options_(options) {
  const int size = memory_->size();
  check(options, size);
  const std::vector<std::string> texts = exchange(text_of(options, size));
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    PHALANX_CHECK_EQ(texts[rank], texts[0],
                     "options of rank " + std::to_string(rank) + " and rank 0 of a peer group");
  }
  PHALANX_CHECK_GE(memory_->bytes(), region_bytes(options, size), "bytes of a peer group's region");
  for (int rank = 0; rank < size; ++rank) peers_.regions[rank] = memory_->region(rank);
  peers_.size = size;
  peers_.rank = memory_->rank();
  peers_.host_words = memory_->host_words();
  peers_.deadline_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(options.deadline).count());
  num_blocks_ = std::min({options.max_blocks, kMostPeerBlocks, memory_->multiprocessors()});
}

bool PeerGroup::is_one_shot(int64_t num_rows) const {
  return takes_one_shot(options_, size(), num_rows);
}

std::pair<int64_t, int64_t> PeerGroup::own_rows(int64_t num_rows) const {
  return {first_row_of(num_rows, rank(), size()), first_row_of(num_rows, rank() + 1, size())};
}

int64_t PeerGroup::part_offset(int64_t num_rows) const {
  PHALANX_CHECK_LE(num_rows, options_.max_rows, "rows of an all-reduce over peer memory");
  const Layout layout = layout_of(options_, size());
  return is_one_shot(num_rows) ? layout.short_parts[turn_] : layout.long_part;
}

Rows PeerGroup::part(int64_t num_rows) const {
  return {reinterpret_cast<float*>(peers_.regions[rank()] + part_offset(num_rows)),
          options_.num_cols};
}

PeerReduce PeerGroup::reduce_of(int64_t num_rows) const {
  PeerReduce reduce{};
  reduce.peers = peers_;
  reduce.part_offset = part_offset(num_rows);
  reduce.num_rows = num_rows;
  reduce.num_cols = options_.num_cols;
  return reduce;
}

ActivationView PeerGroup::add_rms_norm(const PeerAddNorm& arguments, Stream stream) {
  PeerReduce reduce = reduce_of(arguments.num_rows);
  reduce.adds_residual = true;
  reduce.residual = {arguments.residual.data, arguments.residual.stride};
  reduce.bias = arguments.bias;
  reduce.weight = arguments.weight;
  reduce.eps = arguments.eps;
  reduce.shares_residual = arguments.shares_residual;
  ActivationView view;
  if (arguments.weight != nullptr) {
    const int64_t num_cols = options_.num_cols;
    PHALANX_CHECK_LE(
        activation_bytes(arguments.form, arguments.num_rows, num_cols, arguments.group_size),
        options_.conversion_bytes, "bytes of a conversion in peer memory");
    std::byte* region = peers_.regions[rank()];
    view = make_activation_view(arguments.form, arguments.num_rows, num_cols, arguments.group_size,
                                region + layout_of(options_, size()).conversion);
    reduce.out = device_activation(view);
    const auto offset = [region](const void* data) {
      return static_cast<const std::byte*>(data) - region;
    };
    reduce.pushed[0] = {offset(view.codes), num_cols * activation_code_bytes(view.form)};
    const int64_t group_bytes = view.scales == nullptr ? 0 : num_cols / view.group_size * 4;
    if (view.scales != nullptr) reduce.pushed[1] = {offset(view.scales), group_bytes};
    if (view.sums != nullptr) reduce.pushed[2] = {offset(view.sums), group_bytes};
  }
  run(reduce, stream);
  return view;
}

void PeerGroup::all_reduce(int64_t num_rows, Rows y, Stream stream) {
  PeerReduce reduce = reduce_of(num_rows);
  reduce.residual = {y.data, y.stride};
  reduce.shares_residual = true;
  run(reduce, stream);
}

void PeerGroup::run(const PeerReduce& filled, Stream stream) {
  if (filled.num_rows == 0) return;
  PeerReduce reduce = filled;
  reduce.by_vectors = reduce.num_cols % 4 == 0 &&
                      is_vector_aligned(reduce.residual.data, reduce.residual.stride) &&
                      is_vector_aligned(reduce.bias, 0);
  const bool one_shot = is_one_shot(reduce.num_rows);
  // The same grid on every rank, also where ranks own unequal numbers of rows.
  const int64_t rows_of_a_rank =
      one_shot ? reduce.num_rows : (reduce.num_rows + size() - 1) / size();
  const int64_t words = reduce.by_vectors ? reduce.num_cols / 4 : reduce.num_cols;
  const LaunchShape shape{
      dim3(static_cast<uint32_t>(std::min<int64_t>(rows_of_a_rank, num_blocks_))),
      dim3(static_cast<uint32_t>(std::min<int64_t>((words + 31) / 32 * 32, kMostReduceThreads))),
      row_shared_bytes(reduce.num_cols)};
  switch (size()) {
    case 2:
      start<2>(one_shot, shape, stream, reduce);
      break;
    case 4:
      start<4>(one_shot, shape, stream, reduce);
      break;
    default:
      start<8>(one_shot, shape, stream, reduce);
  }
  turn_ = one_shot ? 1 - turn_ : 0;
}

void PeerGroup::meet(Stream stream) {
  launch_coresident(meeting_of_peers<PeerSide>, {dim3(1), dim3(32)}, stream, peers_);
  turn_ = 0;
}

void PeerGroup::end_step(Stream stream) {
  if (turn_ != 0) meet(stream);
}

std::optional<PeerFailure> PeerGroup::failure() const {
  const uint32_t word = __atomic_load_n(&peers_.host_words[kFailureWord], __ATOMIC_ACQUIRE);
  if (word == 0) return std::nullopt;
  return failure_of(word);
}

void PeerGroup::require_no_failure() const {
  if (const auto failed = failure()) throw DeviceError(failed->text(options_));
}

void PeerGroup::abort() { __atomic_store_n(&peers_.host_words[kAbortWord], 1U, __ATOMIC_RELEASE); }

void PeerGroup::reset(const PeerExchange& exchange) {
  exchange("stopped");
  memory_->clear(static_cast<int64_t>(sizeof(PeerControl)));
  for (int word = 0; word < kNumPeerHostWords; ++word)
    __atomic_store_n(&peers_.host_words[word], 0U, __ATOMIC_RELEASE);
  turn_ = 0;
  exchange("zeroed");
}

}  // namespace phalanx::kernels::cuda
