// Cuts the graph into stages, shards its values, and lays them in the arena by liveness.
#include "runtime/executor/stage_plan.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "kernels/cuda/device_matrix.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"
#include "runtime/model/collectives.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/graph.h"
#include "runtime/model/graph_shapes.h"
#include "runtime/model/manifest.h"

namespace phalanx {
namespace {

using engine::Op;

constexpr int64_t kAlignment = 64;

int64_t align_up(int64_t bytes) { return round_up(bytes, kAlignment); }

Op split_add(const Op& fused) {
  Op add = fused;
  add.set_kind(engine::ADD);
  add.set_name(fused.name() + ".add");
  add.mutable_outputs()->RemoveLast();
  add.clear_weights();
  return add;
}

Op split_norm(const Op& fused) {
  Op norm;
  norm.set_kind(engine::RMS_NORM);
  norm.set_name(fused.name() + ".norm");
  norm.set_layer(fused.layer());
  norm.add_inputs(fused.outputs(0));
  norm.add_outputs(fused.outputs(1));
  norm.add_weights(fused.weights(0));
  norm.set_eps(fused.eps());
  return norm;
}

/// Fills plan.ops, input, output for the layers of this stage. A fused add and norm is split at the
/// cut, which changes no bit.
void cut_stage(const engine::Graph& graph, int64_t num_layers,
               const parallel::RankTopology& topology, StagePlan& plan) {
  const std::vector<int> cuts = model::stage_cuts(graph, num_layers);
  int begin = 0;
  int end = graph.ops_size();
  if (!topology.is_first_stage()) {
    const int cut = cuts.at(static_cast<size_t>(plan.first_layer));
    PHALANX_CHECK_GE(cut, 0, "an add before layer " + std::to_string(plan.first_layer));
    begin = cut + 1;
    const Op& last_before = graph.ops(cut);
    plan.input = last_before.outputs(0);
    if (last_before.kind() == engine::ADD_RMS_NORM) plan.ops.push_back(split_norm(last_before));
  }
  if (!topology.is_last_stage()) end = cuts.at(static_cast<size_t>(plan.last_layer)) + 1;
  for (int i = begin; i < end; ++i) plan.ops.push_back(graph.ops(i));
  if (!topology.is_last_stage() && plan.ops.back().kind() == engine::ADD_RMS_NORM) {
    plan.ops.back() = split_add(plan.ops.back());
  }
  plan.output = plan.ops.back().outputs(0);
}

/// Takes each ALL_REDUCE into the add that alone reads its sums, right after it.
void fuse_reduces(StagePlan& plan) {
  std::unordered_map<std::string, int> num_readers;
  for (const Op& op : plan.ops) {
    for (const auto& input : op.inputs()) ++num_readers[input];
  }
  std::vector<Op> fused;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    const bool follows_linear =
        op.kind() == engine::ALL_REDUCE && i > 0 && plan.ops[i - 1].kind() == engine::LINEAR &&
        plan.ops[i - 1].outputs_size() == 1 && plan.ops[i - 1].outputs(0) == op.inputs(0);
    if (follows_linear && i + 1 < plan.ops.size()) {
      const Op& add = plan.ops[i + 1];
      const std::string& sum = op.outputs(0);
      if ((add.kind() == engine::ADD || add.kind() == engine::ADD_RMS_NORM) &&
          add.inputs(1) == sum && add.inputs(0) != sum && num_readers[sum] == 1 &&
          num_readers[op.inputs(0)] == 1 && plan.output != sum) {
        Op reduce = add;
        reduce.set_inputs(1, op.inputs(0));
        plan.reduces[reduce.name()] = {};
        fused.push_back(std::move(reduce));
        ++i;
        continue;
      }
    }
    fused.push_back(op);
  }
  plan.ops = std::move(fused);
}

/// What the backend's pack_matrix takes, with scales as the builder writes them.
int64_t packed_bytes(const LinearPlan& linear, kernels::Backend backend) {
  if (backend == kernels::Backend::kCpu) {
    return kernels::packed_matrix_bytes(linear.format, linear.num_rows, linear.num_cols,
                                        linear.group_size, linear.has_bias, linear.has_zeros,
                                        linear.num_lanes);
  }
  kernels::cuda::DeviceMatrixShape shape;
  shape.format = linear.format;
  shape.num_rows = linear.num_rows;
  shape.num_cols = linear.num_cols;
  shape.num_lanes = linear.num_lanes;
  shape.group_size = linear.group_size;
  shape.scale_dtype = linear.format == kernels::WeightFormat::kFp8 ? DType::kF32 : DType::kBf16;
  shape.has_zeros = linear.has_zeros;
  shape.has_bias = linear.has_bias;
  return kernels::cuda::device_matrix_bytes(shape);
}

bool fuses_gate(const LinearPlan& product, const LinearPlan& reader, kernels::Backend backend) {
  return backend == kernels::Backend::kCpu
             ? kernels::fuses_gated_linear(
                   product.num_rows, kernels::activation_form(reader.format), reader.group_size)
             : kernels::cuda::fuses_gated_linear_on_device(product.format, product.num_rows);
}

/// Takes each SILU_MUL into the linear that makes its two inputs, where one linear alone reads its
/// rows. After the linears are planned.
void fuse_gates(kernels::Backend backend, StagePlan& plan) {
  std::unordered_map<std::string, int> num_readers;
  for (const Op& op : plan.ops) {
    for (const auto& input : op.inputs()) ++num_readers[input];
  }
  const auto is_gated = [&](size_t i) {
    if (i + 2 >= plan.ops.size()) return false;
    const Op& product = plan.ops[i];
    const Op& gate = plan.ops[i + 1];
    const Op& reader = plan.ops[i + 2];
    if (product.kind() != engine::LINEAR || product.outputs_size() != 2) return false;
    if (gate.kind() != engine::SILU_MUL || gate.inputs(0) != product.outputs(0) ||
        gate.inputs(1) != product.outputs(1))
      return false;
    if (reader.kind() != engine::LINEAR || reader.inputs(0) != gate.outputs(0)) return false;
    for (const std::string& value : {gate.inputs(0), gate.inputs(1), gate.outputs(0)}) {
      if (num_readers[value] != 1 || value == plan.output) return false;
    }
    return fuses_gate(plan.linears.at(product.name()), plan.linears.at(reader.name()), backend);
  };
  std::vector<Op> fused;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    fused.push_back(plan.ops[i]);
    if (!is_gated(i)) continue;
    const LinearPlan& reader = plan.linears.at(plan.ops[i + 2].name());
    Op& product = fused.back();
    product.clear_outputs();
    product.add_outputs(plan.ops[i + 1].outputs(0));
    plan.gated[product.name()] = {kernels::activation_form(reader.format), reader.group_size};
    ++i;
  }
  plan.ops = std::move(fused);
}

