// The `decoder` of a tokenizer file as a pipeline that runs one token at a time.
// Called by Tokenizer (decode) and TokenStream (incremental).
#include "runtime/server/tokenizer_decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/server/tokenizer_byte_level.h"
#include "runtime/server/tokenizer_pattern.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

// A step that needs each token whole. Only a step behind Fuse ever sees a token in parts.
class WholeTokenStage : public DecoderStage {
 public:
  void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) final {
    if (chunk.first && chunk.last) return on_token(chunk.text, run, next);
    held_ += chunk.text;
    if (!chunk.last) return;
    const std::string token = std::exchange(held_, {});
    on_token(token, run, next);
  }
  void finish(DecoderRun&, size_t) override {}

 protected:
  virtual void on_token(std::string_view token, DecoderRun& run, size_t next) = 0;

 private:
  std::string held_;
};

// Passes everything on as one token that ends with the stream.
class FuseStage : public DecoderStage {
 public:
  void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) override {
    run.emit(next, {chunk.text, !std::exchange(started_, true), false});
  }
  void finish(DecoderRun& run, size_t next) override { run.emit(next, {{}, !started_, true}); }

 private:
  bool started_ = false;
};

// Tokens of the byte-level alphabet become bytes, other tokens stay; all of it is one text.
class ByteLevelStage : public WholeTokenStage {
 public:
  void finish(DecoderRun& run, size_t next) override {
    std::string text;
    assembler_.finish(text);
    run.emit(next, {text, !started_, true});
  }

 protected:
  void on_token(std::string_view token, DecoderRun& run, size_t next) override {
    const std::optional<std::string> bytes = byte_level_to_bytes(token);
    std::string text;
    assembler_.push(bytes ? std::string_view(*bytes) : token, text);
    run.emit(next, {text, !std::exchange(started_, true), false});
  }

 private:
  Utf8Assembler assembler_{Utf8Assembler::OnError::kOnePerSubpart};
  bool started_ = false;
};

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Runs of <0xXX> become the characters that their bytes spell, one token a run.
class ByteFallbackStage : public WholeTokenStage {
 public:
  void finish(DecoderRun& run, size_t next) override { end_run(run, next); }

 protected:
  void on_token(std::string_view token, DecoderRun& run, size_t next) override {
    const bool shaped = token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
    const int high = shaped ? hex_value(token[3]) : -1;
    const int low = shaped ? hex_value(token[4]) : -1;
    if (high < 0 || low < 0) {
      end_run(run, next);
      run.emit(next, {token, true, true});
      return;
    }
    const char byte = static_cast<char>(high * 16 + low);
    std::string text;
    assembler_.push({&byte, 1}, text);
    run.emit(next, {text, !std::exchange(in_run_, true), false});
  }

 private:
  void end_run(DecoderRun& run, size_t next) {
    if (!in_run_) return;
    std::string text;
    assembler_.finish(text);
    run.emit(next, {text, false, true});
    in_run_ = false;
  }

  Utf8Assembler assembler_{Utf8Assembler::OnError::kOnePerByte};
  bool in_run_ = false;
};

class ReplaceStage : public WholeTokenStage {
 public:
  ReplaceStage(const TokenizerPattern& pattern, const std::string& content)
      : pattern_(pattern), content_(content) {}

 protected:
  void on_token(std::string_view token, DecoderRun& run, size_t next) override {
    const Result<std::string> text = pattern_.replace_all(token, content_);
    // An expression that exceeds its limits on this token leaves it as it is.
    run.emit(next, {text.ok() ? std::string_view(*text) : token, true, true});
  }

 private:
  const TokenizerPattern pattern_;
  const std::string content_;
};

// Replace of one character: needs no whole token, so text behind Fuse is not held back.
class ReplaceCharacterStage : public DecoderStage {
 public:
  ReplaceCharacterStage(const TokenizerPattern& pattern, const std::string& content)
      : pattern_(pattern), content_(content) {}
  void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) override {
    const Result<std::string> text = pattern_.replace_all(chunk.text, content_);
    run.emit(next, {text.value(), chunk.first, chunk.last});
  }
  void finish(DecoderRun&, size_t) override {}

 private:
  const TokenizerPattern pattern_;
  const std::string content_;
};

// Removes up to `start` leading and up to `stop` trailing characters of each token.
class StripStage : public DecoderStage {
 public:
  StripStage(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}

  void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) override {
    if (chunk.first) {
      to_strip_ = start_;
      held_ = 0;
    }
    std::string_view text = chunk.text;
    while (to_strip_ > 0 && !text.empty()) {
      if (text.starts_with(content_)) {
        text.remove_prefix(content_.size());
        --to_strip_;
      } else {
        to_strip_ = 0;
      }
    }
    std::string out;
    size_t trailing = 0;  // characters at the end that may turn out to be trailing
    std::string_view body = text;
    while (trailing < stop_ && body.ends_with(content_)) {
      body.remove_suffix(content_.size());
      ++trailing;
    }
    // What was held before is final once something else or enough of the same follows.
    const size_t released =
        body.empty() ? held_ + trailing - std::min(stop_, held_ + trailing) : held_;
    for (size_t i = 0; i < released; ++i) out += content_;
    out += body;
    held_ = body.empty() ? std::min(stop_, held_ + trailing) : trailing;
    run.emit(next, {out, chunk.first, chunk.last});
  }
  void finish(DecoderRun&, size_t) override {}

 private:
  const std::string content_;
  const size_t start_;
  const size_t stop_;
  size_t to_strip_ = 0;
  size_t held_ = 0;
};

// The replacement character becomes a space; in the first token it goes, unless it is never put.
class MetaspaceStage : public DecoderStage {
 public:
  MetaspaceStage(std::string replacement, bool strip_first)
      : replacement_(std::move(replacement)), strip_first_(strip_first) {}

