// Reads the BPE model of a tokenizer file: vocabulary, merges as strings or pairs, options.
// Called by Tokenizer while loading.
#include <algorithm>
#include <bit>

#include "runtime/server/tokenizer_bpe.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

struct MergeText {
  std::string_view left;
  std::string_view right;
};

// "a b" or ["a", "b"].
Result<MergeText> merge_text(const FileJson& entry, const JsonField& field, size_t index) {
  if (entry.is_string()) {
    const std::string_view text = entry.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return MergeText{text.substr(0, space), text.substr(space + 1)};
    }
    return field.at(index).invalid(std::string(text) + ", must be two tokens and a space");
  }
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
    return MergeText{entry[0].get_ref<const std::string&>(),
                     entry[1].get_ref<const std::string&>()};
  }
  return field.at(index).invalid("must be a string or a pair of strings");
}

}  // namespace

Status BpeModel::read_vocabulary(const JsonField& field) {
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  const FileJson& vocabulary = field.json();
  int64_t max_id = -1;
  for (const auto& item : vocabulary.items()) {
    const JsonField entry(item.value(), field.path() + "['" + item.key() + "']");
    PHALANX_ASSIGN_OR_RETURN(const int64_t id, entry.as_integer(0, kMaxTokenIds - 1));
    max_id = std::max(max_id, id);
  }
  tokens_.resize(static_cast<size_t>(max_id + 1));
  is_present_.resize(static_cast<size_t>(max_id + 1));
  slots_.assign(std::bit_ceil(vocabulary.size() * 2 + 2), TokenSlot{});
  for (const auto& item : vocabulary.items()) {
    const auto id = item.value().get<int32_t>();
    const auto index = static_cast<size_t>(id);
    if (is_present_[index]) {
      return field.invalid("id " + std::to_string(id) + " is used by '" + tokens_[index] +
                           "' and by '" + item.key() + "'");
    }
    const uint32_t hash = hash_token(item.key());
    TokenSlot& slot = slots_[find_slot(item.key(), hash)];
    if (slot.id >= 0) return field.invalid("the token '" + item.key() + "' is there twice");
    slot = {hash, id};
    tokens_[index] = item.key();
    is_present_[index] = true;
  }
  num_tokens_ = vocabulary.size();
  return {};
}

Status BpeModel::read_merges(const JsonField& field) {
  if (!field.json().is_array()) return field.invalid("must be an array");
  const FileJson& entries = field.json();
  const size_t slots = std::bit_ceil(entries.size() * 2 + 2);
  merges_.assign(slots, Merge{});
  merge_mask_ = slots - 1;
  uint32_t rank = 0;
  std::string merged;
  for (size_t i = 0; i < entries.size(); ++i) {
    const FileJson& entry = entries[i];
    if (entry.is_string() && entry.get_ref<const std::string&>().starts_with("#version")) continue;
    PHALANX_ASSIGN_OR_RETURN(const MergeText text, merge_text(entry, field, i));
    const std::string_view tail = prefix_.empty() || !text.right.starts_with(prefix_)
                                      ? text.right
                                      : text.right.substr(prefix_.size());
    merged.assign(text.left);
    merged += tail;
    const auto left = token_id(text.left);
    const auto right = token_id(text.right);
    const auto whole = token_id(merged);
    if (!left || !right || !whole) {
      const std::string missing(!left ? text.left : !right ? text.right : merged);
      return field.at(i).invalid("the vocabulary lacks the token " + missing);
    }
    insert_merge(*left, *right, rank++, *whole);
  }
  return {};
}

Status BpeModel::read_options(const JsonField& field) {
  const JsonField dropout = field["dropout"];
  if (!dropout.is_null()) {
    if (!dropout.json().is_number()) return dropout.invalid("must be a number or null");
    if (dropout.json().get<double>() != 0.0) return dropout.refuse("dropout while serving");
  }
  if (const JsonField prefix = field["continuing_subword_prefix"]; !prefix.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(prefix_, prefix.as_string());
  }
  if (const JsonField suffix = field["end_of_word_suffix"]; !suffix.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(suffix_, suffix.as_string());
  }
  if (const JsonField unk = field["unk_token"]; !unk.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(unk_token_, unk.as_string());
  }
  PHALANX_ASSIGN_OR_RETURN(fuse_unk_, field["fuse_unk"].bool_or(false));
  PHALANX_ASSIGN_OR_RETURN(byte_fallback_, field["byte_fallback"].bool_or(false));
  PHALANX_ASSIGN_OR_RETURN(ignore_merges_, field["ignore_merges"].bool_or(false));
  return {};
}

void BpeModel::index_characters() {
  character_ids_.assign(kDirectCodePoints, -1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    const std::string& token = tokens_[id];
    if (token.empty()) continue;
    const Utf8Char c = read_utf8(token, 0);
    if (c.num_bytes == token.size() && c.code_point < kDirectCodePoints)
      character_ids_[c.code_point] = static_cast<int32_t>(id);
  }
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    const std::string name = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
    byte_ids_[byte] = token_id(name).value_or(-1);
  }
  if (unk_token_) unk_id_ = token_id(*unk_token_);
}

void BpeModel::index_bigrams() {
  // With affixes a token's text is not its characters; with ignore_merges a whole word counts.
  if (!prefix_.empty() || !suffix_.empty() || ignore_merges_) return;
  std::vector<uint64_t> pairs;
  for (const std::string& token : tokens_) {
    char32_t previous = 0;
    for (size_t i = 0; i < token.size();) {
      const Utf8Char c = read_utf8(token, i);
      if (i > 0) pairs.push_back(bigram_key(previous, c.code_point));
      previous = c.code_point;
      i += c.num_bytes;
    }
  }
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  bigrams_.assign(std::bit_ceil(pairs.size() * 2 + 2), kNoPair);
  for (const uint64_t pair : pairs) {
    size_t slot = hash_pair(pair) & (bigrams_.size() - 1);
    while (bigrams_[slot] != kNoPair) slot = (slot + 1) & (bigrams_.size() - 1);
    bigrams_[slot] = pair;
  }
}

Result<std::shared_ptr<const BpeModel>> BpeModel::parse(const JsonField& field) {
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  // Files of before the type field: a vocabulary with merges is BPE.
  if (const JsonField type = field["type"]; !type.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(const std::string name, type.as_string());
    if (name != "BPE") return type.refuse("model type '" + name + "'; must be BPE");
  } else if (field["merges"].is_null()) {
    return type.invalid("absent, must be BPE");
  }
  std::shared_ptr<BpeModel> model(new BpeModel());
  PHALANX_RETURN_IF_ERROR(model->read_options(field));
  PHALANX_RETURN_IF_ERROR(model->read_vocabulary(field["vocab"]));
  PHALANX_RETURN_IF_ERROR(model->read_merges(field["merges"]));
  model->index_characters();
  model->index_bigrams();
  return std::shared_ptr<const BpeModel>(std::move(model));
}

}  // namespace phalanx
