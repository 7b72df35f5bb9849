// The `decoder` of a tokenizer file as a pipeline that runs one token at a time.
// Called by Tokenizer (decode) and TokenStream (incremental).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_json.h"

namespace phalanx {

/// A part of a token string on its way through the pipeline. Chunks of one token come in a row;
/// they are cut between characters.
struct DecoderChunk {
  std::string_view text;
  bool first = true;  ///< the token begins here
  bool last = true;   ///< the token ends here
};

class DecoderRun;

/// The running state of one step of the pipeline, for one stream.
class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  /// Takes a chunk and passes what is final to run.emit(next, ...).
  virtual void push(const DecoderChunk& chunk, DecoderRun& run, size_t next) = 0;
  /// After the last chunk: passes on what was held back.
  virtual void finish(DecoderRun& run, size_t next) = 0;
};

/// Makes the steps of a stream. Immutable, thread safe.
class TokenizerDecoder {
 public:
  /// A null field joins the tokens with spaces, as the reference library does.
  /// Errors: kUnsupported naming an unknown type, kInvalidArgument naming a bad field.
  static Result<TokenizerDecoder> parse(const JsonField& field);

  std::vector<std::unique_ptr<DecoderStage>> start() const;

  class Factory {
   public:
    virtual ~Factory() = default;
    virtual std::unique_ptr<DecoderStage> make() const = 0;
  };

 private:
  Status add(const JsonField& field);
  std::vector<std::shared_ptr<const Factory>> factories_;
};

/// One stream of tokens being decoded. Text comes out as soon as no later token can change it:
/// never half a UTF-8 sequence, and the pieces add up to what decoding all tokens at once gives.
/// One difference to the reference library: of a run of <0xXX> tokens that is not UTF-8 as a whole
/// it keeps the characters that are well-formed (one U+FFFD for each other byte), because a stream
/// cannot take back what it has shown. Not thread safe.
class DecoderRun {
 public:
  explicit DecoderRun(const TokenizerDecoder& decoder) : stages_(decoder.start()) {}

  /// Appends to `out` what became final. O(size of the token), amortized.
  void push(std::string_view token, std::string& out);
  /// Ends the stream: appends the rest.
  void finish(std::string& out);

  /// For stages: hands a chunk to stage `index`, or out.
  void emit(size_t index, const DecoderChunk& chunk);

 private:
  std::vector<std::unique_ptr<DecoderStage>> stages_;
  std::string* out_ = nullptr;
};

}  // namespace phalanx
