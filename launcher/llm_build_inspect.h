// `llm-build inspect`: what is inside an engine, as text. Called by llm_build.cpp and its tests.
#pragma once

#include <ostream>

#include "launcher/llm_build_options.h"
#include "runtime/base/result.h"

namespace phalanx::launcher {

/// Opens the engine and prints what the options ask for. Errors: those of EngineFile::open;
/// kFailedPrecondition for a topology the engine does not run at; kDataLoss when --verify finds a
/// weight file changed.
Status inspect_engine(const InspectOptions& options, std::ostream& out);

}  // namespace phalanx::launcher
