// Where the time of a step goes, from the executor's track of a trace. Used by llm-bench model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/trace_recorder.h"

namespace phalanx::bench {

/// One operation's share of the steps looked at.
struct OperationTime {
  std::string name;
  double calls_per_step = 0;
  std::vector<double> us_per_step;  ///< of each step, its calls together
};

/// Where the last steps' time went.
struct StepAccount {
  std::vector<OperationTime> operations;  ///< in the order of a step
  std::vector<double> step_us;            ///< from one step's plan to the next one's
};

/// A step begins with the span `first` (the executor's "read the plan") and lasts until the next
/// one; spans follow one another without gaps, so operations add up to the step. Looks at the last
/// `max_steps` complete steps that have as many spans as the last one has (the same work).
StepAccount account_steps(const std::vector<TraceRecorder::Span>& spans, const std::string& first,
                          size_t max_steps);

}  // namespace phalanx::bench
