// The `normalizer` of a tokenizer file: Unicode forms, Prepend, Replace, Strip, Lowercase, ...
// Called by Tokenizer while loading and encoding.
#include "runtime/server/tokenizer_normalizer.h"

#include <utility>
#include <vector>

#include "runtime/server/tokenizer_byte_level.h"
#include "runtime/server/tokenizer_pattern.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using Normalizer = std::shared_ptr<const TokenizerNormalizer>;

class UnicodeForm : public TokenizerNormalizer {
 public:
  explicit UnicodeForm(NormalizationForm form) : form_(form) {}
  Status apply(std::string& text) const override {
    text = normalize_unicode(text, form_);
    return {};
  }

 private:
  NormalizationForm form_;
};

class Lowercase : public TokenizerNormalizer {
 public:
  Status apply(std::string& text) const override {
    text = lowercase_unicode(text);
    return {};
  }
};

class Prepend : public TokenizerNormalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  Status apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return {};
  }

 private:
  std::string prefix_;
};

class Replace : public TokenizerNormalizer {
 public:
  Replace(TokenizerPattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Status apply(std::string& text) const override {
    PHALANX_ASSIGN_OR_RETURN(text, pattern_.replace_all(text, content_));
    return {};
  }

 private:
  TokenizerPattern pattern_;
  std::string content_;
};

class Strip : public TokenizerNormalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  Status apply(std::string& text) const override {
    size_t first = left_ ? text.size() : 0;
    size_t last = right_ ? 0 : text.size();
    for (size_t i = 0; i < text.size();) {
      const Utf8Char c = read_utf8(text, i);
      if (!is_white_space(c.code_point)) {
        if (first == text.size()) first = i;
        if (right_) last = i + c.num_bytes;
      }
      i += c.num_bytes;
    }
    text = first < last ? text.substr(first, last - first) : std::string();
    return {};
  }

 private:
  bool left_;
  bool right_;
};

class ByteLevel : public TokenizerNormalizer {
 public:
  Status apply(std::string& text) const override {
    std::string mapped(text.size() * kMaxByteLevelBytes, '\0');
    mapped.resize(write_byte_level(mapped.data(), text));
    text = std::move(mapped);
    return {};
  }
};

class Sequence : public TokenizerNormalizer {
 public:
  explicit Sequence(std::vector<Normalizer> parts) : parts_(std::move(parts)) {}
  Status apply(std::string& text) const override {
    for (const Normalizer& part : parts_) PHALANX_RETURN_IF_ERROR(part->apply(text));
    return {};
  }

 private:
  std::vector<Normalizer> parts_;
};

}  // namespace

Result<Normalizer> parse_normalizer(const JsonField& field) {
  if (field.is_null()) return Normalizer();
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  PHALANX_ASSIGN_OR_RETURN(const std::string type, field["type"].as_string());
  if (type == "NFC") return Normalizer(std::make_shared<UnicodeForm>(NormalizationForm::kNfc));
  if (type == "NFD") return Normalizer(std::make_shared<UnicodeForm>(NormalizationForm::kNfd));
  if (type == "NFKC") return Normalizer(std::make_shared<UnicodeForm>(NormalizationForm::kNfkc));
  if (type == "NFKD") return Normalizer(std::make_shared<UnicodeForm>(NormalizationForm::kNfkd));
  if (type == "Lowercase") return Normalizer(std::make_shared<Lowercase>());
  if (type == "ByteLevel") return Normalizer(std::make_shared<ByteLevel>());
  if (type == "Prepend") {
    PHALANX_ASSIGN_OR_RETURN(std::string prefix, field["prepend"].as_string());
    return Normalizer(std::make_shared<Prepend>(std::move(prefix)));
  }
  if (type == "Replace") {
    PHALANX_ASSIGN_OR_RETURN(auto pattern, TokenizerPattern::parse(field["pattern"]));
    PHALANX_ASSIGN_OR_RETURN(std::string content, field["content"].as_string());
    return Normalizer(std::make_shared<Replace>(std::move(pattern), std::move(content)));
  }
  if (type == "Strip") {
    PHALANX_ASSIGN_OR_RETURN(const bool left, field["strip_left"].as_bool());
    PHALANX_ASSIGN_OR_RETURN(const bool right, field["strip_right"].as_bool());
    return Normalizer(std::make_shared<Strip>(left, right));
  }
  if (type == "Sequence") {
    PHALANX_ASSIGN_OR_RETURN(const auto fields, field["normalizers"].as_array());
    std::vector<Normalizer> parts;
    for (const JsonField& part : fields) {
      if (part.is_null()) return part.invalid("null in a sequence");
      PHALANX_ASSIGN_OR_RETURN(Normalizer parsed, parse_normalizer(part));
      parts.push_back(std::move(parsed));
    }
    return Normalizer(std::make_shared<Sequence>(std::move(parts)));
  }
  return field.refuse("normalizer type '" + type + "'");
}

}  // namespace phalanx
