// Wire form of step plans: encode, decode with every value checked, hash. Called by the scheduler
// (to chain hashes), the leader (to send) and rank_worker (to obey).
#include "runtime/scheduler/step_plan.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include <google/protobuf/arena.h>
#include <google/protobuf/io/coded_stream.h>

#include "runtime/base/check.h"
#include "runtime/scheduler/hash64.h"
#include "runtime/scheduler/step_plan.pb.h"

namespace phalanx {
namespace {

using google::protobuf::Arena;
using google::protobuf::ArenaOptions;
using google::protobuf::RepeatedField;
using google::protobuf::io::CodedInputStream;

// Far above any plan a scheduler makes, and low enough that a hostile one cannot exhaust memory.
constexpr size_t kMaxPlanBytes = size_t{64} << 20;
constexpr int64_t kMaxPlanSequences = 1 << 16;
constexpr uint64_t kMaxSlot = (1U << 20) - 1;
constexpr uint64_t kMaxMicroBatch = (1U << 16) - 1;
constexpr uint64_t kMaxPosition = (1ULL << 31) - 1;
constexpr uint64_t kMaxId = std::numeric_limits<int32_t>::max();

// Most plans fit into this; the arena goes to the heap only beyond it.
constexpr size_t kArenaBytes = size_t{32} << 10;

void set_ids(std::span<const int32_t> ids, RepeatedField<uint32_t>* out) {
  out->Reserve(static_cast<int>(ids.size()));
  for (const int32_t id : ids) out->AddAlreadyReserved(static_cast<uint32_t>(id));
}

void write_sampling(const SamplingParams& in, wire::SamplingParams* out) {
  out->set_temperature(in.temperature);
  out->set_top_k(static_cast<uint32_t>(in.top_k));
  out->set_top_p(in.top_p);
  out->set_min_p(in.min_p);
  out->set_seed(in.seed);
  out->set_repetition_penalty(in.repetition_penalty);
  out->set_presence_penalty(in.presence_penalty);
  out->set_frequency_penalty(in.frequency_penalty);
  out->set_num_top_logprobs(in.num_top_logprobs);
}

void write_sequence(const SequencePlan& in, wire::SequencePlan* out) {
  out->set_slot(in.slot);
  out->set_first_position(static_cast<uint64_t>(in.first_position));
  if (in.starts) {
    wire::SequenceStart* start = out->mutable_start();
    write_sampling(in.start.sampling, start->mutable_sampling());
    set_ids(in.start.history, start->mutable_history());
    start->set_num_prompt_tokens(static_cast<uint32_t>(in.start.num_prompt_tokens));
  }
  set_ids(in.token_ids, out->mutable_token_ids());
  set_ids(in.appended_block_ids, out->mutable_appended_block_ids());
  out->set_does_not_sample(!in.samples);
}

// Reads the messages into a StepPlan; the first value outside its range becomes the error.
class PlanReader {
 public:
  Result<StepPlan> read(const wire::StepPlan& in) {
    StepPlan plan;
    plan.step = in.step();
    plan.previous_hash = in.previous_hash();
    check_known("step plan", in);
    plan.micro_batch =
        static_cast<uint32_t>(whole("micro_batch", in.micro_batch(), kMaxMicroBatch));
    plan.stop = in.stop();
    read_released(in, &plan);
    if (plan.stop && in.sequences_size() > 0)
      fail("sequences", std::to_string(in.sequences_size()) + " entries", "none in a stop plan");
    plan.sequences.resize(static_cast<size_t>(in.sequences_size()));
    for (int i = 0; i < in.sequences_size() && !failed_; ++i) {
      sequence_index_ = i;
      read_sequence(in.sequences(i), &plan.sequences[static_cast<size_t>(i)]);
    }
    sequence_index_ = -1;
    if (!failed_) check_distinct_slots(plan);
    if (failed_) return data_loss(message_);
    return plan;
  }

 private:
  void read_released(const wire::StepPlan& in, StepPlan* plan) {
    if (in.released_slots_size() > kMaxPlanSequences) {
      fail("released_slots", std::to_string(in.released_slots_size()) + " entries",
           "at most " + std::to_string(kMaxPlanSequences));
      return;
    }
    plan->released_slots.reserve(static_cast<size_t>(in.released_slots_size()));
    for (const uint32_t slot : in.released_slots())
      plan->released_slots.push_back(
          static_cast<uint32_t>(whole("released_slots", slot, kMaxSlot)));
  }

