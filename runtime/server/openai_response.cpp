// Serialization by appending; see the header.
#include "runtime/server/openai_response.h"

#include <charconv>
#include <cmath>
#include <random>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

constexpr std::string_view kSystemFingerprint = "phalanx-0.1";

void append_escaped(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20U || c == 0x7f) {
          out += "\\u00";
          out += kHex[static_cast<unsigned char>(c) >> 4];
          out += kHex[static_cast<unsigned char>(c) & 15U];
        } else {
          out += c;
        }
    }
  }
}

// Shortest text that reads back as the same float; -inf and NaN, which JSON lacks, as OpenAI does.
void append_logprob(std::string& out, float value) {
  if (!std::isfinite(value)) {
    out += "-9999.0";
    return;
  }
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value);
  out.append(text, end.ptr);
}

// OpenAI's completions spell a token that is not whole characters as "bytes:\xe2\x82".
std::string completion_token_text(const std::string& bytes) {
  if (!find_ill_formed_utf8(bytes)) return bytes;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text = "bytes:";
  for (const char c : bytes) {
    text += "\\x";
    text += kHex[static_cast<unsigned char>(c) >> 4];
    text += kHex[static_cast<unsigned char>(c) & 15U];
  }
  return text;
}

void append_chat_token(std::string& out, const std::string& bytes, float logprob) {
  out += "\"token\":";
  append_json_string(out, bytes);
  out += ",\"logprob\":";
  append_logprob(out, logprob);
  out += ",\"bytes\":[";
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i != 0) out += ',';
    out += std::to_string(static_cast<unsigned>(static_cast<unsigned char>(bytes[i])));
  }
  out += ']';
}

void append_usage_object(std::string& out, const Usage& usage) {
  out += "\"usage\":{\"prompt_tokens\":" + std::to_string(usage.prompt_tokens) +
         ",\"completion_tokens\":" + std::to_string(usage.completion_tokens) +
         ",\"total_tokens\":" + std::to_string(usage.prompt_tokens + usage.completion_tokens) +
         ",\"prompt_tokens_details\":{\"cached_tokens\":" + std::to_string(usage.cached_tokens) +
         "}}";
}

void append_finish_reason(std::string& out, const char* reason) {
  out += ",\"finish_reason\":";
  if (reason == nullptr) {
    out += "null";
  } else {
    append_json_string(out, reason);
  }
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  if (!find_ill_formed_utf8(text)) {
    append_escaped(out, text);
  } else {
    std::string repaired;
    Utf8Assembler assembler(Utf8Assembler::OnError::kOnePerSubpart);
    assembler.push(text, repaired);
    assembler.finish(repaired);
    append_escaped(out, repaired);
  }
  out += '"';
}

std::string make_answer_id(bool is_chat) {
  thread_local std::mt19937_64 generator{(static_cast<uint64_t>(std::random_device{}()) << 32U) |
                                         std::random_device{}()};
  std::string id = is_chat ? "chatcmpl-" : "cmpl-";
  constexpr std::string_view kHex = "0123456789abcdef";
  for (int word = 0; word < 2; ++word) {
    uint64_t bits = generator();
    for (int digit = 0; digit < 12; ++digit, bits >>= 4U) id += kHex[bits & 15U];
  }
  return id;
}

OpenAiResponse::OpenAiResponse(bool is_chat, std::string id, int64_t created,
                               const std::string& model, bool wants_logprobs, bool wants_usage)
    : is_chat_(is_chat),
      wants_logprobs_(wants_logprobs),
      wants_usage_(wants_usage),
      id_(std::move(id)) {
  fields_ = "\"created\":" + std::to_string(created) + ",\"model\":";
  append_json_string(fields_, model);
  fields_ += ",\"system_fingerprint\":";
  append_json_string(fields_, kSystemFingerprint);
}

void OpenAiResponse::append_head(std::string& out, bool chunk) const {
  out += "{\"id\":\"" + id_ + "\",\"object\":\"";
  out += !is_chat_ ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  out += "\"," + fields_ + ",\"choices\":[";
}

