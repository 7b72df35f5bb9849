// The Communicator of a group of ranks: chooses per pair between shared memory and MPI, and builds
// the collectives from both. Made by MpiSession.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mpi_group.h"
#include "parallel/peer_link.h"
#include "parallel/shared_memory_reducer.h"
#include "parallel/shared_segment.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// Who a member is. Members with the same memory_domain can map each other's shared memory.
struct GroupMember {
  int global_rank = 0;
  std::string host;
  int memory_domain = 0;
};

/// How a group's members fall into memory domains.
struct GroupLayout {
  std::vector<int> heads;  ///< heads[i] is the lowest member of i's domain
  /// The largest power of two such that each aligned run of so many members lies in one domain; 1
  /// when the group's size is not a power of two.
  int block_size = 1;
};
GroupLayout group_layout(const std::vector<GroupMember>& members);

class GroupCommunicator : public Communicator {
 public:
  /// Collective over `group`. members[i] is the group's rank i. Errors: DeviceError.
  GroupCommunicator(MpiGroup group, const std::vector<GroupMember>& members,
                    const CommunicatorOptions& options, const AbortFlag* abort);

  void all_reduce_sum(std::span<float> data) override;
  std::vector<std::byte*> share_memory(size_t bytes) override;
  void meet() override;
  size_t bytes_worth_a_meeting() const override;
  void gather(std::span<const std::byte> part, std::span<const size_t> part_bytes,
              std::span<std::byte> out, int root) override;
  void broadcast(std::span<std::byte> data, int root) override;
  void send(std::span<const std::byte> data, int peer) override;
  void recv(std::span<std::byte> data, int peer) override;
  void post(std::span<const std::byte> data, int peer) override;
  bool push_posted() override;
  void finish_posted() override;
  bool can_recv(int peer) override;
  std::string transport() const override;

 private:
  void make_links(const CommunicatorOptions& options);
  void attach_shared_memory(size_t ring_bytes);
  bool shares_memory_with(int member) const;
  PeerLink& link(int peer);
  void add_other_blocks(std::span<float> data);
  template <typename Done>
  void push_until(const Done& done, const std::string& what);

  MpiGroup group_;
  GroupLayout layout_;
  WaitContext context_;
  size_t slot_bytes_ = 0;
  SharedSegment segment_;  ///< of this rank's domain; empty when it is alone there
  std::vector<std::unique_ptr<PeerLink>> links_;      ///< [size], null for this rank itself
  bool has_posted_ = false;                           ///< some link may have posted messages left
  std::optional<SharedMemoryReducer> block_reducer_;  ///< when block_size > 1
  std::vector<float> received_;                       ///< [slot floats] another block's sums
  std::vector<SharedSegment> lent_;                   ///< by share_memory
  std::optional<ArrivalGate> gate_;                   ///< in the first of them
};

}  // namespace phalanx::parallel
