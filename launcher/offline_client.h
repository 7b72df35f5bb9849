// Answers one prompt through the leader and prints it: first contact and scripts, without HTTP.
// Used by llm-worker on rank 0.
#pragma once

#include <string>

#include "launcher/worker_arguments.h"
#include "runtime/base/result.h"
#include "runtime/server/generation_service.h"
#include "runtime/server/text_codec.h"

namespace phalanx::launcher {

/// Prints the completion of arguments.prompt, or the answer to arguments.chat, on standard output
/// as it comes, and returns when it is complete. Not the executor thread. Errors: what encoding or
/// submitting refuses, or why the generation failed.
Status answer_offline(const WorkerArguments& arguments, GenerationService& service,
                      const TextCodec& codec);

}  // namespace phalanx::launcher
