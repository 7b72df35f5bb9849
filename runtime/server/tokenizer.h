// Text to token ids and back, as a Hugging Face tokenizer.json describes it.
// Called by the leader (prompts, token streams) and by the tools that make engines.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_added_tokens.h"
#include "runtime/server/tokenizer_bpe.h"
#include "runtime/server/tokenizer_decoder.h"
#include "runtime/server/tokenizer_normalizer.h"
#include "runtime/server/tokenizer_post_processor.h"
#include "runtime/server/tokenizer_pre_tokenizer.h"

namespace phalanx {

struct EncodeOptions {
  bool add_special_tokens = true;  ///< what the post-processor adds: usually BOS
  bool parse_special = true;       ///< "<|im_end|>" in the text is that token, not its letters
};

/// Immutable after load; every method may be called from any thread at the same time.
/// Decoding does not do what transformers calls clean_up_tokenization_spaces.
class Tokenizer {
 public:
  /// Reads `tokenizer.json` (at most 256 MiB). The file is untrusted: every field is checked.
  /// Errors: kNotFound, kIoError, kDataLoss (not JSON), kUnsupported (a component that is not
  /// implemented, by name), kInvalidArgument (a bad field, by path).
  static Result<std::shared_ptr<const Tokenizer>> load(const std::string& path);
  /// The same from the text of such a file.
  static Result<std::shared_ptr<const Tokenizer>> parse(std::string_view json);

  /// The ids of `text`, in O(n log n). Errors: kInvalidArgument (not UTF-8, with the byte offset;
  /// more than 64 MiB), kResourceExhausted (a limit of the file's regular expressions).
  Result<std::vector<int32_t>> encode(std::string_view text,
                                      const EncodeOptions& options = {}) const;

  /// The text of `ids`. Ids without a token are skipped, as the reference library does (models
  /// have more rows than tokens). See DecoderRun for ill-formed runs of byte tokens.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  /// One past the largest id that has a token.
  int32_t vocab_size() const { return vocab_size_; }
  std::optional<int32_t> token_id(std::string_view token) const;
  /// The token as the file spells it ("Ġhello", "▁hello", "<0x0A>"), or nullptr.
  const std::string* token(int32_t id) const;
  /// The bytes that the token stands for, possibly half a character ("" for an id without token).
  std::string token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;
  bool is_added(int32_t id) const { return added_.find(id) != nullptr; }
  const std::vector<AddedToken>& added_tokens() const { return added_.all(); }

  /// For TokenStream: the pipeline of one stream, and what to push into it for an id (nullptr: no
  /// such token, or a special one that is skipped).
  DecoderRun start_decoding() const { return DecoderRun(decoder_); }
  const std::string* decodable(int32_t id, bool skip_special) const;

 private:
  class WorkspaceLease;
  Tokenizer() = default;
  Status encode_text(std::string_view text, bool at_origin, BpeModel::Workspace& workspace,
                     std::vector<int32_t>& ids) const;
  Status encode_piece(std::string_view raw, bool at_origin, const EncodeOptions& options,
                      BpeModel::Workspace& workspace, std::vector<int32_t>& ids) const;

  std::shared_ptr<const BpeModel> model_;
  std::shared_ptr<const TokenizerNormalizer> normalizer_;  // may be null
  std::shared_ptr<const PreTokenizer> pre_tokenizer_;      // may be null
  AddedTokens added_;
  TokenizerPostProcessor post_processor_;
  TokenizerDecoder decoder_;
  bool is_byte_level_ = false;
  int32_t vocab_size_ = 0;

  // Workspaces keep their word caches between calls; at most kMaxIdle wait here.
  static constexpr size_t kMaxIdle = 8;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<BpeModel::Workspace>> idle_;
};

}  // namespace phalanx
