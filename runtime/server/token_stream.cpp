// The text of one generated sequence as it grows: incremental decoding and stop strings.
// Called by the leader for every token that a request commits.
#include "runtime/server/token_stream.h"

#include <algorithm>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/server/utf8.h"

namespace phalanx {

Result<StopMatcher> StopMatcher::create(std::vector<std::string> stops) {
  if (stops.size() > kMaxStops) {
    return invalid_argument("stop: " + std::to_string(stops.size()) + " strings, at most " +
                            std::to_string(kMaxStops));
  }
  for (size_t i = 0; i < stops.size(); ++i) {
    const std::string name = "stop[" + std::to_string(i) + "]: ";
    if (stops[i].empty()) return invalid_argument(name + "empty, must have a character");
    if (stops[i].size() > kMaxStopBytes) {
      return invalid_argument(name + std::to_string(stops[i].size()) + " bytes, at most " +
                              std::to_string(kMaxStopBytes));
    }
    if (const auto offset = find_ill_formed_utf8(stops[i])) {
      return invalid_argument(name + "byte " + std::to_string(*offset) + " is not UTF-8");
    }
  }
  return StopMatcher(std::move(stops));
}

StopMatcher::StopMatcher(std::vector<std::string> stops)
    : stops_(std::move(stops)), matched_(stops_.size(), 0) {
  for (const std::string& stop : stops_) {
    std::vector<uint16_t> borders(stop.size(), 0);
    for (size_t i = 1; i < stop.size(); ++i) {
      size_t border = borders[i - 1];
      while (border > 0 && stop[i] != stop[border]) border = borders[border - 1];
      if (stop[i] == stop[border]) ++border;
      borders[i] = static_cast<uint16_t>(border);
    }
    failure_.push_back(std::move(borders));
  }
}

const std::string& StopMatcher::stop() const {
  PHALANX_CHECK(stopped(), "no stop string was found");
  return stops_[stopped_];
}

void StopMatcher::advance(size_t index, char byte) {
  const std::string& stop = stops_[index];
  size_t& matched = matched_[index];
  while (matched > 0 && stop[matched] != byte) matched = failure_[index][matched - 1];
  if (stop[matched] == byte) ++matched;
}

bool StopMatcher::push(std::string_view text, std::string& out) {
  if (stopped()) return false;
  if (stops_.empty()) {
    out += text;
    return false;
  }
  for (const char byte : text) {
    held_ += byte;
    for (size_t i = 0; i < stops_.size(); ++i) {
      advance(i, byte);
      const bool complete = matched_[i] == stops_[i].size();
      if (complete && (!stopped() || stops_[i].size() > stops_[stopped_].size())) stopped_ = i;
    }
    if (stopped()) {
      out.append(held_, 0, held_.size() - stops_[stopped_].size());
      held_.clear();
      return true;
    }
  }
  const size_t keep = *std::max_element(matched_.begin(), matched_.end());
  out.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void StopMatcher::finish(std::string& out) {
  out += held_;
  held_.clear();
}

Result<TokenStream> TokenStream::create(std::shared_ptr<const Tokenizer> tokenizer,
                                        TokenStreamOptions options) {
  PHALANX_CHECK(tokenizer != nullptr, "TokenStream without a tokenizer");
  PHALANX_ASSIGN_OR_RETURN(StopMatcher matcher, StopMatcher::create(options.stop));
  return TokenStream(std::move(tokenizer), std::move(options), std::move(matcher));
}

TokenStream::TokenStream(std::shared_ptr<const Tokenizer> tokenizer, TokenStreamOptions options,
                         StopMatcher matcher)
    : tokenizer_(std::move(tokenizer)),
      options_(std::move(options)),
      matcher_(std::move(matcher)),
      run_(tokenizer_->start_decoding()) {}

std::string TokenStream::take(const std::string& decoded) {
  std::string text;
  if (matcher_.push(decoded, text) && options_.include_stop) text += matcher_.stop();
  return text;
}

std::string TokenStream::push(int32_t id) {
  PHALANX_CHECK(!finished_, "push after finish");
  if (stopped()) return {};
  const std::string* token = tokenizer_->decodable(id, options_.skip_special);
  if (token == nullptr) return {};
  std::string decoded;
  run_.push(*token, decoded);
  return take(decoded);
}

std::string TokenStream::finish() {
  PHALANX_CHECK(!finished_, "finish twice");
  finished_ = true;
  if (stopped()) return {};
  std::string decoded;
  run_.finish(decoded);
  std::string text = take(decoded);
  if (!stopped()) matcher_.finish(text);
  return text;
}

}  // namespace phalanx
