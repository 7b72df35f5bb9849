// Template expansion over layers, with every checkpoint tensor accounted for.
#include "runtime/builder/tensor_binding.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "runtime/base/ceil_div.h"
#include "runtime/builder/quantizer.h"
#include "runtime/model/architecture.h"

namespace phalanx::builder {

namespace {

constexpr const char* kLayerMark = "{layer}";

std::string with_layer(std::string text, int64_t layer) {
  const size_t mark = text.find(kLayerMark);
  if (mark == std::string::npos) return text;
  return text.replace(mark, std::char_traits<char>::length(kLayerMark), std::to_string(layer));
}

class Binder {
 public:
  Binder(const engine::Architecture& architecture, const CheckpointConfig& config,
         const CheckpointReader& checkpoint)
      : architecture_(architecture), config_(config), checkpoint_(checkpoint) {}

  Result<TensorBinding> run();

 private:
  Status bind(const engine::TensorTemplate& tensor, int64_t layer);
  Status bind_tied(const engine::TensorTemplate& tensor, int64_t layer,
                   const CheckpointTensor* found, const std::string& found_name, bool* done);
  Result<engine::Weight> describe(const engine::TensorTemplate& tensor, int64_t layer) const;
  Status check_source(const engine::Weight& weight, const std::string& name,
                      const CheckpointTensor& source) const;
  Status check_same_numbers(const BoundTensor& bound, const std::string& name,
                            const CheckpointTensor& other) const;
  Status bind_scales(const std::string& name, BoundTensor* bound);
  bool is_left_out(const std::string& name) const;
  void note_left_out();
  Status check_leftovers() const;

