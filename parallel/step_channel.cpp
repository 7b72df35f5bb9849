// Puts the step channel together: a ring for the leader's host, sockets for the others. Called by
// the launcher.
#include "parallel/step_channel.h"

#include <algorithm>
#include <utility>

#include "parallel/mpi_session.h"
#include "parallel/shared_segment.h"
#include "parallel/step_ring.h"
#include "parallel/step_socket.h"
#include "parallel/tcp_star.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

constexpr std::chrono::milliseconds kConnectDeadline{30'000};

WaitPolicy wait_policy(const StepChannelOptions& options, const AbortFlag* abort) {
  return make_wait_policy(options.deadline, options.spin, abort);
}

size_t ring_capacity(const StepChannelOptions& options) {
  return std::max<size_t>(64, options.capacity_bytes / 8 * 8);
}

/// The memory of a ring: shared between processes, and kept until both ends of a process are gone.
struct RingMemory {
  RingMemory(SharedSegment shared, size_t capacity, int num_readers)
      : segment(std::move(shared)), ring(segment.data(), capacity, num_readers) {}
  SharedSegment segment;
  StepRing ring;
};

class ChannelPublisher : public StepPublisher {
 public:
  ChannelPublisher(std::shared_ptr<RingMemory> memory, std::vector<std::string> ring_readers,
                   StepSocketWriter sockets, const WaitPolicy& policy)
      : memory_(std::move(memory)),
        ring_readers_(std::move(ring_readers)),
        sockets_(std::move(sockets)),
        policy_(policy) {}
  ~ChannelPublisher() override { memory_->ring.close(); }

  void publish(std::span<const std::byte> message) override {
    PHALANX_CHECK_LE(message.size(), memory_->ring.max_message_bytes(),
                     "a step message larger than half the channel");
    sockets_.publish(message, policy_);  // the far ones first: their way is longer
    memory_->ring.publish(message, policy_, ring_readers_);
  }

 private:
  std::shared_ptr<RingMemory> memory_;
  std::vector<std::string> ring_readers_;
  StepSocketWriter sockets_;
  WaitPolicy policy_;
};

class RingSubscriber : public StepSubscriber {
 public:
  RingSubscriber(std::shared_ptr<RingMemory> memory, int reader, const WaitPolicy& policy)
      : memory_(std::move(memory)), reader_(reader), policy_(policy) {}

  std::optional<std::vector<std::byte>> next(std::chrono::milliseconds timeout) override {
    return memory_->ring.next(reader_, policy_, timeout);
  }

 private:
  std::shared_ptr<RingMemory> memory_;
  int reader_;
  WaitPolicy policy_;
};

class SocketSubscriber : public StepSubscriber {
 public:
  SocketSubscriber(StepSocketReader reader, const WaitPolicy& policy)
      : reader_(std::move(reader)), policy_(policy) {}

  std::optional<std::vector<std::byte>> next(std::chrono::milliseconds timeout) override {
    return reader_.next(policy_, timeout);
  }

 private:
  StepSocketReader reader_;
  WaitPolicy policy_;
};

}  // namespace

StepChannelEnds make_step_channel(MpiSession& session, const StepChannelOptions& options,
                                  const AbortFlag* abort) {
  const WaitPolicy policy = wait_policy(options, abort);
  const size_t capacity = ring_capacity(options);
  const bool is_leader = session.rank() == 0;
  std::vector<int> near;
  std::vector<int> far;
  std::vector<std::string> near_names;
  std::vector<std::string> far_names;
  for (int rank = 0; rank < session.world_size(); ++rank) {
    const auto index = static_cast<size_t>(rank);
    const bool is_near = session.memory_domains()[index] == session.memory_domains()[0];
    (is_near ? near : far).push_back(rank);
    (is_near ? near_names : far_names)
        .push_back("rank " + std::to_string(rank) + " on " + session.hosts()[index]);
  }

  const int num_readers = static_cast<int>(near.size());
  const auto place = std::find(near.begin(), near.end(), session.rank());
  SharedSegment segment;
  if (is_leader) segment = SharedSegment::create(StepRing::bytes_needed(capacity, num_readers));
  const std::string ticket = session.broadcast(is_leader ? segment.ticket() : "", 0);
  if (!is_leader && place != near.end()) segment = SharedSegment::attach(ticket);
  session.all_gather("attached");
  segment.drop_handle();

  std::vector<Socket> sockets = make_tcp_star(session, far, "step channel", kConnectDeadline);
  StepChannelEnds ends;
  if (place == near.end()) {
    StepSocketReader reader(std::move(sockets[0]), near_names[0], capacity / 2);
    ends.subscriber = std::make_unique<SocketSubscriber>(std::move(reader), policy);
    return ends;
  }
  auto memory = std::make_shared<RingMemory>(std::move(segment), capacity, num_readers);
  const int reader = static_cast<int>(place - near.begin());
  ends.subscriber = std::make_unique<RingSubscriber>(memory, reader, policy);
  if (is_leader) {
    std::vector<Socket> far_sockets;
    for (int rank : far) far_sockets.push_back(std::move(sockets[static_cast<size_t>(rank)]));
    StepSocketWriter writer(std::move(far_sockets), std::move(far_names));
    ends.publisher = std::make_unique<ChannelPublisher>(memory, std::move(near_names),
                                                        std::move(writer), policy);
  }
  return ends;
}

StepChannelEnds make_local_step_channel(const StepChannelOptions& options, const AbortFlag* abort) {
  const WaitPolicy policy = wait_policy(options, abort);
  const size_t capacity = ring_capacity(options);
  auto memory = std::make_shared<RingMemory>(
      SharedSegment::create(StepRing::bytes_needed(capacity, 1)), capacity, 1);
  StepChannelEnds ends;
  ends.subscriber = std::make_unique<RingSubscriber>(memory, 0, policy);
  ends.publisher = std::make_unique<ChannelPublisher>(
      memory, std::vector<std::string>{"this process's executor"}, StepSocketWriter({}, {}),
      policy);
  return ends;
}

}  // namespace phalanx::parallel
