// The Server part of the configuration: its defaults, its ranges, and the options it becomes.
// Called by worker_config and llm_worker.
#pragma once

#include "launcher/config.pb.h"
#include "runtime/base/result.h"
#include "runtime/server/server_options.h"

namespace phalanx::launcher {

/// Gives each absent field the default of ServerOptions.
void fill_server_defaults(config::Server& config);

/// Errors: kInvalidArgument, naming field, value and what is allowed.
Status check_server(const config::Server& config);

/// `config` is filled and checked.
ServerOptions server_options(const config::Server& config);

}  // namespace phalanx::launcher
