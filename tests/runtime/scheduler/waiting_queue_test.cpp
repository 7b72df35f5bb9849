// waiting_queue.cpp: order by priority, age, service and arrival; what clients cannot do to others.
#include "runtime/scheduler/waiting_queue.h"

#include <deque>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

constexpr int64_t kAgeing = 10;

class QueueTest : public testing::Test {
 protected:
  Sequence* add(const std::string& client, int32_t priority, uint64_t step) {
    Sequence& sequence = sequences_.emplace_back();
    sequence.id.value = sequences_.size();
    sequence.priority = priority;
    sequence.arrival_step = step;
    sequence.rank = {priority * kAgeing + static_cast<int64_t>(step), sequence.id};
    sequence.client = queue_.enter(client);
    queue_.add(&sequence, step);
    return &sequence;
  }

  Sequence* take(uint64_t step, int64_t prompt = 0) {
    Sequence* sequence = queue_.best(step);
    queue_.admit(sequence, step);
    queue_.charge_prompt(sequence->client, prompt);
    return sequence;
  }

  WaitingQueue queue_{kAgeing};
  std::deque<Sequence> sequences_;
};

TEST_F(QueueTest, WithinAClientPriorityThenArrival) {
  Sequence* late = add("a", 1, 0);
  Sequence* first = add("a", 0, 1);
  Sequence* second = add("a", 0, 1);
  Sequence* urgent = add("a", -1, 2);
  EXPECT_EQ(queue_.num_waiting(), 4);
  for (Sequence* expected : {urgent, first, second, late}) EXPECT_EQ(take(3), expected);
  EXPECT_EQ(queue_.best(3), nullptr);
}

TEST_F(QueueTest, WithinAClientALevelIsWorthTheAgeingSteps) {
  Sequence* old = add("a", 1, 0);
  Sequence* fresh = add("a", 0, kAgeing - 1);
  Sequence* fresher = add("a", 0, kAgeing + 1);
  for (Sequence* expected : {fresh, old, fresher}) EXPECT_EQ(take(kAgeing + 1), expected);
}

TEST_F(QueueTest, BetweenClientsTheLeastServedComesFirst) {
  for (int i = 0; i < 3; ++i) add("a", 0, 0);
  for (int i = 0; i < 3; ++i) add("b", 0, 0);
  std::string order;
  for (const int64_t prompt : {100, 30, 30, 30, 30, 30}) order += take(1, prompt)->client->name;
  // a: 100; b: 30, 60, 90; then only a is left.
  EXPECT_EQ(order, "abbbaa");
}

TEST_F(QueueTest, OutputWeighsTwice) {
  Sequence* a = add("a", 0, 0);
  Sequence* b = add("b", 0, 0);
  queue_.charge_output(a->client, 10);
  queue_.charge_prompt(b->client, 19);
  EXPECT_EQ(queue_.best(0), b);
  queue_.charge_prompt(b->client, 2);
  EXPECT_EQ(queue_.best(0), a);
}

TEST_F(QueueTest, AbsenceEarnsNoCredit) {
  add("a", 0, 0);
  add("a", 0, 0);
  take(0, 1000);
  Sequence* newcomer = add("b", 0, 1);  // lifted to 1000, not ahead by 1000
  EXPECT_EQ(newcomer->client->served_tokens, 1000U);
  EXPECT_EQ(take(1, 1)->client->name, "a");
  EXPECT_EQ(take(1, 1), newcomer);
  // An empty queue remembers who was served last.
  EXPECT_EQ(add("c", 0, 2)->client->served_tokens, 1000U);
}

TEST_F(QueueTest, PresenceIsNotForgottenByPausing) {
  Sequence* heavy = add("heavy", 0, 0);
  take(0, 5000);
  queue_.leave(heavy->client);
  add("light", 0, 1);
  EXPECT_EQ(add("heavy", 0, 1)->client->served_tokens, 5000U);
  EXPECT_EQ(take(1)->client->name, "light");
}

TEST_F(QueueTest, PriorityBeatsServiceUntilAgeingLiftsTheOther) {
  add("low", 1, 0);
  add("high", 0, 0);
  EXPECT_EQ(queue_.best(kAgeing - 1)->client->name, "high");
  // One level up each; among equals nobody was served, so the higher rank.
  EXPECT_EQ(queue_.best(kAgeing)->client->name, "high");
  take(kAgeing, 100);
  add("high", 0, kAgeing);
  EXPECT_EQ(queue_.best(kAgeing)->client->name, "low");  // level 0 and served less
}

TEST_F(QueueTest, ALongLineDoesNotAgePastOtherClients) {
  for (int i = 0; i < 50; ++i) add("flood", 0, 0);
  uint64_t step = 0;
  for (; step < 20 * kAgeing; step += 5) take(step, 100);  // the flood is served all the time
  add("other", 0, step);
  take(step, 100);
  EXPECT_EQ(take(step, 100)->client->name, "other");
}

TEST_F(QueueTest, PreemptedGoFirstWithinTheirLevel) {
  Sequence* fresh = add("a", 0, 0);
  Sequence* urgent = add("b", -1, 0);
  Sequence preempted[2];
  for (int i = 0; i < 2; ++i) {
    preempted[i].id.value = 100 + static_cast<uint64_t>(i);
    preempted[i].client = fresh->client;
    preempted[i].phase = SequencePhase::kPreempted;
    preempted[i].rank = {5 - i, preempted[i].id};
    queue_.add(&preempted[i], 5);
  }
  EXPECT_EQ(queue_.num_preempted(), 2);
  for (Sequence* expected : {urgent, &preempted[1], &preempted[0], fresh})
    EXPECT_EQ(take(5), expected);
}

TEST_F(QueueTest, RemovalOfAWaitingSequence) {
  Sequence* a = add("a", 0, 0);
  Sequence* b = add("b", 0, 0);
  queue_.remove(a);
  EXPECT_EQ(queue_.num_waiting(), 1);
  EXPECT_EQ(queue_.best(0), b);
  EXPECT_THROW(queue_.remove(a), InternalError);
}

TEST_F(QueueTest, RemembersABoundedNumberOfIdleClients) {
  Sequence* heavy = add("heavy", 0, 0);
  queue_.charge_prompt(heavy->client, 1);
  take(0);
  for (int i = 0; i < 20'000; ++i) {
    Client* client = queue_.enter("client " + std::to_string(i));
    queue_.charge_prompt(client, 10);
    queue_.leave(client);
    ASSERT_LE(queue_.num_clients(), 4097);
  }
  EXPECT_EQ(queue_.enter("heavy"), heavy->client);  // it has a request: never forgotten
}

}  // namespace
}  // namespace phalanx
