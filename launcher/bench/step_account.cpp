// Cuts a track into steps and adds up their operations.
#include "launcher/bench/step_account.h"

#include <algorithm>

namespace phalanx::bench {

StepAccount account_steps(const std::vector<TraceRecorder::Span>& spans, const std::string& first,
                          size_t max_steps) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < spans.size(); ++i) {
    if (first == spans[i].name) starts.push_back(i);
  }
  StepAccount account;
  if (starts.size() < 2) return account;
  const size_t length = starts.back() - starts[starts.size() - 2];
  for (size_t s = starts.size() - 1; s-- > 0 && account.step_us.size() < max_steps;) {
    if (starts[s + 1] - starts[s] != length) continue;
    const size_t step = account.step_us.size();
    account.step_us.push_back(
        static_cast<double>(spans[starts[s + 1]].begin_ns - spans[starts[s]].begin_ns) * 1e-3);
    for (size_t i = starts[s]; i < starts[s + 1]; ++i) {
      auto found = std::find_if(account.operations.begin(), account.operations.end(),
                                [&](const OperationTime& o) { return o.name == spans[i].name; });
      if (found == account.operations.end())
        found = account.operations.insert(found, {spans[i].name, 0, {}});
      if (step == 0) found->calls_per_step += 1;
      found->us_per_step.resize(step + 1, 0.0);
      found->us_per_step[step] += static_cast<double>(spans[i].end_ns - spans[i].begin_ns) * 1e-3;
    }
  }
  for (OperationTime& operation : account.operations)
    operation.us_per_step.resize(account.step_us.size(), 0.0);
  return account;
}

}  // namespace phalanx::bench
