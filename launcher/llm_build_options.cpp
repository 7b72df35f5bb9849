// Flag parsing for the two commands of llm-build.
#include "launcher/llm_build_options.h"

#include <algorithm>
#include <charconv>

#include "launcher/host_resources.h"
#include "runtime/model/architecture.h"

namespace phalanx::launcher {

namespace {

/// Walks the arguments; "--flag value" and "--flag=value" are the same.
class Arguments {
 public:
  explicit Arguments(const std::vector<std::string>& all) : all_(all) {}

  bool next() {
    if (position_ >= all_.size()) return false;
    const std::string& argument = all_[position_++];
    inline_value_.reset();
    flag_ = argument;
    const size_t equals = argument.find('=');
    if (argument.rfind("--", 0) == 0 && equals != std::string::npos) {
      flag_ = argument.substr(0, equals);
      inline_value_ = argument.substr(equals + 1);
    }
    return true;
  }

  const std::string& flag() const { return flag_; }
  bool is_flag() const { return flag_.starts_with('-') && flag_.size() > 1; }
  bool has_inline_value() const { return inline_value_.has_value(); }

  Result<std::string> value() {
    if (inline_value_.has_value()) return *inline_value_;
    if (position_ >= all_.size()) return invalid_argument(flag_ + " needs a value");
    return all_[position_++];
  }

  Result<int64_t> integer(int64_t low, int64_t high) {
    PHALANX_ASSIGN_OR_RETURN(const std::string text, value());
    int64_t number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc() || end != text.data() + text.size() || number < low || number > high)
      return invalid_argument(flag_ + " is \"" + text + "\", must be an integer between " +
                              std::to_string(low) + " and " + std::to_string(high));
    return number;
  }

  Result<engine::WeightFormat> format() {
    PHALANX_ASSIGN_OR_RETURN(const std::string text, value());
    if (text == "f32") return engine::F32;
    if (text == "bf16") return engine::BF16;
    if (text == "w8") return engine::W8;
    if (text == "w4") return engine::W4;
    if (text == "fp8") return engine::FP8;
    return invalid_argument(flag_ + " is \"" + text + "\", must be f32, bf16, w8, w4 or fp8");
  }

 private:
  const std::vector<std::string>& all_;
  size_t position_ = 0;
  std::string flag_;
  std::optional<std::string> inline_value_;
};

Error unknown_flag(const std::string& flag) {
  return invalid_argument("unknown flag " + flag + "; see llm-build --help");
}

Status parse_build_flag(Arguments& arguments, builder::BuildOptions* options) {
  const std::string flag = arguments.flag();
  if (flag == "--force") {
    if (arguments.has_inline_value()) return invalid_argument("--force takes no value");
    options->force = true;
  } else if (flag == "--weights") {
    PHALANX_ASSIGN_OR_RETURN(options->quantization.weights, arguments.format());
  } else if (flag == "--head-weights") {
    PHALANX_ASSIGN_OR_RETURN(options->quantization.head_weights, arguments.format());
  } else if (flag == "--group-size") {
    PHALANX_ASSIGN_OR_RETURN(options->quantization.group_size,
                             arguments.integer(builder::kMinGroupSize, builder::kMaxGroupSize));
  } else if (flag == "--threads") {
    PHALANX_ASSIGN_OR_RETURN(const int64_t threads, arguments.integer(1, 1024));
    options->num_threads = static_cast<int>(threads);
  } else if (flag == "--disable-pass") {
    PHALANX_ASSIGN_OR_RETURN(std::string name, arguments.value());
    options->passes.disabled.push_back(std::move(name));
  } else if (flag == "--dump-graph") {
    PHALANX_ASSIGN_OR_RETURN(options->passes.dump_directory, arguments.value());
  } else if (flag == "--architecture") {
    PHALANX_ASSIGN_OR_RETURN(options->architecture_file, arguments.value());
  } else if (flag == "--name") {
    PHALANX_ASSIGN_OR_RETURN(options->name, arguments.value());
  } else if (flag == "--ignore-config-key") {
    PHALANX_ASSIGN_OR_RETURN(std::string key, arguments.value());
    options->ignored_config_keys.push_back(std::move(key));
  } else {
    return unknown_flag(flag);
  }
  return {};
}

Result<LlmBuildCommand> parse_build(Arguments& arguments) {
  builder::BuildOptions options;
  const cpu_set_t cores = affinity();
  options.num_threads = std::max(1, std::min(CPU_COUNT(&cores), cpu_quota_cores()));
  std::vector<std::string> places;
  do {
    if (arguments.is_flag()) {
      PHALANX_RETURN_IF_ERROR(parse_build_flag(arguments, &options));
    } else {
      places.push_back(arguments.flag());
    }
  } while (arguments.next());
  if (places.size() != 2)
    return invalid_argument("expected CHECKPOINT and ENGINE, two paths, not " +
                            std::to_string(places.size()) + "; see llm-build --help");
  options.checkpoint = places[0];
  options.engine = places[1];
  return LlmBuildCommand(options);
}

Status parse_inspect_flag(Arguments& arguments, InspectOptions* options) {
  const std::string flag = arguments.flag();
  if (flag == "--tp" || flag == "--pp") {
    PHALANX_ASSIGN_OR_RETURN(const int64_t size, arguments.integer(1, 4096));
    (flag == "--tp" ? options->tp_size : options->pp_size) = static_cast<int>(size);
    return {};
  }
  bool* const shown = flag == "--graph"     ? &options->show_graph
                      : flag == "--weights" ? &options->show_weights
                      : flag == "--verify"  ? &options->verify
                                            : nullptr;
  if (shown == nullptr) return unknown_flag(flag);
  if (arguments.has_inline_value()) return invalid_argument(flag + " takes no value");
  *shown = true;
  return {};
}

Result<LlmBuildCommand> parse_inspect(Arguments& arguments) {
  InspectOptions options;
  std::vector<std::string> places;
  while (arguments.next()) {
    if (arguments.flag() == "--help" || arguments.flag() == "-h")
      return LlmBuildCommand(HelpRequest{});
    if (arguments.is_flag()) {
      PHALANX_RETURN_IF_ERROR(parse_inspect_flag(arguments, &options));
    } else {
      places.push_back(arguments.flag());
    }
  }
  if (places.size() != 1)
    return invalid_argument("inspect expects one ENGINE path, not " +
                            std::to_string(places.size()) + "; see llm-build --help");
  options.engine = places[0];
  if (options.tp_size > 0 && options.pp_size == 0) options.pp_size = 1;
  if (options.pp_size > 0 && options.tp_size == 0) options.tp_size = 1;
  return LlmBuildCommand(options);
}

}  // namespace

