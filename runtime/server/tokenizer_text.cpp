// Joins tokenizer, chat template and token stream.
#include "runtime/server/tokenizer_text.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include "runtime/server/chat_template.h"
#include "runtime/server/token_stream.h"
#include "runtime/server/tokenizer.h"

namespace phalanx {
namespace {

namespace fs = std::filesystem;

/// The wall clock of the process's time zone, which is what strftime_now shows.
std::chrono::sys_seconds local_now() {
  const std::time_t now = std::time(nullptr);
  tm local{};
  localtime_r(&now, &local);
  return std::chrono::sys_seconds(std::chrono::seconds(timegm(&local)));
}

class TokenizerTextStream : public TextStream {
 public:
  explicit TokenizerTextStream(TokenStream stream) : stream_(std::move(stream)) {}

  Piece push(int32_t token_id) override {
    std::string text = stream_.push(token_id);
    return {std::move(text), stream_.stopped()};
  }
  Piece finish() override {
    std::string text = stream_.finish();
    return {std::move(text), stream_.stopped()};
  }

 private:
  TokenStream stream_;
};

class TokenizerText : public TextCodec {
 public:
  TokenizerText(std::shared_ptr<const Tokenizer> tokenizer, std::optional<ChatTemplate> chat,
                std::string bos_token, std::string eos_token)
      : tokenizer_(std::move(tokenizer)),
        chat_(std::move(chat)),
        bos_token_(std::move(bos_token)),
        eos_token_(std::move(eos_token)) {}

  Result<std::vector<int32_t>> encode_prompt(std::string_view text) const override {
    return tokenizer_->encode(text);
  }

  Result<std::vector<int32_t>> encode_chat(const RequestJson& messages, const RequestJson& tools,
                                           size_t max_bytes) const override {
    if (!chat_) {
      return unsupported("this model has no chat template; use /v1/completions");
    }
    ChatTemplateInput input;
    input.messages = messages;
    input.tools = tools;
    input.bos_token = bos_token_;
    input.eos_token = eos_token_;
    input.now = local_now();
    PHALANX_ASSIGN_OR_RETURN(const std::string text, chat_->render(input));
    if (text.size() > max_bytes) {
      return invalid_argument("messages: the rendered chat has " + std::to_string(text.size()) +
                              " bytes; allowed: " + std::to_string(max_bytes));
    }
    // The template has written what the post-processor would add.
    return tokenizer_->encode(text, {.add_special_tokens = false, .parse_special = true});
  }

  std::string decode(std::span<const int32_t> token_ids) const override {
    return tokenizer_->decode(token_ids, false);
  }

  std::string token_bytes(int32_t token_id) const override {
    return tokenizer_->token_bytes(token_id);
  }

  std::unique_ptr<TextStream> start_stream(std::vector<std::string> stop) const override {
    Result<TokenStream> stream =
        TokenStream::create(tokenizer_, {.skip_special = true, .stop = std::move(stop)});
    PHALANX_CHECK(stream.ok(), "stop strings are checked with the request: " +
                                   (stream.ok() ? "" : stream.error().message));
    return std::make_unique<TokenizerTextStream>(std::move(stream).value());
  }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_;
  std::string bos_token_;
  std::string eos_token_;
};

/// A small text file's content, or nothing when it does not exist.
Result<std::optional<std::string>> read_optional(const fs::path& path) {
  constexpr uintmax_t kMaxBytes = 16U << 20;
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  if (error == std::errc::no_such_file_or_directory) return std::optional<std::string>();
  if (error) return io_error(path.string() + ": " + error.message());
  if (size > kMaxBytes) {
    return data_loss(path.string() + ": has " + std::to_string(size) +
                     " bytes; allowed: " + std::to_string(kMaxBytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return io_error(path.string() + ": " + std::strerror(errno));
  return std::optional<std::string>(text.str());
}

/// "bos_token" and the like: a string, an object with "content", or null.
std::string special_token(const nlohmann::json& config, const char* name) {
  const auto found = config.find(name);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
    return (*found)["content"].get<std::string>();
  }
  return "";
}

}  // namespace

Result<std::shared_ptr<const TextCodec>> load_tokenizer_text(const std::string& directory) {
  const fs::path root(directory);
  PHALANX_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::load(root / "tokenizer.json"));

  PHALANX_ASSIGN_OR_RETURN(const auto config_text, read_optional(root / "tokenizer_config.json"));
  const nlohmann::json config =
      nlohmann::json::parse(config_text.value_or("{}"), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return data_loss((root / "tokenizer_config.json").string() + ": not a JSON object");
  }

  PHALANX_ASSIGN_OR_RETURN(const auto source, read_optional(root / "chat_template.jinja"));
  std::optional<ChatTemplate> chat;
  if (source) {
    auto parsed = ChatTemplate::parse(*source);
    if (!parsed.ok()) {
      return Error{parsed.error().code,
                   (root / "chat_template.jinja").string() + ": " + parsed.error().message};
    }
    chat = std::move(parsed).value();
  }
  return std::shared_ptr<const TextCodec>(std::make_shared<TokenizerText>(
      std::move(tokenizer), std::move(chat), special_token(config, "bos_token"),
      special_token(config, "eos_token")));
}

}  // namespace phalanx
