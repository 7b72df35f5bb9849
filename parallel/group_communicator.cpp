// The verbs of a group, over links of both kinds. Called by the executor between operators.
#include "parallel/group_communicator.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "parallel/add_tree.h"
#include "parallel/mpi_link.h"
#include "parallel/shared_memory_link.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

/// An all-reduce goes in parts that stay in a core's second-level cache with the peers' slots.
constexpr size_t kMaxSlotBytes = size_t{512} << 10;
/// Meetings in bytes that a core reads from another at about 15 GB/s: 0.3 us while ranks spin, some
/// tens where they must be woken.
constexpr size_t kMeetingBytesSpinning = size_t{4} << 10;
constexpr size_t kMeetingBytesSleeping = size_t{256} << 10;
constexpr size_t kPageBytes = 4096;
/// Room of one direction of a pair.
constexpr size_t kMaxRingBytes = size_t{128} << 10;

size_t whole_lines(size_t num_bytes) {
  return std::max<size_t>(1, num_bytes / kLineBytes) * kLineBytes;
}

std::span<const std::byte> bytes_of(std::span<const float> data) { return std::as_bytes(data); }

}  // namespace

GroupLayout group_layout(const std::vector<GroupMember>& members) {
  GroupLayout layout;
  const size_t size = members.size();
  for (const GroupMember& member : members) {
    const auto head = std::find_if(members.begin(), members.end(), [&](const GroupMember& other) {
      return other.memory_domain == member.memory_domain;
    });
    layout.heads.push_back(static_cast<int>(head - members.begin()));
  }
  if (!std::has_single_bit(size)) return layout;
  for (size_t block = size; block > 1; block /= 2) {
    bool fits = true;
    for (size_t i = 0; i < size; ++i)
      fits = fits && layout.heads[i] == layout.heads[i / block * block];
    if (fits) {
      layout.block_size = static_cast<int>(block);
      break;
    }
  }
  return layout;
}

GroupCommunicator::GroupCommunicator(MpiGroup group, const std::vector<GroupMember>& members,
                                     const CommunicatorOptions& options, const AbortFlag* abort)
    : group_(std::move(group)), layout_(group_layout(members)) {
  rank_ = group_.rank();
  size_ = group_.size();
  PHALANX_CHECK_EQ(members.size(), static_cast<size_t>(size_), "one description a member");
  context_.policy = make_wait_policy(options.deadline, options.spin, abort);
  if (options.work != nullptr) context_.tally = options.work->tally(0);
  context_.operation = "make_communicator";
  for (const GroupMember& member : members)
    context_.peers.push_back("rank " + std::to_string(member.global_rank) + " on " + member.host);
  make_links(options);
  context_.operation = "start";
}

bool GroupCommunicator::shares_memory_with(int member) const {
  return layout_.heads[static_cast<size_t>(member)] == layout_.heads[static_cast<size_t>(rank_)];
}

void GroupCommunicator::make_links(const CommunicatorOptions& options) {
  slot_bytes_ = whole_lines(std::min(options.max_message_bytes, kMaxSlotBytes));
  links_.resize(static_cast<size_t>(size_));
  for (int peer = 0; peer < size_; ++peer)
    if (!shares_memory_with(peer))
      links_[static_cast<size_t>(peer)] =
          std::make_unique<MpiLink>(group_.communicator(), peer, context_);
  attach_shared_memory(whole_lines(std::min(options.max_message_bytes, kMaxRingBytes)));
  if (layout_.block_size < size_) received_.resize(slot_bytes_ / sizeof(float));
}