  const engine::Architecture& architecture_;
  const CheckpointConfig& config_;
  const CheckpointReader& checkpoint_;
  TensorBinding binding_;
  std::set<std::string> read_;
  int64_t num_input_scales_ = 0;  ///< of static activations, which nothing reads
};

std::string engine_name(const engine::TensorTemplate& tensor, int64_t layer) {
  return layer < 0 ? tensor.role() : "layers." + std::to_string(layer) + "." + tensor.role();
}

bool is_on(const engine::TensorTemplate& tensor, const CheckpointConfig& config) {
  return tensor.condition().empty() || config.switches.at(tensor.condition());
}

Result<engine::Weight> Binder::describe(const engine::TensorTemplate& tensor, int64_t layer) const {
  engine::Weight weight;
  weight.set_name(engine_name(tensor, layer));
  weight.set_format(engine::F32);
  PHALANX_ASSIGN_OR_RETURN(const int64_t rows, model::shape_extent(tensor.rows(), config_.model));
  weight.set_rows(rows);
  if (!tensor.cols().empty()) {
    PHALANX_ASSIGN_OR_RETURN(const int64_t cols, model::shape_extent(tensor.cols(), config_.model));
    weight.set_cols(cols);
  }
  weight.set_axis(tensor.axis());
  weight.set_shard_unit(tensor.heads() ? config_.model.head_dim() : 1);
  return weight;
}

Status Binder::check_source(const engine::Weight& weight, const std::string& name,
                            const CheckpointTensor& source) const {
  std::vector<int64_t> shape = {weight.rows()};
  if (weight.cols() != 0) shape.push_back(weight.cols());
  if (source.view.shape != shape)
    return data_loss(source.file + ": tensor " + name + " is " +
                     model::shape_text(source.view.shape) + ", config.json makes it " +
                     model::shape_text(shape));
  const auto dtype = source.view.dtype;
  if (dtype == DType::kF8E4M3 && weight.cols() != 0 && config_.fp8.has_value()) return {};
  if (dtype == DType::kF8E4M3 && weight.cols() != 0)
    return data_loss(source.file + ": tensor " + name +
                     " is F8_E4M3, and config.json has no quantization_config that says how it is "
                     "scaled; must be F32, F16 or BF16");
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBf16)
    return data_loss(source.file + ": tensor " + name + " is " + source.view.dtype_name +
                     ", must be F32, F16 or BF16" +
                     (config_.fp8.has_value() && weight.cols() != 0 ? ", or F8_E4M3" : ""));
  return {};
}

/// Element `index` of a tensor of f32, f16 or bf16.
float element(const model::TensorView& view, int64_t index) {
  float value = 0;
  widen_elements(view.data + index * static_cast<int64_t>(dtype_bytes(*view.dtype)), *view.dtype, 1,
                 &value);
  return value;
}

/// The scales of a matrix of e4m3 codes.
Status Binder::bind_scales(const std::string& name, BoundTensor* bound) {
  const Fp8Config& fp8 = *config_.fp8;
  const engine::Weight& weight = bound->weight;
  const bool has_blocks = fp8.block_rows > 0;
  std::vector<std::vector<int64_t>> shapes;
  if (has_blocks)
    shapes = {{ceil_div(weight.rows(), fp8.block_rows), ceil_div(weight.cols(), fp8.block_cols)}};
  else
    shapes = {{}, {1}, {weight.rows()}, {weight.rows(), 1}};
  std::string allowed;
  for (const auto& shape : shapes)
    allowed += (allowed.empty() ? "" : " or ") + model::shape_text(shape);

  std::string scale_name;
  for (const std::string& suffix : fp8.scale_suffixes) {
    scale_name = name + suffix;
    bound->e4m3.tensor = checkpoint_.find(scale_name);
    if (bound->e4m3.tensor != nullptr) break;
  }
  if (bound->e4m3.tensor == nullptr)
    return data_loss(bound->source->file + ": tensor " + name +
                     " is F8_E4M3, but the checkpoint lacks its scales, " + name +
                     fp8.scale_suffixes.front() + " of shape " + allowed);
  const CheckpointTensor& scales = *bound->e4m3.tensor;
  const auto dtype = scales.view.dtype;
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBf16)
    return data_loss(scales.file + ": tensor " + scale_name + " is " + scales.view.dtype_name +
                     ", scales must be F32, F16 or BF16");
  if (std::find(shapes.begin(), shapes.end(), scales.view.shape) == shapes.end())
    return data_loss(scales.file + ": tensor " + scale_name + " is " +
                     model::shape_text(scales.view.shape) + ", scales of " + name + " " +
                     model::shape_text(bound->source->view.shape) + " must be " + allowed);
  for (int64_t i = 0; i < scales.view.num_elements; ++i) {
    const float scale = element(scales.view, i);
    if (std::isfinite(scale) && scale >= 0) continue;
    return data_loss(scales.file + ": tensor " + scale_name + " holds " + std::to_string(scale) +
                     " at element " + std::to_string(i) +
                     "; scales must be finite and not negative");
  }
  bound->e4m3.rows = weight.rows();
  bound->e4m3.cols = weight.cols();
  if (has_blocks) {
    bound->e4m3.rows = fp8.block_rows;
    bound->e4m3.cols = fp8.block_cols;
  } else if (scales.view.num_elements > 1) {
    bound->e4m3.rows = 1;
  }
  read_.insert(scale_name);
  constexpr std::string_view kWeight = "weight";
  const std::string module =
      name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name + ".";
  for (const char* input_scale : {"input_scale", "activation_scale"}) {
    if (checkpoint_.find(module + input_scale) == nullptr) continue;
    read_.insert(module + input_scale);
    ++num_input_scales_;
  }
  return {};
}

/// Scales of a static fp8 KV cache.
bool Binder::is_left_out(const std::string& name) const {
  if (!config_.fp8.has_value() || !config_.fp8->has_kv_scales) return false;
  for (const char* suffix : {".k_scale", ".v_scale", ".kv_scale", ".q_scale",
                             ".k_proj.output_scale", ".v_proj.output_scale"}) {
    if (name.ends_with(suffix)) return true;
  }
  return false;
}

void Binder::note_left_out() {
  if (num_input_scales_ > 0)
    binding_.notes.push_back("static activation scales of " + std::to_string(num_input_scales_) +
                             " matrices were left out: activations are scaled as they come, per "
                             "token and group");
  if (config_.fp8.has_value() && config_.fp8->has_kv_scales)
    binding_.notes.emplace_back(
        "the checkpoint's KV cache scheme was left out: the KV format is chosen when serving");
}

