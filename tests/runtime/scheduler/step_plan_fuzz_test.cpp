// decode_step_plan on mutated bytes: never crashes, never accepts what it would not write again.
#include <random>

#include <gtest/gtest.h>

#include "runtime/scheduler/step_plan.h"
#include "tests/runtime/scheduler/random_step_plan.h"

namespace phalanx {
namespace {

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

void mutate(std::mt19937_64& random, std::string* bytes) {
  const auto place = [&](size_t size) { return static_cast<size_t>(random() % (size + 1)); };
  switch (random() % 5) {
    case 0:  // flip a bit
      if (!bytes->empty()) {
        char& byte = (*bytes)[random() % bytes->size()];
        byte = static_cast<char>(byte ^ (1 << (random() % 8)));
      }
      break;
    case 1:  // set a byte to a telling value
      if (!bytes->empty()) {
        constexpr unsigned char kValues[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
        (*bytes)[random() % bytes->size()] = static_cast<char>(kValues[random() % 5]);
      }
      break;
    case 2:
      bytes->resize(place(bytes->size()));
      break;
    case 3: {  // copy a piece somewhere else
      const size_t from = place(bytes->size());
      bytes->insert(place(bytes->size()), bytes->substr(from, random() % 20));
      break;
    }
    case 4:
      bytes->insert(place(bytes->size()), 1 + random() % 12, static_cast<char>(random()));
      break;
  }
}

TEST(StepPlanFuzz, MutatedBytesAreRefusedOrAValidPlan) {
  std::mt19937_64 random(20);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 60'000; ++i) {
    std::string bytes = encode_step_plan(random_step_plan(random, i % 100 == 0 ? 60 : 4));
    const uint64_t num_mutations = 1 + random() % 6;
    for (uint64_t m = 0; m < num_mutations; ++m) mutate(random, &bytes);
    const Result<StepPlan> decoded = decode_step_plan(as_bytes(bytes));
    if (!decoded.ok()) {
      ++refused;
      EXPECT_EQ(decoded.error().code, ErrorCode::kDataLoss);
      EXPECT_FALSE(decoded.error().message.empty());
      continue;
    }
    ++accepted;
    const Result<StepPlan> again = decode_step_plan(as_bytes(encode_step_plan(*decoded)));
    ASSERT_TRUE(again.ok()) << again.error().message;
    ASSERT_EQ(encode_step_plan(*again), encode_step_plan(*decoded));
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 10'000);
}

TEST(StepPlanFuzz, RandomBytesDoNotCrash) {
  std::mt19937_64 random(21);
  for (int i = 0; i < 60'000; ++i) {
    std::string bytes(random() % 64, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    const Result<StepPlan> decoded = decode_step_plan(as_bytes(bytes));
    if (!decoded.ok()) {
      EXPECT_EQ(decoded.error().code, ErrorCode::kDataLoss);
    }
  }
}

}  // namespace
}  // namespace phalanx
