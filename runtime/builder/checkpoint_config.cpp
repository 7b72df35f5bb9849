// Reading of config.json: every key is either used, known to be harmless, or an error.
#include "runtime/builder/checkpoint_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "runtime/builder/rope_config.h"
#include "runtime/model/kernel_limits.h"

namespace phalanx::builder {

namespace {

using nlohmann::json;

// Keys that every transformers config may hold and that say nothing about what is computed at
// inference: names, training, generation defaults, file handling.
constexpr const char* kHarmlessKeys[] = {"_name_or_path",
                                         "add_cross_attention",
                                         "architectures",
                                         "attention_dropout",
                                         "attn_dropout",
                                         "attn_implementation",
                                         "_attn_implementation",
                                         "_attn_implementation_autoset",
                                         "auto_map",
                                         "bad_words_ids",
                                         "begin_suppress_tokens",
                                         "chunk_size_feed_forward",
                                         "cross_attention_hidden_size",
                                         "decoder_start_token_id",
                                         "diversity_penalty",
                                         "do_sample",
                                         "dtype",
                                         "early_stopping",
                                         "embd_pdrop",
                                         "encoder_no_repeat_ngram_size",
                                         "exponential_decay_length_penalty",
                                         "finetuning_task",
                                         "forced_bos_token_id",
                                         "forced_eos_token_id",
                                         "hidden_dropout",
                                         "id2label",
                                         "initializer_range",
                                         "is_decoder",
                                         "is_encoder_decoder",
                                         "label2id",
                                         "length_penalty",
                                         "max_length",
                                         "min_length",
                                         "model_type",
                                         "no_repeat_ngram_size",
                                         "num_beam_groups",
                                         "num_beams",
                                         "num_return_sequences",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "output_scores",
                                         "pad_token_id",
                                         "prefix",
                                         "problem_type",
                                         "pruned_heads",
                                         "remove_invalid_values",
                                         "repetition_penalty",
                                         "resid_pdrop",
                                         "return_dict",
                                         "return_dict_in_generate",
                                         "sep_token_id",
                                         "suppress_tokens",
                                         "task_specific_params",
                                         "temperature",
                                         "tf_legacy_loss",
                                         "tie_encoder_decoder",
                                         "tokenizer_class",
                                         "top_k",
                                         "top_p",
                                         "torch_dtype",
                                         "torchscript",
                                         "transformers_version",
                                         "typical_p",
                                         "unk_token_id",
                                         "unsloth_fixed",
                                         "unsloth_version",
                                         "use_bfloat16",
                                         "use_cache"};

std::string shown(const json& value) {
  std::string text = value.dump();
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

/// config.json as one architecture spells it: look-ups that note which keys were used.
class ConfigReader {
 public:
  ConfigReader(const json& config, const engine::Architecture& architecture)
      : config_(config), architecture_(architecture) {}

  /// The value of `name`, its stand-in when it is absent, or null.
  Result<json> value(const std::string& name) {
    const std::string key = spelled(name);
    used_.insert(key);
    const auto found = config_.find(key);
    if (found != config_.end()) return *found;
    for (const engine::ConfigKey& item : architecture_.config_keys()) {
      if (item.name() != name || item.absent().empty()) continue;
      json stand_in = json::parse(item.absent(), nullptr, false);
      if (stand_in.is_discarded())
        return invalid_argument("architecture " + architecture_.name() + ": config key " + name +
                                " has the stand-in \"" + item.absent() + "\", which is not JSON");
      return stand_in;
    }
    return json(nullptr);
  }

  Result<int64_t> integer(const std::string& name, int64_t low, int64_t high,
                          std::optional<int64_t> when_null = std::nullopt) {
    PHALANX_ASSIGN_OR_RETURN(const json found, value(name));
    if (found.is_null()) {
      if (when_null.has_value()) return *when_null;
      return invalid_argument("config.json lacks " + spelled(name) + ", an integer");
    }
    if (!found.is_number_integer() || found < low || found > high)
      return invalid_argument("config.json: " + spelled(name) + " is " + shown(found) +
                              ", must be an integer between " + std::to_string(low) + " and " +
                              std::to_string(high));
    return found.get<int64_t>();
  }

  Result<bool> boolean(const std::string& name, bool when_null) {
    PHALANX_ASSIGN_OR_RETURN(const json found, value(name));
    if (found.is_null()) return when_null;
    if (!found.is_boolean())
      return invalid_argument("config.json: " + spelled(name) + " is " + shown(found) +
                              ", must be true or false");
    return found.get<bool>();
  }

  std::string spelled(const std::string& name) const {
    for (const engine::ConfigKey& item : architecture_.config_keys()) {
      if (item.name() == name && !item.key().empty()) return item.key();
    }
    return name;
  }

  /// A key that was read decides something, whatever the user says.
  Status check_none_used(const std::vector<std::string>& ignored_keys) const {
    for (const std::string& key : ignored_keys) {
      if (used_.count(key) != 0)
        return invalid_argument("--ignore-config-key " + key + ": architecture " +
                                architecture_.name() +
                                " reads this key of config.json, so it cannot be ignored; leave "
                                "the flag out" +
                                (config_.contains(key) ? " or edit config.json" : ""));
    }
    return {};
  }

  /// Complains about the first key nobody asked for.
  Status check_all_used(const std::vector<std::string>& ignored_keys) const {
    std::set<std::string> known(std::begin(kHarmlessKeys), std::end(kHarmlessKeys));
    known.insert(used_.begin(), used_.end());
    known.insert(architecture_.ignored_config_keys().begin(),
                 architecture_.ignored_config_keys().end());
    known.insert(ignored_keys.begin(), ignored_keys.end());
    for (const auto& [key, found] : config_.items()) {
      const bool off = found.is_null() || (found.is_boolean() && !found.get<bool>()) ||
                       (found.is_structured() && found.empty());
      if (off || known.count(key) != 0) continue;
      return unsupported("config.json: " + key + " is " + shown(found) + ", and architecture " +
                         architecture_.name() +
                         " does not know what it changes; if it changes nothing, pass "
                         "--ignore-config-key " +
                         key);
    }
    return {};
  }

  void mark_used(const std::string& key) { used_.insert(key); }

 private:
  const json& config_;
  const engine::Architecture& architecture_;
  std::set<std::string> used_;
};

Status read_dimensions(ConfigReader& config, engine::ModelConfig* model) {
  constexpr int64_t kMaxWidth = int64_t{1} << 22;
  PHALANX_ASSIGN_OR_RETURN(const int64_t hidden_size, config.integer("hidden_size", 1, kMaxWidth));
  PHALANX_ASSIGN_OR_RETURN(const int64_t layers, config.integer("num_hidden_layers", 1, 4096));
  PHALANX_ASSIGN_OR_RETURN(const int64_t heads, config.integer("num_attention_heads", 1, 65536));
  PHALANX_ASSIGN_OR_RETURN(const int64_t kv_heads,
                           config.integer("num_key_value_heads", 1, heads, heads));
  if (heads % kv_heads != 0)
    return invalid_argument("config.json: num_key_value_heads is " + std::to_string(kv_heads) +
                            ", must divide num_attention_heads " + std::to_string(heads));
  PHALANX_ASSIGN_OR_RETURN(const int64_t given, config.integer("head_dim", 1, kMaxWidth, 0));
  if (given == 0 && hidden_size % heads != 0)
    return invalid_argument("config.json: hidden_size " + std::to_string(hidden_size) +
                            " is no multiple of num_attention_heads " + std::to_string(heads) +
                            " and head_dim is not given");
  const int64_t head_dim = given == 0 ? hidden_size / heads : given;
  PHALANX_RETURN_IF_ERROR(model::check_head_dim(
      given == 0 ? "config.json: head_dim, as hidden_size / num_attention_heads,"
                 : "config.json: " + config.spelled("head_dim"),
      head_dim));
  PHALANX_ASSIGN_OR_RETURN(const int64_t intermediate,
                           config.integer("intermediate_size", 1, kMaxWidth));
  PHALANX_ASSIGN_OR_RETURN(const int64_t vocab, config.integer("vocab_size", 1, int64_t{1} << 24));
  PHALANX_ASSIGN_OR_RETURN(const int64_t positions,
                           config.integer("max_position_embeddings", 1, int64_t{1} << 30));
  model->set_hidden_size(hidden_size);
  model->set_num_hidden_layers(layers);
  model->set_num_attention_heads(heads);
  model->set_num_key_value_heads(kv_heads);
  model->set_head_dim(head_dim);
  model->set_intermediate_size(intermediate);
  model->set_vocab_size(vocab);
  model->set_max_position_embeddings(positions);
  return {};
}

Status read_activation(ConfigReader& config) {
  for (const char* name : {"hidden_act", "hidden_activation"}) {
    PHALANX_ASSIGN_OR_RETURN(const json found, config.value(name));
    if (found.is_null() || found == "silu" || found == "swish") continue;
    return unsupported("config.json: " + config.spelled(name) + " is " + shown(found) +
                       ", only \"silu\" is computed");
  }
  return {};
}

/// Off is the unusual value of this key, so check_all_used cannot speak for it.
Status read_causality(ConfigReader& config) {
  PHALANX_ASSIGN_OR_RETURN(const bool is_causal, config.boolean("is_causal", true));
  if (is_causal) return {};
  return unsupported("config.json: " + config.spelled("is_causal") +
                     " is false, must be true or absent: only causal attention is computed");
}

/// The one window of all layers, or an error when layers differ.
Status read_window(ConfigReader& config, const engine::Architecture& architecture,
                   CheckpointConfig* out) {
  const int64_t layers = out->model.num_hidden_layers();
  PHALANX_ASSIGN_OR_RETURN(const json layer_types, config.value("layer_types"));
  if (architecture.window_rule() == engine::WINDOW_NONE) {
    // Harmless where every layer is said to see everything.
    for (const json& type : layer_types) {
      if (type != "full_attention")
        return unsupported("config.json: layer_types holds " + shown(type) + ", architecture " +
                           architecture.name() + " has no window");
    }
    return {};
  }
  constexpr int64_t kMaxWindow = int64_t{1} << 30;
  PHALANX_ASSIGN_OR_RETURN(int64_t window, config.integer("sliding_window", 0, kMaxWindow, 0));
  if (architecture.window_rule() == engine::WINDOW_ALL_LAYERS) {
    if (!layer_types.is_null() && !layer_types.empty())
      return unsupported("config.json: layer_types is " + shown(layer_types) +
                         ", which architecture " + architecture.name() +
                         " does not read: all its layers attend through sliding_window");
    out->model.set_sliding_window(window);
    return {};
  }
  PHALANX_ASSIGN_OR_RETURN(const bool use, config.boolean("use_sliding_window", false));
  PHALANX_ASSIGN_OR_RETURN(const int64_t first,
                           config.integer("max_window_layers", 0, 1 << 20, layers));
  if (!use) window = 0;
  int64_t num_windowed = window > 0 ? std::max<int64_t>(0, layers - first) : 0;
  if (!layer_types.is_null()) {
    if (!layer_types.is_array() || static_cast<int64_t>(layer_types.size()) != layers)
      return invalid_argument("config.json: layer_types must list " + std::to_string(layers) +
                              " layers");
    num_windowed = 0;
    for (const json& type : layer_types) {
      if (type == "sliding_attention") {
        ++num_windowed;
      } else if (type != "full_attention") {
        return unsupported("config.json: layer_types holds " + shown(type) +
                           "; known are full_attention and sliding_attention");
      }
    }
    if (num_windowed > 0 && window == 0)
      return invalid_argument(
          "config.json: layer_types has sliding_attention, but "
          "use_sliding_window or sliding_window is off");
  }
  if (num_windowed != 0 && num_windowed != layers)
    return unsupported("config.json: " + std::to_string(num_windowed) + " of " +
                       std::to_string(layers) +
                       " layers attend through sliding_window; only all or none are supported");
  out->model.set_sliding_window(num_windowed == 0 ? 0 : window);
  if (window > 0 && num_windowed == 0)
    out->notes.emplace_back("sliding_window is set, but no layer uses it");
  return {};
}

/// Token ids given as an integer, a list or null.
Result<std::vector<int32_t>> token_ids(const json& value, const std::string& what,
                                       int64_t vocab_size) {
  std::vector<int32_t> ids;
  if (value.is_null()) return ids;
  for (const json& item : value.is_array() ? value : json::array({value})) {
    if (!item.is_number_integer() || item < 0 || item >= vocab_size)
      return invalid_argument(what + " is " + shown(value) + ", must be token ids below " +
                              std::to_string(vocab_size));
    const auto id = item.get<int32_t>();
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

/// The ids of `key`: those of generation_config.json when it names any, else config.json's.
Result<std::vector<int32_t>> special_tokens(ConfigReader& config, const json& generation,
                                            const char* key, int64_t vocab_size) {
  PHALANX_ASSIGN_OR_RETURN(const json own, config.value(key));
  PHALANX_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                           token_ids(own, "config.json: " + config.spelled(key), vocab_size));
  if (!generation.is_object() || !generation.contains(key)) return ids;
  PHALANX_ASSIGN_OR_RETURN(
      std::vector<int32_t> wins,
      token_ids(generation[key], std::string("generation_config.json: ") + key, vocab_size));
  return wins.empty() ? ids : wins;
}

Status read_special_tokens(ConfigReader& config, const json& generation, CheckpointConfig* out) {
  const int64_t vocab_size = out->model.vocab_size();
  PHALANX_ASSIGN_OR_RETURN(const std::vector<int32_t> eos,
                           special_tokens(config, generation, "eos_token_id", vocab_size));
  for (int32_t id : eos) out->model.add_eos_token_ids(id);
  if (eos.empty()) out->notes.emplace_back("the checkpoint names no eos_token_id");
  PHALANX_ASSIGN_OR_RETURN(const std::vector<int32_t> bos,
                           special_tokens(config, generation, "bos_token_id", vocab_size));
  if (!bos.empty()) out->model.set_bos_token_id(bos.front());
  return {};
}

}  // namespace

Result<std::string> model_type_of(const json& config) {
  const auto found = config.find("model_type");
  if (!config.is_object() || found == config.end() || !found->is_string())
    return invalid_argument("config.json lacks model_type, a string");
  return found->get<std::string>();
}

Result<CheckpointConfig> read_checkpoint_config(const json& config, const json& generation,
                                                const engine::Architecture& architecture,
                                                const std::vector<std::string>& ignored_keys) {
  if (!config.is_object()) return invalid_argument("config.json is not a JSON object");
  CheckpointConfig out;
  if (const auto found = config.find("quantization_config");
      found != config.end() && !found->is_null()) {
    PHALANX_ASSIGN_OR_RETURN(out.fp8, read_fp8_config(*found));
  }
  ConfigReader reader(config, architecture);
  reader.mark_used("quantization_config");
  out.model.set_architecture(architecture.name());
  PHALANX_RETURN_IF_ERROR(read_dimensions(reader, &out.model));
  PHALANX_RETURN_IF_ERROR(read_activation(reader));
  PHALANX_RETURN_IF_ERROR(read_causality(reader));
  PHALANX_ASSIGN_OR_RETURN(const json eps, reader.value("rms_norm_eps"));
  if (!eps.is_number() || !(eps > 0.0) || !(eps < 1.0))
    return invalid_argument("config.json: rms_norm_eps is " + shown(eps) +
                            ", must be between 0 and 1");
  out.model.set_rms_norm_eps(eps.get<double>());

  PHALANX_ASSIGN_OR_RETURN(const json tied, reader.value("tie_word_embeddings"));
  if (!tied.is_null() && !tied.is_boolean())
    return invalid_argument("config.json: tie_word_embeddings is " + shown(tied) +
                            ", must be true or false");
  out.model.set_tie_word_embeddings(tied.is_boolean() && tied.get<bool>());
  out.tie_is_stated = tied.is_boolean();

  RopeFields rope;
  PHALANX_ASSIGN_OR_RETURN(rope.parameters, reader.value("rope_parameters"));
  PHALANX_ASSIGN_OR_RETURN(rope.scaling, reader.value("rope_scaling"));
  PHALANX_ASSIGN_OR_RETURN(rope.theta, reader.value("rope_theta"));
  PHALANX_ASSIGN_OR_RETURN(rope.partial_rotary_factor, reader.value("partial_rotary_factor"));
  PHALANX_ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                           reader.value("original_max_position_embeddings"));
  PHALANX_ASSIGN_OR_RETURN(*out.model.mutable_rope(), read_rope(rope, out.model));

  PHALANX_RETURN_IF_ERROR(read_window(reader, architecture, &out));
  PHALANX_RETURN_IF_ERROR(read_special_tokens(reader, generation, &out));
  for (const engine::Switch& item : architecture.switches()) {
    PHALANX_ASSIGN_OR_RETURN(out.switches[item.name()],
                             reader.boolean(item.config_key(), item.absent()));
  }
  PHALANX_RETURN_IF_ERROR(reader.check_none_used(ignored_keys));
  PHALANX_RETURN_IF_ERROR(reader.check_all_used(ignored_keys));
  for (const std::string& key : ignored_keys) {
    if (config.contains(key)) out.notes.push_back("config.json: " + key + " was ignored as asked");
  }
  return out;
}

}  // namespace phalanx::builder