/// A run of arena bytes that one or more values share over an interval of ops.
struct Buffer {
  int64_t bytes = 0;
  int first_use = 0;
  int last_use = 0;
  int64_t offset = -1;
};

class ArenaPlanner {
 public:
  ArenaPlanner(const engine::Graph& graph, const parallel::RankTopology& topology,
               const StepLimits& limits, kernels::Backend backend, StagePlan& plan)
      : index_(graph), topology_(topology), limits_(limits), backend_(backend), plan_(plan) {}

  void run() {
    if (!plan_.input.empty()) new_buffer({plan_.input}, -1);
    for (int i = 0; i < static_cast<int>(plan_.ops.size()); ++i) {
      const Op& op = plan_.ops[i];
      for (const auto& input : op.inputs()) touch(input, i);
      int first_new = 0;
      if (const int overwritten = model::in_place_input(op.kind()); overwritten >= 0) {
        alias(op.outputs(0), op.inputs(overwritten), i);
        first_new = 1;
      }
      const std::vector<std::string> fresh(op.outputs().begin() + first_new, op.outputs().end());
      if (is_part(i)) {
        place_part(fresh[0]);
      } else if (plan_.gated.contains(op.name())) {
        place_converted(fresh[0]);
      } else if (op.kind() == engine::LINEAR) {
        new_buffer(fresh, i);
      } else {
        for (const auto& output : fresh) new_buffer({output}, i);
      }
    }
    touch(plan_.output, static_cast<int>(plan_.ops.size()));
    assign_offsets();
  }

 private:
  static bool is_in_arena(const Placement& place) { return !place.is_part && !place.is_converted; }

  int64_t local_cols(const std::string& name) const {
    const engine::Value* value = index_.value(name);
    PHALANX_CHECK(value != nullptr, "value " + name);
    return model::shard_range(value->axis(), value->cols(), value->shard_unit(), topology_.tp_size,
                              topology_.tp_rank())
        .size();
  }

