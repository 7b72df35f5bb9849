// Event streams in pieces of any size, held against a reader of whole texts.
#include "launcher/bench/serve_sse.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> read_all(std::string_view text) {
  SseReader reader;
  std::vector<std::string> events;
  EXPECT_TRUE(reader.push(text, events));
  return events;
}

TEST(SseReaderTest, Events) {
  EXPECT_THAT(read_all("data: a\n\ndata:b\n\ndata:  c\n\n"), ElementsAre("a", "b", " c"));
  EXPECT_THAT(read_all("data: a\r\n\r\ndata: b\r\rdata: c\n\r\n"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(read_all("data: a\ndata: b\n\n"), ElementsAre("a\nb"));
  EXPECT_THAT(read_all("data\n\n"), ElementsAre(""));
  EXPECT_THAT(read_all("data:\ndata:\n\n"), ElementsAre("\n"));
  EXPECT_THAT(read_all(": beat\n\nevent: x\nid: 1\nretry: 5\n\n"), IsEmpty());
  EXPECT_THAT(read_all(": beat\nevent: x\ndata: a\nid: 1\n\n"), ElementsAre("a"));
  EXPECT_THAT(read_all("\xef\xbb\xbf"
                       "data: a\n\n"),
              ElementsAre("a"));
  EXPECT_THAT(read_all("dataset: a\nDATA: b\n data: c\n\n"), IsEmpty());
  EXPECT_THAT(read_all("data: a:b\n\n"), ElementsAre("a:b"));
}

TEST(SseReaderTest, AnEventIsOneOnlyWithItsBlankLine) {
  SseReader reader;
  std::vector<std::string> events;
  EXPECT_TRUE(reader.push("data: a\n", events));
  EXPECT_THAT(events, IsEmpty());
  EXPECT_TRUE(reader.push("\n", events));
  EXPECT_THAT(events, ElementsAre("a"));
}

TEST(SseReaderTest, RefusesAnEventThatIsTooLong) {
  for (const char* line_end : {"", "\n"}) {
    SseReader reader(100);
    std::vector<std::string> events;
    bool fits = true;
    size_t pushed = 0;
    for (; fits && pushed < 1000; pushed += 20)
      fits = reader.push("data: 89012345678901" + std::string(line_end), events);
    EXPECT_FALSE(fits);
    EXPECT_LT(pushed, 200U);
    EXPECT_FALSE(reader.push("\n\ndata: a\n\n", events)) << "stays refused";
    EXPECT_THAT(events, IsEmpty());
  }
  SseReader reader(100);
  std::vector<std::string> events;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(reader.push("data: 89012345678901\n\n", events));
  EXPECT_EQ(events.size(), 100U) << "the bound is on each event, not on their sum";
}

/// Splits a whole text by the book, slowly: lines first, then fields.
std::vector<std::string> naive(std::string text) {
  std::vector<std::string> lines;
  std::string line;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' || text[i] == '\n') {
      if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') ++i;
      lines.push_back(line);
      line.clear();
    } else {
      line += text[i];
    }
  }
  std::vector<std::string> events;
  std::vector<std::string> data;
  for (const std::string& l : lines) {
    if (l.empty()) {
      std::string joined;
      for (size_t i = 0; i < data.size(); ++i) joined += (i == 0 ? "" : "\n") + data[i];
      if (!data.empty()) events.push_back(joined);
      data.clear();
    } else if (l == "data") {
      data.emplace_back();
    } else if (l.compare(0, 6, "data: ") == 0) {
      data.push_back(l.substr(6));
    } else if (l.compare(0, 5, "data:") == 0) {
      data.push_back(l.substr(5));
    }
  }
  return events;
}

TEST(SseReaderTest, AnySplitOfAnyTextReadsTheSame) {
  std::mt19937 random(11);
  const char* const pieces[] = {"data", ":",    " ", "\n",     "\r",
                                "\r\n", "\n\n", "x", "data: ", "event: y"};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const auto count = random() % 40;
    for (size_t i = 0; i < count; ++i) text += pieces[random() % std::size(pieces)];
    SseReader reader;
    std::vector<std::string> events;
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + random() % 7;
      ASSERT_TRUE(reader.push(std::string_view(text).substr(at, size), events));
      at += size;
    }
    ASSERT_EQ(events, naive(text)) << ::testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace phalanx::bench
