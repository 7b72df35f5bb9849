// The JSON and SSE that answers are made of, in OpenAI's shapes. Called by generation_call;
// assembled by hand, because a stream writes one such object for every few tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace phalanx {

/// One output token with its logprobs, as the API shows it.
struct TokenLogprob {
  std::string bytes;  ///< of the token; may be part of a character
  float logprob = 0.0F;
  std::vector<std::pair<std::string, float>> top;  ///< bytes and logprob, descending
  size_t text_offset = 0;                          ///< where its text begins in the choice's text
};

struct Usage {
  int64_t prompt_tokens = 0;  ///< each prompt once, whatever n
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  ///< of prompt_tokens, those the prefix cache had
};

/// A choice's answer, or its next part.
struct ChoicePart {
  int32_t index = 0;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  const char* finish_reason = nullptr;  ///< "stop", "length"; nullptr while it goes on
};

/// Writes one answer. Not thread safe.
class OpenAiResponse {
 public:
  /// `model` is shown; `wants_logprobs` and `wants_usage` as the request says.
  OpenAiResponse(bool is_chat, std::string id, int64_t created, const std::string& model,
                 bool wants_logprobs, bool wants_usage);

  const std::string& id() const { return id_; }

  /// The whole answer.
  std::string whole(const std::vector<ChoicePart>& choices, const Usage& usage) const;

  // Server-sent events, appended to `out`.
  void append_role(std::string& out, int32_t index) const;  ///< chat: the first one of a choice
  void append_part(std::string& out, const ChoicePart& part) const;
  void append_usage(std::string& out, const Usage& usage) const;
  static void append_done(std::string& out);
  static void append_error(std::string& out, std::string_view error_json);

 private:
  void append_head(std::string& out, bool chunk) const;
  void append_logprobs(std::string& out, const std::vector<TokenLogprob>& logprobs) const;

  const bool is_chat_;
  const bool wants_logprobs_;
  const bool wants_usage_;
  const std::string id_;
  std::string fields_;  ///< "created":...,"model":...,"system_fingerprint":...
};

/// "cmpl-" or "chatcmpl-" and 24 random hex digits.
std::string make_answer_id(bool is_chat);

/// A JSON string, quotes included. Ill-formed UTF-8 is replaced.
void append_json_string(std::string& out, std::string_view text);

}  // namespace phalanx