  void read_sequence(const wire::SequencePlan& in, SequencePlan* out) {
    check_known("sequence", in);
    out->slot = static_cast<uint32_t>(whole("slot", in.slot(), kMaxSlot));
    out->first_position =
        static_cast<int64_t>(whole("first_position", in.first_position(), kMaxPosition));
    out->starts = in.has_start();
    out->samples = !in.does_not_sample();
    read_ids("token_ids", in.token_ids(), &out->token_ids);
    read_ids("appended_block_ids", in.appended_block_ids(), &out->appended_block_ids);
    if (out->first_position + out->num_rows() - 1 > static_cast<int64_t>(kMaxPosition))
      fail("first_position", std::to_string(in.first_position()),
           "at most " + std::to_string(kMaxPosition) + " for the last row");
    if (!out->starts) return;
    if (out->token_ids.empty())
      fail("token_ids", "empty", "at least one token where a slot starts");
    if (out->appended_block_ids.empty())
      fail("appended_block_ids", "empty", "at least one block where a slot starts");
    read_start(in.start(), &out->start);
  }

  void read_start(const wire::SequenceStart& in, SequenceStart* out) {
    check_known("start", in);
    read_sampling(in.sampling(), &out->sampling);
    read_ids("start.history", in.history(), &out->history);
    if (!out->history.empty() && !out->sampling.has_penalties())
      fail("start.history", std::to_string(out->history.size()) + " tokens",
           "none without penalties");
    out->num_prompt_tokens = static_cast<int32_t>(
        whole("start.num_prompt_tokens", in.num_prompt_tokens(), out->history.size()));
  }

  void read_sampling(const wire::SamplingParams& in, SamplingParams* out) {
    check_known("start.sampling", in);
    out->temperature = real("temperature", in.temperature(), 0.0F, 100.0F);
    out->top_k = static_cast<int32_t>(whole("top_k", in.top_k(), 1U << 20));
    out->top_p = real("top_p", in.top_p(), std::numeric_limits<float>::denorm_min(), 1.0F);
    out->min_p = real("min_p", in.min_p(), 0.0F, 1.0F);
    out->seed = in.seed();
    out->repetition_penalty = real("repetition_penalty", in.repetition_penalty(),
                                   std::numeric_limits<float>::denorm_min(), 100.0F);
    out->presence_penalty = real("presence_penalty", in.presence_penalty(), -2.0F, 2.0F);
    out->frequency_penalty = real("frequency_penalty", in.frequency_penalty(), -2.0F, 2.0F);
    out->num_top_logprobs = in.num_top_logprobs();
    if (in.num_top_logprobs() < -1 || in.num_top_logprobs() > 20)
      fail("num_top_logprobs", std::to_string(in.num_top_logprobs()), "[-1, 20]");
  }

  void read_ids(const char* field, const RepeatedField<uint32_t>& in, std::vector<int32_t>* out) {
    out->resize(static_cast<size_t>(in.size()));
    uint32_t bits = 0;
    for (int i = 0; i < in.size(); ++i) {
      bits |= in.Get(i);
      (*out)[static_cast<size_t>(i)] = static_cast<int32_t>(in.Get(i));
    }
    if (bits <= kMaxId) return;
    for (const uint32_t id : in) whole(field, id, kMaxId);
  }

  uint64_t whole(const char* field, uint64_t value, uint64_t max) {
    if (value <= max) return value;
    fail(field, std::to_string(value), range_text("0", std::to_string(max)));
    return 0;
  }

  // Written so that NaN is outside of every range.
  float real(const char* field, float value, float min, float max) {
    if (value >= min && value <= max) return value;
    fail(field, std::to_string(value), range_text(std::to_string(min), std::to_string(max)));
    return min;
  }

  template <typename Message>
  void check_known(const char* what, const Message& message) {
    if (!message.GetReflection()->GetUnknownFields(message).empty())
      fail(what, "a message with unknown fields", "the fields of step_plan.proto");
  }

