// Reads a streamed answer of /v1/completions or /v1/chat/completions into a record. Used by
// serve_load; knows no socket.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "launcher/bench/serve_record.h"
#include "launcher/bench/serve_sse.h"

namespace phalanx::bench {

/// What is asked of the answer's length.
enum class LengthRule {
  kAtMost,  ///< the model may end early
  kExactly  ///< the end token is ignored
};

/// One answer under way. An event counts as a token's arrival when its choice has text (`text`, or
/// of `delta`: content, reasoning, reasoning_content, tool_calls), or has an empty one and no
/// finish reason: a token whose bytes do not make a character yet. A chat's opening event (`delta`
/// with a role and nothing in it) does not. Not thread safe.
class StreamedAnswer {
 public:
  /// `record` must outlive this.
  StreamedAnswer(RequestRecord& record, LengthRule rule) : record_(record), rule_(rule) {}

  /// The next bytes of the body, which arrived at `now_s`. False when the answer cannot go on: then
  /// the record has outcome and message.
  [[nodiscard]] bool push(std::string_view bytes, double now_s);

  /// True after "data: [DONE]".
  bool is_done() const { return is_done_; }

  /// The body is over: decides the outcome, completes the counts.
  void finish();

 private:
  bool fail(Outcome outcome, std::string message);
  bool read_event(const std::string& data, double now_s);
  bool read_choice(const nlohmann::json& choice, double now_s);
  bool read_usage(const nlohmann::json& usage);

  RequestRecord& record_;
  const LengthRule rule_;
  SseReader reader_;
  std::vector<std::string> events_;
  bool is_done_ = false;
  bool has_finish_reason_ = false;
};

/// The start of a text, fit for a message: one line of at most 200 bytes.
std::string excerpt_of(std::string_view text);

/// "message" of an OpenAI error body {"error": {"message": ...}} (or {"error": "..."}, {"message":
/// ...}, {"detail": ...}); else an excerpt of the body.
std::string error_message_of(std::string_view body);

}  // namespace phalanx::bench