void OpenAiResponse::append_logprobs(std::string& out,
                                     const std::vector<TokenLogprob>& logprobs) const {
  out += ",\"logprobs\":";
  if (!wants_logprobs_) {
    out += "null";
    return;
  }
  const auto list = [&](const char* name, const auto& write_one) {
    out += name;
    out += '[';
    for (size_t i = 0; i < logprobs.size(); ++i) {
      if (i != 0) out += ',';
      write_one(logprobs[i]);
    }
    out += ']';
  };
  if (is_chat_) {
    list("{\"content\":", [&](const TokenLogprob& token) {
      out += '{';
      append_chat_token(out, token.bytes, token.logprob);
      out += ",\"top_logprobs\":[";
      for (size_t i = 0; i < token.top.size(); ++i) {
        out += i == 0 ? "{" : ",{";
        append_chat_token(out, token.top[i].first, token.top[i].second);
        out += '}';
      }
      out += "]}";
    });
    out += ",\"refusal\":null}";
    return;
  }
  list("{\"tokens\":", [&](const TokenLogprob& token) {
    append_json_string(out, completion_token_text(token.bytes));
  });
  list(",\"token_logprobs\":",
       [&](const TokenLogprob& token) { append_logprob(out, token.logprob); });
  list(",\"top_logprobs\":", [&](const TokenLogprob& token) {
    out += '{';
    for (size_t i = 0; i < token.top.size(); ++i) {
      if (i != 0) out += ',';
      append_json_string(out, completion_token_text(token.top[i].first));
      out += ':';
      append_logprob(out, token.top[i].second);
    }
    out += '}';
  });
  list(",\"text_offset\":",
       [&](const TokenLogprob& token) { out += std::to_string(token.text_offset); });
  out += '}';
}

std::string OpenAiResponse::whole(const std::vector<ChoicePart>& choices,
                                  const Usage& usage) const {
  std::string out;
  append_head(out, false);
  for (size_t i = 0; i < choices.size(); ++i) {
    const ChoicePart& choice = choices[i];
    out += i == 0 ? "{\"index\":" : ",{\"index\":";
    out += std::to_string(choice.index);
    if (is_chat_) {
      out += ",\"message\":{\"role\":\"assistant\",\"content\":";
      append_json_string(out, choice.text);
      out += ",\"refusal\":null}";
    } else {
      out += ",\"text\":";
      append_json_string(out, choice.text);
    }
    append_logprobs(out, choice.logprobs);
    append_finish_reason(out, choice.finish_reason);
    out += '}';
  }
  out += "],";
  append_usage_object(out, usage);
  out += '}';
  return out;
}

void OpenAiResponse::append_role(std::string& out, int32_t index) const {
  out += "data: ";
  append_head(out, true);
  out += "{\"index\":" + std::to_string(index) +
         ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
         "\"finish_reason\":null}]";
  out += wants_usage_ ? ",\"usage\":null}\n\n" : "}\n\n";
}

void OpenAiResponse::append_part(std::string& out, const ChoicePart& part) const {
  out += "data: ";
  append_head(out, true);
  out += "{\"index\":" + std::to_string(part.index);
  if (is_chat_) {
    out += ",\"delta\":{";
    if (!part.text.empty()) {
      out += "\"content\":";
      append_json_string(out, part.text);
    }
    out += '}';
  } else {
    out += ",\"text\":";
    append_json_string(out, part.text);
  }
  if (part.logprobs.empty()) {
    out += ",\"logprobs\":null";
  } else {
    append_logprobs(out, part.logprobs);
  }
  append_finish_reason(out, part.finish_reason);
  out += wants_usage_ ? "}],\"usage\":null}\n\n" : "}]}\n\n";
}

void OpenAiResponse::append_usage(std::string& out, const Usage& usage) const {
  out += "data: ";
  append_head(out, true);
  out += "],";
  append_usage_object(out, usage);
  out += "}\n\n";
}

void OpenAiResponse::append_done(std::string& out) { out += "data: [DONE]\n\n"; }

void OpenAiResponse::append_error(std::string& out, std::string_view error_json) {
  out += "data: ";
  out += error_json;
  out += "\n\n";
}

}  // namespace phalanx