  void check_distinct_slots(const StepPlan& plan) {
    std::vector<uint32_t> slots = plan.released_slots;
    if (has_duplicates(&slots)) fail("released_slots", "a list with a repeated slot", "each once");
    slots.clear();
    for (const SequencePlan& sequence : plan.sequences) slots.push_back(sequence.slot);
    if (has_duplicates(&slots)) fail("sequences", "a list with a repeated slot", "each once");
  }

  static bool has_duplicates(std::vector<uint32_t>* slots) {
    std::sort(slots->begin(), slots->end());
    return std::adjacent_find(slots->begin(), slots->end()) != slots->end();
  }

  static std::string range_text(std::string_view min, std::string_view max) {
    return std::string("[").append(min).append(", ").append(max).append("]");
  }

  void fail(std::string_view field, std::string_view value, std::string_view allowed) {
    if (failed_) return;
    failed_ = true;
    message_ = "step plan: ";
    if (sequence_index_ >= 0) message_ += "sequences[" + std::to_string(sequence_index_) + "].";
    message_.append(field).append(" is ").append(value).append("; allowed: ").append(allowed);
  }

  int sequence_index_ = -1;
  bool failed_ = false;
  std::string message_;
};

// Number of top-level length-delimited fields, which bounds the sequences before they are
// allocated; -1 when the bytes are no sequence of fields.
int64_t count_length_delimited_fields(std::span<const std::byte> bytes) {
  constexpr uint32_t kWireTypeMask = 7;
  CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                          static_cast<int>(bytes.size()));
  int64_t count = 0;
  while (const uint32_t tag = stream.ReadTag()) {
    uint64_t ignored = 0;
    uint32_t length = 0;
    bool read = false;
    switch (tag & kWireTypeMask) {
      case 0:  // varint
        read = stream.ReadVarint64(&ignored);
        break;
      case 1:  // eight bytes
        read = stream.Skip(8);
        break;
      case 2:  // length-delimited
        ++count;
        read = stream.ReadVarint32(&length) && length <= bytes.size() &&
               stream.Skip(static_cast<int>(length));
        break;
      case 5:  // four bytes
        read = stream.Skip(4);
        break;
      default:  // groups and undefined types are not in our schema
        break;
    }
    if (!read) return -1;
  }
  return count;
}

}  // namespace

std::string encode_step_plan(const StepPlan& plan) {
  alignas(8) char first_block[kArenaBytes];
  ArenaOptions options;
  options.initial_block = first_block;
  options.initial_block_size = sizeof(first_block);
  Arena arena(options);
  auto* message = Arena::CreateMessage<wire::StepPlan>(&arena);
  message->set_step(plan.step);
  message->set_previous_hash(plan.previous_hash);
  message->set_micro_batch(plan.micro_batch);
  message->set_stop(plan.stop);
  message->mutable_released_slots()->Add(plan.released_slots.begin(), plan.released_slots.end());
  message->mutable_sequences()->Reserve(static_cast<int>(plan.sequences.size()));
  for (const SequencePlan& sequence : plan.sequences)
    write_sequence(sequence, message->add_sequences());
  std::string bytes;
  PHALANX_CHECK(message->SerializeToString(&bytes), "a step plan that protobuf cannot write");
  return bytes;
}

Result<StepPlan> decode_step_plan(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxPlanBytes)
    return data_loss("step plan: " + std::to_string(bytes.size()) + " bytes; allowed: at most " +
                     std::to_string(kMaxPlanBytes));
  // released_slots adds one packed field to the sequences (or a few, if written in pieces).
  constexpr int64_t kMaxFields = kMaxPlanSequences + 16;
  const int64_t num_fields = count_length_delimited_fields(bytes);
  if (num_fields > kMaxFields)
    return data_loss("step plan: more than " + std::to_string(kMaxFields) +
                     " sequences; allowed: at most " + std::to_string(kMaxPlanSequences));
  Arena arena;
  auto* message = Arena::CreateMessage<wire::StepPlan>(&arena);
  if (num_fields < 0 || !message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return data_loss("step plan: these " + std::to_string(bytes.size()) +
                     " bytes are not a message of step_plan.proto");
  return PlanReader().read(*message);
}

uint64_t step_plan_hash(std::span<const std::byte> encoded) {
  constexpr uint64_t kStepPlanSeed = 0x7068616c616e7831ULL;  // "phalanx1"
  return hash64_bytes(kStepPlanSeed, encoded);
}

}  // namespace phalanx
