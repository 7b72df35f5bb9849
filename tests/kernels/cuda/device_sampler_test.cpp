// Sampling on the emulated device against the CPU's sampler: equal tokens, logprobs and top
// logprobs, in every order of threads.
#include "kernels/cuda/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/slot_kernels.h"
#include "kernels/philox.h"
#include "runtime/base/check.h"
#include "runtime/executor/sampler.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace phalanx::kernels::cuda {
namespace {

using test::in_every_thread_order;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kHuge = std::numeric_limits<float>::max();

DrawParams device_params(const SamplingParams& params) {
  return {params.temperature,
          params.top_k,
          params.top_p,
          params.min_p,
          params.seed,
          params.repetition_penalty,
          params.presence_penalty,
          params.frequency_penalty,
          params.num_top_logprobs};
}

/// A vector whose data is aligned as device memory is.
template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t count)
      : bytes_(static_cast<size_t>(count) * sizeof(T) + 256),
        data_(
            reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(bytes_.data()) + 255) / 256 * 256)) {}
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  std::vector<std::byte> bytes_;
  T* data_;
};

/// A sampler with its memory.
struct Device {
  Device(int64_t vocab_size, int64_t num_slots, int64_t max_rows)
      : limits{vocab_size, num_slots, num_slots, max_rows},
        memory(device_sampler_bytes(limits)),
        sampler(limits, memory.data()),
        stride((vocab_size + 3) / 4 * 4 + 4),
        logits(max_rows * stride),
        rows(max_rows),
        draws(max_rows) {}

  void start(uint32_t slot, const SequenceStart& start) {
    sampler.start(slot, device_params(start.sampling), start.history, start.num_prompt_tokens,
                  nullptr);
  }
  void set_row(int64_t row, uint32_t slot, int64_t position, const std::vector<float>& values) {
    rows[row] = {slot, position};
    std::fill_n(logits.data() + row * stride, stride, kHuge);  // what is beyond never counts
    std::copy(values.begin(), values.end(), logits.data() + row * stride);
  }
  std::vector<DrawnToken> sample(int64_t num_rows) {
    sampler.sample({logits.data(), stride}, rows.data(), num_rows, draws.data(), nullptr);
    return {draws.data(), draws.data() + num_rows};
  }

  DeviceSamplerLimits limits;
  Aligned<std::byte> memory;
  DeviceSampler sampler;
  int64_t stride;
  Aligned<float> logits;
  Aligned<DrawRow> rows;
  Aligned<DrawnToken> draws;
};

/// The CPU's draw as the device tells it.
DrawnToken draw_on_cpu(Sampler* sampler, uint32_t slot, std::vector<float> row, int64_t position) {
  DrawnToken out{};
  try {
    const Draw draw = sampler->sample(slot, row, position);
    out.status = DrawStatus::kDrawn;
    out.token_id = draw.token_id;
    out.logprob = draw.logprob;
    for (const auto& [token, logprob] : draw.top_logprobs) {
      out.top_tokens[out.num_top] = token;
      out.top_logprobs[out.num_top++] = logprob;
    }
  } catch (const InternalError& error) {
    const std::string text = error.what();
    out.status = text.find("penalties left no finite logit") != std::string::npos
                     ? DrawStatus::kNothingPenalized
                 : text.find("no finite logit") != std::string::npos ? DrawStatus::kNoFiniteLogit
                                                                     : DrawStatus::kNotStarted;
  }
  return out;
}

void expect_equal(const DrawnToken& got, const DrawnToken& expected, const std::string& where) {
  EXPECT_EQ(got.status, expected.status) << where;
  EXPECT_EQ(got.token_id, expected.token_id) << where;
  EXPECT_EQ(got.logprob, expected.logprob) << where;
  EXPECT_EQ(got.num_top, expected.num_top) << where;
  for (int i = 0; i < std::min(got.num_top, expected.num_top); ++i) {
    EXPECT_EQ(got.top_tokens[i], expected.top_tokens[i]) << where << ", rank " << i;
    EXPECT_EQ(got.top_logprobs[i], expected.top_logprobs[i]) << where << ", rank " << i;
  }
}

// ---- what rows look like

using MakeRow = std::vector<float> (*)(std::mt19937&, int64_t);

