// Sums over the ranks of a stage: by messages, in shared memory, or on the devices. The part of
// GraphExecutor that makes and reads the parts of sums.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "runtime/base/check.h"
#include "runtime/base/log.h"
#include "runtime/executor/graph_executor.h"
#include "runtime/executor/waiting_scope.h"
#include "runtime/model/graph_shapes.h"

namespace phalanx {
namespace {

kernels::Rows rows_from(kernels::Rows rows, int64_t first_row) {
  return {rows.data + first_row * rows.stride, rows.stride};
}

/// The view of rows [first_row, ...) of a view.
kernels::ActivationView view_from(const kernels::ActivationView& view, int64_t first_row) {
  kernels::ActivationView rows = view;
  rows.codes += first_row * view.num_cols * kernels::activation_code_bytes(view.form);
  if (kernels::is_quantized(view.form)) {
    const int64_t first_group = first_row * (view.num_cols / view.group_size);
    rows.scales += first_group;
    if (rows.sums != nullptr) rows.sums += first_group;
  }
  return rows;
}

void copy_rows(kernels::ConstRows from, kernels::Rows to, int64_t first_row, int64_t last_row,
               int64_t num_cols) {
  for (int64_t r = first_row; r < last_row; ++r) {
    std::memcpy(to.data + r * to.stride, from.data + r * from.stride,
                static_cast<size_t>(num_cols) * sizeof(float));
  }
}

/// The texts of all members, on every one. Collective.
std::vector<std::string> gather_texts(parallel::Communicator& group, const std::string& text) {
  const auto gather_to_all = [&](std::span<const std::byte> part, std::span<const size_t> sizes,
                                 std::span<std::byte> all) {
    group.gather(part, sizes, group.rank() == 0 ? all : std::span<std::byte>(), 0);
    group.broadcast(all, 0);
  };
  const auto size = static_cast<size_t>(group.size());
  const size_t own_bytes = text.size();
  std::vector<size_t> num_bytes(size);
  gather_to_all(std::as_bytes(std::span(&own_bytes, 1)), std::vector<size_t>(size, sizeof(size_t)),
                std::as_writable_bytes(std::span(num_bytes)));
  std::string all(std::accumulate(num_bytes.begin(), num_bytes.end(), size_t{0}), '\0');
  gather_to_all(std::as_bytes(std::span(text)), num_bytes,
                std::as_writable_bytes(std::span<char>(all)));
  std::vector<std::string> texts;
  size_t offset = 0;
  for (const size_t bytes : num_bytes) {
    texts.push_back(all.substr(offset, bytes));
    offset += bytes;
  }
  return texts;
}

}  // namespace

void GraphExecutor::lend_parts() {
  if (plan_.reduces.empty()) return;
  progress_.set_operation("share memory");
  const auto tp_size = static_cast<size_t>(topology_.tp_size);
  parts_.reserve(tp_size);
  if (operators_.has_own_memory()) {
    meet_peers();
    if (peer_reducer_ != nullptr) return;
  } else {
    part_regions_ = groups_.tensor->share_memory(static_cast<size_t>(plan_.part_bytes()));
  }
  if (part_regions_.empty()) {
    private_part_ = operators_.allocate(std::max(plan_.long_part_bytes, plan_.short_part_bytes));
    return;
  }
  if (plan_.shared_conversion_bytes == 0) return;
  // The regions of a group follow one another: together they hold all rows.
  const auto bytes = static_cast<size_t>(plan_.shared_conversion_bytes);
  shared_conversion_ = groups_.tensor->share_memory((bytes + tp_size - 1) / tp_size).front();
}

void GraphExecutor::meet_peers() {
  const kernels::PeerReducerBounds bounds{topology_.tp_rank(), topology_.tp_size,
                                          options_.limits.max_rows, plan_.part_cols,
                                          plan_.conversion_bytes};
  std::string why_none;
  peer_reducer_ = operators_.make_peer_reducer(
      bounds, [this](const std::string& text) { return gather_texts(*groups_.tensor, text); },
      &why_none);
  if (peer_reducer_ == nullptr && topology_.tp_rank() == 0)
    PHALANX_INFO("sums over ranks go through the hosts: " << why_none);
}

bool GraphExecutor::is_worth_sharing(int64_t num_rows) const {
  if (!plan_.can_share_rows || part_regions_.empty() || num_rows < topology_.tp_size) return false;
  const int64_t unshared_bytes = options_.unshared_bytes.value_or(
      static_cast<int64_t>(groups_.tensor->bytes_worth_a_meeting()));
  return num_rows * plan_.part_cols * 4 > std::min(unshared_bytes, kMaxUnsharedBytes);
}

kernels::Rows GraphExecutor::part_of(int tp_rank) const {
  std::byte* part = private_part_.get();
  if (!part_regions_.empty()) {
    part = part_regions_[static_cast<size_t>(tp_rank)];
    if (!shares_rows_) part += plan_.long_part_bytes + part_turn_ * plan_.short_part_bytes;
  }
  return {reinterpret_cast<float*>(part), plan_.part_cols};
}

/// Rows [first, last) of a rank in a step whose ranks share rows: the same in every reduce.
std::pair<int64_t, int64_t> GraphExecutor::row_share(int tp_rank, int64_t num_rows) const {
  const int64_t granule = plan_.row_granule;
  const int64_t granules = (num_rows + granule - 1) / granule;
  const auto edge = [&](int64_t rank) {
    return std::min(num_rows, granules * rank / topology_.tp_size * granule);
  };
  return {edge(tp_rank), edge(tp_rank + 1)};
}

void GraphExecutor::meet(const BoundOp& bound) {
  progress_.set_operation("all_reduce", bound.op->layer());
  {
    const WaitingScope waiting(progress_);
    groups_.tensor->meet();
  }
  progress_.set_operation(model::op_kind_name(bound.op->kind()), bound.op->layer());
}

// Where peers can read each other's parts, a rank meets them and reads; else the parts are summed
// in place, by messages, and what is read is the one sum.
void GraphExecutor::run_reduce(const BoundOp& bound, int64_t num_rows) {
  if (peer_reducer_ != nullptr) {
    reduce_on_device(bound, num_rows);
    return;
  }
  operators_.finish();
  parts_.clear();
  if (part_regions_.empty()) {
    const kernels::Rows part = part_of(topology_.tp_rank());
    progress_.set_operation("all_reduce", bound.op->layer());
    all_reduce({part.data, static_cast<size_t>(num_rows * part.stride)});
    parts_.push_back(part.data);
  } else {
    meet(bound);
    for (int rank = 0; rank < topology_.tp_size; ++rank) parts_.push_back(part_of(rank).data);
    if (shares_rows_) {
      reduce_own_rows(bound, num_rows);
      return;
    }
  }
  operators_.begin();
  add_parts(bound, 0, num_rows, bound.outputs.back());
  part_turn_ = 1 - part_turn_;
}

/// Who reads norms as rows gets them by a kernel more, of the whole residual.
void GraphExecutor::reduce_on_device(const BoundOp& bound, int64_t num_rows) {
  using Readers = FusedReduce::Readers;
  const FusedReduce& reduce = *bound.reduce;
  const bool is_norm = bound.op->kind() == engine::ADD_RMS_NORM;
  const bool hands_rows = is_norm && reduce.norm == Readers::kSomeOther;
  const bool converts = is_norm && reduce.norm == Readers::kLinears;
  const auto eps = static_cast<float>(bound.op->eps());
  kernels::PeerAddNorm call;
  call.num_rows = num_rows;
  call.residual = bound.outputs[0];
  call.bias = bound.bias;
  call.shares_residual = hands_rows || reduce.residual == Readers::kSomeOther;
  if (converts) {
    call.weight = bound.weight;
    call.eps = eps;
    call.form = reduce.form;
    call.group_size = reduce.group_size;
  }
  const kernels::ActivationView view = peer_reducer_->add_rms_norm(call);
  if (converts) {
    converted_view_ = view;
    converted_ = &plan_.placements.at(bound.op->outputs(1));
  } else if (hands_rows) {
    operators_.rms_norm(bound.outputs[0], bound.weight, eps, num_rows, bound.output->cols,
                        bound.outputs[1]);
  }
}

/// By messages, through the host. Operators are finished.
void GraphExecutor::all_reduce(std::span<float> data) {
  std::span<float> on_host = data;
  if (operators_.has_own_memory()) {
    on_host = {reinterpret_cast<float*>(host_rows_.get()), data.size()};
    operators_.download(std::as_writable_bytes(on_host), reinterpret_cast<std::byte*>(data.data()));
  }
  {
    const WaitingScope waiting(progress_);
    groups_.tensor->all_reduce_sum(on_host);
  }
  if (operators_.has_own_memory())
    operators_.upload(reinterpret_cast<std::byte*>(data.data()), std::as_bytes(on_host));
}

/// The op for some rows; y: of an ADD_RMS_NORM, where row 0's norm goes.
void GraphExecutor::add_parts(const BoundOp& bound, int64_t first_row, int64_t num_rows,
                              kernels::Rows y) {
  const int64_t num_cols = bound.output->cols;
  const kernels::PartRows delta{parts_, plan_.part_cols};
  const kernels::Rows residual = rows_from(bound.outputs[0], first_row);
  for (const float*& part : parts_) part += first_row * plan_.part_cols;
  if (bound.op->kind() == engine::ADD) {
    operators_.add_rows_of_parts(residual, delta, bound.bias, num_rows, num_cols);
  } else {
    operators_.add_rms_norm_of_parts(residual, delta, bound.bias, bound.weight,
                                     static_cast<float>(bound.op->eps()), num_rows, num_cols,
                                     rows_from(y, first_row));
  }
}

// A rank changes only its own rows of the residual, here as in all reduces of the step, and hands
// around what others need of them. Nobody reads a row of a part but its owner, who may thus put
// there what takes the row's place.
void GraphExecutor::reduce_own_rows(const BoundOp& bound, int64_t num_rows) {
  using Readers = FusedReduce::Readers;
  const FusedReduce& reduce = *bound.reduce;
  const int64_t num_cols = bound.output->cols;
  const auto [first, last] = row_share(topology_.tp_rank(), num_rows);
  const kernels::Rows own_part = part_of(topology_.tp_rank());
  const bool hands_norm = reduce.norm == Readers::kSomeOther;
  const bool hands_residual = reduce.residual == Readers::kSomeOther;
  kernels::ActivationView view;
  if (reduce.norm == Readers::kLinears)
    view = kernels::make_activation_view(reduce.form, num_rows, num_cols, reduce.group_size,
                                         shared_conversion_);
  operators_.begin();
  if (first < last) {
    const kernels::Rows y = hands_norm ? own_part : bound.outputs.back();
    add_parts(bound, first, last - first, y);
    if (reduce.norm == Readers::kLinears)
      operators_.convert_rows(rows_from(y, first), last - first, view_from(view, first));
  }
  operators_.finish();
  if (hands_residual) copy_rows(bound.outputs[0], own_part, first, last, num_cols);
  meet(bound);
  if (reduce.norm == Readers::kLinears) {
    converted_view_ = view;
    converted_ = &plan_.placements.at(bound.op->outputs(1));
  }
  if (hands_norm || hands_residual) {
    const kernels::Rows target = hands_norm ? bound.outputs.back() : bound.outputs[0];
    for (int rank = 0; rank < topology_.tp_size; ++rank) {
      const auto [begin, end] = row_share(rank, num_rows);
      if (hands_norm || rank != topology_.tp_rank())
        copy_rows(part_of(rank), target, begin, end, num_cols);
    }
    meet(bound);  // the parts may be written again
  }
  operators_.begin();
}

}  // namespace phalanx
