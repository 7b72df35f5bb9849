// Human-readable tables over a manifest.
#include "launcher/llm_build_inspect.h"

#include <cstdio>
#include <map>

#include "launcher/llm_build_shards.h"
#include "runtime/executor/memory_ledger.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/graph.h"
#include "runtime/model/graph_shapes.h"
#include "runtime/model/manifest.h"
#include "runtime/model/mapped_file.h"

namespace phalanx::launcher {

namespace {

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

std::string weight_shape(const engine::Weight& weight) {
  std::string text = "[";
  text.append(std::to_string(weight.rows()));
  if (weight.cols() > 0) text.append(", ").append(std::to_string(weight.cols()));
  return text.append("]");
}

std::string rope_text(const engine::Rope& rope) {
  std::string text = "theta " + number_text(rope.theta());
  switch (rope.type()) {
    case engine::Rope::LINEAR:
      return text + ", linear factor " + number_text(rope.factor());
    case engine::Rope::LLAMA3:
      return text + ", llama3 factor " + number_text(rope.factor()) + " (low " +
             number_text(rope.low_freq_factor()) + ", high " +
             number_text(rope.high_freq_factor()) + ", from " +
             std::to_string(rope.original_max_position_embeddings()) + " positions)";
    case engine::Rope::DEFAULT:
    case engine::Rope_Type_Rope_Type_INT_MIN_SENTINEL_DO_NOT_USE_:
    case engine::Rope_Type_Rope_Type_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return text;
}

void print_model(const engine::EngineManifest& manifest, std::ostream& out) {
  const engine::ModelConfig& model = manifest.model();
  std::string eos;
  for (int32_t id : model.eos_token_ids()) {
    if (!eos.empty()) eos += ", ";
    eos += std::to_string(id);
  }
  out << "model          " << model.name() << " (" << model.architecture() << ")\n"
      << "layers         " << model.num_hidden_layers() << " x hidden " << model.hidden_size()
      << ", intermediate " << model.intermediate_size() << "\n"
      << "attention      " << model.num_attention_heads() << " query heads, "
      << model.num_key_value_heads() << " KV heads, head_dim " << model.head_dim();
  if (model.sliding_window() > 0) out << ", window " << model.sliding_window();
  out << "\nrope           " << rope_text(model.rope()) << "\n"
      << "vocabulary     " << model.vocab_size()
      << (model.tie_word_embeddings() ? ", head tied to the embedding" : "") << ", eos "
      << (eos.empty() ? "none" : eos);
  if (model.has_bos_token_id()) out << ", bos " << model.bos_token_id();
  out << "\npositions      " << model.max_position_embeddings() << "\n";
}

void print_formats(const engine::EngineManifest& manifest, std::ostream& out) {
  struct Total {
    int64_t count = 0, parameters = 0, bytes = 0;
  };
  std::map<std::string, Total> totals;
  Total all;
  for (const engine::Weight& weight : manifest.weights()) {
    std::string format =
        weight.cols() == 0 ? "f32 vectors" : model::weight_format_text(weight.format());
    if (weight.group_size() > 0) format += " g" + std::to_string(weight.group_size());
    const int64_t parameters = weight.rows() * std::max<int64_t>(weight.cols(), 1);
    for (Total* total : {&totals[format], &all}) {
      ++total->count;
      total->parameters += parameters;
      total->bytes += model::stored_bytes(weight);
    }
  }
  const auto line = [&](const std::string& format, const Total& total) {
    char text[160];
    std::snprintf(text, sizeof(text), "  %-14s %5lld tensors %14lld parameters %12s  %.2f bits\n",
                  format.c_str(), static_cast<long long>(total.count),
                  static_cast<long long>(total.parameters), format_bytes(total.bytes).c_str(),
                  8.0 * static_cast<double>(total.bytes) / static_cast<double>(total.parameters));
    out << text;
  };
  out << "weights\n";
  for (const auto& [format, total] : totals) line(format, total);
  line("all", all);
}

void print_provenance(const engine::EngineManifest& manifest, std::ostream& out) {
  const engine::Provenance& provenance = manifest.provenance();
  out << "built by       " << provenance.builder_version() << " from " << provenance.source()
      << ", --weights " << provenance.weights() << " --group-size "
      << provenance.requested_group_size() << "\npasses        ";
  for (const std::string& pass : provenance.passes()) out << " " << pass;
  out << (provenance.passes().empty() ? " none\n" : "\n");
  for (const std::string& note : provenance.notes()) out << "note           " << note << "\n";
  out << "engine hash    " << manifest.engine_hash() << "\n";
  for (const engine::WeightFile& file : manifest.files())
    out << "file           " << file.name() << "  " << format_bytes(file.size_bytes()) << "\n";
}

void print_topologies(const engine::EngineManifest& manifest, std::ostream& out) {
  out << "topologies     reduction_lanes " << manifest.reduction_lanes() << ": tp_size";
  for (int tp = 1; tp <= manifest.reduction_lanes(); tp *= 2) {
    if (model::check_topology(manifest, tp, 1).ok()) out << " " << tp;
  }
  out << "; pp_size 1 to " << manifest.model().num_hidden_layers() << "\n";
}

void print_weights(const engine::EngineManifest& manifest, std::ostream& out) {
  out << "\n";
  for (const engine::Weight& weight : manifest.weights()) {
    std::string group;
    if (weight.group_size() > 0) group.append("g").append(std::to_string(weight.group_size()));
    std::string scales;
    if (weight.format() == engine::FP8) {
      const bool is_whole = weight.scale_cols() >= weight.cols();
      scales = is_whole && weight.scale_rows() >= weight.rows() ? "  a scale in all"
               : is_whole && weight.scale_rows() == 1
                   ? "  a scale a row"
                   : "  a scale every " + std::to_string(weight.scale_rows()) + " x " +
                         std::to_string(weight.scale_cols());
    }
    char text[250];
    std::snprintf(text, sizeof(text), "%-28s %-16s %-5s %-6s %-11s %12s%s\n", weight.name().c_str(),
                  weight_shape(weight).c_str(), model::weight_format_text(weight.format()),
                  group.c_str(), model::shard_axis_text(weight.axis()),
                  format_bytes(model::stored_bytes(weight)).c_str(), scales.c_str());
    out << text;
  }
}

Status verify_files(const model::EngineFile& engine, std::ostream& out) {
  for (const engine::WeightFile& file : engine.manifest().files()) {
    const std::string path = engine.directory() + "/" + file.name();
    PHALANX_ASSIGN_OR_RETURN(const auto mapped, model::MappedFile::open(path));
    const std::string hash = model::weight_file_hash(mapped->bytes());
    if (hash != file.content_hash())
      return data_loss(path + ": content hashes to " + hash + ", the manifest says " +
                       file.content_hash());
    out << "verified       " << file.name() << "  " << hash << "\n";
  }
  return {};
}

}  // namespace

Status inspect_engine(const InspectOptions& options, std::ostream& out) {
  PHALANX_ASSIGN_OR_RETURN(const auto engine, model::EngineFile::open(options.engine));
  const engine::EngineManifest& manifest = engine->manifest();
  print_model(manifest, out);
  print_formats(manifest, out);
  print_topologies(manifest, out);
  print_provenance(manifest, out);
  if (options.verify) PHALANX_RETURN_IF_ERROR(verify_files(*engine, out));
  if (options.show_weights) print_weights(manifest, out);
  if (options.show_graph) {
    const std::vector<engine::Weight> weights(manifest.weights().begin(), manifest.weights().end());
    out << "\n" << model::dump_graph(manifest.graph(), weights);
  }
  if (options.tp_size > 0) {
    PHALANX_RETURN_IF_ERROR(model::check_topology(manifest, options.tp_size, options.pp_size));
    out << "\n";
    print_shards(manifest, options.tp_size, options.pp_size, out);
  }
  return {};
}

}  // namespace phalanx::launcher