// Layout of a domain's segment: the reducers of its blocks, the rings of
// its pairs. Every member computes the same offsets.
void GroupCommunicator::attach_shared_memory(size_t ring_bytes) {
  std::vector<int> mates;
  for (int member = 0; member < size_; ++member)
    if (shares_memory_with(member)) mates.push_back(member);
  const int num_mates = static_cast<int>(mates.size());
  const auto num_blocks = static_cast<size_t>(num_mates / layout_.block_size);
  const size_t block_bytes =
      layout_.block_size > 1 ? SharedMemoryReducer::bytes_needed(layout_.block_size, slot_bytes_)
                             : 0;
  const size_t pair_bytes = SharedMemoryLink::bytes_needed(ring_bytes);
  const size_t num_pairs = mates.size() * (mates.size() - 1) / 2;

  const bool is_head = mates.front() == rank_;
  const bool is_shared = num_mates > 1;
  if (is_head && is_shared)
    segment_ = SharedSegment::create(num_blocks * block_bytes + num_pairs * pair_bytes);
  const auto tickets = group_.all_gather(is_head && is_shared ? segment_.ticket() : "");
  if (!is_head) segment_ = SharedSegment::attach(tickets[static_cast<size_t>(mates.front())]);
  group_.all_gather("attached");
  segment_.drop_handle();
  if (!is_shared) return;

  const auto self = std::find(mates.begin(), mates.end(), rank_);
  const auto place = static_cast<int>(self - mates.begin());
  std::byte* region = segment_.data();
  if (layout_.block_size > 1) {
    // Whole blocks in ascending order: a block's number in its domain is its place there.
    const int block = place / layout_.block_size;
    const std::span<const int> block_members = std::span(mates).subspan(
        static_cast<size_t>(block * layout_.block_size), static_cast<size_t>(layout_.block_size));
    block_reducer_.emplace(region + static_cast<size_t>(block) * block_bytes, slot_bytes_,
                           block_members, place % layout_.block_size, context_);
    region += num_blocks * block_bytes;
  }
  for (int low = 0; low < num_mates; ++low)
    for (int high = low + 1; high < num_mates; ++high, region += pair_bytes) {
      if (low != place && high != place) continue;
      const int end = high == place ? 1 : 0;
      const int peer = mates[static_cast<size_t>(end == 1 ? low : high)];
      links_[static_cast<size_t>(peer)] =
          std::make_unique<SharedMemoryLink>(region, ring_bytes, end, context_, peer);
    }
}

PeerLink& GroupCommunicator::link(int peer) {
  PHALANX_CHECK(peer >= 0 && peer < size_ && peer != rank_,
                std::string(context_.operation) + ": no such peer: " + std::to_string(peer));
  return *links_[static_cast<size_t>(peer)];
}

// Inside aligned blocks of ranks that share memory through slots; between the blocks by recursive
// doubling, each rank carrying its part of the data. Both walk the same tree from the bottom up,
// and both ends of an exchange add lower rank first, so that all get the same bits.
void GroupCommunicator::all_reduce_sum(std::span<float> data) {
  context_.operation = "all_reduce";
  PHALANX_CHECK(std::has_single_bit(static_cast<unsigned>(size_)),
                "all_reduce over " + std::to_string(size_) + " ranks, not a power of two");
  const size_t slot_floats = slot_bytes_ / sizeof(float);
  while (!data.empty()) {
    const auto part = data.first(std::min(data.size(), slot_floats));
    if (!block_reducer_) {
      add_other_blocks(part);
    } else if (layout_.block_size == size_) {
      block_reducer_->all_reduce(part);
    } else {
      block_reducer_->all_reduce(part, [this](std::span<float> sums) { add_other_blocks(sums); });
    }
    data = data.subspan(part.size());
  }
}

void GroupCommunicator::add_other_blocks(std::span<float> data) {
  if (data.empty()) return;
  const auto received = std::span(received_).first(data.size());
  for (int distance = layout_.block_size; distance < size_; distance *= 2) {
    const int peer = rank_ ^ distance;
    link(peer).exchange(bytes_of(data), std::as_writable_bytes(received));
    const float* sources[2] = {data.data(), received.data()};
    if (peer < rank_) std::swap(sources[0], sources[1]);
    add_tree(sources, data.data(), data.size());
  }
}

// Layout: the gate's page, the regions. A later segment has the first one's gate.
std::vector<std::byte*> GroupCommunicator::share_memory(size_t bytes) {
  context_.operation = "share_memory";
  const bool is_one_domain = std::all_of(layout_.heads.begin(), layout_.heads.end(),
                                         [this](int head) { return head == layout_.heads[0]; });
  if (!is_one_domain) return {};
  const auto size = static_cast<size_t>(size_);
  const size_t region_bytes = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  const size_t gate_bytes =
      (ArrivalGate::bytes_needed(size_) + kPageBytes - 1) / kPageBytes * kPageBytes;
  SharedSegment segment;
  if (rank_ == 0) segment = SharedSegment::create(gate_bytes + size * region_bytes);
  const auto tickets = group_.all_gather(rank_ == 0 ? segment.ticket() : "");
  if (rank_ != 0) segment = SharedSegment::attach(tickets[0]);
  group_.all_gather("attached");
  segment.drop_handle();
  if (!gate_) {
    std::vector<int> members(size);
    std::iota(members.begin(), members.end(), 0);
    gate_.emplace(segment.data(), members, rank_, context_);
  }
  std::vector<std::byte*> regions;
  for (size_t rank = 0; rank < size; ++rank)
    regions.push_back(segment.data() + gate_bytes + rank * region_bytes);
  lent_.push_back(std::move(segment));
  return regions;
}

