// Whole decode steps and prefills of llm-bench cuda: the operators of the graph executor, in its
// order, on random weights of a real model's shape. No engine is made: packing what a layer reads
// is all the time that it takes.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "kernels/cuda_backend.h"
#include "kernels/token_sampler.h"
#include "launcher/bench/cuda_bench.h"
#include "launcher/bench/kernel_shapes.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using kernels::ActivationView;
using kernels::KvFormat;
using kernels::Operators;
using kernels::PackedMatrix;
using kernels::Rows;
using kernels::StepRows;
using kernels::WeightFormat;

constexpr float kEps = 1e-5F;

/// The largest step, and what is kept for it.
struct StepSizes {
  int64_t max_rows, max_sequences, max_positions;
  int64_t num_blocks;  ///< of KV, for all sequences together
};

WeightFormat format_named(const std::string& name) {
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kW8}) {
    if (name == weight_format_name(format)) return format;
  }
  return WeightFormat::kW4;
}

class ShapeModel {
 public:
  ShapeModel(CudaBench& bench, Operators& operators, const ModelShape& shape, WeightFormat format,
             int64_t group_size, const StepSizes& sizes)
      : bench_(bench),
        operators_(operators),
        shape_(shape),
        format_(format),
        group_size_(is_quantized(format) ? group_size : 0),
        sizes_(sizes),
        q_cols_(shape.num_heads * shape.head_dim),
        kv_cols_(shape.num_kv_heads * shape.head_dim) {
    for (int64_t h = 0; h < shape.num_heads; ++h)
      map_.push_back(static_cast<int32_t>(h * shape.num_kv_heads / shape.num_heads));
    kernels::StepBounds bounds;
    bounds.max_rows = sizes.max_rows;
    bounds.max_sequences = sizes.max_sequences;
    bounds.max_positions = sizes.max_positions;
    bounds.num_query_heads = shape.num_heads;
    bounds.num_kv_heads = shape.num_kv_heads;
    bounds.head_dim = shape.head_dim;
    bounds.kv_format = KvFormat::kBf16;
    bounds.kv_head_of_query = map_.data();
    operators.reserve(bounds);
    pack();
    allocate();
    sampler_ = operators.make_token_sampler({shape.vocab_size, sizes.max_sequences});
    PHALANX_CHECK(sampler_ != nullptr, "the device has no sampler");
    kernels::DrawParams greedy;
    greedy.temperature = 0.0F;
    for (int64_t s = 0; s < sizes.max_sequences; ++s)
      sampler_->start(static_cast<uint32_t>(s), greedy, {}, 0);
  }

  /// What a step reads at least: every matrix once.
  double weight_bytes() const { return weight_bytes_; }
  double ops_per_token() const { return ops_per_token_; }
  double head_ops() const { return head_ops_; }
  kernels::TokenSampler& sampler() { return *sampler_; }

  /// The step's operators up to the draws, of the first `num_layers` layers.
  void enqueue(const StepRows& step, int64_t num_layers) {
    operators_.begin();
    sampler_->feed_back(step);
    const auto num_rows = static_cast<int64_t>(step.positions.size());
    kernels::MatrixSource table;
    table.format = WeightFormat::kBf16;
    table.num_rows = shape_.vocab_size;
    table.num_cols = shape_.hidden_size;
    table.codes = table_.get();
    table.row_stride_bytes = shape_.hidden_size * 2;
    operators_.embedding(table, step.token_ids, residual_->rows());
    operators_.rms_norm(residual_->rows(), norm_->data(), kEps, num_rows, shape_.hidden_size,
                        normed_->rows());
    for (int64_t layer = 0; layer < num_layers; ++layer) enqueue_layer(step, layer);
    const auto num_sampled = static_cast<int64_t>(step.sampled_rows.size());
    operators_.gather_rows(normed_->rows(), step.sampled_rows, shape_.hidden_size,
                           selected_->rows());
    const ActivationView view = kernels::make_activation_view(
        kernels::ActivationForm::kBf16, num_sampled, shape_.hidden_size, 0, head_input_.get());
    operators_.convert_rows(selected_->rows(), num_sampled, view);
    operators_.linear(*head_, view, num_sampled, logits_->rows());
    sampler_->draw(logits_->rows(), step);
  }

