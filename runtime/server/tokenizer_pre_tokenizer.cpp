// The `pre_tokenizer` of a tokenizer file: Split, ByteLevel, Metaspace, Digits, Whitespace, ...
// Called by Tokenizer while loading and encoding.
#include "runtime/server/tokenizer_pre_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/server/tokenizer_byte_level.h"
#include "runtime/server/tokenizer_pattern.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using Pointer = std::shared_ptr<const PreTokenizer>;

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Result<Behavior> parse_behavior(const JsonField& field) {
  PHALANX_ASSIGN_OR_RETURN(const std::string name, field.as_string());
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return field.refuse("behavior '" + name + "'");
}

// Cuts a piece at the spans that a pattern reports, in order: what the five behaviors do with the
// delimiters. Spans cover the text without gaps.
class SpanSplitter {
 public:
  SpanSplitter(const TextPiece& piece, Behavior behavior, std::vector<TextPiece>& out)
      : piece_(piece), behavior_(behavior), out_(out) {}

  void span(size_t begin, size_t end, bool is_match) {
    switch (behavior_) {
      case Behavior::kRemoved:
        if (!is_match) emit(begin, end);
        break;
      case Behavior::kIsolated:
        emit(begin, end);
        break;
      case Behavior::kContiguous:
        grow_or_start(begin, end, is_match == previous_match_);
        break;
      case Behavior::kMergedWithPrevious:
        grow_or_start(begin, end, is_match && !previous_match_);
        break;
      case Behavior::kMergedWithNext:
        // A delimiter belongs to the text after it; a delimiter before a delimiter stands alone.
        grow_or_start(begin, end, has_open_ && open_is_match_ && !is_match && !open_is_grown_);
        open_is_match_ = is_match;
        break;
    }
    previous_match_ = is_match;
  }

  void finish() {
    if (has_open_) emit(open_begin_, open_end_);
  }

 private:
  void emit(size_t begin, size_t end) {
    if (begin == end) return;
    out_.push_back({piece_.text.substr(begin, end - begin), piece_.at_origin && begin == 0});
  }
  void grow_or_start(size_t begin, size_t end, bool grow) {
    if (has_open_ && grow) {
      open_end_ = end;
      open_is_grown_ = true;
      return;
    }
    if (has_open_) emit(open_begin_, open_end_);
    has_open_ = true;
    open_is_grown_ = false;
    open_begin_ = begin;
    open_end_ = end;
  }

  const TextPiece& piece_;
  Behavior behavior_;
  std::vector<TextPiece>& out_;
  bool previous_match_ = false;
  bool has_open_ = false;
  bool open_is_match_ = false;
  bool open_is_grown_ = false;
  size_t open_begin_ = 0;
  size_t open_end_ = 0;
};

Status split_by_pattern(const TextPiece& piece, const TokenizerPattern& pattern, Behavior behavior,
                        bool invert, std::vector<TextPiece>& out) {
  SpanSplitter splitter(piece, behavior, out);
  size_t last = 0;
  PHALANX_RETURN_IF_ERROR(pattern.for_each_match(piece.text, [&](size_t begin, size_t end) {
    if (last != begin) splitter.span(last, begin, invert);
    splitter.span(begin, end, !invert);
    last = end;
  }));
  if (last != piece.text.size()) splitter.span(last, piece.text.size(), invert);
  splitter.finish();
  return {};
}

template <typename Predicate>
void split_by_character(const TextPiece& piece, Predicate&& is_delimiter, Behavior behavior,
                        std::vector<TextPiece>& out) {
  SpanSplitter splitter(piece, behavior, out);
  size_t last = 0;
  for (size_t i = 0; i < piece.text.size();) {
    const Utf8Char c = read_utf8(piece.text, i);
    const size_t end = i + c.num_bytes;
    if (is_delimiter(c.code_point)) {
      if (last < i) splitter.span(last, i, false);
      splitter.span(i, end, true);
      last = end;
    }
    i = end;
  }
  if (last < piece.text.size()) splitter.span(last, piece.text.size(), false);
  splitter.finish();
}