  void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) override {
    std::string out;
    for (size_t i = 0; i < chunk.text.size();) {
      if (chunk.text.substr(i).starts_with(replacement_)) {
        if (!strip_first_ || !in_first_token_) out += ' ';
        i += replacement_.size();
      } else {
        out += chunk.text[i++];
      }
    }
    if (chunk.last) in_first_token_ = false;
    run.emit(next, {out, chunk.first, chunk.last});
  }
  void finish(DecoderRun&, size_t) override {}

 private:
  const std::string replacement_;
  const bool strip_first_;
  bool in_first_token_ = true;
};

class JoinStage : public DecoderStage {
 public:
  void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) override {
    if (chunk.first && std::exchange(started_, true)) run.emit(next, {" ", true, true});
    run.emit(next, chunk);
  }
  void finish(DecoderRun&, size_t) override {}

 private:
  bool started_ = false;
};

template <typename Make>
class LambdaFactory : public TokenizerDecoder::Factory {
 public:
  explicit LambdaFactory(Make make) : make_(std::move(make)) {}
  std::unique_ptr<DecoderStage> make() const override { return make_(); }

 private:
  Make make_;
};

template <typename Make>
std::shared_ptr<const TokenizerDecoder::Factory> factory(Make make) {
  return std::make_shared<LambdaFactory<Make>>(std::move(make));
}

}  // namespace

Status TokenizerDecoder::add(const JsonField& field) {
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  PHALANX_ASSIGN_OR_RETURN(const std::string type, field["type"].as_string());
  if (type == "Sequence") {
    PHALANX_ASSIGN_OR_RETURN(const auto parts, field["decoders"].as_array());
    for (const JsonField& part : parts) PHALANX_RETURN_IF_ERROR(add(part));
  } else if (type == "ByteLevel") {
    factories_.push_back(factory([] { return std::make_unique<ByteLevelStage>(); }));
  } else if (type == "ByteFallback") {
    factories_.push_back(factory([] { return std::make_unique<ByteFallbackStage>(); }));
  } else if (type == "Fuse") {
    factories_.push_back(factory([] { return std::make_unique<FuseStage>(); }));
  } else if (type == "Replace") {
    PHALANX_ASSIGN_OR_RETURN(auto pattern, TokenizerPattern::parse(field["pattern"]));
    PHALANX_ASSIGN_OR_RETURN(std::string content, field["content"].as_string());
    const auto& literal = pattern.literal_text();
    const bool is_character = literal && read_utf8(*literal, 0).num_bytes == literal->size();
    factories_.push_back(factory([pattern = std::move(pattern), content = std::move(content),
                                  is_character]() -> std::unique_ptr<DecoderStage> {
      if (is_character) return std::make_unique<ReplaceCharacterStage>(pattern, content);
      return std::make_unique<ReplaceStage>(pattern, content);
    }));
  } else if (type == "Strip") {
    PHALANX_ASSIGN_OR_RETURN(std::string content, field["content"].as_character());
    constexpr int64_t kMaxStrip = 1 << 20;
    PHALANX_ASSIGN_OR_RETURN(const int64_t start, field["start"].as_integer(0, kMaxStrip));
    PHALANX_ASSIGN_OR_RETURN(const int64_t stop, field["stop"].as_integer(0, kMaxStrip));
    factories_.push_back(factory([content = std::move(content), start, stop] {
      return std::make_unique<StripStage>(content, static_cast<size_t>(start),
                                          static_cast<size_t>(stop));
    }));
  } else if (type == "Metaspace") {
    PHALANX_ASSIGN_OR_RETURN(std::string replacement, field["replacement"].as_character());
    PHALANX_ASSIGN_OR_RETURN(const bool prefix, field["add_prefix_space"].bool_or(true));
    bool strip_first = prefix;
    if (const JsonField scheme = field["prepend_scheme"]; !scheme.is_null()) {
      PHALANX_ASSIGN_OR_RETURN(const std::string name, scheme.as_string());
      if (name != "always" && name != "first" && name != "never") {
        return scheme.refuse("prepend_scheme '" + name + "'");
      }
      strip_first = strip_first && name != "never";
    }
    factories_.push_back(factory([replacement = std::move(replacement), strip_first] {
      return std::make_unique<MetaspaceStage>(replacement, strip_first);
    }));
  } else {
    return field.refuse("decoder type '" + type + "'");
  }
  if (factories_.size() > 64) return field.invalid("more than 64 decoders");
  return {};
}

Result<TokenizerDecoder> TokenizerDecoder::parse(const JsonField& field) {
  TokenizerDecoder decoder;
  if (field.is_null()) {
    decoder.factories_.push_back(factory([] { return std::make_unique<JoinStage>(); }));
  } else {
    PHALANX_RETURN_IF_ERROR(decoder.add(field));
  }
  return decoder;
}

std::vector<std::unique_ptr<DecoderStage>> TokenizerDecoder::start() const {
  std::vector<std::unique_ptr<DecoderStage>> stages;
  stages.reserve(factories_.size());
  for (const auto& each : factories_) stages.push_back(each->make());
  return stages;
}

void DecoderRun::emit(size_t index, const DecoderChunk& chunk) {
  if (index == stages_.size()) {
    *out_ += chunk.text;
  } else {
    stages_[index]->push(chunk, *this, index + 1);
  }
}

void DecoderRun::push(std::string_view token, std::string& out) {
  out_ = &out;
  emit(0, {token, true, true});
}

void DecoderRun::finish(std::string& out) {
  out_ = &out;
  for (size_t i = 0; i < stages_.size(); ++i) stages_[i]->finish(*this, i + 1);
}

}  // namespace phalanx