/// A tied tensor that the checkpoint holds all the same must be a copy: else config.json or the
/// tensor is wrong, and only the user knows which.
Status Binder::check_same_numbers(const BoundTensor& bound, const std::string& name,
                                  const CheckpointTensor& other) const {
  const model::TensorView& first = bound.source->view;
  const model::TensorView& second = other.view;
  std::string difference;
  if (first.dtype_name != second.dtype_name || first.shape != second.shape) {
    difference = "they are " + first.dtype_name + " " + model::shape_text(first.shape) + " and " +
                 second.dtype_name + " " + model::shape_text(second.shape);
  } else {
    const std::span<const std::byte> left(first.data, static_cast<size_t>(first.num_bytes()));
    const std::span<const std::byte> right(second.data, left.size());
    const auto [at, end] = std::mismatch(left.begin(), left.end(), right.begin());
    if (at == left.end()) return {};
    difference = "their data first differ at byte " + std::to_string(at - left.begin()) + " of " +
                 std::to_string(left.size());
  }
  return data_loss(other.file + ": config.json says tie_word_embeddings, but tensors " +
                   bound.checkpoint_name + " and " + name + " differ: " + difference +
                   "; set tie_word_embeddings to false to compute with both, or take " + name +
                   " out of the checkpoint to compute with " + bound.checkpoint_name + " alone");
}

Status Binder::bind_tied(const engine::TensorTemplate& tensor, int64_t layer,
                         const CheckpointTensor* found, const std::string& found_name, bool* done) {
  // Untied, or not stated and both tensors are there: two weights.
  *done = config_.model.tie_word_embeddings() || (found == nullptr && !config_.tie_is_stated);
  if (!*done) return {};
  const auto target = binding_.weight_of_role.find({tensor.tied_to(), layer});
  if (target == binding_.weight_of_role.end())
    return invalid_argument("architecture " + architecture_.name() + ": tensor \"" + tensor.role() +
                            "\" is tied to \"" + tensor.tied_to() +
                            "\", which must come before it");
  for (BoundTensor& bound : binding_.tensors) {
    if (bound.weight.name() != target->second) continue;
    PHALANX_ASSIGN_OR_RETURN(const engine::Weight own, describe(tensor, layer));
    if (own.rows() != bound.weight.rows() || own.cols() != bound.weight.cols())
      return invalid_argument("architecture " + architecture_.name() + ": tensor \"" +
                              tensor.role() + "\" is tied to \"" + tensor.tied_to() +
                              "\" of another shape");
    if (found != nullptr) PHALANX_RETURN_IF_ERROR(check_same_numbers(bound, found_name, *found));
    bound.weight.set_axis(own.axis());
    bound.weight.set_shard_unit(own.shard_unit());
  }
  binding_.weight_of_role.emplace(std::pair(tensor.role(), layer), target->second);
  binding_.tied = true;
  if (found != nullptr) {
    read_.insert(found_name);
    binding_.notes.push_back(found_name + " was left out: a copy of the tensor that it is tied to");
  } else if (!config_.tie_is_stated) {
    binding_.notes.push_back("the checkpoint has no " + tensor.checkpoint_names(0) +
                             " and does not say tie_word_embeddings: tied to " + tensor.tied_to());
  }
  return {};
}

Status Binder::bind(const engine::TensorTemplate& tensor, int64_t layer) {
  const CheckpointTensor* found = nullptr;
  std::string found_name;
  for (const std::string& pattern : tensor.checkpoint_names()) {
    found_name = with_layer(pattern, layer);
    found = checkpoint_.find(found_name);
    if (found != nullptr) break;
  }
  if (!tensor.tied_to().empty()) {
    bool done = false;
    PHALANX_RETURN_IF_ERROR(bind_tied(tensor, layer, found, found_name, &done));
    if (done) return {};
  }
  if (found == nullptr)
    return data_loss("the checkpoint lacks tensor " +
                     with_layer(tensor.checkpoint_names(0), layer) + ", which architecture " +
                     architecture_.name() + " needs");
  PHALANX_ASSIGN_OR_RETURN(engine::Weight weight, describe(tensor, layer));
  PHALANX_RETURN_IF_ERROR(check_source(weight, found_name, *found));
  read_.insert(found_name);
  binding_.weight_of_role.emplace(std::pair(tensor.role(), layer), weight.name());
  BoundTensor bound{std::move(weight), found_name, found, false, {}};
  if (found->view.dtype == DType::kF8E4M3) PHALANX_RETURN_IF_ERROR(bind_scales(found_name, &bound));
  binding_.tensors.push_back(std::move(bound));
  return {};
}

