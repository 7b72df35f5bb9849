// Server-sent events out of a stream of bytes. Used by serve_answer.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace phalanx::bench {

/// Takes bytes as they come, in pieces of any size, and gives the data of each event once its blank
/// line has come. Lines end with LF, CRLF or CR; comments and fields other than data are skipped;
/// several data lines join with LF; events without data are none; a byte order mark at the very
/// begin is skipped. Source: WHATWG HTML, 9.2.6. Not thread safe.
class SseReader {
 public:
  explicit SseReader(size_t max_event_bytes = 16U << 20) : max_event_bytes_(max_event_bytes) {}

  /// Appends the data of the events that `bytes` completes. False, from then on, when an event has
  /// more than max_event_bytes.
  [[nodiscard]] bool push(std::string_view bytes, std::vector<std::string>& events);

 private:
  void end_line(std::string_view line, std::vector<std::string>& events);

  const size_t max_event_bytes_;
  std::string line_;  ///< begun, not ended
  std::string data_;  ///< of the event that is being read
  bool has_data_ = false;
  bool after_cr_ = false;  ///< a LF now belongs to the line end before it
  bool at_begin_ = true;
  bool too_long_ = false;
};

}  // namespace phalanx::bench