class Split : public PreTokenizer {
 public:
  Split(TokenizerPattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  Status split(const TextPiece& piece, TextArena&, std::vector<TextPiece>& out) const override {
    return split_by_pattern(piece, pattern_, behavior_, invert_, out);
  }

 private:
  TokenizerPattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::optional<TokenizerPattern> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

  Status split(const TextPiece& piece, TextArena& arena,
               std::vector<TextPiece>& out) const override {
    TextPiece source = piece;
    if (add_prefix_space_ && !piece.text.starts_with(' ')) {
      char* text = arena.reserve(piece.text.size() + 1);
      text[0] = ' ';
      piece.text.copy(text + 1, piece.text.size());
      source.text = arena.keep(piece.text.size() + 1);
    }
    const size_t first_new = out.size();
    if (pattern_) {
      PHALANX_RETURN_IF_ERROR(split_by_pattern(source, *pattern_, Behavior::kIsolated, false, out));
    } else {
      out.push_back(source);
    }
    for (size_t i = first_new; i < out.size(); ++i) {
      char* mapped = arena.reserve(out[i].text.size() * kMaxByteLevelBytes);
      out[i].text = arena.keep(write_byte_level(mapped, out[i].text));
    }
    return {};
  }

 private:
  bool add_prefix_space_;
  std::optional<TokenizerPattern> pattern_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(replacement),
        prepend_(prepend),
        split_(split),
        pattern_(TokenizerPattern::literal(std::move(replacement))) {}

  Status split(const TextPiece& piece, TextArena& arena,
               std::vector<TextPiece>& out) const override {
    const bool wanted =
        prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_origin);
    const bool prepend =
        wanted && !piece.text.starts_with(' ') && !piece.text.starts_with(replacement_);
    char* begin = arena.reserve((piece.text.size() + 1) * replacement_.size());
    char* end = begin;
    if (prepend) end += replacement_.copy(end, replacement_.size());
    for (char c : piece.text) {
      if (c == ' ') {
        end += replacement_.copy(end, replacement_.size());
      } else {
        *end++ = c;
      }
    }
    const TextPiece mapped{arena.keep(static_cast<size_t>(end - begin)), piece.at_origin};
    if (split_) {
      return split_by_pattern(mapped, pattern_, Behavior::kMergedWithNext, false, out);
    }
    out.push_back(mapped);
    return {};
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
  TokenizerPattern pattern_;
};

class CharacterSplit : public PreTokenizer {
 public:
  CharacterSplit(bool (*is_delimiter)(char32_t), Behavior behavior)
      : is_delimiter_(is_delimiter), behavior_(behavior) {}
  Status split(const TextPiece& piece, TextArena&, std::vector<TextPiece>& out) const override {
    split_by_character(piece, is_delimiter_, behavior_, out);
    return {};
  }

 private:
  bool (*is_delimiter_)(char32_t);
  Behavior behavior_;
};

// \w+|[^\w\s]+: runs of word characters and runs of the rest; white space goes.
class Whitespace : public PreTokenizer {
 public:
  Status split(const TextPiece& piece, TextArena&, std::vector<TextPiece>& out) const override {
    enum class Kind { kSpace, kWord, kOther };
    Kind open = Kind::kSpace;
    size_t begin = 0;
    auto close = [&](size_t end) {
      if (open == Kind::kSpace || begin == end) return;
      out.push_back({piece.text.substr(begin, end - begin), piece.at_origin && begin == 0});
    };
    for (size_t i = 0; i < piece.text.size();) {
      const Utf8Char c = read_utf8(piece.text, i);
      const Kind kind = is_word_character(c.code_point) ? Kind::kWord
                        : is_white_space(c.code_point)  ? Kind::kSpace
                                                        : Kind::kOther;
      if (kind != open) {
        close(i);
        open = kind;
        begin = i;
      }
      i += c.num_bytes;
    }
    close(piece.text.size());
    return {};
  }
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<Pointer> parts) : parts_(std::move(parts)) {}
  Status split(const TextPiece& piece, TextArena& arena,
               std::vector<TextPiece>& out) const override {
    std::vector<TextPiece> pieces = {piece};
    std::vector<TextPiece> next;
    for (const Pointer& part : parts_) {
      next.clear();
      for (const TextPiece& each : pieces) PHALANX_RETURN_IF_ERROR(part->split(each, arena, next));
      pieces.swap(next);
    }
    out.insert(out.end(), pieces.begin(), pieces.end());
    return {};
  }

 private:
  std::vector<Pointer> parts_;
};

Result<Pointer> parse_split(const JsonField& field) {
  PHALANX_ASSIGN_OR_RETURN(auto pattern, TokenizerPattern::parse(field["pattern"]));
  PHALANX_ASSIGN_OR_RETURN(const Behavior behavior, parse_behavior(field["behavior"]));
  PHALANX_ASSIGN_OR_RETURN(const bool invert, field["invert"].bool_or(false));
  return Pointer(std::make_shared<Split>(std::move(pattern), behavior, invert));
}

