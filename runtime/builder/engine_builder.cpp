// The way of a model, step by step (DESIGN.md, "A model's way").
#include "runtime/builder/engine_builder.h"

#include <chrono>
#include <filesystem>

#include "runtime/base/check.h"
#include "runtime/builder/checkpoint_config.h"
#include "runtime/builder/checkpoint_reader.h"
#include "runtime/builder/engine_directory.h"
#include "runtime/builder/graph_builder.h"
#include "runtime/builder/tensor_binding.h"
#include "runtime/builder/tokenizer_files.h"
#include "runtime/model/architecture.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/graph_shapes.h"
#include "runtime/model/manifest.h"
#include "runtime/model/safetensors_reader.h"
#include "runtime/model/strict_json.h"
#include "runtime/model/textproto.h"

namespace phalanx::builder {

namespace {

constexpr const char* kBuilderVersion = "phalanx 0.1.0";
constexpr int kConfigDepth = 16;

/// Last component of the checkpoint's absolute path.
std::string checkpoint_name(const std::string& path) {
  const auto absolute = std::filesystem::absolute(path).lexically_normal();
  const std::string last = absolute.filename().string();
  return last.empty() ? absolute.parent_path().filename().string() : last;
}

Result<nlohmann::json> read_generation_config(const std::string& checkpoint) {
  auto generation = model::read_strict_json(checkpoint + "/generation_config.json", kConfigDepth);
  if (!generation.ok() && generation.error().code == ErrorCode::kNotFound)
    return nlohmann::json(nullptr);
  return generation;
}

Result<engine::Architecture> choose_architecture(const BuildOptions& options,
                                                 const nlohmann::json& config) {
  PHALANX_ASSIGN_OR_RETURN(const std::string model_type, model_type_of(config));
  if (options.architecture_file.empty()) return model::architecture_for_model_type(model_type);
  PHALANX_ASSIGN_OR_RETURN(engine::Architecture architecture,
                           model::read_architecture(options.architecture_file));
  for (const std::string& served : architecture.model_types()) {
    if (served == model_type) return architecture;
  }
  return unsupported(options.architecture_file + ": its model_types do not name \"" + model_type +
                     "\", the checkpoint's model_type");
}

Status check_options(const BuildOptions& options) {
  const int64_t group = options.quantization.group_size;
  if (group < kMinGroupSize || group > kMaxGroupSize || (group & (group - 1)) != 0)
    return invalid_argument("group size is " + std::to_string(group) +
                            ", must be a power of two between " + std::to_string(kMinGroupSize) +
                            " and " + std::to_string(kMaxGroupSize));
  if (options.num_threads < 1 || options.num_threads > 1024)
    return invalid_argument("threads is " + std::to_string(options.num_threads) +
                            ", must be between 1 and 1024");
  return check_engine_target(options.engine, options.force);
}

/// Everything of the manifest but files, hash and what is noted later. An engine that would not
/// open is an error here, before hours of quantization.
Status describe_engine(const BuildOptions& options, const CheckpointConfig& config,
                       const TensorBinding& binding, const std::vector<std::string>& notes,
                       engine::Graph graph, BuildReport* report) {
  engine::EngineManifest& manifest = report->manifest;
  manifest.set_format_version(model::kManifestVersion);
  *manifest.mutable_model() = config.model;
  const std::string source = checkpoint_name(options.checkpoint);
  manifest.mutable_model()->set_name(options.name.empty() ? source : options.name);
  manifest.mutable_model()->set_tie_word_embeddings(binding.tied);
  for (const BoundTensor& bound : binding.tensors) *manifest.add_weights() = bound.weight;

  engine::Provenance* provenance = manifest.mutable_provenance();
  provenance->set_builder_version(kBuilderVersion);
  provenance->set_source(source);
  provenance->set_weights(
      model::weight_format_text(main_format(options.quantization, binding.tensors)));
  provenance->set_requested_group_size(options.quantization.group_size);
  for (const PassReport& pass : report->passes) {
    if (pass.ran) provenance->add_passes(pass.name);
  }
  for (const std::string& note : notes) provenance->add_notes(note);
  *manifest.mutable_graph() = std::move(graph);
  return model::verify_description(manifest);
}

/// Hashes, writes the manifest, and opens the engine as a rank would.
Status seal(const EngineDirectory& directory, engine::EngineManifest* manifest) {
  std::vector<std::shared_ptr<const model::SafetensorsFile>> files;
  std::vector<std::span<const std::byte>> headers;
  for (const engine::WeightFile& entry : manifest->files()) {
    PHALANX_ASSIGN_OR_RETURN(auto file,
                             model::SafetensorsFile::open(directory.path() + "/" + entry.name()));
    headers.push_back(file->header());
    files.push_back(std::move(file));
  }
  manifest->set_engine_hash(model::compute_engine_hash(*manifest, headers));
  const std::string text = "# Written by llm-build; do not edit: engine_hash covers it.\n" +
                           model::print_textproto(*manifest);
  PHALANX_RETURN_IF_ERROR(directory.write_file(model::kManifestFile, text));
  auto reopened = model::EngineFile::open(directory.path());
  PHALANX_CHECK(reopened.ok(),
                "the engine just written does not open: " + reopened.error().message);
  return {};
}

void append(std::vector<std::string>* notes, std::vector<std::string> more) {
  for (std::string& note : more) notes->push_back(std::move(note));
}

}  // namespace

Result<BuildReport> build_engine(const BuildOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  PHALANX_RETURN_IF_ERROR(check_options(options));

  PHALANX_ASSIGN_OR_RETURN(
      const nlohmann::json config_json,
      model::read_strict_json(options.checkpoint + "/config.json", kConfigDepth));
  PHALANX_ASSIGN_OR_RETURN(const nlohmann::json generation_json,
                           read_generation_config(options.checkpoint));
  PHALANX_ASSIGN_OR_RETURN(const engine::Architecture architecture,
                           choose_architecture(options, config_json));
  PHALANX_ASSIGN_OR_RETURN(const CheckpointConfig config,
                           read_checkpoint_config(config_json, generation_json, architecture,
                                                  options.ignored_config_keys));
  PHALANX_ASSIGN_OR_RETURN(const CheckpointReader checkpoint,
                           CheckpointReader::open(options.checkpoint));
  PHALANX_ASSIGN_OR_RETURN(TensorBinding binding, bind_tensors(architecture, config, checkpoint));

  BuildReport report;
  const LaneChoice lanes = choose_reduction_lanes(
      config.model, binding.tensors, main_format(options.quantization, binding.tensors));
  report.lanes_reason = lanes.reason;
  report.manifest.set_reduction_lanes(static_cast<int32_t>(lanes.lanes));
  std::vector<std::string> notes = config.notes;
  append(&notes, binding.notes);
  PHALANX_ASSIGN_OR_RETURN(std::vector<std::string> format_notes,
                           plan_formats(options.quantization, lanes.lanes, &binding.tensors));
  append(&notes, std::move(format_notes));

  PHALANX_ASSIGN_OR_RETURN(engine::Graph graph, build_graph(architecture, config, binding));
  const std::vector<engine::Weight> weights = weights_of(binding);
  PassContext context{graph, weights, config.model};
  PHALANX_ASSIGN_OR_RETURN(report.passes, run_passes(options.passes, context));
  PHALANX_RETURN_IF_ERROR(
      describe_engine(options, config, binding, notes, std::move(graph), &report));

  PHALANX_ASSIGN_OR_RETURN(EngineDirectory directory, EngineDirectory::create(options.engine));
  PHALANX_ASSIGN_OR_RETURN(std::vector<std::string> tokenizer_notes,
                           copy_tokenizer_files(options.checkpoint, directory));
  for (std::string& note : tokenizer_notes)
    report.manifest.mutable_provenance()->add_notes(std::move(note));
  PHALANX_ASSIGN_OR_RETURN(
      const std::vector<engine::WeightFile> files,
      write_weights(directory.path(), binding.tensors, options.num_threads, options.progress));
  for (const engine::WeightFile& file : files) {
    *report.manifest.add_files() = file;
    report.engine_bytes += file.size_bytes();
  }
  PHALANX_RETURN_IF_ERROR(seal(directory, &report.manifest));
  PHALANX_RETURN_IF_ERROR(directory.publish(options.force));

  for (const BoundTensor& bound : binding.tensors) {
    report.checkpoint_bytes += bound.source->view.num_bytes();
    if (bound.e4m3.tensor != nullptr)
      report.checkpoint_bytes += bound.e4m3.tensor->view.num_bytes();
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace phalanx::builder
