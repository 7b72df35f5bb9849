// The text of one generated sequence as it grows: incremental decoding and stop strings.
// Called by the leader for every token that a request commits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer.h"

namespace phalanx {

/// Finds the first of several strings in a text that comes in pieces, and holds back what could be
/// the beginning of one. The first to end wins; of those that end together the longest. Not thread
/// safe.
class StopMatcher {
 public:
  static constexpr size_t kMaxStops = 64;
  static constexpr size_t kMaxStopBytes = 4096;

  /// Errors: kInvalidArgument (an empty, overlong or ill-formed stop string, too many of them).
  static Result<StopMatcher> create(std::vector<std::string> stops);

  /// Takes more text; appends to `out` what cannot belong to a stop string. Returns true when a
  /// stop string has just been completed: `out` then has everything before it, and what comes
  /// after it is dropped. Amortized O(bytes * stops).
  bool push(std::string_view text, std::string& out);
  /// The text has ended: appends what was held back.
  void finish(std::string& out);

  bool stopped() const { return stopped_ != kNone; }
  /// The stop string that was found; only when stopped().
  const std::string& stop() const;

 private:
  static constexpr size_t kNone = ~size_t{0};
  explicit StopMatcher(std::vector<std::string> stops);
  void advance(size_t index, char byte);

  std::vector<std::string> stops_;
  std::vector<std::vector<uint16_t>> failure_;  // per stop: Knuth-Morris-Pratt borders
  std::vector<size_t> matched_;                 // per stop: how much of it the text ends with
  std::string held_;
  size_t stopped_ = kNone;
};

struct TokenStreamOptions {
  bool skip_special = true;       ///< special tokens give no text
  std::vector<std::string> stop;  ///< strings that end the text
  bool include_stop = false;      ///< the stop string belongs to the text
};

/// Turns the ids of one sequence into text. What push and finish return adds up to
/// tokenizer.decode(all ids), cut at the first stop string. Not thread safe; one thread at a time.
class TokenStream {
 public:
  /// Errors: kInvalidArgument (see StopMatcher::create).
  static Result<TokenStream> create(std::shared_ptr<const Tokenizer> tokenizer,
                                    TokenStreamOptions options);

  /// The text that became final with this token: whole UTF-8 characters, nothing that a stop string
  /// could still take back. Empty after a stop. Amortized O(size of the token).
  std::string push(int32_t id);

  /// The sequence has ended (end-of-sequence token, length): the text that was held back. A stop
  /// string can still be found in it. Call once, then no more push.
  std::string finish();

  /// A stop string was found; generation can end.
  bool stopped() const { return matcher_.stopped(); }
  const std::string& stop() const { return matcher_.stop(); }

 private:
  TokenStream(std::shared_ptr<const Tokenizer> tokenizer, TokenStreamOptions options,
              StopMatcher matcher);
  std::string take(const std::string& decoded);

  std::shared_ptr<const Tokenizer> tokenizer_;
  TokenStreamOptions options_;
  StopMatcher matcher_;
  DecoderRun run_;
  bool finished_ = false;
};

}  // namespace phalanx
