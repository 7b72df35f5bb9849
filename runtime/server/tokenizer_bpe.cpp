// The BPE model of a tokenizer file: merging the characters of a word into tokens.
// Called by Tokenizer while encoding. tokenizer_bpe_parse.cpp reads it from the file.
#include "runtime/server/tokenizer_bpe.h"

#include <algorithm>
#include <cstring>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

constexpr size_t kMaxWordBytes = size_t{1} << 30;  // positions are 32 bits

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t key) {
  key *= 0x9E3779B97F4A7C15ULL;
  return key ^ (key >> 29);
}

uint64_t hash_word(std::string_view word) {
  uint64_t hash = word.size();
  size_t i = 0;
  for (; i + 8 <= word.size(); i += 8) {
    uint64_t chunk = 0;
    std::memcpy(&chunk, word.data() + i, 8);
    hash = mix(hash ^ chunk);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, word.data() + i, word.size() - i);
  return mix(hash ^ rest);
}

}  // namespace

BpeModel::Workspace::Workspace() : cache_(kCacheSlots) {}

bool BpeModel::Workspace::is_large() const {
  return symbols_.capacity() * sizeof(Symbol) + heap_.capacity() * sizeof(Candidate) > kLargeBytes;
}

std::optional<int32_t> BpeModel::token_id(std::string_view token) const {
  const int32_t id = slots_[find_slot(token, hash_token(token))].id;
  return id < 0 ? std::nullopt : std::optional(id);
}

size_t BpeModel::find_slot(std::string_view token, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;  // half of them stay empty
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    const TokenSlot& slot = slots_[i];
    if (slot.id < 0) return i;
    if (slot.hash == hash && tokens_[static_cast<size_t>(slot.id)] == token) return i;
  }
}

const std::string* BpeModel::token(int32_t id) const {
  if (id < 0 || id > max_id() || !is_present_[static_cast<size_t>(id)]) return nullptr;
  return &tokens_[static_cast<size_t>(id)];
}

void BpeModel::insert_merge(int32_t left, int32_t right, uint32_t rank, int32_t new_id) {
  const uint64_t key = pair_key(left, right);
  size_t slot = hash_pair(key) & merge_mask_;
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != key)
    slot = (slot + 1) & merge_mask_;
  merges_[slot] = {key, rank, new_id};
}

const BpeModel::Merge* BpeModel::find_merge(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  for (size_t slot = hash_pair(key) & merge_mask_;; slot = (slot + 1) & merge_mask_) {
    if (merges_[slot].pair == key) return &merges_[slot];
    if (merges_[slot].pair == kNoPair) return nullptr;
  }
}

// The token of one character of the word, with the affixes that some models put on it; -1: none.
int32_t BpeModel::character_id(std::string_view word, size_t offset, size_t num_bytes,
                               char32_t c) const {
  const bool is_last = offset + num_bytes == word.size();
  const bool has_prefix = offset > 0 && !prefix_.empty();
  const bool has_suffix = is_last && !suffix_.empty();
  if (!has_prefix && !has_suffix && c < kDirectCodePoints) return character_ids_[c];
  std::string text = has_prefix ? prefix_ : std::string();
  text += word.substr(offset, num_bytes);
  if (has_suffix) text += suffix_;
  return token_id(text).value_or(-1);
}

Status BpeModel::start_symbols(std::string_view word,
                               std::vector<Workspace::Symbol>& symbols) const {
  symbols.clear();
  auto add = [&](int32_t id) {
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1, true});
  };
  // Unknown characters wait here: with fuse_unk a run of them is one token. Bytes of the fallback
  // do not end the wait, which puts them before it; the reference library does the same.
  bool unk_waits = false;
  for (size_t i = 0; i < word.size();) {
    const Utf8Char c = read_utf8(word, i);
    const int32_t id = character_id(word, i, c.num_bytes, c.code_point);
    const size_t offset = i;
    i += c.num_bytes;
    if (id >= 0) {
      if (unk_waits) add(*unk_id_);
      unk_waits = false;
      add(id);
      continue;
    }
    if (byte_fallback_) {
      std::string bytes = offset > 0 ? prefix_ : std::string();
      bytes += word.substr(offset, c.num_bytes);
      if (i == word.size()) bytes += suffix_;
      const bool all = std::all_of(bytes.begin(), bytes.end(), [&](char byte) {
        return byte_ids_[static_cast<unsigned char>(byte)] >= 0;
      });
      if (all) {
        for (char byte : bytes) add(byte_ids_[static_cast<unsigned char>(byte)]);
        continue;
      }
    }
    if (!unk_token_) continue;  // dropped
    if (!unk_id_) {
      return invalid_argument(
          "byte " + std::to_string(offset) +
          " of a word: unknown character, and the vocabulary lacks unk_token '" + *unk_token_ +
          "'");
    }
    if (unk_waits && !fuse_unk_) add(*unk_id_);
    unk_waits = true;
  }
  if (unk_waits) add(*unk_id_);
  if (!symbols.empty()) symbols.back().next = -1;
  return {};
}