Result<Pointer> parse_byte_level(const JsonField& field) {
  PHALANX_ASSIGN_OR_RETURN(const bool add_prefix_space, field["add_prefix_space"].as_bool());
  PHALANX_ASSIGN_OR_RETURN(const bool use_regex, field["use_regex"].bool_or(true));
  std::optional<TokenizerPattern> pattern;
  if (use_regex) {
    PHALANX_ASSIGN_OR_RETURN(pattern, TokenizerPattern::regex(kGpt2Pattern));
  }
  return Pointer(std::make_shared<ByteLevel>(add_prefix_space, std::move(pattern)));
}

Result<Pointer> parse_metaspace(const JsonField& field) {
  PHALANX_ASSIGN_OR_RETURN(std::string replacement, field["replacement"].as_character());
  PHALANX_ASSIGN_OR_RETURN(const bool split, field["split"].bool_or(true));
  Metaspace::Prepend prepend = Metaspace::Prepend::kAlways;
  const JsonField scheme = field["prepend_scheme"];
  if (!scheme.is_null()) {
    PHALANX_ASSIGN_OR_RETURN(const std::string name, scheme.as_string());
    if (name == "first") {
      prepend = Metaspace::Prepend::kFirst;
    } else if (name == "never") {
      prepend = Metaspace::Prepend::kNever;
    } else if (name != "always") {
      return scheme.refuse("prepend_scheme '" + name + "'");
    }
  }
  // The older form of the field: false means "never".
  PHALANX_ASSIGN_OR_RETURN(const bool add_prefix_space, field["add_prefix_space"].bool_or(true));
  if (!add_prefix_space) prepend = Metaspace::Prepend::kNever;
  return Pointer(std::make_shared<Metaspace>(std::move(replacement), prepend, split));
}

}  // namespace

char* TextArena::reserve(size_t max_bytes) {
  if (capacity_ - used_ < max_bytes) {
    capacity_ = std::max(max_bytes, kBlockBytes);
    blocks_.push_back(std::unique_ptr<char[]>(new char[capacity_]));
    used_ = 0;
  }
  return blocks_.back().get() + used_;
}

std::string_view TextArena::keep(size_t num_bytes) {
  PHALANX_CHECK_LE(num_bytes, capacity_ - used_, "TextArena");
  if (num_bytes == 0) return {};
  const std::string_view text(blocks_.back().get() + used_, num_bytes);
  used_ += num_bytes;
  return text;
}

Result<Pointer> parse_pre_tokenizer(const JsonField& field) {
  if (field.is_null()) return Pointer();
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  PHALANX_ASSIGN_OR_RETURN(const std::string type, field["type"].as_string());
  if (type == "Split") return parse_split(field);
  if (type == "ByteLevel") return parse_byte_level(field);
  if (type == "Metaspace") return parse_metaspace(field);
  if (type == "Whitespace") return Pointer(std::make_shared<Whitespace>());
  if (type == "WhitespaceSplit") {
    return Pointer(std::make_shared<CharacterSplit>(is_white_space, Behavior::kRemoved));
  }
  if (type == "Digits") {
    PHALANX_ASSIGN_OR_RETURN(const bool each, field["individual_digits"].bool_or(false));
    return Pointer(std::make_shared<CharacterSplit>(
        is_numeric, each ? Behavior::kIsolated : Behavior::kContiguous));
  }
  if (type == "Punctuation") {
    Behavior behavior = Behavior::kIsolated;
    if (const JsonField named = field["behavior"]; !named.is_null()) {
      PHALANX_ASSIGN_OR_RETURN(behavior, parse_behavior(named));
    }
    return Pointer(std::make_shared<CharacterSplit>(is_punctuation, behavior));
  }
  if (type == "Sequence") {
    PHALANX_ASSIGN_OR_RETURN(const auto fields, field["pretokenizers"].as_array());
    std::vector<Pointer> parts;
    for (const JsonField& part : fields) {
      if (part.is_null()) return part.invalid("null in a sequence");
      PHALANX_ASSIGN_OR_RETURN(Pointer parsed, parse_pre_tokenizer(part));
      parts.push_back(std::move(parsed));
    }
    return Pointer(std::make_shared<Sequence>(std::move(parts)));
  }
  return field.refuse("pre-tokenizer type '" + type + "'");
}

}  // namespace phalanx
