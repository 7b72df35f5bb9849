// What a rank says about itself in a heartbeat. Used by the job monitor and its judge.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "parallel/job_monitor.h"

namespace phalanx::parallel {

struct RankStatus {
  Progress::State state = Progress::State::kBusy;
  bool is_ready = false;  ///< mark_ready() was called
  int64_t step = -1;
  int64_t layer = -1;
  uint64_t count = 0;
  std::string operation = "start";
};

RankStatus read_status(const Progress& progress, bool is_ready);

/// As bytes for the wire; an operation's name is cut to 64 characters.
std::string encode_status(const RankStatus& status);
/// nullopt when the bytes are not a status.
std::optional<RankStatus> decode_status(std::string_view bytes);

/// " at step 128 in all_reduce, layer 5", without what is unknown.
std::string place_text(const RankStatus& status);

}  // namespace phalanx::parallel