 private:
  struct Layer {
    std::unique_ptr<PackedMatrix> qkv, o, gate_up, down;
  };

  void pack() {
    const auto matrices = matrices_of(shape_, std::max<int64_t>(group_size_, 1));
    PHALANX_CHECK(matrices.ok(), matrices.ok() ? "" : matrices.error().message);
    layers_.resize(static_cast<size_t>(shape_.num_layers));
    for (const MatrixShape& matrix : *matrices) {
      const bool is_head = matrix.name == "lm_head";
      const RandomMatrix random(is_head ? WeightFormat::kBf16 : format_, matrix.num_rows,
                                matrix.num_cols, is_head ? 0 : group_size_);
      kernels::MatrixSpec spec = random.spec(matrix.num_lanes);
      const double ops = 2.0 * static_cast<double>(matrix.num_rows * matrix.num_cols);
      weight_bytes_ += random.bytes() * static_cast<double>(matrix.num_in_model);
      if (is_head) {
        head_ = operators_.pack_matrix(spec);
        head_ops_ = ops;
        continue;
      }
      ops_per_token_ += ops * static_cast<double>(matrix.num_in_model);
      if (matrix.name == "gate_up") spec.gated = {kernels::activation_form(format_), group_size_};
      for (Layer& layer : layers_) {
        auto packed = operators_.pack_matrix(spec);
        if (matrix.name == "qkv") layer.qkv = std::move(packed);
        if (matrix.name == "o") layer.o = std::move(packed);
        if (matrix.name == "gate_up") layer.gate_up = std::move(packed);
        if (matrix.name == "down") layer.down = std::move(packed);
      }
    }
  }

  void allocate() {
    const auto floats = [&](int64_t rows, int64_t cols) {
      return std::make_unique<DeviceFloats>(operators_, rows, cols);
    };
    const int64_t rows = sizes_.max_rows;
    residual_ = floats(rows, shape_.hidden_size);
    normed_ = floats(rows, shape_.hidden_size);
    delta_ = floats(rows, shape_.hidden_size);
    norm_ = floats(1, shape_.hidden_size);
    qkv_ = floats(rows, q_cols_ + 2 * kv_cols_);
    attended_ = floats(rows, q_cols_);
    selected_ = floats(sizes_.max_sequences, shape_.hidden_size);
    logits_ = floats(sizes_.max_sequences, shape_.vocab_size);
    const auto form = kernels::activation_form(format_);
    const int64_t widest = std::max(shape_.hidden_size, q_cols_);
    input_ = operators_.allocate(kernels::activation_bytes(form, rows, widest, group_size_));
    gated_ = operators_.allocate(
        kernels::activation_bytes(form, rows, shape_.intermediate_size, group_size_));
    head_input_ = operators_.allocate(kernels::activation_bytes(
        kernels::ActivationForm::kBf16, sizes_.max_sequences, shape_.hidden_size, 0));
    table_ = random_memory(operators_, shape_.vocab_size * shape_.hidden_size * 2);
    layer_kv_bytes_ = sizes_.num_blocks * shape_.num_kv_heads *
                      kernels::kv_block_bytes(KvFormat::kBf16, shape_.head_dim);
    kv_ = operators_.allocate(layer_kv_bytes_ * shape_.num_layers);
    const int64_t angles = sizes_.max_positions * shape_.head_dim / 2;
    cosines_ = floats(1, angles);
    sines_ = floats(1, angles);
  }

