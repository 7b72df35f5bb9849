// Text to token ids and back, as a Hugging Face tokenizer.json describes it.
// Called by the leader (prompts, token streams) and by the tools that make engines.
#include "runtime/server/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "runtime/server/tokenizer_byte_level.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr size_t kMaxTextBytes = size_t{64} << 20;
constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581

// Whether the pipeline (a component or a sequence of them) has a component of this type.
bool mentions_type(const FileJson& component, std::string_view type) {
  if (component.is_array()) {
    return std::any_of(component.begin(), component.end(),
                       [&](const auto& part) { return mentions_type(part, type); });
  }
  if (!component.is_object()) return false;
  const auto name = component.find("type");
  if (name != component.end() && *name == type) return true;
  for (const char* list : {"decoders", "pretokenizers", "normalizers"}) {
    const auto parts = component.find(list);
    if (parts != component.end() && mentions_type(*parts, type)) return true;
  }
  return false;
}

}  // namespace

// A workspace for one encode call, taken from the idle ones and given back.
class Tokenizer::WorkspaceLease {
 public:
  explicit WorkspaceLease(const Tokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard lock(owner.mutex_);
      if (!owner.idle_.empty()) {
        workspace_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      }
    }
    if (!workspace_) workspace_ = std::make_unique<BpeModel::Workspace>();
  }
  ~WorkspaceLease() {
    if (workspace_->is_large()) return;
    const std::lock_guard lock(owner_.mutex_);
    if (owner_.idle_.size() < kMaxIdle) owner_.idle_.push_back(std::move(workspace_));
  }
  WorkspaceLease(const WorkspaceLease&) = delete;
  WorkspaceLease& operator=(const WorkspaceLease&) = delete;

  BpeModel::Workspace& get() { return *workspace_; }

 private:
  const Tokenizer& owner_;
  std::unique_ptr<BpeModel::Workspace> workspace_;
};

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const std::string& path) {
  PHALANX_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxFileBytes));
  auto tokenizer = parse(text);
  if (!tokenizer.ok()) {
    return Error{tokenizer.error().code, path + ": " + tokenizer.error().message};
  }
  return tokenizer;
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::parse(std::string_view json) {
  PHALANX_ASSIGN_OR_RETURN(const FileJson document, parse_json(json));
  const JsonField root(document, "");
  PHALANX_RETURN_IF_ERROR(root.expect_object());
  if (const JsonField version = root["version"]; !version.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(const std::string name, version.as_string());
    if (name != "1.0") return version.refuse("'" + name + "', must be 1.0");
  }
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer());
  PHALANX_ASSIGN_OR_RETURN(tokenizer->model_, BpeModel::parse(root["model"]));
  PHALANX_ASSIGN_OR_RETURN(tokenizer->normalizer_, parse_normalizer(root["normalizer"]));
  PHALANX_ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_, parse_pre_tokenizer(root["pre_tokenizer"]));
  PHALANX_ASSIGN_OR_RETURN(
      tokenizer->added_,
      AddedTokens::parse(root["added_tokens"], *tokenizer->model_, tokenizer->normalizer_.get()));
  tokenizer->vocab_size_ = std::max(tokenizer->model_->max_id(), tokenizer->added_.max_id()) + 1;
  PHALANX_ASSIGN_OR_RETURN(
      tokenizer->post_processor_,
      TokenizerPostProcessor::parse(root["post_processor"], tokenizer->vocab_size_));
  PHALANX_ASSIGN_OR_RETURN(tokenizer->decoder_, TokenizerDecoder::parse(root["decoder"]));
  tokenizer->is_byte_level_ = mentions_type(root["decoder"].json(), "ByteLevel");
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

Status Tokenizer::encode_text(std::string_view text, bool at_origin, BpeModel::Workspace& workspace,
                              std::vector<int32_t>& ids) const {
  TextArena arena;
  std::vector<TextPiece> words;
  if (pre_tokenizer_) {
    PHALANX_RETURN_IF_ERROR(pre_tokenizer_->split({text, at_origin}, arena, words));
  } else {
    words.push_back({text, at_origin});
  }
  for (const TextPiece& word : words)
    PHALANX_RETURN_IF_ERROR(model_->encode(word.text, workspace, ids));
  return {};
}

Status Tokenizer::encode_piece(std::string_view raw, bool at_origin, const EncodeOptions& options,
                               BpeModel::Workspace& workspace, std::vector<int32_t>& ids) const {
  std::string normalized;
  std::string_view text = raw;
  if (normalizer_) {
    normalized = raw;
    PHALANX_RETURN_IF_ERROR(normalizer_->apply(normalized));
    text = normalized;
  }
  std::vector<AddedTokenSplit> splits;
  added_.split(text, /*normalized=*/true, options.parse_special, splits);
  for (const AddedTokenSplit& split : splits) {
    if (split.id >= 0) {
      ids.push_back(split.id);
      continue;
    }
    const bool first = at_origin && split.text.data() == text.data();
    PHALANX_RETURN_IF_ERROR(encode_text(split.text, first, workspace, ids));
  }
  return {};
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text,
                                               const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return invalid_argument("text: " + std::to_string(text.size()) + " bytes, at most " +
                            std::to_string(kMaxTextBytes));
  }
  if (const auto offset = find_ill_formed_utf8(text)) {
    return invalid_argument("text: byte " + std::to_string(*offset) + " is not UTF-8");
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  WorkspaceLease workspace(*this);
  std::vector<AddedTokenSplit> splits;
  added_.split(text, /*normalized=*/false, options.parse_special, splits);
  for (const AddedTokenSplit& split : splits) {
    if (split.id >= 0) {
      ids.push_back(split.id);
      continue;
    }
    const bool at_origin = split.text.data() == text.data();
    PHALANX_RETURN_IF_ERROR(encode_piece(split.text, at_origin, options, workspace.get(), ids));
  }
  return post_processor_.apply(std::move(ids), options.add_special_tokens);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  DecoderRun run = start_decoding();
  std::string text;
  for (const int32_t id : ids)
    if (const std::string* token = decodable(id, skip_special)) run.push(*token, text);
  run.finish(text);
  return text;
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  if (const auto id = added_.token_id(token)) return id;
  return model_->token_id(token);
}

const std::string* Tokenizer::token(int32_t id) const {
  if (const AddedToken* token = added_.find(id)) return &token->content;
  return model_->token(id);
}

std::string Tokenizer::token_bytes(int32_t id) const {
  if (const AddedToken* token = added_.find(id)) return token->content;
  const std::string* token = model_->token(id);
  if (token == nullptr) return {};
  if (is_byte_level_) return byte_level_to_bytes(*token).value_or(*token);
  if (token->size() == 6 && token->starts_with("<0x") && token->ends_with('>')) {
    const auto is_hex = [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; };
    if (is_hex((*token)[3]) && is_hex((*token)[4])) {
      return std::string(1, static_cast<char>(std::stoi(token->substr(3, 2), nullptr, 16)));
    }
  }
  std::string bytes;
  for (size_t i = 0; i < token->size();) {
    if (std::string_view(*token).substr(i).starts_with(kMetaspace)) {
      bytes += ' ';
      i += kMetaspace.size();
    } else {
      bytes += (*token)[i++];
    }
  }
  return bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = added_.find(id);
  return token != nullptr && token->special;
}

const std::string* Tokenizer::decodable(int32_t id, bool skip_special) const {
  const AddedToken* added = added_.find(id);
  if (added == nullptr) return model_->token(id);
  return skip_special && added_.is_special_text(added->decoded) ? nullptr : &added->decoded;
}

}  // namespace phalanx
