// Who is admitted next: priorities with ageing, and fairness between clients. Called by the
// scheduler.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/scheduler/sequence.h"

namespace phalanx {

/// One who asks. Lives as long as it has requests, and for a while longer, so that it cannot shed
/// its past by pausing.
struct Client {
  std::string name;
  int64_t num_requests = 0;    ///< in the scheduler, in any phase
  uint64_t served_tokens = 0;  ///< the virtual token counter
  uint64_t waiting_since = 0;  ///< step of its last admission, or of joining the queue after that
  std::set<Sequence*, EarlierRank> waiting;
};

/// Order of admission: the lower level first, where a level is the priority less one for every
/// ageing_steps of waiting; in a level preempted sequences by rank; then the client that was served
/// the fewest tokens; within a client by rank.
///
/// A client waits from its last admission on, so that a long queue of one client does not age past
/// the other clients. A client that joins the queue is lifted to the least served client in it:
/// absence earns no credit. While two clients of equal priority both wait, what they are served
/// differs by no more than two requests' tokens (Sheng et al., "Fairness in Serving Large Language
/// Models", OSDI 2024: virtual token counter, output tokens weighing twice).
///
/// Cost: add and remove O(log n), best() O(clients that wait). One thread.
class WaitingQueue {
 public:
  explicit WaitingQueue(int64_t ageing_steps);

  /// The client by that name, with one request more; leave() takes it off.
  Client* enter(const std::string& name);
  void leave(Client* client);
  void charge_prompt(Client* client, int64_t num_tokens);
  void charge_output(Client* client, int64_t num_tokens);

  /// By phase: kWaiting into its client's line, kPreempted into the line of the preempted.
  void add(Sequence* sequence, uint64_t step);
  void remove(Sequence* sequence);
  /// Who is next at `step`; nullptr when nobody waits.
  Sequence* best(uint64_t step) const;
  /// Removes a sequence that is being admitted.
  void admit(Sequence* sequence, uint64_t step);

  int64_t num_waiting() const { return num_waiting_; }
  int64_t num_preempted() const { return static_cast<int64_t>(preempted_.size()); }
  int64_t num_clients() const { return static_cast<int64_t>(clients_.size()); }

 private:
  int64_t level(int32_t priority, uint64_t since, uint64_t step) const;
  uint64_t least_served() const;
  void forget_idle_clients();

  int64_t ageing_steps_;
  std::unordered_map<std::string, std::unique_ptr<Client>> clients_;
  std::vector<Client*> active_;  // those with waiting requests, in no particular order
  std::set<Sequence*, EarlierRank> preempted_;
  int64_t num_waiting_ = 0;
  uint64_t last_served_ = 0;  // counter of the client admitted last
  size_t forget_at_size_;
};

}  // namespace phalanx
