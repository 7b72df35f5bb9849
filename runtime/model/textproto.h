// Protobuf text files, read strictly. Called by the architecture loader and engine_file.
#pragma once

#include <string>

#include <google/protobuf/message.h>

#include "runtime/base/result.h"

namespace phalanx::model {

/// Parses `text` into `message`. Errors: kInvalidArgument "where:line:column: reason" of the first
/// unknown field, wrong type or syntax error.
Status parse_textproto(const std::string& text, const std::string& where,
                       google::protobuf::Message* message);

/// Text that parses back to an equal message; the same for equal messages.
std::string print_textproto(const google::protobuf::Message& message);

}  // namespace phalanx::model