void BpeModel::merge_symbols(Workspace& workspace) const {
  using Candidate = Workspace::Candidate;
  std::vector<Workspace::Symbol>& symbols = workspace.symbols_;
  std::vector<Candidate>& heap = workspace.heap_;
  heap.clear();
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto consider = [&](int32_t left, int32_t right) {
    const Merge* merge =
        find_merge(symbols[static_cast<size_t>(left)].id, symbols[static_cast<size_t>(right)].id);
    if (merge == nullptr) return false;
    heap.push_back({merge->rank, left, merge->new_id});
    return true;
  };
  const auto count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);
  std::make_heap(heap.begin(), heap.end(), later);

  while (!heap.empty()) {
    const Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    Workspace::Symbol& left = symbols[static_cast<size_t>(top.position)];
    if (!left.live || left.next < 0) continue;
    Workspace::Symbol& right = symbols[static_cast<size_t>(left.next)];
    // An entry is stale when its pair has changed. The pair that stands there now still merges when
    // it makes the same token, even at another rank: so does the reference library.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->new_id != top.new_id) continue;
    left.id = top.new_id;
    left.next = right.next;
    right.live = false;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.position;
    if (left.previous >= 0 && consider(left.previous, top.position))
      std::push_heap(heap.begin(), heap.end(), later);
    if (left.next >= 0 && consider(top.position, left.next))
      std::push_heap(heap.begin(), heap.end(), later);
  }
}

bool BpeModel::can_join(char32_t left, char32_t right) const {
  const uint64_t key = bigram_key(left, right);
  const size_t mask = bigrams_.size() - 1;
  for (size_t slot = hash_pair(key) & mask;; slot = (slot + 1) & mask) {
    if (bigrams_[slot] == key) return true;
    if (bigrams_[slot] == kNoPair) return false;
  }
}

Status BpeModel::encode(std::string_view word, Workspace& workspace,
                        std::vector<int32_t>& ids) const {
  if (word.size() >= kMaxWordBytes) {
    return resource_exhausted("a word of " + std::to_string(word.size()) + " bytes, at most " +
                              std::to_string(kMaxWordBytes));
  }
  if (bigrams_.empty() || word.size() <= Workspace::kCachedWordBytes) {
    return encode_segment(word, workspace, ids);
  }
  // Models without a pre-tokenizer get the whole text as one word. Where it can be cut it becomes
  // short segments that the cache knows. Unknown characters stay with their neighbours: fuse_unk.
  size_t begin = 0;
  char32_t previous = 0;
  bool previous_known = false;
  for (size_t i = 0; i < word.size();) {
    const Utf8Char c = read_utf8(word, i);
    const bool known = c.code_point < kDirectCodePoints && character_ids_[c.code_point] >= 0;
    if (previous_known && known && !can_join(previous, c.code_point)) {
      PHALANX_RETURN_IF_ERROR(encode_segment(word.substr(begin, i - begin), workspace, ids));
      begin = i;
    }
    previous = c.code_point;
    previous_known = known;
    i += c.num_bytes;
  }
  return encode_segment(word.substr(begin), workspace, ids);
}

Status BpeModel::encode_segment(std::string_view word, Workspace& workspace,
                                std::vector<int32_t>& ids) const {
  Workspace::CachedWord* slot = nullptr;
  if (word.size() <= Workspace::kCachedWordBytes) {
    slot = &workspace.cache_[hash_word(word) & (Workspace::kCacheSlots - 1)];
    if (slot->num_bytes == word.size() &&
        std::memcmp(slot->bytes.data(), word.data(), word.size()) == 0) {
      ids.insert(ids.end(), slot->ids.begin(), slot->ids.begin() + slot->num_ids);
      return {};
    }
  }
  const size_t first_new = ids.size();
  std::optional<int32_t> whole;
  if (ignore_merges_) whole = token_id(word);
  if (whole) {
    ids.push_back(*whole);
  } else {
    PHALANX_RETURN_IF_ERROR(start_symbols(word, workspace.symbols_));
    merge_symbols(workspace);
    for (const Workspace::Symbol& symbol : workspace.symbols_)
      if (symbol.live) ids.push_back(symbol.id);
  }
  const size_t num_ids = ids.size() - first_new;
  if (slot != nullptr && num_ids <= Workspace::kCachedWordIds) {
    slot->num_bytes = static_cast<uint8_t>(word.size());
    slot->num_ids = static_cast<uint8_t>(num_ids);
    std::copy(word.begin(), word.end(), slot->bytes.begin());
    std::copy(ids.begin() + static_cast<std::ptrdiff_t>(first_new), ids.end(), slot->ids.begin());
  }
  return {};
}

}  // namespace phalanx
