// The `post_processor` of a tokenizer file: which special tokens go around an encoded text.
// Called by Tokenizer while loading and encoding.
#include "runtime/server/tokenizer_post_processor.h"

#include <algorithm>
#include <string>
#include <utility>

namespace phalanx {
namespace {

// A template repeats its sequence at most this often: a longer one only serves to fill memory.
constexpr size_t kMaxSequences = 4;
constexpr size_t kMaxTemplates = 8;

}  // namespace

Result<TokenizerPostProcessor::Template> TokenizerPostProcessor::parse_template(
    const JsonField& field, int64_t num_ids) {
  PHALANX_ASSIGN_OR_RETURN(const auto pieces, field["single"].as_array());
  Template parts;
  size_t num_sequences = 0;
  for (const JsonField& piece : pieces) {
    Part part;
    if (const JsonField sequence = piece["Sequence"]; !sequence.is_null()) {
      PHALANX_ASSIGN_OR_RETURN(const std::string id, sequence["id"].as_string());
      if (id != "A") return sequence["id"].invalid("'" + id + "', must be A in a single template");
      part.is_sequence = true;
      if (++num_sequences > kMaxSequences) return piece.invalid("more than 4 sequences");
    } else if (const JsonField special = piece["SpecialToken"]; !special.is_null()) {
      PHALANX_ASSIGN_OR_RETURN(const std::string name, special["id"].as_string());
      const JsonField entry = field["special_tokens"][name];
      PHALANX_ASSIGN_OR_RETURN(const auto ids, entry["ids"].as_array());
      for (const JsonField& id : ids) {
        PHALANX_ASSIGN_OR_RETURN(const int64_t value, id.as_integer(0, num_ids - 1));
        part.ids.push_back(static_cast<int32_t>(value));
      }
    } else {
      return piece.invalid("must be a Sequence or a SpecialToken");
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

Result<TokenizerPostProcessor> TokenizerPostProcessor::parse(const JsonField& field,
                                                             int64_t num_ids) {
  TokenizerPostProcessor processor;
  if (field.is_null()) return processor;
  PHALANX_RETURN_IF_ERROR(field.expect_object());
  PHALANX_ASSIGN_OR_RETURN(const std::string type, field["type"].as_string());
  if (type == "ByteLevel") return processor;
  if (type == "TemplateProcessing") {
    PHALANX_ASSIGN_OR_RETURN(Template parts, parse_template(field, num_ids));
    processor.templates_.push_back(std::move(parts));
    return processor;
  }
  if (type == "Sequence") {
    PHALANX_ASSIGN_OR_RETURN(const auto fields, field["processors"].as_array());
    for (const JsonField& part : fields) {
      PHALANX_ASSIGN_OR_RETURN(TokenizerPostProcessor parsed, parse(part, num_ids));
      for (Template& each : parsed.templates_) processor.templates_.push_back(std::move(each));
      if (processor.templates_.size() > kMaxTemplates) return part.invalid("more than 8 templates");
    }
    return processor;
  }
  return field.refuse("post-processor type '" + type + "'");
}

std::vector<int32_t> TokenizerPostProcessor::apply(std::vector<int32_t> ids,
                                                   bool add_special_tokens) const {
  for (const Template& parts : templates_) {
    std::vector<int32_t> result;
    result.reserve(ids.size() + parts.size());
    for (const Part& part : parts) {
      if (part.is_sequence) {
        result.insert(result.end(), ids.begin(), ids.end());
      } else if (add_special_tokens) {
        result.insert(result.end(), part.ids.begin(), part.ids.end());
      }
    }
    ids = std::move(result);
  }
  return ids;
}

}  // namespace phalanx