template <typename Make>
std::vector<float> fill(int64_t size, Make make) {
  std::vector<float> row(static_cast<size_t>(size));
  for (float& x : row) x = make();
  return row;
}

std::vector<float> normal_row(std::mt19937& random, int64_t size, float spread) {
  std::normal_distribution<float> normal(0.0F, spread);
  return fill(size, [&] { return normal(random); });
}

std::vector<float> with_specials(std::vector<float> row, std::mt19937& random, uint32_t every,
                                 std::vector<float> specials) {
  for (float& x : row)
    if (random() % every == 0) x = specials[random() % specials.size()];
  return row;
}

const std::map<std::string, MakeRow> kRows = {
    {"normal", [](std::mt19937& r, int64_t n) { return normal_row(r, n, 3.0F); }},
    {"ties",
     [](std::mt19937& r, int64_t n) {
       std::vector<float> row = normal_row(r, n, 2.0F);
       for (float& x : row) x = std::round(x);
       return row;
     }},
    {"all equal", [](std::mt19937&, int64_t n) { return fill(n, [] { return -1.25F; }); }},
    {"flat", [](std::mt19937& r, int64_t n) { return normal_row(r, n, 1e-3F); }},
    {"zeros of both signs",
     [](std::mt19937& r, int64_t n) {
       return fill(n, [&] { return r() % 2 == 0 ? 0.0F : -0.0F; });
     }},
    {"tiny",
     [](std::mt19937& r, int64_t n) {
       return with_specials(normal_row(r, n, 1e-38F), r, 3, {0x1p-149F, -0x1p-149F, 0.0F});
     }},
    {"edges of bins",  // 1/32 apart below 0, and just above and below that
     [](std::mt19937& r, int64_t n) {
       std::vector<float> row = fill(n, [&] {
         const float edge = -static_cast<float>(r() % 16) / kBinsPerUnit;
         return r() % 3 == 0   ? edge
                : r() % 2 == 0 ? std::nextafter(edge, -kInfinity)
                               : std::min(0.0F, std::nextafter(edge, 0.0F));
       });
       row[r() % row.size()] = 0.0F;
       return row;
     }},
    {"one candidate",
     [](std::mt19937& r, int64_t n) {
       std::vector<float> row = fill(n, [] { return -kInfinity; });
       row[r() % row.size()] = -7.0F;
       return row;
     }},
    {"peak",
     [](std::mt19937& r, int64_t n) {
       std::vector<float> row = normal_row(r, n, 1.0F);
       row[r() % row.size()] = 100.0F;
       return row;
     }},
    {"NaN and -infinity",
     [](std::mt19937& r, int64_t n) {
       return with_specials(normal_row(r, n, 2.0F), r, 3, {kNan, -kNan, -kInfinity});
     }},
    {"infinity",
     [](std::mt19937& r, int64_t n) {
       return with_specials(normal_row(r, n, 2.0F), r, 5, {kInfinity, kNan, -kInfinity, 0.0F});
     }},
    {"extremes",
     [](std::mt19937& r, int64_t n) {
       return with_specials(normal_row(r, n, 1e38F), r, 2, {kHuge, -kHuge, 1.0F, -1.0F});
     }},
    {"no number",
     [](std::mt19937& r, int64_t n) {
       return fill(n, [&] { return r() % 2 == 0 ? kNan : -kInfinity; });
     }},
    {"nothing finite",
     [](std::mt19937& r, int64_t n) {
       return fill(n, [&] { return r() % 2 == 0 ? kInfinity : -kInfinity; });
     }},
};

// ---- how tokens are drawn

