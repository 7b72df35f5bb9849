// A machine's topology as the JSON of llm-bench's reports. Called by llm-bench limits.
#pragma once

#include <nlohmann/json.hpp>

#include "launcher/machine_topology.h"

namespace phalanx::bench {

nlohmann::ordered_json topology_json(const launcher::MachineTopology& topology);

}  // namespace phalanx::bench