  /// Values side by side in the rows of one buffer.
  void new_buffer(const std::vector<std::string>& names, int op_index) {
    if (names.empty()) return;
    int64_t stride = 0;
    for (const auto& name : names) stride += local_cols(name);
    const bool selected = index_.value(names[0])->selected();
    const int64_t rows = selected ? limits_.max_sequences : limits_.max_rows;
    if (draws_from(names[0])) stride = round_up(stride, 4);
    int64_t column = 0;
    for (const auto& name : names) {
      buffer_of_[name] = static_cast<int>(buffers_.size());
      plan_.placements[name] = {0, stride, column, local_cols(name), selected};
      column += local_cols(name);
    }
    buffers_.push_back({align_up(rows * stride * 4), op_index, op_index});
  }

  /// Whether a token sampler may draw from these rows: then each begins at 16 bytes.
  bool draws_from(const std::string& name) const {
    return backend_ != kernels::Backend::kCpu && topology_.world_size == 1 && name == plan_.output;
  }

  void alias(const std::string& output, const std::string& input, int op_index) {
    buffer_of_[output] = buffer_of_.at(input);
    plan_.placements[output] = plan_.placements.at(input);
    touch(output, op_index);
  }

  /// Whether the op's output goes into a fused reduce, the next op.
  bool is_part(int op_index) const {
    const auto next = static_cast<size_t>(op_index) + 1;
    return next < plan_.ops.size() && plan_.reduces.contains(plan_.ops[next].name());
  }

  void place_part(const std::string& name) {
    const int64_t cols = local_cols(name);
    plan_.placements[name] = {0, cols, 0, cols, index_.value(name)->selected(), true};
  }

  void place_converted(const std::string& name) {
    const int64_t cols = local_cols(name);
    Placement& place = plan_.placements[name];
    place = {0, cols, 0, cols, index_.value(name)->selected()};
    place.is_converted = true;
  }

  void touch(const std::string& name, int op_index) {
    if (const auto place = plan_.placements.find(name);
        place != plan_.placements.end() && !is_in_arena(place->second))
      return;
    const auto found = buffer_of_.find(name);
    PHALANX_CHECK(found != buffer_of_.end(), "value " + name + " is used before it is made");
    buffers_[found->second].last_use = std::max(buffers_[found->second].last_use, op_index);
  }

