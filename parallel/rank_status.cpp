// Heartbeat contents to bytes, and to words for the error message. Called by the job monitor.
#include "parallel/rank_status.h"

#include <array>
#include <cstring>

namespace phalanx::parallel {
namespace {

constexpr size_t kMaxOperationBytes = 64;

struct Fixed {
  int64_t step;
  int64_t layer;
  uint64_t count;
  uint8_t state;
  uint8_t is_ready;
  std::array<uint8_t, 6> padding;
};
static_assert(sizeof(Fixed) == 32);

}  // namespace

RankStatus read_status(const Progress& progress, bool is_ready) {
  return {progress.state(), is_ready,         progress.step(),
          progress.layer(), progress.count(), progress.operation()};
}

std::string encode_status(const RankStatus& status) {
  const Fixed fixed{status.step,
                    status.layer,
                    status.count,
                    static_cast<uint8_t>(status.state),
                    static_cast<uint8_t>(status.is_ready ? 1 : 0),
                    {}};
  std::string bytes(reinterpret_cast<const char*>(&fixed), sizeof(fixed));
  return bytes + status.operation.substr(0, kMaxOperationBytes);
}

std::optional<RankStatus> decode_status(std::string_view bytes) {
  Fixed fixed{};
  if (bytes.size() < sizeof(fixed) || bytes.size() > sizeof(fixed) + kMaxOperationBytes)
    return std::nullopt;
  std::memcpy(&fixed, bytes.data(), sizeof(fixed));
  if (fixed.state > static_cast<uint8_t>(Progress::State::kWaiting)) return std::nullopt;
  RankStatus status;
  status.state = static_cast<Progress::State>(fixed.state);
  status.is_ready = fixed.is_ready != 0;
  status.step = fixed.step;
  status.layer = fixed.layer;
  status.count = fixed.count;
  status.operation = bytes.substr(sizeof(fixed));
  return status;
}

std::string place_text(const RankStatus& status) {
  std::string text;
  if (status.step >= 0) text += " at step " + std::to_string(status.step);
  text += " in " + status.operation;
  if (status.layer >= 0) text += ", layer " + std::to_string(status.layer);
  return text;
}

}  // namespace phalanx::parallel