std::vector<SamplingParams> all_params(int64_t vocab_size) {
  const auto vocab = static_cast<int32_t>(vocab_size);
  std::vector<SamplingParams> all;
  const auto add = [&](SamplingParams params) {
    params.seed = 0x123456789ULL * (all.size() + 1);
    all.push_back(params);
  };
  add({.temperature = 0.0F});
  add({.temperature = 0.0F, .num_top_logprobs = 0});
  add({.temperature = 0.0F, .num_top_logprobs = 20});
  add({});
  add({.num_top_logprobs = 7});
  add({.temperature = 0.7F, .num_top_logprobs = 1});
  add({.temperature = 100.0F});
  add({.temperature = 0.05F, .num_top_logprobs = 3});
  add({.temperature = 1e-38F});
  for (const int32_t top_k : {1, 2, 40, vocab - 1, vocab, 1 << 20}) add({.top_k = top_k});
  add({.temperature = 3.0F, .top_k = vocab / 2 + 1});
  for (const float top_p : {0x1p-149F, 1e-6F, 0.1F, 0.9F, 1.0F - 0x1p-24F}) add({.top_p = top_p});
  add({.temperature = 30.0F, .top_p = 0.5F});
  for (const float min_p : {1e-30F, 0.01F, 0.5F, 1.0F}) add({.min_p = min_p});
  add({.temperature = 0.8F, .top_k = 50, .top_p = 0.95F, .min_p = 0.02F, .num_top_logprobs = 2});
  add({.temperature = 1.5F, .top_k = 500, .top_p = 0.7F});
  add({.temperature = 1.2F, .top_p = 0.8F, .min_p = 0.1F});
  add({.temperature = 0.0F, .repetition_penalty = 1.3F, .num_top_logprobs = 5});
  add({.temperature = 0.9F, .top_p = 0.9F, .repetition_penalty = 0.5F, .presence_penalty = -1.5F});
  add({.presence_penalty = 1.5F, .frequency_penalty = 0.3F, .num_top_logprobs = 20});
  add({.temperature = 0.6F, .top_k = 10, .repetition_penalty = 100.0F, .frequency_penalty = -2.0F});
  return all;
}

std::vector<SequenceStart> all_starts(int64_t vocab_size, std::mt19937& random) {
  std::vector<SequenceStart> starts;
  for (const SamplingParams& params : all_params(vocab_size)) {
    SequenceStart start{.sampling = params, .history = {}, .num_prompt_tokens = 0};
    if (params.has_penalties()) {
      for (uint32_t i = random() % 40 + 1; i > 0; --i)
        start.history.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
      start.num_prompt_tokens = static_cast<int32_t>(random() % start.history.size());
    }
    starts.push_back(start);
  }
  return starts;
}

enum class Orders { kOne, kAll };

/// One row of each kind of logits for each way to draw, or for one in `every`; every row has a slot
/// of its own.
void compare_all(int64_t vocab_size, const std::vector<std::string>& kinds, uint32_t every,
                 Orders orders) {
  std::mt19937 random(static_cast<uint32_t>(vocab_size));
  for (const std::string& kind : kinds) {
    std::vector<SequenceStart> starts = all_starts(vocab_size, random);
    if (every > 1) {
      std::vector<SequenceStart> some;
      for (size_t i = random() % every; i < starts.size(); i += every) some.push_back(starts[i]);
      starts = some;
    }
    const auto num_rows = static_cast<int64_t>(starts.size());
    std::vector<std::vector<float>> rows;
    std::vector<DrawnToken> expected;
    Sampler cpu(vocab_size, num_rows);
    for (int64_t i = 0; i < num_rows; ++i) {
      rows.push_back(kRows.at(kind)(random, vocab_size));
      cpu.start(static_cast<uint32_t>(i), starts[static_cast<size_t>(i)]);
      expected.push_back(draw_on_cpu(&cpu, static_cast<uint32_t>(i), rows.back(), 100 * i));
    }
    const auto draw_on_device = [&] {
      Device device(vocab_size, num_rows, num_rows);
      for (int64_t i = 0; i < num_rows; ++i) {
        device.start(static_cast<uint32_t>(i), starts[static_cast<size_t>(i)]);
        device.set_row(i, static_cast<uint32_t>(i), 100 * i, rows[static_cast<size_t>(i)]);
      }
      return device.sample(num_rows);
    };
    const std::vector<DrawnToken> got =
        orders == Orders::kAll ? in_every_thread_order(draw_on_device) : draw_on_device();
    for (size_t i = 0; i < got.size(); ++i) {
      const SamplingParams& p = starts[i].sampling;
      expect_equal(got[i], expected[i],
                   "row '" + kind + "' of " + std::to_string(vocab_size) + ": temperature " +
                       std::to_string(p.temperature) + ", top_k " + std::to_string(p.top_k) +
                       ", top_p " + std::to_string(p.top_p) + ", min_p " + std::to_string(p.min_p) +
                       (p.has_penalties() ? ", penalties" : ""));
    }
  }
}

