// Brings the ranks' regions together: who is where, tickets, and one verdict for all ranks.
#include "kernels/cuda/peer_memory.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "kernels/cuda/peer_region.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

/// Regions of this process by number, for ranks that are threads of it. Thread safe.
class OwnRegions {
 public:
  uint64_t add(const std::shared_ptr<PeerRegion>& region) {
    const std::lock_guard lock(mutex_);
    regions_[++last_] = region;
    return last_;
  }
  void remove(uint64_t number) {
    const std::lock_guard lock(mutex_);
    regions_.erase(number);
  }
  std::shared_ptr<PeerRegion> find(uint64_t number) {
    const std::lock_guard lock(mutex_);
    const auto found = regions_.find(number);
    return found == regions_.end() ? nullptr : found->second.lock();
  }

 private:
  std::mutex mutex_;
  uint64_t last_ = 0;
  std::map<uint64_t, std::weak_ptr<PeerRegion>> regions_;
};
OwnRegions& own_regions() {
  static OwnRegions regions;
  return regions;
}

/// What no other process has: process numbers are not unique over containers.
std::string process_name() {
  static const uint64_t token = [] {
    uint64_t random = 0;
    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
      throw DeviceError("getrandom failed");
    return random;
  }();
  return std::to_string(getpid()) + "-" + std::to_string(token);  // a fork has the same token
}

/// "<id of this boot>@<name>": one word.
std::string host_name() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return (boot.empty() ? "unknown" : boot) + "@" + name.data();
}

/// What a rank tells the others of itself.
struct Place {
  std::string host;
  std::string process;
  uint64_t region = 0;
  PeerDevice device;
  std::string ticket;

  std::string text() const {
    std::ostringstream out;
    out << "region " << host << ' ' << process << ' ' << region << ' ' << device.name << ' '
        << device.multiprocessors << ' ' << ticket;
    return out.str();
  }
  static Place of(const std::string& text) {
    Place place;
    std::istringstream in(text);
    std::string word;
    in >> word >> place.host >> place.process >> place.region >> place.device.name >>
        place.device.multiprocessors;
    PHALANX_CHECK(!in.fail() && word == "region", "not the place of a region: \"" + text + "\"");
    std::getline(in >> std::ws, place.ticket);
    return place;
  }
};

constexpr const char* kFailed = "failed ";

std::string name_of(int rank) { return "rank " + std::to_string(rank); }

/// Throws what the first rank with a failure failed with.
void require_no_failure(const std::vector<std::string>& texts, const char* operation) {
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].rfind(kFailed, 0) == 0) {
      throw DeviceError("peer memory: " + name_of(static_cast<int>(rank)) + " cannot " + operation +
                        ": " + texts[rank].substr(std::string(kFailed).size()));
    }
  }
}

int multiprocessors_of_each(const std::vector<Place>& places) {
  std::map<std::string, int> ranks_on;
  for (const Place& place : places) ++ranks_on[place.host + place.device.name];
  int fewest = places.front().device.multiprocessors;
  for (const Place& place : places)
    fewest =
        std::min(fewest, place.device.multiprocessors / ranks_on[place.host + place.device.name]);
  return std::max(fewest, 1);
}

std::shared_ptr<PeerRegion> reach(const Place& from, const Place& to, int64_t bytes) {
  if (from.host != to.host) throw DeviceError("they are on hosts " + from.host + " and " + to.host);
  if (from.process != to.process) return open_peer_region(to.ticket, to.device.name, bytes);
  if (from.device.name != to.device.name) require_peer_access(to.device.name);
  std::shared_ptr<PeerRegion> region = own_regions().find(to.region);
  if (region == nullptr) throw DeviceError("its region is gone");
  return region;
}

}  // namespace

Result<std::unique_ptr<PeerMemory>> PeerMemory::create(int64_t bytes, int rank, int size,
                                                       const PeerExchange& exchange) {
  PHALANX_CHECK(rank >= 0 && rank < size, "a rank of the group");
  PHALANX_CHECK_GT(bytes, 0, "bytes of a region");
  std::unique_ptr<PeerMemory> memory(new PeerMemory);
  memory->rank_ = rank;
  memory->bytes_ = bytes;
  memory->regions_.resize(static_cast<size_t>(size));
  const auto own = static_cast<size_t>(rank);

  // A rank that fails goes on to the exchange: the others wait there for its text.
  Place place;
  std::string text;
  try {
    place.host = host_name();
    place.process = process_name();
    place.device = current_peer_device();
    memory->regions_[own] = allocate_peer_region(bytes);
    place.ticket = memory->regions_[own]->ticket();
    place.region = own_regions().add(memory->regions_[own]);
    text = place.text();
  } catch (const DeviceError& error) {
    text = std::string(kFailed) + error.what();
  }
  struct Unlisted {
    uint64_t region;
    ~Unlisted() { own_regions().remove(region); }
  } const unlisted{place.region};
  const std::vector<std::string> texts = exchange(text);
  PHALANX_CHECK_EQ(texts.size(), static_cast<size_t>(size), "texts of an exchange");
  require_no_failure(texts, "allocate its region");

  std::vector<Place> places;
  for (const std::string& of_rank : texts) places.push_back(Place::of(of_rank));
  memory->multiprocessors_ = multiprocessors_of_each(places);
  std::string reason;
  for (size_t other = 0; other < places.size() && reason.empty(); ++other) {
    if (other == own) continue;
    try {
      memory->regions_[other] = reach(places[own], places[other], bytes);
    } catch (const DeviceError& error) {
      reason = name_of(rank) + " cannot reach the memory of " + name_of(static_cast<int>(other)) +
               ": " + error.what();
    }
  }
  const std::vector<std::string> reasons = exchange(reason);
  PHALANX_CHECK_EQ(reasons.size(), static_cast<size_t>(size), "texts of an exchange");
  memory->regions_[own]->drop_ticket();
  for (const std::string& of_rank : reasons) {
    if (!of_rank.empty()) return Error{ErrorCode::kUnsupported, of_rank};
  }
  return memory;
}

PeerMemory::~PeerMemory() {
  for (size_t other = 0; other < regions_.size(); ++other) {
    if (other != static_cast<size_t>(rank_)) regions_[other].reset();
  }
}

std::byte* PeerMemory::region(int rank) const {
  return regions_.at(static_cast<size_t>(rank))->data();
}

uint32_t* PeerMemory::host_words() const {
  return regions_.at(static_cast<size_t>(rank_))->host_words();
}

void PeerMemory::clear(int64_t bytes) {
  PHALANX_CHECK_LE(bytes, bytes_, "bytes of the region");
  regions_.at(static_cast<size_t>(rank_))->clear(bytes);
}

}  // namespace phalanx::kernels::cuda