void GroupCommunicator::meet() {
  context_.operation = "meet";
  PHALANX_CHECK(gate_.has_value(), "a meeting of ranks that share no memory");
  gate_->meet();
}

size_t GroupCommunicator::bytes_worth_a_meeting() const {
  return context_.policy.spin ? kMeetingBytesSpinning : kMeetingBytesSleeping;
}

void GroupCommunicator::gather(std::span<const std::byte> part, std::span<const size_t> part_bytes,
                               std::span<std::byte> out, int root) {
  context_.operation = "gather";
  PHALANX_CHECK(root >= 0 && root < size_, "gather: no such root");
  PHALANX_CHECK_EQ(part_bytes.size(), static_cast<size_t>(size_), "gather: a size for each rank");
  PHALANX_CHECK_EQ(part.size(), part_bytes[static_cast<size_t>(rank_)], "gather: this rank's part");
  if (rank_ != root) {
    if (!part.empty()) link(root).send(part);
    return;
  }
  PHALANX_CHECK_EQ(out.size(), std::accumulate(part_bytes.begin(), part_bytes.end(), size_t{0}),
                   "gather: the output holds all parts");
  for (int source = 0; source < size_; ++source) {
    const size_t count = part_bytes[static_cast<size_t>(source)];
    const auto place = out.first(count);
    out = out.subspan(count);
    if (count == 0) continue;
    if (source != rank_) {
      link(source).recv(place);
    } else if (part.data() != place.data()) {
      std::memmove(place.data(), part.data(), count);
    }
  }
}

// The root sends to one rank of every other domain, and each of these to its neighbours.
void GroupCommunicator::broadcast(std::span<std::byte> data, int root) {
  context_.operation = "broadcast";
  PHALANX_CHECK(root >= 0 && root < size_, "broadcast: no such root");
  const auto head_of = [&](int member) {
    const int head = layout_.heads[static_cast<size_t>(member)];
    return head == layout_.heads[static_cast<size_t>(root)] ? root : head;
  };
  const int head = head_of(rank_);
  if (rank_ != root) link(rank_ == head ? root : head).recv(data);
  if (rank_ != head) return;
  if (rank_ == root)
    for (int member = 0; member < size_; ++member)
      if (member != root && member == head_of(member)) link(member).send(data);
  for (int member = 0; member < size_; ++member)
    if (member != rank_ && head_of(member) == rank_) link(member).send(data);
}

void GroupCommunicator::send(std::span<const std::byte> data, int peer) {
  context_.operation = "send";
  link(peer).send(data);
}

/// Pushes what was posted until it has gone or done() holds. The two ends are events of different
/// pairs, so this looks again and again; it is rare, since what is posted mostly goes at once.
template <typename Done>
void GroupCommunicator::push_until(const Done& done, const std::string& what) {
  constexpr std::chrono::microseconds kLookEvery{50};
  const SlowWait slow(context_.policy);
  while (!push_posted() && !done()) {
    slow.check([&] { return std::string(context_.operation) + ": " + what; });
    std::this_thread::sleep_for(kLookEvery);
  }
}

void GroupCommunicator::recv(std::span<std::byte> data, int peer) {
  context_.operation = "recv";
  PeerLink& from = link(peer);
  // The peer's message may depend, over others, on what this rank has posted: both must go on.
  if (has_posted_)
    push_until([&] { return from.can_recv(); },
               "waiting for " + context_.peers[static_cast<size_t>(peer)]);
  from.recv(data);
}

void GroupCommunicator::post(std::span<const std::byte> data, int peer) {
  context_.operation = "post";
  link(peer).post(data);
  has_posted_ = true;
  push_posted();
}

bool GroupCommunicator::push_posted() {
  if (!has_posted_) return true;
  bool is_all_gone = true;
  for (const auto& link : links_)
    if (link != nullptr && !link->push_posted()) is_all_gone = false;
  has_posted_ = !is_all_gone;
  return is_all_gone;
}

void GroupCommunicator::finish_posted() {
  context_.operation = "finish_posted";
  push_until([] { return false; }, "waiting for the receivers of posted messages");
}

bool GroupCommunicator::can_recv(int peer) { return link(peer).can_recv(); }

std::string GroupCommunicator::transport() const {
  bool has_shared = false;
  bool has_mpi = false;
  for (int head : layout_.heads)
    for (int other : layout_.heads) has_mpi = has_mpi || head != other;
  for (int member = 0; member < size_; ++member)
    has_shared = has_shared || layout_.heads[static_cast<size_t>(member)] != member;
  if (has_shared) return has_mpi ? "shm+mpi" : "shm";
  return "mpi";
}

}  // namespace phalanx::parallel