Result<LlmBuildCommand> parse_llm_build(const std::vector<std::string>& all) {
  if (all.empty()) return invalid_argument("nothing to do; see llm-build --help");
  if (std::any_of(all.begin(), all.end(),
                  [](const std::string& text) { return text == "--help" || text == "-h"; }))
    return LlmBuildCommand(HelpRequest{});
  Arguments arguments(all);
  arguments.next();
  if (arguments.flag() == "inspect") return parse_inspect(arguments);
  return parse_build(arguments);
}

std::string llm_build_help() {
  std::string text =
      R"(llm-build: makes an engine from a Hugging Face checkpoint.

  llm-build CHECKPOINT ENGINE [flags]
      CHECKPOINT   directory with config.json and safetensors weights
      ENGINE       directory to make; it appears whole or not at all
    --weights FORMAT        f32, bf16, w8, w4 or fp8 (default: bf16; of an fp8 checkpoint fp8,
                            what it left unquantized bf16)
    --group-size N          weights, of fp8 activations, that share a scale, a power of two
                            (default 128); smaller where a matrix needs it
    --head-weights FORMAT   of embedding and head (default: as --weights, but w8 for w4; of an fp8
                            checkpoint as it has them)
    --disable-pass NAME     may be repeated; passes are listed below
    --dump-graph DIR        the graph before and after each pass, as text
    --architecture FILE     a family that is not built in, as a text file
    --ignore-config-key K   a key of config.json that nothing reads and that changes nothing;
                            may be repeated
    --name NAME             the engine's model name (default: the checkpoint's last component)
    --threads N             (default: all cores it may use)
    --force                 replace an engine that is there

  llm-build inspect ENGINE [flags]
    --graph                 every op
    --weights               every weight: shape, format, group size, cut
    --tp T --pp P           what each rank of that topology holds
    --verify                read everything and compare with the hashes in the manifest

Exit status: 0 done, 1 failed, 2 wrong command line.

Passes, in order:
)";
  for (const builder::Pass& pass : builder::registered_passes())
    text.append("  ").append(pass.name).append(": ").append(pass.description).append("\n");
  text += "\nFamilies (model_type):\n";
  for (const engine::Architecture& architecture : model::builtin_architectures()) {
    text += "  " + architecture.name() + ": " + architecture.description() + " (";
    for (int i = 0; i < architecture.model_types_size(); ++i) {
      if (i > 0) text += ", ";
      text += architecture.model_types(i);
    }
    text += ")\n";
  }
  return text;
}

}  // namespace phalanx::launcher
