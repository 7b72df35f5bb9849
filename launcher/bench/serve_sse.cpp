// Line by line; whole lines are not copied.
#include "launcher/bench/serve_sse.h"

#include <utility>

namespace phalanx::bench {

void SseReader::end_line(std::string_view line, std::vector<std::string>& events) {
  if (std::exchange(at_begin_, false) && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
  if (line.empty()) {
    if (has_data_) events.push_back(std::exchange(data_, {}));
    has_data_ = false;
    return;
  }
  const size_t colon = line.find(':');
  if (line.substr(0, colon) != "data") return;
  std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (std::exchange(has_data_, true)) data_ += '\n';
  data_ += value;
}

bool SseReader::push(std::string_view bytes, std::vector<std::string>& events) {
  while (!bytes.empty() && !too_long_) {
    if (std::exchange(after_cr_, false) && bytes[0] == '\n') {
      bytes.remove_prefix(1);
      continue;
    }
    const size_t end = bytes.find_first_of("\r\n");
    const std::string_view piece = bytes.substr(0, end);
    too_long_ = data_.size() + line_.size() + piece.size() > max_event_bytes_;
    if (too_long_) break;
    if (end == std::string_view::npos) {
      line_ += piece;
      break;
    }
    if (line_.empty()) {
      end_line(piece, events);
    } else {
      line_ += piece;
      end_line(line_, events);
      line_.clear();
    }
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
  }
  return !too_long_;
}

}  // namespace phalanx::bench
