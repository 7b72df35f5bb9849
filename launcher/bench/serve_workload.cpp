// Prompts and arrival times.
#include "launcher/bench/serve_workload.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace phalanx::bench {
namespace {

// What a stream of random numbers is for; each has its own, so that one more draw in one place
// moves nothing elsewhere.
enum Purpose : uint64_t { kLengths = 1, kPrompt, kPrefix, kArrivals };

// Frequent words, of which every vocabulary makes one token or few.
constexpr std::array<std::string_view, 128> kWords = {
    "the",   "of",     "and",   "to",    "in",      "is",     "that",   "it",   "was",   "for",
    "on",    "are",    "as",    "with",  "his",     "they",   "at",     "be",   "this",  "have",
    "from",  "or",     "one",   "had",   "by",      "word",   "but",    "not",  "what",  "all",
    "were",  "we",     "when",  "your",  "can",     "said",   "there",  "use",  "an",    "each",
    "which", "she",    "do",    "how",   "their",   "if",     "will",   "up",   "other", "about",
    "out",   "many",   "then",  "them",  "these",   "so",     "some",   "her",  "would", "make",
    "like",  "him",    "into",  "time",  "has",     "look",   "two",    "more", "write", "go",
    "see",   "number", "no",    "way",   "could",   "people", "my",     "than", "first", "water",
    "been",  "call",   "who",   "oil",   "its",     "now",    "find",   "long", "down",  "day",
    "did",   "get",    "come",  "made",  "may",     "part",   "over",   "new",  "sound", "take",
    "only",  "little", "work",  "know",  "place",   "year",   "live",   "me",   "back",  "give",
    "most",  "very",   "after", "thing", "our",     "just",   "name",   "good", "man",   "think",
    "say",   "great",  "where", "help",  "through", "much",   "before", "line"};

void append_ids(std::vector<int32_t>& ids, int64_t count, const WorkloadOptions& options,
                ServeRandom random) {
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>(random.integer(options.low_id, options.high_id)));
}

void append_words(std::string& text, int64_t count, ServeRandom random) {
  for (int64_t i = 0; i < count; ++i) {
    if (!text.empty()) text += ' ';
    text += kWords[static_cast<size_t>(random.integer(0, kWords.size() - 1))];
  }
}

}  // namespace

WorkItem Workload::item(int64_t index) const {
  const auto number = static_cast<uint64_t>(index);
  WorkItem item;
  ServeRandom lengths(options_.seed, kLengths, number);
  if (options_.pairs.empty()) {
    item.prompt_tokens = options_.prompt_length.draw(lengths);
    item.output_tokens = options_.output_length.draw(lengths);
  } else {
    const auto last = static_cast<int64_t>(options_.pairs.size()) - 1;
    const LengthPair& pair = options_.pairs[static_cast<size_t>(lengths.integer(0, last))];
    item.prompt_tokens = pair.first;
    item.output_tokens = pair.second;
  }

  const bool is_text = options_.kind == PromptKind::kText;
  int64_t count = item.prompt_tokens;
  int64_t shared = options_.shared_prefix;
  if (is_text) {
    count = std::max<int64_t>(1, std::llround(static_cast<double>(count) / tokens_per_word_));
    shared = std::llround(static_cast<double>(shared) / tokens_per_word_);
  }
  shared = std::min(shared, count);
  const ServeRandom prefix(options_.seed, kPrefix, 0);
  const ServeRandom own(options_.seed, kPrompt, number);
  if (is_text) {
    append_words(item.text, shared, prefix);
    append_words(item.text, count - shared, own);
  } else {
    item.ids.reserve(static_cast<size_t>(count));
    append_ids(item.ids, shared, options_, prefix);
    append_ids(item.ids, count - shared, options_, own);
  }
  return item;
}

PoissonArrivals::PoissonArrivals(double rate, uint64_t seed, uint64_t run)
    : mean_gap_s_(1 / rate), random_(seed, kArrivals, run) {}

double PoissonArrivals::next_s() {
  now_s_ += random_.exponential(mean_gap_s_);
  return now_s_;
}

}  // namespace phalanx::bench
