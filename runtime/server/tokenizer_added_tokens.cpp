// The added tokens of a tokenizer file: finding them in text, and which of them are special.
// Called by Tokenizer while loading, encoding and decoding.
#include "runtime/server/tokenizer_added_tokens.h"

#include <algorithm>
#include <utility>

#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

constexpr size_t kMaxContentBytes = 2048;

// Start of the code point before `offset` (which is not 0).
size_t previous_code_point(std::string_view text, size_t offset) {
  do {
    --offset;
  } while (offset > 0 && (static_cast<unsigned char>(text[offset]) & 0xC0U) == 0x80U);
  return offset;
}

bool word_ends_at(std::string_view text, size_t offset) {
  if (offset == 0) return false;
  return is_word_character(read_utf8(text, previous_code_point(text, offset)).code_point);
}

bool word_begins_at(std::string_view text, size_t offset) {
  return offset < text.size() && is_word_character(read_utf8(text, offset).code_point);
}

Result<AddedToken> parse_token(const JsonField& field) {
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  AddedToken token;
  PHALANX_ASSIGN_OR_RETURN(token.content, field["content"].as_string());
  PHALANX_ASSIGN_OR_RETURN(const int64_t id, field["id"].as_integer(0, kMaxTokenIds - 1));
  token.id = static_cast<int32_t>(id);
  PHALANX_ASSIGN_OR_RETURN(token.special, field["special"].bool_or(false));
  PHALANX_ASSIGN_OR_RETURN(token.normalized, field["normalized"].bool_or(!token.special));
  PHALANX_ASSIGN_OR_RETURN(token.single_word, field["single_word"].bool_or(false));
  PHALANX_ASSIGN_OR_RETURN(token.lstrip, field["lstrip"].bool_or(false));
  PHALANX_ASSIGN_OR_RETURN(token.rstrip, field["rstrip"].bool_or(false));
  if (token.content.size() > kMaxContentBytes) {
    return field["content"].invalid(std::to_string(token.content.size()) + " bytes, at most " +
                                    std::to_string(kMaxContentBytes));
  }
  return token;
}

}  // namespace

AddedTokens::Trie::Trie() : nodes_(1) { root_.fill(-1); }

int32_t AddedTokens::Trie::child(int32_t node, unsigned char byte) const {
  if (node == 0) return root_[byte];
  int32_t next = nodes_[static_cast<size_t>(node)].first_child;
  while (next >= 0 && nodes_[static_cast<size_t>(next)].byte != byte)
    next = nodes_[static_cast<size_t>(next)].sibling;
  return next;
}

void AddedTokens::Trie::insert(std::string_view text, size_t token_index) {
  int32_t node = 0;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      Node fresh;
      fresh.byte = byte;
      fresh.sibling = node == 0 ? -1 : nodes_[static_cast<size_t>(node)].first_child;
      nodes_.push_back(fresh);
      if (node == 0) {
        root_[byte] = next;
      } else {
        nodes_[static_cast<size_t>(node)].first_child = next;
      }
    }
    node = next;
  }
  nodes_[static_cast<size_t>(node)].token_index = static_cast<int32_t>(token_index);
}

size_t AddedTokens::Trie::longest_at(std::string_view text, size_t offset,
                                     size_t& token_index) const {
  size_t length = 0;
  int32_t node = 0;
  for (size_t i = offset; i < text.size(); ++i) {
    node = child(node, static_cast<unsigned char>(text[i]));
    if (node < 0) break;
    const int32_t found = nodes_[static_cast<size_t>(node)].token_index;
    if (found >= 0) {
      length = i + 1 - offset;
      token_index = static_cast<size_t>(found);
    }
  }
  return length;
}

Result<AddedTokens> AddedTokens::parse(const JsonField& field, const BpeModel& model,
                                       const TokenizerNormalizer* normalizer) {
  AddedTokens added;
  if (field.is_null()) return added;
  PHALANX_ASSIGN_OR_RETURN(const auto fields, field.as_array());
  auto next_id = static_cast<int64_t>(model.num_tokens());
  for (const JsonField& each : fields) {
    PHALANX_ASSIGN_OR_RETURN(AddedToken token, parse_token(each));
    if (token.content.empty()) continue;
    token.decoded = token.content;
    if (token.normalized && normalizer != nullptr) {
      PHALANX_RETURN_IF_ERROR(normalizer->apply(token.decoded));
    }
    const auto known = added.by_content_.find(token.content);
    if (known != added.by_content_.end()) {  // given twice: the later flags hold
      token.id = added.tokens_[known->second].id;
      added.tokens_[known->second] = std::move(token);
      continue;
    }
    if (const auto id = model.token_id(token.content)) {
      token.id = *id;
    } else {
      if (next_id >= kMaxTokenIds) return each.invalid("more tokens than ids");
      token.id = static_cast<int32_t>(next_id++);
    }
    added.max_id_ = std::max(added.max_id_, token.id);
    added.by_content_.emplace(token.content, added.tokens_.size());
    added.by_id_[token.id] = added.tokens_.size();
    added.tokens_.push_back(std::move(token));
  }
  for (size_t i = 0; i < added.tokens_.size(); ++i) {
    const AddedToken& token = added.tokens_[i];
    if (token.decoded.empty()) continue;  // normalized away: never found
    (token.normalized ? added.normalized_ : added.plain_)
        .insert(token.normalized ? token.decoded : token.content, i);
  }
  return added;
}

void AddedTokens::split(std::string_view text, bool normalized, bool parse_special,
                        std::vector<AddedTokenSplit>& out) const {
  if (text.empty()) return;
  const Trie& trie = normalized ? normalized_ : plain_;
  size_t done = 0;       // bytes of the text that are in `out`
  size_t white_end = 0;  // end of the white space that was last stripped to the right
  size_t offset = 0;
  while (!trie.empty() && offset < text.size()) {
    size_t index = 0;
    const size_t length = trie.longest_at(text, offset, index);
    if (length == 0) {
      ++offset;
      continue;
    }
    size_t begin = offset;
    size_t end = offset + length;
    offset = end;
    const AddedToken& token = tokens_[index];
    if (token.special && !parse_special) continue;
    if (token.single_word && (word_ends_at(text, begin) || word_begins_at(text, end))) continue;
    if (token.lstrip) {
      while (begin > done) {
        const size_t previous = previous_code_point(text, begin);
        if (!is_white_space(read_utf8(text, previous).code_point)) break;
        begin = previous;
      }
    }
    if (token.rstrip) {
      if (end < white_end) {
        end = white_end;
      } else {
        while (end < text.size()) {
          const Utf8Char c = read_utf8(text, end);
          if (!is_white_space(c.code_point)) break;
          end += c.num_bytes;
        }
        white_end = end;
      }
    }
    if (done < begin) out.push_back({text.substr(done, begin - done), -1});
    out.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

std::optional<int32_t> AddedTokens::token_id(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  if (found == by_content_.end()) return std::nullopt;
  return tokens_[found->second].id;
}

bool AddedTokens::is_special_text(std::string_view text) const {
  const auto found = by_content_.find(std::string(text));
  return found != by_content_.end() && tokens_[found->second].special;
}

}  // namespace phalanx
