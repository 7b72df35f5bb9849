// Copies of text files, and the chat template out of wherever it is kept.
#include "runtime/builder/tokenizer_files.h"

#include <filesystem>

#include "runtime/model/mapped_file.h"
#include "runtime/model/strict_json.h"

namespace phalanx::builder {

namespace {

constexpr int64_t kMaxTextBytes = int64_t{256} << 20;
constexpr int kMaxDepth = 64;

bool exists(const std::string& path) {
  std::error_code code;
  return std::filesystem::exists(path, code);
}

/// The template in a JSON document's "chat_template", or "".
Result<std::string> template_in(const nlohmann::json& document, const std::string& path) {
  const auto found = document.find("chat_template");
  if (found == document.end() || found->is_null()) return std::string();
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const auto& item : *found) {
      const bool named = item.is_object() && item.contains("name") && item.contains("template");
      if (named && item["name"] == "default" && item["template"].is_string())
        return item["template"].get<std::string>();
    }
    return data_loss(path + ": chat_template is a list without a template named \"default\"");
  }
  return data_loss(path + ": chat_template is neither a string nor a list");
}

Result<std::string> find_chat_template(const std::string& checkpoint) {
  const std::string file = checkpoint + "/chat_template.jinja";
  if (exists(file)) return model::read_text_file(file, kMaxTextBytes);
  for (const char* name : {"/tokenizer_config.json", "/chat_template.json"}) {
    const std::string path = checkpoint + name;
    if (!exists(path)) continue;
    PHALANX_ASSIGN_OR_RETURN(const nlohmann::json document,
                             model::read_strict_json(path, kMaxDepth, kMaxTextBytes));
    if (!document.is_object()) return data_loss(path + ": is not a JSON object");
    PHALANX_ASSIGN_OR_RETURN(std::string text, template_in(document, path));
    if (!text.empty()) return text;
  }
  return std::string();
}

}  // namespace

Result<std::vector<std::string>> copy_tokenizer_files(const std::string& checkpoint,
                                                      const EngineDirectory& engine) {
  std::vector<std::string> notes;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    const std::string path = checkpoint + "/" + name;
    if (!exists(path)) {
      if (std::string(name) == "tokenizer.json")
        notes.emplace_back("the checkpoint has no tokenizer.json: requests must be token ids");
      continue;
    }
    PHALANX_ASSIGN_OR_RETURN(const std::string content, model::read_text_file(path, kMaxTextBytes));
    PHALANX_RETURN_IF_ERROR(engine.write_file(name, content));
  }
  PHALANX_ASSIGN_OR_RETURN(const std::string chat_template, find_chat_template(checkpoint));
  if (chat_template.empty()) {
    notes.emplace_back("the checkpoint has no chat template");
  } else {
    PHALANX_RETURN_IF_ERROR(engine.write_file("chat_template.jinja", chat_template));
  }
  return notes;
}

}  // namespace phalanx::builder
