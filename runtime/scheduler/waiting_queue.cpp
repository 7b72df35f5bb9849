// Lines of waiting sequences, one a client, and the choice between their heads.
#include "runtime/scheduler/waiting_queue.h"

#include <algorithm>
#include <tuple>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

// Clients remembered without a request. More than anyone serves at once, and little memory.
constexpr size_t kMaxIdleClients = 4096;

constexpr uint64_t kPromptWeight = 1;
constexpr uint64_t kOutputWeight = 2;

}  // namespace

WaitingQueue::WaitingQueue(int64_t ageing_steps)
    : ageing_steps_(ageing_steps), forget_at_size_(kMaxIdleClients) {
  PHALANX_CHECK_GT(ageing_steps, 0, "ageing_steps");
}

Client* WaitingQueue::enter(const std::string& name) {
  auto found = clients_.find(name);
  if (found == clients_.end()) {
    if (clients_.size() >= forget_at_size_) forget_idle_clients();
    found = clients_.emplace(name, std::make_unique<Client>()).first;
    found->second->name = name;
  }
  ++found->second->num_requests;
  return found->second.get();
}

void WaitingQueue::leave(Client* client) {
  PHALANX_CHECK_GT(client->num_requests, 0, "a client without requests leaves");
  --client->num_requests;
}

// First those whom the lift would raise anyway, which loses nothing; then all that are idle.
void WaitingQueue::forget_idle_clients() {
  const uint64_t floor = least_served();
  std::erase_if(clients_, [&](const auto& entry) {
    return entry.second->num_requests == 0 && entry.second->served_tokens <= floor;
  });
  if (clients_.size() >= forget_at_size_)
    std::erase_if(clients_, [](const auto& entry) { return entry.second->num_requests == 0; });
  forget_at_size_ = std::max(kMaxIdleClients, 2 * clients_.size());
}

void WaitingQueue::charge_prompt(Client* client, int64_t num_tokens) {
  client->served_tokens += kPromptWeight * static_cast<uint64_t>(num_tokens);
}

void WaitingQueue::charge_output(Client* client, int64_t num_tokens) {
  client->served_tokens += kOutputWeight * static_cast<uint64_t>(num_tokens);
}

uint64_t WaitingQueue::least_served() const {
  if (active_.empty()) return last_served_;
  return (*std::ranges::min_element(active_, {}, &Client::served_tokens))->served_tokens;
}

void WaitingQueue::add(Sequence* sequence, uint64_t step) {
  if (sequence->phase == SequencePhase::kPreempted) {
    PHALANX_CHECK(preempted_.insert(sequence).second, "a sequence queued twice");
    return;
  }
  PHALANX_CHECK(sequence->phase == SequencePhase::kWaiting, "only waiting sequences queue");
  Client* client = sequence->client;
  if (client->waiting.empty()) {
    client->served_tokens = std::max(client->served_tokens, least_served());
    client->waiting_since = step;
    active_.push_back(client);
  }
  PHALANX_CHECK(client->waiting.insert(sequence).second, "a sequence queued twice");
  ++num_waiting_;
}

void WaitingQueue::remove(Sequence* sequence) {
  if (sequence->phase == SequencePhase::kPreempted) {
    PHALANX_CHECK_EQ(preempted_.erase(sequence), 1U, "a sequence that is not queued");
    return;
  }
  Client* client = sequence->client;
  PHALANX_CHECK_EQ(client->waiting.erase(sequence), 1U, "a sequence that is not queued");
  --num_waiting_;
  if (!client->waiting.empty()) return;
  *std::ranges::find(active_, client) = active_.back();
  active_.pop_back();
}

void WaitingQueue::admit(Sequence* sequence, uint64_t step) {
  if (sequence->phase == SequencePhase::kWaiting) {
    sequence->client->waiting_since = step;
    last_served_ = std::max(last_served_, sequence->client->served_tokens);
  }
  remove(sequence);
}

int64_t WaitingQueue::level(int32_t priority, uint64_t since, uint64_t step) const {
  return priority - static_cast<int64_t>(step - since) / ageing_steps_;
}

Sequence* WaitingQueue::best(uint64_t step) const {
  Sequence* best = nullptr;
  std::tuple<int64_t, uint64_t, Rank> best_key;
  for (const Client* client : active_) {
    Sequence* head = *client->waiting.begin();
    const std::tuple<int64_t, uint64_t, Rank> key = {
        level(head->priority, client->waiting_since, step), client->served_tokens, head->rank};
    if (best != nullptr && !(key < best_key)) continue;
    best = head;
    best_key = key;
  }
  if (preempted_.empty()) return best;
  Sequence* head = *preempted_.begin();
  const bool goes_first =
      best == nullptr || level(head->priority, head->arrival_step, step) <= std::get<0>(best_key);
  return goes_first ? head : best;
}

}  // namespace phalanx