std::vector<std::string> every_kind() {
  std::vector<std::string> kinds;
  for (const auto& [kind, make] : kRows) kinds.push_back(kind);
  return kinds;
}

TEST(DeviceSampler, DrawsAsTheCpuFromAllKindsOfRows) {
  compare_all(1000, every_kind(), 1, Orders::kOne);
}

TEST(DeviceSampler, DrawsAsTheCpuInEveryOrderOfThreads) {
  compare_all(1000, every_kind(), 5, Orders::kAll);
}

TEST(DeviceSampler, DrawsAsTheCpuFromTinyVocabularies) {
  for (const int64_t vocab_size : {1, 2, 31})
    compare_all(vocab_size, every_kind(), 4, Orders::kOne);
}

TEST(DeviceSampler, DrawsAsTheCpuFromALargeVocabulary) {
  compare_all(32001, {"normal", "ties", "NaN and -infinity"}, 2, Orders::kOne);
  compare_all(32001, {"normal"}, 9, Orders::kAll);
  compare_all(70001, {"normal", "peak"}, 6, Orders::kOne);  // more sub-blocks than threads draw
}

// A bin of its own is listed, its neighbours are not.
TEST(DeviceSampler, DrawsAsTheCpuAtTheEdgesOfBins) {
  compare_all(20000, {"edges of bins"}, 1, Orders::kOne);
}

// Of 1024 equal tokens each has 2^14 of the uniform numbers: the first of them is its own.
TEST(DeviceSampler, DrawsAsTheCpuWhereTokensMeet) {
  constexpr int64_t kVocab = 1024;
  const SequenceStart start{.sampling = {.seed = 5}, .history = {}, .num_prompt_tokens = 0};
  int64_t position = 0;
  while ((counter_bits(5, static_cast<uint64_t>(position)) & 0x3fffU) != 0) ++position;
  Sampler cpu(kVocab, 1);
  Device device(kVocab, 1, 1);
  cpu.start(0, start);
  device.start(0, start);
  const std::vector<float> row(kVocab, 1.0F);
  const auto token = static_cast<int32_t>(counter_bits(5, static_cast<uint64_t>(position)) >> 14);
  for (const int64_t at : {position - 1, position, position + 1}) {
    device.set_row(0, 0, at, row);
    const DrawnToken draw = device.sample(1)[0];
    expect_equal(draw, draw_on_cpu(&cpu, 0, row, at), std::to_string(at));
    if (at == position) {
      EXPECT_EQ(draw.token_id, token);
    }
  }
}

// More tokens with (nearly) the same logit than are sorted at once.
TEST(DeviceSampler, DrawsAsTheCpuFromLargeFlatRows) {
  compare_all(32001, {"all equal", "flat", "tiny"}, 4, Orders::kOne);
  compare_all(32001, {"flat"}, 9, Orders::kAll);
}

// ---- sequences

SequenceStart start_with(const SamplingParams& params, std::vector<int32_t> history = {},
                         int32_t num_prompt_tokens = 0) {
  return {
      .sampling = params, .history = std::move(history), .num_prompt_tokens = num_prompt_tokens};
}