Status Binder::check_leftovers() const {
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    if (read_.count(name) != 0) continue;
    bool ignored = is_left_out(name);
    for (const std::string& pattern : architecture_.ignored_tensors())
      ignored = ignored || model::matches_pattern(pattern, name);
    if (!ignored)
      return data_loss(tensor.file + ": tensor " + name + " " +
                       model::shape_text(tensor.view.shape) +
                       " is read by nothing in architecture " + architecture_.name() +
                       "; the model would not be what it was trained to be");
  }
  return {};
}

Result<TensorBinding> Binder::run() {
  const auto is_per_layer = [](const engine::TensorTemplate& tensor) {
    return tensor.checkpoint_names(0).find(kLayerMark) != std::string::npos;
  };
  // Globals that come before the first per-layer template open the engine, the others close it.
  int first_layered = 0;
  while (first_layered < architecture_.tensors_size() &&
         !is_per_layer(architecture_.tensors(first_layered)))
    ++first_layered;
  const auto bind_globals = [&](int begin, int end) -> Status {
    for (int i = begin; i < end; ++i) {
      const engine::TensorTemplate& tensor = architecture_.tensors(i);
      if (!is_per_layer(tensor) && is_on(tensor, config_))
        PHALANX_RETURN_IF_ERROR(bind(tensor, -1));
    }
    return {};
  };
  PHALANX_RETURN_IF_ERROR(bind_globals(0, first_layered));
  for (int64_t layer = 0; layer < config_.model.num_hidden_layers(); ++layer) {
    for (const engine::TensorTemplate& tensor : architecture_.tensors()) {
      if (is_per_layer(tensor) && is_on(tensor, config_))
        PHALANX_RETURN_IF_ERROR(bind(tensor, layer));
    }
  }
  PHALANX_RETURN_IF_ERROR(bind_globals(first_layered, architecture_.tensors_size()));
  PHALANX_RETURN_IF_ERROR(check_leftovers());
  note_left_out();

  std::set<std::string> tables;
  for (const auto* section :
       {&architecture_.prologue(), &architecture_.layer(), &architecture_.epilogue()}) {
    for (const engine::OpTemplate& op : *section) {
      if (op.kind() != engine::EMBEDDING) continue;
      for (const std::string& role : op.weights()) tables.insert(role);
    }
  }
  for (BoundTensor& bound : binding_.tensors)
    bound.is_table = bound.weight.axis() == engine::VOCAB || tables.count(bound.weight.name()) != 0;
  return std::move(binding_);
}

}  // namespace

float E4m3Scales::of(int64_t row, int64_t column, int64_t matrix_cols) const {
  return element(tensor->view, row / rows * ceil_div(matrix_cols, cols) + column / cols);
}

bool has_e4m3(const std::vector<BoundTensor>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const BoundTensor& bound) { return bound.e4m3.tensor != nullptr; });
}

void widen_row(const BoundTensor& bound, int64_t row, std::span<float> out) {
  const model::TensorView& view = bound.source->view;
  const auto cols = static_cast<int64_t>(out.size());
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(*view.dtype));
  const std::byte* first = view.data + row * cols * element_bytes;
  if (bound.e4m3.tensor == nullptr) {
    widen_elements(first, *view.dtype, cols, out.data());
    return;
  }
  for (int64_t begin = 0; begin < cols; begin += bound.e4m3.cols) {
    const float scale = bound.e4m3.of(row, begin, cols);
    const int64_t end = std::min(cols, begin + bound.e4m3.cols);
    for (int64_t k = begin; k < end; ++k)
      out[static_cast<size_t>(k)] = e4m3_to_f32(std::to_integer<uint8_t>(first[k])) * scale;
  }
}

Result<TensorBinding> bind_tensors(const engine::Architecture& architecture,
                                   const CheckpointConfig& config,
                                   const CheckpointReader& checkpoint) {
  return Binder(architecture, config, checkpoint).run();
}

}  // namespace phalanx::builder
