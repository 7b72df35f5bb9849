// From a checked request to the token ids of its prompts. Called by openai_api.
#pragma once

#include <vector>

#include "runtime/server/api_error.h"
#include "runtime/server/generation_call.h"
#include "runtime/server/openai_request.h"
#include "runtime/server/text_codec.h"

namespace phalanx {

/// One per prompt (one for a chat). Errors: 400 for an empty prompt, for one that leaves no room
/// for an answer in the context (code "context_length_exceeded"), and for what the template or the
/// tokenizer refuses.
ApiResult<std::vector<GenerationCall::Prompt>> make_prompts(const OpenAiRequest& request,
                                                            const TextCodec& codec,
                                                            const ServerOptions& options,
                                                            const ServiceInfo& info);

}  // namespace phalanx