// Slots begin and end at different steps, rows change places, some rows are empty; what a slot drew
// weighs on its next draws.
TEST(DeviceSampler, SequencesOfDrawsFollowTheCpus) {
  constexpr int64_t kVocab = 67;
  constexpr int64_t kSlots = 4;
  constexpr int64_t kMaxRows = 6;
  std::mt19937 random(21);
  std::vector<int32_t> long_history;  // of more than one part
  for (int i = 0; i < 2 * kHistoryPart + 5; ++i)
    long_history.push_back(static_cast<int32_t>(random() % 60));
  const std::vector<SequenceStart> starts = {
      start_with({.temperature = 0.0F, .presence_penalty = 0.7F, .frequency_penalty = 0.4F},
                 {1, 2, 2, 66, 3}, 2),
      start_with({.top_p = 0.95F,
                  .seed = 3,
                  .repetition_penalty = 1.4F,
                  .frequency_penalty = 0.1F,
                  .num_top_logprobs = 4},
                 long_history, kHistoryPart + 7),
      start_with({.top_k = 20, .seed = 4}),
      start_with(
          {.temperature = 1.3F, .seed = 5, .frequency_penalty = 0.06F, .num_top_logprobs = 0},
          long_history, 3),
  };
  struct Event {
    bool starts;
    uint32_t slot;
    size_t start;
  };
  struct Step {
    std::vector<Event> events;
    std::vector<DrawRow> rows;
    std::vector<std::vector<float>> logits;
  };
  std::vector<Step> steps(12);
  for (size_t i = 0; i < steps.size(); ++i) {
    Step& step = steps[i];
    if (i == 0)
      for (uint32_t slot = 0; slot < kSlots; ++slot) step.events.push_back({true, slot, slot});
    if (i == 5) step.events = {{false, 1, 0}, {true, 1, 3}, {false, 2, 0}};
    if (i == 8) step.events = {{true, 2, 0}, {true, 0, 2}};  // without a release before
    std::vector<uint32_t> slots = {0, 1, 2, 3, kNoSlot, kNoSlot};
    if (i >= 5 && i < 8) slots[2] = kNoSlot;
    std::shuffle(slots.begin(), slots.end(), random);
    slots.resize(i % 3 == 0 ? 6 : 4);
    for (const uint32_t slot : slots) {
      step.rows.push_back({slot, static_cast<int64_t>(10 * i + slot % 8)});
      step.logits.push_back(normal_row(random, kVocab, 1.0F));
    }
  }
  std::vector<DrawnToken> expected;
  Sampler cpu(kVocab, kSlots);
  for (const Step& step : steps) {
    for (const Event& event : step.events) {
      if (event.starts) {
        cpu.start(event.slot, starts[event.start]);
      } else {
        cpu.release(event.slot);
      }
    }
    for (size_t r = 0; r < step.rows.size(); ++r) {
      const DrawRow& row = step.rows[r];
      expected.push_back(row.slot == kNoSlot
                             ? DrawnToken{}
                             : draw_on_cpu(&cpu, row.slot, step.logits[r], row.position));
    }
  }
  const std::vector<DrawnToken> got = in_every_thread_order([&] {
    Device device(kVocab, kSlots, kMaxRows);
    std::vector<DrawnToken> draws;
    for (const Step& step : steps) {
      for (const Event& event : step.events) {
        if (event.starts) {
          device.start(event.slot, starts[event.start]);
        } else {
          device.sampler.release(event.slot, nullptr);
        }
      }
      for (size_t r = 0; r < step.rows.size(); ++r)
        device.set_row(static_cast<int64_t>(r), step.rows[r].slot, step.rows[r].position,
                       step.logits[r]);
      const auto some = device.sample(static_cast<int64_t>(step.rows.size()));
      draws.insert(draws.end(), some.begin(), some.end());
    }
    return draws;
  });
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    expect_equal(got[i], expected[i], "row " + std::to_string(i));
}

TEST(DeviceSampler, ADrawDoesNotDependOnItsCompany) {
  constexpr int64_t kVocab = 5000;  // two blocks a row, or one
  constexpr int64_t kRowsTogether = 300;
  std::mt19937 random(22);
  const std::vector<float> logits = normal_row(random, kVocab, 1.5F);
  const SequenceStart start =
      start_with({.temperature = 1.1F, .top_p = 0.97F, .seed = 8, .num_top_logprobs = 3});
  Device alone(kVocab, 1, 1);
  alone.start(0, start);
  alone.set_row(0, 0, 77, logits);
  const DrawnToken expected = alone.sample(1)[0];
  Device together(kVocab, kRowsTogether, kRowsTogether);
  for (int64_t i = 0; i < kRowsTogether; ++i) {
    const auto slot = static_cast<uint32_t>(i);
    const bool is_it = i == 123;
    if (is_it || i % 50 == 0) together.start(slot, start);
    together.set_row(i, is_it || i % 50 == 0 ? slot : kNoSlot, is_it ? 77 : i,
                     is_it ? logits : normal_row(random, kVocab, 1.0F));
  }
  expect_equal(together.sample(kRowsTogether)[123], expected, "among others");
}