  /// Largest first, each at the lowest offset where no buffer alive at the same time lies.
  void assign_offsets() {
    std::vector<Buffer*> order;
    for (auto& buffer : buffers_) order.push_back(&buffer);
    std::stable_sort(order.begin(), order.end(),
                     [](const Buffer* a, const Buffer* b) { return a->bytes > b->bytes; });
    std::vector<Buffer*> placed;
    for (Buffer* buffer : order) {
      int64_t offset = 0;
      for (const Buffer* other : placed) {  // placed is sorted by offset
        const bool alive_together =
            other->first_use <= buffer->last_use && buffer->first_use <= other->last_use;
        if (alive_together && other->offset < offset + buffer->bytes) {
          offset = std::max(offset, other->offset + other->bytes);
        }
      }
      buffer->offset = offset;
      placed.insert(
          std::upper_bound(placed.begin(), placed.end(), buffer,
                           [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
          buffer);
      plan_.arena_bytes = std::max(plan_.arena_bytes, offset + buffer->bytes);
    }
    for (auto& [name, placement] : plan_.placements) {
      if (is_in_arena(placement)) placement.offset_bytes = buffers_[buffer_of_.at(name)].offset;
    }
  }

  model::GraphIndex index_;
  const parallel::RankTopology& topology_;
  const StepLimits& limits_;
  const kernels::Backend backend_;
  StagePlan& plan_;
  std::vector<Buffer> buffers_;
  std::unordered_map<std::string, int> buffer_of_;
};

LinearPlan plan_linear(const Op& op,
                       const std::unordered_map<std::string, const engine::Weight*>& weights,
                       int64_t reduction_lanes, const parallel::RankTopology& topology,
                       kernels::Backend backend) {
  LinearPlan linear;
  for (int i = 0; i < op.weights_size(); ++i) {
    const engine::Weight& weight = *weights.at(op.weights(i));
    const bool row_parallel = weight.axis() == engine::ROW;
    const auto range =
        model::shard_range(weight.axis(), row_parallel ? weight.cols() : weight.rows(),
                           weight.shard_unit(), topology.tp_size, topology.tp_rank());
    MatrixSlice slice;
    slice.weight = weight.name();
    slice.bias = i < op.biases_size() ? op.biases(i) : "";
    slice.row_begin = row_parallel ? 0 : range.begin;
    slice.row_end = row_parallel ? weight.rows() : range.end;
    slice.col_begin = row_parallel ? range.begin : 0;
    slice.col_end = row_parallel ? range.end : weight.cols();
    linear.has_bias = linear.has_bias || !slice.bias.empty();
    linear.has_zeros = linear.has_zeros || weight.has_zeros();
    linear.num_rows += slice.row_end - slice.row_begin;
    linear.num_cols = slice.col_end - slice.col_begin;
    linear.format = kernel_format(weight.format());
    linear.group_size = weight.group_size();
    linear.num_lanes = row_parallel ? reduction_lanes / topology.tp_size : 1;
    linear.slices.push_back(std::move(slice));
  }
  if (linear.num_rows > 0) linear.packed_bytes = packed_bytes(linear, backend);
  return linear;
}

void plan_linears(const engine::EngineManifest& manifest, const parallel::RankTopology& topology,
                  kernels::Backend backend, StagePlan& plan) {
  std::unordered_map<std::string, const engine::Weight*> weights;
  for (const auto& weight : manifest.weights()) weights[weight.name()] = &weight;
  for (const Op& op : plan.ops) {
    if (op.kind() == engine::LINEAR) {
      LinearPlan linear = plan_linear(op, weights, std::max<int64_t>(manifest.reduction_lanes(), 1),
                                      topology, backend);
      plan.weight_bytes += linear.packed_bytes;
      plan.linears.emplace(op.name(), std::move(linear));
    } else if (op.kind() == engine::EMBEDDING) {
      plan.table_bytes = model::stored_bytes(*weights.at(op.weights(0)));
      if (backend != kernels::Backend::kCpu) plan.weight_bytes += plan.table_bytes;
    } else {
      for (const auto& name : op.weights()) plan.weight_bytes += weights.at(name)->rows() * 4;
    }
  }
}

/// Room for the inputs of linears in their forms.
void plan_conversions(const StepLimits& limits, StagePlan& plan) {
  for (const Op& op : plan.ops) {
    if (op.kind() != engine::LINEAR) continue;
    const LinearPlan& linear = plan.linears.at(op.name());
    const int64_t bytes =
        kernels::activation_bytes(kernels::activation_form(linear.format), limits.max_rows,
                                  linear.num_cols, linear.group_size);
    int64_t& room =
        plan.placements.at(op.inputs(0)).is_converted ? plan.gated_bytes : plan.conversion_bytes;
    room = std::max(room, bytes);
  }
}

/// Who reads the outputs of the fused reduces, and what that takes. After the linears are planned.
void plan_reduces(const StepLimits& limits, StagePlan& plan) {
  using Readers = FusedReduce::Readers;
  std::unordered_map<std::string, std::vector<const Op*>> readers;
  for (const Op& op : plan.ops) {
    for (const auto& input : op.inputs()) readers[input].push_back(&op);
  }
  plan.can_share_rows = !plan.reduces.empty();
  for (const Op& op : plan.ops) {
    const auto found = plan.reduces.find(op.name());
    if (found == plan.reduces.end()) continue;
    FusedReduce& reduce = found->second;
    const Placement& part = plan.placements.at(op.inputs(1));
    plan.part_cols = std::max(plan.part_cols, part.cols);
    if (part.selected) plan.can_share_rows = false;
    if (op.outputs(0) == plan.output) reduce.residual = Readers::kSomeOther;
    for (const Op* reader : readers[op.outputs(0)]) {
      const bool is_reduce = plan.reduces.contains(reader->name());
      if (!is_reduce || reader->inputs(0) != op.outputs(0)) reduce.residual = Readers::kSomeOther;
    }
    if (op.outputs_size() < 2) continue;
    for (const Op* reader : readers[op.outputs(1)]) {
      const auto linear = plan.linears.find(reader->name());
      if (linear == plan.linears.end()) {
        reduce.norm = Readers::kSomeOther;
        break;
      }
      const auto form = kernels::activation_form(linear->second.format);
      const int64_t group_size = linear->second.group_size;
      if (reduce.norm == Readers::kLinears &&
          (reduce.form != form || reduce.group_size != group_size)) {
        reduce.norm = Readers::kSomeOther;
        break;
      }
      reduce.norm = Readers::kLinears;
      reduce.form = form;
      reduce.group_size = group_size;
    }
    if (reduce.norm == Readers::kLinears) {
      const int64_t row_bytes = part.cols * kernels::activation_code_bytes(reduce.form);
      plan.row_granule = std::max(plan.row_granule, kAlignment / std::gcd(kAlignment, row_bytes));
      plan.shared_conversion_bytes = std::max(
          plan.shared_conversion_bytes,
          kernels::activation_bytes(reduce.form, limits.max_rows, part.cols, reduce.group_size));
    }
    // The rows themselves go around in the part they came from: one output's.
    if (reduce.norm == Readers::kSomeOther && reduce.residual == Readers::kSomeOther)
      plan.can_share_rows = false;
  }
  const int64_t longest = align_up(limits.max_rows * plan.part_cols * 4);
  plan.short_part_bytes = longest;
  if (plan.can_share_rows) {
    plan.long_part_bytes = longest;
    // Fewer rows than ranks are not shared either.
    plan.short_part_bytes =
        std::min(longest, align_up(std::max(kMaxUnsharedBytes, plan.tp_size * plan.part_cols * 4)));
  } else {
    plan.shared_conversion_bytes = 0;
  }
}

void plan_heads(const engine::ModelConfig& config, const parallel::RankTopology& topology,
                StagePlan& plan) {
  const int64_t head_dim = config.head_dim();
  const auto query = model::shard_range(engine::COLUMN, config.num_attention_heads() * head_dim,
                                        head_dim, topology.tp_size, topology.tp_rank());
  const auto kv = model::shard_range(engine::KV_COLUMN, config.num_key_value_heads() * head_dim,
                                     head_dim, topology.tp_size, topology.tp_rank());
  plan.num_query_heads = query.size() / head_dim;
  plan.num_kv_heads = kv.size() / head_dim;
  const int64_t group = config.num_attention_heads() / config.num_key_value_heads();
  for (int64_t h = 0; h < plan.num_query_heads; ++h) {
    plan.kv_head_of_query.push_back(
        static_cast<int32_t>((query.begin / head_dim + h) / group - kv.begin / head_dim));
  }
}

}  // namespace

kernels::StepBounds step_bounds(const StagePlan& plan, const StepLimits& limits, int64_t head_dim,
                                kernels::KvFormat kv_format) {
  kernels::StepBounds bounds;
  bounds.max_rows = limits.max_rows;
  bounds.max_sequences = limits.max_sequences;
  bounds.max_positions = limits.max_positions;
  bounds.num_query_heads = plan.num_query_heads;
  bounds.num_kv_heads = plan.num_kv_heads;
  bounds.head_dim = head_dim;
  bounds.kv_format = kv_format;
  bounds.kv_head_of_query = plan.kv_head_of_query.data();
  return bounds;
}

kernels::WeightFormat kernel_format(engine::WeightFormat format) {
  switch (format) {
    case engine::F32:
      return kernels::WeightFormat::kF32;
    case engine::BF16:
      return kernels::WeightFormat::kBf16;
    case engine::W8:
      return kernels::WeightFormat::kW8;
    case engine::W4:
      return kernels::WeightFormat::kW4;
    case engine::FP8:
      return kernels::WeightFormat::kFp8;
    default:  // protobuf enums are open; the manifest was verified
      PHALANX_CHECK(false, "weight format " + std::to_string(format));
  }
  return kernels::WeightFormat::kF32;
}

StagePlan make_stage_plan(const engine::EngineManifest& manifest,
                          const parallel::RankTopology& topology, const StepLimits& limits,
                          kernels::Backend backend) {
  const engine::ModelConfig& config = manifest.model();
  const engine::Graph graph =
      topology.tp_size > 1 ? model::with_collectives(manifest.graph()) : manifest.graph();
  StagePlan plan;
  std::tie(plan.first_layer, plan.last_layer) =
      topology.layer_range(static_cast<int>(config.num_hidden_layers()));
  cut_stage(graph, config.num_hidden_layers(), topology, plan);
  plan.tp_size = topology.tp_size;
  fuse_reduces(plan);
  plan_heads(config, topology, plan);
  plan_linears(manifest, topology, backend, plan);
  fuse_gates(backend, plan);
  if (backend != kernels::Backend::kCpu) {
    for (const auto& [name, gated] : plan.gated) {
      plan.gated_scratch_bytes =
          std::max(plan.gated_scratch_bytes,
                   align_up(limits.max_rows * plan.linears.at(name).num_rows / 2 * 4));
    }
  }
  ArenaPlanner(graph, topology, limits, backend, plan).run();
  plan_conversions(limits, plan);
  plan_reduces(limits, plan);
  if (topology.is_last_stage() && topology.is_sampler() && topology.tp_size > 1)
    plan.logits_bytes = 2 * align_up(limits.max_sequences * config.vocab_size() * 4);
  plan.rope_bytes = 2 * align_up(limits.max_positions * config.rope().rotary_dim() / 2 * 4);
  return plan;
}

}  // namespace phalanx
