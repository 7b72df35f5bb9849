// The added tokens of a tokenizer file: finding them in text, and which of them are special.
// Called by Tokenizer while loading, encoding and decoding.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_bpe.h"
#include "runtime/server/tokenizer_json.h"
#include "runtime/server/tokenizer_normalizer.h"

namespace phalanx {

/// A token that is cut out of the text before the model sees it.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  std::string decoded;  ///< what a decoder gets: the normalized content where that differs
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
  bool special = false;
};

/// A stretch of text, or an added token found there.
struct AddedTokenSplit {
  std::string_view text;
  int32_t id = -1;  ///< -1: text
};

/// Immutable after parse; thread safe.
class AddedTokens {
 public:
  /// Reads the `added_tokens` field. A token that the model's vocabulary has keeps that id; the
  /// others are numbered from the vocabulary's size on, in order, as the reference library does.
  /// Errors: kInvalidArgument naming a bad field, an empty or overlong content, too many tokens.
  static Result<AddedTokens> parse(const JsonField& field, const BpeModel& model,
                                   const TokenizerNormalizer* normalizer);

  /// Cuts `text` at the tokens with the given `normalized` flag: leftmost, longest first. With
  /// `parse_special` false the special ones stay text. O(text * longest token).
  void split(std::string_view text, bool normalized, bool parse_special,
             std::vector<AddedTokenSplit>& out) const;

  /// The added token with this id, or nullptr.
  const AddedToken* find(int32_t id) const;
  std::optional<int32_t> token_id(std::string_view content) const;
  bool is_special_text(std::string_view text) const;
  int32_t max_id() const { return max_id_; }
  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  // A trie over bytes; children are a linked list, but for the root a table.
  class Trie {
   public:
    Trie();
    void insert(std::string_view text, size_t token_index);
    bool empty() const { return nodes_.size() == 1; }
    /// The longest inserted text that `text` has at `offset`: its length (0: none) and its token.
    size_t longest_at(std::string_view text, size_t offset, size_t& token_index) const;

   private:
    struct Node {
      unsigned char byte = 0;
      int32_t first_child = -1;
      int32_t sibling = -1;
      int32_t token_index = -1;
    };
    int32_t child(int32_t node, unsigned char byte) const;
    std::vector<Node> nodes_;
    std::array<int32_t, 256> root_{};
  };

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, size_t> by_content_;
  std::unordered_map<int32_t, size_t> by_id_;
  Trie plain_;
  Trie normalized_;
  int32_t max_id_ = -1;
};

}  // namespace phalanx
