// The BPE model of a tokenizer file: vocabulary, merges, and the ids of one word.
// Called by Tokenizer while loading and encoding.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/server/tokenizer_json.h"

namespace phalanx {

/// Ids stay below this, so that tables indexed by them are bounded whatever the file says.
constexpr int64_t kMaxTokenIds = int64_t{1} << 22;

/// Immutable after parse; any thread may encode at the same time with a workspace of its own.
class BpeModel {
 public:
  /// What one encode call needs: buffers and a direct-mapped cache of words. One thread at a time.
  class Workspace {
   public:
    Workspace();
    /// A very long word has grown it: better dropped than kept for the next call.
    bool is_large() const;

   private:
    friend class BpeModel;
    struct Symbol {
      int32_t id = 0;
      int32_t previous = -1;
      int32_t next = -1;
      bool live = true;
    };
    struct Candidate {
      uint32_t rank = 0;
      int32_t position = 0;
      int32_t new_id = 0;
    };
    static constexpr size_t kLargeBytes = size_t{8} << 20;
    static constexpr size_t kCachedWordBytes = 62;
    static constexpr size_t kCachedWordIds = 16;
    struct CachedWord {
      uint8_t num_bytes = 0;  // 0: empty
      uint8_t num_ids = 0;
      std::array<char, kCachedWordBytes> bytes{};
      std::array<int32_t, kCachedWordIds> ids{};
    };
    static constexpr size_t kCacheSlots = size_t{1} << 14;  // 2 MiB
    std::vector<CachedWord> cache_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
  };

  /// Reads the `model` field. Errors: kUnsupported (another model type, dropout), kInvalidArgument
  /// (a field, a merge of tokens that the vocabulary lacks, an id above kMaxTokenIds or used
  /// twice).
  static Result<std::shared_ptr<const BpeModel>> parse(const JsonField& field);

  /// Appends the ids of `word` (well-formed UTF-8, not empty). Merges by lowest rank, leftmost
  /// first, in O(n log n). Errors: kInvalidArgument (an unknown character and an unk_token that the
  /// vocabulary lacks). Source: arXiv 1508.07909, semantics of the tokenizers library.
  Status encode(std::string_view word, Workspace& workspace, std::vector<int32_t>& ids) const;

  std::optional<int32_t> token_id(std::string_view token) const;
  /// The token with this id, or nullptr.
  const std::string* token(int32_t id) const;
  /// Number of tokens; ids may have gaps and so be larger.
  size_t num_tokens() const { return num_tokens_; }
  int32_t max_id() const { return static_cast<int32_t>(tokens_.size()) - 1; }

 private:
  struct Merge {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
    int32_t new_id = 0;
  };
  struct TokenSlot {
    uint32_t hash = 0;
    int32_t id = -1;  // none
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr uint64_t bigram_key(char32_t left, char32_t right) {
    return (uint64_t{left} << 32) | right;
  }
  static constexpr uint64_t hash_pair(uint64_t key) {
    key *= 0x9E3779B97F4A7C15ULL;
    return key ^ (key >> 29);
  }
  static uint32_t hash_token(std::string_view token) {
    return static_cast<uint32_t>(std::hash<std::string_view>{}(token));
  }
  static constexpr size_t kDirectCodePoints = 0x10000;

  BpeModel() = default;
  /// Index of the slot of `token`, or of the empty one where it would go.
  size_t find_slot(std::string_view token, uint32_t hash) const;
  Status read_vocabulary(const JsonField& field);
  Status read_merges(const JsonField& field);
  Status read_options(const JsonField& field);
  void index_characters();
  void insert_merge(int32_t left, int32_t right, uint32_t rank, int32_t new_id);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void index_bigrams();
  bool can_join(char32_t left, char32_t right) const;
  Status encode_segment(std::string_view segment, Workspace& workspace,
                        std::vector<int32_t>& ids) const;
  Status start_symbols(std::string_view word, std::vector<Workspace::Symbol>& symbols) const;
  void merge_symbols(Workspace& workspace) const;
  int32_t character_id(std::string_view word, size_t offset, size_t num_bytes, char32_t c) const;

  std::vector<std::string> tokens_;  // by id
  std::vector<bool> is_present_;     // by id: the vocabulary has it
  size_t num_tokens_ = 0;
  std::vector<TokenSlot> slots_;  // ids by token: open addressing, a power of two
  std::vector<Merge> merges_;     // open addressing, a power of two
  size_t merge_mask_ = 0;
  std::vector<int32_t> character_ids_;  // by code point; -1: not a token
  // Pairs of characters that stand side by side inside some token: open addressing. A long word is
  // cut at all other pairs, since no merge can ever cross them. Empty: words are never cut.
  std::vector<uint64_t> bigrams_;
  std::array<int32_t, 256> byte_ids_{};  // <0xXX> tokens; -1: absent
  std::string prefix_;                   // continuing_subword_prefix
  std::string suffix_;                   // end_of_word_suffix
  std::optional<std::string> unk_token_;
  std::optional<int32_t> unk_id_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace phalanx