TEST(DeviceSampler, TokensAreFedBackWithoutTheHost) {
  constexpr int64_t kVocab = 10;
  const std::vector<std::vector<int32_t>> got = {in_every_thread_order([&] {
    Device device(kVocab, 3, 3);
    for (uint32_t slot = 0; slot < 3; ++slot) {
      device.start(slot, start_with({.temperature = 0.0F}));
      std::vector<float> row(kVocab, 0.0F);
      row[slot + 4] = 1.0F;
      device.set_row(2 - slot, slot, 0, row);
    }
    device.sample(3);
    // Other rows of the next step bring their own tokens; slot 1 draws on.
    const std::vector<uint32_t> slots = {2, kNoSlot, 0, kNoSlot};
    std::vector<int32_t> tokens = {-1, 100, -1, 101};
    device.sampler.fill_fed_back(slots.data(), 4, tokens.data(), nullptr);
    const int32_t* last = device.sampler.last_tokens();
    tokens.insert(tokens.end(), last, last + 3);
    return tokens;
  })};
  EXPECT_EQ(got[0], (std::vector<int32_t>{6, 100, 4, 101, 4, 5, 6}));
}

// ---- errors

std::string error_of(const DrawnToken& draw) {
  try {
    require_drawn(draw, 3, 44);
  } catch (const InternalError& error) {
    return error.what();
  }
  return "";
}

TEST(DeviceSampler, RowsThatGiveNoTokenAreReported) {
  constexpr int64_t kVocab = 5;
  Device device(kVocab, 4, 4);
  device.start(0, start_with({}));
  device.start(1, start_with({.temperature = 0.0F, .repetition_penalty = 100.0F}, {0, 1, 2, 3, 4}));
  device.start(2, start_with({}));
  device.set_row(0, 0, 0, {kNan, kInfinity, -kInfinity, kNan, kInfinity});
  device.set_row(1, 1, 0, {-kHuge, -kHuge, -kHuge, -kHuge, -kInfinity});
  device.set_row(2, 3, 0, {1, 2, 3, 4, 5});
  device.set_row(3, 2, 0, {1, 2, 3, 4, 5});
  const std::vector<DrawnToken> draws = device.sample(4);
  EXPECT_NE(error_of(draws[0]).find("no finite logit in slot 3 at position 44"), std::string::npos);
  EXPECT_NE(error_of(draws[1]).find("penalties left no finite logit in slot 3 at position 44"),
            std::string::npos);
  EXPECT_NE(error_of(draws[2]).find("slot 3 samples before it starts"), std::string::npos);
  EXPECT_EQ(error_of(draws[3]), "");
  device.sampler.release(2, nullptr);
  EXPECT_EQ(device.sample(4)[3].status, DrawStatus::kNotStarted);
}

TEST(DeviceSampler, MisuseIsAnInternalError) {
  const DeviceSamplerLimits limits{8, 3, 1, 2};
  Aligned<std::byte> memory(device_sampler_bytes(limits));
  DeviceSampler sampler(limits, memory.data());
  const DrawParams penalized{.presence_penalty = 1.0F};
  const std::vector<int32_t> history = {7};
  const std::vector<int32_t> bad_history = {8};
  EXPECT_THROW(sampler.start(3, {}, {}, 0, nullptr), InternalError);
  EXPECT_THROW(sampler.release(3, nullptr), InternalError);
  EXPECT_THROW(sampler.start(0, penalized, bad_history, 1, nullptr), InternalError);
  EXPECT_THROW(sampler.start(0, {.num_top_logprobs = 21}, {}, 0, nullptr), InternalError);
  sampler.start(0, penalized, history, 1, nullptr);
  EXPECT_THROW(sampler.start(1, penalized, history, 1, nullptr), InternalError);
  sampler.start(0, penalized, history, 1, nullptr);  // again: it has its row
  sampler.release(0, nullptr);
  sampler.release(0, nullptr);
  sampler.start(1, penalized, history, 1, nullptr);
  Aligned<float> logits(4 * 8);
  EXPECT_THROW(sampler.sample({logits.data() + 1, 8}, nullptr, 1, nullptr, nullptr), InternalError);
  EXPECT_THROW(sampler.sample({logits.data(), 9}, nullptr, 1, nullptr, nullptr), InternalError);
  EXPECT_THROW(sampler.sample({logits.data(), 8}, nullptr, 3, nullptr, nullptr), InternalError);
  EXPECT_THROW(DeviceSampler({(1 << 20) + 1, 1, 1, 1}, memory.data()), InternalError);
  EXPECT_THROW(DeviceSampler(limits, memory.data() + 64), InternalError);
}

}  // namespace
}  // namespace phalanx::kernels::cuda