  ActivationView converted(Rows rows, int64_t num_rows, int64_t num_cols) {
    const ActivationView view = kernels::make_activation_view(
        kernels::activation_form(format_), num_rows, num_cols, group_size_, input_.get());
    operators_.convert_last_read(rows, num_rows, view);
    return view;
  }

  void enqueue_layer(const StepRows& step, int64_t index) {
    const Layer& layer = layers_[static_cast<size_t>(index)];
    const auto num_rows = static_cast<int64_t>(step.positions.size());
    const int64_t hidden = shape_.hidden_size;
    operators_.linear(*layer.qkv, converted(normed_->rows(), num_rows, hidden), num_rows,
                      qkv_->rows());
    const Rows q = qkv_->rows();
    const Rows k{q.data + q_cols_, q.stride};
    const Rows v{k.data + kv_cols_, q.stride};
    const kernels::RopeTable rope{cosines_->data(), sines_->data(), shape_.head_dim,
                                  sizes_.max_positions};
    operators_.rope(q, shape_.num_heads, shape_.head_dim, rope, step.positions);
    operators_.rope(k, shape_.num_kv_heads, shape_.head_dim, rope, step.positions);
    const kernels::KvLayerView kv{KvFormat::kBf16, kv_.get() + index * layer_kv_bytes_,
                                  sizes_.num_blocks, shape_.num_kv_heads, shape_.head_dim};
    operators_.write_kv(k, v, step.sequences, kv);
    const kernels::AttentionParams params{shape_.num_heads, map_.data(),
                                          1.0F / std::sqrt(static_cast<float>(shape_.head_dim)), 0};
    operators_.attention(q, step.sequences, kv, params, attended_->rows());
    operators_.linear(*layer.o, converted(attended_->rows(), num_rows, q_cols_), num_rows,
                      delta_->rows());
    operators_.add_rms_norm(residual_->rows(), delta_->rows(), nullptr, norm_->data(), kEps,
                            num_rows, hidden, normed_->rows());
    const ActivationView gated =
        kernels::make_activation_view(kernels::activation_form(format_), num_rows,
                                      shape_.intermediate_size, group_size_, gated_.get());
    operators_.gated_linear(*layer.gate_up, converted(normed_->rows(), num_rows, hidden), num_rows,
                            gated);
    operators_.linear(*layer.down, gated, num_rows, delta_->rows());
    operators_.add_rms_norm(residual_->rows(), delta_->rows(), nullptr, norm_->data(), kEps,
                            num_rows, hidden, normed_->rows());
  }

  CudaBench& bench_;
  Operators& operators_;
  const ModelShape shape_;
  const WeightFormat format_;
  const int64_t group_size_;
  const StepSizes sizes_;
  const int64_t q_cols_, kv_cols_;
  std::vector<int32_t> map_;
  std::vector<Layer> layers_;
  std::unique_ptr<PackedMatrix> head_;
  double weight_bytes_ = 0, ops_per_token_ = 0, head_ops_ = 0;
  std::unique_ptr<DeviceFloats> residual_, normed_, delta_, norm_, qkv_, attended_, selected_,
      logits_, cosines_, sines_;
  std::shared_ptr<std::byte> input_, gated_, head_input_, table_, kv_;
  int64_t layer_kv_bytes_ = 0;
  std::unique_ptr<kernels::TokenSampler> sampler_;
};

class StepRowsOfModel {
 public:
  StepRowsOfModel(CudaBench& bench, const ModelShape& shape, const std::string& weights)
      : bench_(bench), shape_(shape), weights_(weights), format_(format_named(weights)) {
    const int64_t group = bench.tiny ? 64 : 128;
    prompt_ = bench.tiny ? 40 : 2048;
    batches_ = bench.tiny ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{1, 32, 128};
    context_ = bench.tiny ? 33 : 512;
    operators_ = bench.make_operators();
    sizes_ = {prompt_, batches_.back(), std::max(prompt_, context_ + kRoom),
              std::max(batches_.back() * blocks_of(context_ + kRoom), blocks_of(prompt_))};
    const auto begin = Clock::now();
    model_.emplace(bench, *operators_, shape, format_, group, sizes_);
    bench.report.set_fact("seconds to pack " + shape.name + " " + weights,
                          std::chrono::duration<double>(Clock::now() - begin).count());
  }

