// TextFormat with its errors turned into one Status.
#include "runtime/model/textproto.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "runtime/base/check.h"

namespace phalanx::model {

namespace {

constexpr int kMaxNesting = 32;

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(const std::string& where) : where_(where) {}
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (text_.empty())
      text_ = where_ + ":" + std::to_string(line + 1) + ":" + std::to_string(column + 1) + ": " +
              message;
  }
  const std::string& text() const { return text_; }

 private:
  const std::string& where_;
  std::string text_;
};

}  // namespace

Status parse_textproto(const std::string& text, const std::string& where,
                       google::protobuf::Message* message) {
  FirstError errors(where);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.SetRecursionLimit(kMaxNesting);
  if (!parser.ParseFromString(text, message))
    return invalid_argument(errors.text().empty() ? where + ": not a text protobuf"
                                                  : errors.text());
  return {};
}

std::string print_textproto(const google::protobuf::Message& message) {
  std::string text;
  PHALANX_CHECK(google::protobuf::TextFormat::PrintToString(message, &text),
                "printing a message as text");
  return text;
}

}  // namespace phalanx::model