  void measure() {
    for (const int64_t batch : batches_) {
      bench_.attempt(name("decode") + ", batch " + std::to_string(batch),
                     [&] { measure_decode(batch); });
    }
    bench_.attempt(name("prefill"), [&] { measure_prefill(); });
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kRoom = 64;  ///< positions that decode may still take

  std::string name(const std::string& what) const {
    return what + " of " + shape_.name + " " + weights_;
  }
  double kv_bytes_per_token() const {
    return static_cast<double>(shape_.num_layers * shape_.num_kv_heads * shape_.head_dim * 4);
  }
  static int64_t blocks_of(int64_t tokens) { return ceil_div(tokens, kernels::kBlockTokens); }

  Measurement row(const std::string& what, const std::string& unit) const {
    Measurement measurement;
    measurement.name = what;
    measurement.parameters = {{"model", shape_.name}, {"weights", weights_}};
    measurement.unit = unit;
    return measurement;
  }

  void measure_decode(int64_t batch) {
    Operators& operators = *operators_;
    SequenceStep step(batch, 1, context_, blocks_of(context_ + kRoom));
    const StepRows staged = operators.stage(step.rows());
    const auto record = [&](int64_t num_layers) {
      return operators.record([&] { model_->enqueue(staged, num_layers); });
    };
    const auto recorded = record(shape_.num_layers);
    const auto shorter = record(shape_.num_layers - 1);
    const int64_t launches = kernels::num_cuda_launches(*recorded);
    const int64_t of_layer = launches - kernels::num_cuda_launches(*shorter);

    Measurement decode = row("decode_step", "tok/s");
    decode.parameters.emplace_back("batch", std::to_string(batch));
    decode.parameters.emplace_back("context", std::to_string(context_));
    Limit limit{"read bandwidth", {}};
    const double bytes =
        model_->weight_bytes() + static_cast<double>(batch * context_) * kv_bytes_per_token();
    Measurement idle = row("gpu_idle_between_steps", "%");
    idle.parameters = decode.parameters;
    idle.better = Better::kLower;
    const int64_t steps = bench_.tiny ? 2 : 40;
    for (int64_t i = -1; i < bench_.repetitions; ++i) {
      auto begin = Clock::now();
      for (int64_t n = 0; n < steps; ++n) operators.replay(*recorded);
      operators.finish();
      const double on_device = seconds_since(begin) / static_cast<double>(steps);
      begin = Clock::now();
      serve(step, *recorded, steps);
      const double served = seconds_since(begin) / static_cast<double>(steps);
      if (i < 0) continue;
      decode.samples.push_back(static_cast<double>(batch) / on_device);
      idle.samples.push_back(std::max(0.0, 100.0 * (1.0 - on_device / served)));
      if (bench_.ceilings.read_gbs > 0)
        limit.samples.push_back(static_cast<double>(batch) * bench_.ceilings.read_gbs * 1e9 /
                                bytes);
    }
    decode.details = {{"bytes", bytes},
                      {"launches", static_cast<double>(launches)},
                      {"launches_of_a_layer", static_cast<double>(of_layer)},
                      {"us", static_cast<double>(batch) / spread_of(decode.samples).median * 1e6}};
    if (!limit.samples.empty()) decode.limit = std::move(limit);
    bench_.report.add(std::move(decode));
    bench_.report.add(std::move(idle));
    Measurement kernels = row("kernels_of_a_layer", "launches");
    kernels.parameters.emplace_back("batch", std::to_string(batch));
    kernels.better = Better::kLower;
    kernels.samples = {static_cast<double>(of_layer)};
    bench_.report.add(std::move(kernels));
  }

  /// As the rank worker does: every step is staged, replayed, and its tokens are fetched while the
  /// next one runs.
  void serve(SequenceStep step, const kernels::RecordedOperators& recorded, int64_t steps) {
    kernels::TokenSampler& sampler = model_->sampler();
    const auto batch = static_cast<int64_t>(step.sequences.size());
    for (int64_t s = 0; s < batch; ++s) {
      step.sequences[static_cast<size_t>(s)].block_table =
          step.tables.data() + s * blocks_of(context_ + kRoom);
      step.token_slots[static_cast<size_t>(s)] = static_cast<uint32_t>(s);
    }
    for (int64_t n = 0; n < steps; ++n) {
      for (size_t s = 0; s < step.sequences.size(); ++s) {
        const int64_t position = context_ + n % (kRoom / 2);
        step.positions[s] = static_cast<int32_t>(position);
        step.sequences[s].first_position = position;
        step.draws[s].position = position + 1;
      }
      if (n >= kernels::kMostStepsInFlight) sampler.take_draws();
      operators_->stage(step.rows());
      operators_->replay(recorded);
      sampler.send_draws(batch);
    }
    for (int64_t n = std::max<int64_t>(0, steps - kernels::kMostStepsInFlight); n < steps; ++n)
      sampler.take_draws();
    operators_->finish();
  }

  void measure_prefill() {
    Operators& operators = *operators_;
    const SequenceStep step(1, prompt_, 0, blocks_of(prompt_));
    const StepRows staged = operators.stage(step.rows());
    const auto seconds =
        stream_seconds(bench_, operators, [&] { model_->enqueue(staged, shape_.num_layers); });
    Measurement prefill = row("prefill", "tok/s");
    prefill.parameters.emplace_back("prompt", std::to_string(prompt_));
    const auto tokens = static_cast<double>(prompt_);
    const double attention =
        4.0 * static_cast<double>(shape_.num_heads * shape_.head_dim * shape_.num_layers) * tokens *
        (tokens + 1) / 2;
    const double ops = model_->ops_per_token() * tokens + model_->head_ops() + attention;
    for (const double each : seconds) prefill.samples.push_back(tokens / each);
    const double peak =
        format_ == WeightFormat::kBf16 ? bench_.ceilings.bf16_tflops : bench_.ceilings.fp8_tflops;
    if (peak > 0)
      prefill.limit = Limit{format_ == WeightFormat::kBf16 ? "bf16 product" : "fp8 product",
                            std::vector<double>(seconds.size(), tokens / (ops / peak * 1e-12))};
    prefill.details = {{"ops", ops}, {"us", spread_of(seconds).median * 1e6}};
    bench_.report.add(std::move(prefill));
  }

  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  CudaBench& bench_;
  const ModelShape shape_;
  const std::string weights_;
  const WeightFormat format_;
  int64_t prompt_ = 0, context_ = 0;
  std::vector<int64_t> batches_;
  StepSizes sizes_{};
  std::unique_ptr<Operators> operators_;
  std::optional<ShapeModel> model_;
};

}  // namespace

void measure_cuda_steps(CudaBench& bench, const std::vector<std::string>& models,
                        const std::vector<std::string>& formats) {
  for (const std::string& name : models) {
    ModelShape shape{"tiny", 128, 2, 4, 2, 32, 256, 512, 128, true};
    if (name != "tiny") {
      const auto found = find_kernel_shape(name);
      PHALANX_CHECK(found.ok(), "no shape is called " + name);
      shape = found->model;
    }
    for (const std::string& weights : formats) {
      if (weights == "fp8" && !bench.has_fp8) continue;
      bench.attempt("steps of " + name + " " + weights,
                    [&] { StepRowsOfModel(bench, shape, weights).measure(); });
    }
  }
}

}  // namespace phalanx::bench
