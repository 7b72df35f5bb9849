// MPI's life in this process and the map of hosts. Made by the launcher's main.
#include "parallel/mpi_session.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <optional>
#include <set>

#include <mpi.h>

#include "parallel/group_communicator.h"
#include "parallel/mpi_group.h"
#include "parallel/shared_segment.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

constexpr int kGroupTag = 17;  // of MPI_Comm_create_group; apart from the start-up's own tags

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown-host";
  return name;
}

/// What is equal for processes that see one another under /proc: this boot of this machine and the
/// namespace of process ids.
std::string process_space() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  char space[64] = {};
  [[maybe_unused]] const ssize_t length = readlink("/proc/self/ns/pid", space, sizeof(space) - 1);
  return boot_id + " " + space;
}

/// Tries, over the world, who can really map whose memory. candidates[r] are equal texts for ranks
/// that should be able to. Collective.
std::vector<int> find_memory_domains(const MpiGroup& world,
                                     const std::vector<std::string>& candidates) {
  const auto head_of = [&](int rank) {
    const auto head =
        std::find(candidates.begin(), candidates.end(), candidates[static_cast<size_t>(rank)]);
    return static_cast<int>(head - candidates.begin());
  };
  const bool is_head = head_of(world.rank()) == world.rank();
  SharedSegment probe;
  if (is_head) probe = SharedSegment::create(1);
  const auto tickets = world.all_gather(is_head ? probe.ticket() : "");
  bool attached = is_head;
  if (!is_head) {
    try {
      probe = SharedSegment::attach(tickets[static_cast<size_t>(head_of(world.rank()))]);
      attached = true;
    } catch (const DeviceError&) {
      attached = false;  // not an error: such a rank talks through MPI
    }
  }
  const auto outcomes = world.all_gather(attached ? "yes" : "no");
  std::vector<int> domains;
  for (int rank = 0; rank < world.size(); ++rank)
    domains.push_back(outcomes[static_cast<size_t>(rank)] == "yes" ? head_of(rank) : rank);
  return domains;
}

/// Open MPI's files of shared memory that this process maps, in order of their names.
std::set<std::string> mapped_mpi_segments() {
  std::set<std::string> paths;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/vader_segment.") == std::string::npos) continue;
    paths.insert(line.substr(line.find('/')));
  }
  return paths;
}

/// Open MPI keeps a file in /dev/shm for each rank, which stays for good when mpirun is killed or
/// Ctrl-C is pressed twice. The file's name is needed only until the ranks of a host have mapped
/// it; so where all ranks surely have, each takes its own away. Collective. Returns that name, or
/// "".
std::string take_segment_name_away(const MpiGroup& world) {
  const char* local_rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  const std::set<std::string> mapped = mapped_mpi_segments();
  const auto found = std::find_if(mapped.begin(), mapped.end(), [&](const std::string& path) {
    return local_rank != nullptr && path.ends_with(std::string(".") + local_rank);
  });
  const std::string mine = found == mapped.end() ? "" : *found;
  const std::string place = host_name() + " " + process_space() + " ";
  bool has_all = true;
  for (const std::string& other : world.all_gather(place + mine)) {
    if (other.starts_with(place)) has_all = has_all && mapped.contains(other.substr(place.size()));
  }
  if (world.all_reduce_min(has_all ? 1 : 0) == 0) return "";
  return unlink(mine.c_str()) == 0 ? mine : "";
}

/// MPI_Finalize complains when it cannot remove the file.
void give_segment_name_back(const std::string& path) {
  if (path.empty()) return;
  const int handle = open(path.c_str(), O_CREAT | O_EXCL | O_CLOEXEC | O_WRONLY, 0600);
  if (handle >= 0) close(handle);
}

}  // namespace

struct MpiSession::State {
  std::optional<MpiGroup> world;
  std::string segment_name;  ///< what take_segment_name_away took
  std::vector<std::string> hosts;
  std::vector<int> memory_domains;
  int local_size = 1;
  int local_rank = 0;
  int exceptions_at_start = std::uncaught_exceptions();
};

bool is_first_rank_of_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::strcmp(rank, "0") == 0;
  }
  return true;
}

MpiSession::MpiSession(int* argc, char*** argv, const MpiSessionOptions& options)
    : state_(std::make_unique<State>()) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  PHALANX_CHECK(initialized == 0, "a second MpiSession in one process");
  // Open MPI reads these when it starts in this process; a site's own settings win. Ranks that wait
  // inside MPI at start-up must let others run: it decides this itself only when mpirun, and not a
  // scheduler or a host file, shows it more ranks than cores.
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  setenv("OMPI_MCA_pml", "ob1", 0);
  setenv("OMPI_MCA_btl", "self,vader,tcp", 0);
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_MULTIPLE)
    throw DeviceError("this MPI library does not provide MPI_THREAD_MULTIPLE");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  state_->world.emplace(MpiGroup::duplicate_of_world({options.start_up_deadline, nullptr, {}}));

  const MpiGroup& world = *state_->world;
  const bool is_made_up = static_cast<bool>(options.host_of_rank);
  const std::string host = is_made_up ? options.host_of_rank(world.rank()) : host_name();
  state_->hosts = world.all_gather(host);
  for (int rank = 0; rank < world.size(); ++rank)
    state_->world->wait().members.push_back("rank " + std::to_string(rank) + " on " +
                                            state_->hosts[static_cast<size_t>(rank)]);
  state_->memory_domains =
      find_memory_domains(world, world.all_gather(host + " " + process_space()));
  for (int rank = 0; rank < world.size(); ++rank) {
    if (state_->hosts[static_cast<size_t>(rank)] != host) continue;
    if (rank == world.rank()) state_->local_rank = state_->local_size - 1;
    ++state_->local_size;
  }
  --state_->local_size;  // it began at one, so that local_rank could be read off it
  state_->segment_name = take_segment_name_away(world);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > state_->exceptions_at_start) return;
  state_->world.reset();
  give_segment_name_back(state_->segment_name);
  MPI_Finalize();
}

int MpiSession::rank() const { return state_->world->rank(); }
int MpiSession::world_size() const { return state_->world->size(); }
const std::vector<std::string>& MpiSession::hosts() const { return state_->hosts; }
int MpiSession::local_size() const { return state_->local_size; }
int MpiSession::local_rank() const { return state_->local_rank; }
const std::vector<int>& MpiSession::memory_domains() const { return state_->memory_domains; }

std::unique_ptr<Communicator> MpiSession::make_communicator(std::span<const int> ranks,
                                                            const CommunicatorOptions& options,
                                                            const AbortFlag* abort) {
  PHALANX_CHECK(std::is_sorted(ranks.begin(), ranks.end(), std::less_equal<>()) &&
                    std::binary_search(ranks.begin(), ranks.end(), rank()),
                "a group's ranks ascend and include the caller's");
  PHALANX_CHECK(ranks.front() >= 0 && ranks.back() < world_size(), "a rank outside the world");
  if (ranks.size() == 1) return make_single_communicator();
  MPI_Group world_group = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Comm communicator = MPI_COMM_NULL;
  const MPI_Comm world = state_->world->communicator();
  check_mpi(MPI_Comm_group(world, &world_group), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(world_group, static_cast<int>(ranks.size()), ranks.data(), &group),
            "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(world, group, kGroupTag, &communicator), "MPI_Comm_create_group");
  MPI_Group_free(&group);
  MPI_Group_free(&world_group);
  StartUpWait wait = state_->world->wait();
  if (abort != nullptr) wait.abort = abort;
  wait.members.clear();
  std::vector<GroupMember> members;
  for (int member : ranks) {
    const auto index = static_cast<size_t>(member);
    const int domain = options.force_mpi ? member : state_->memory_domains[index];
    members.push_back({member, state_->hosts[index], domain});
    wait.members.push_back(state_->world->wait().members[index]);
  }
  return std::make_unique<GroupCommunicator>(MpiGroup(communicator, std::move(wait)), members,
                                             options, abort);
}

std::vector<std::string> MpiSession::all_gather(const std::string& text) {
  return state_->world->all_gather(text);
}

std::string MpiSession::broadcast(const std::string& text, int root) {
  return state_->world->broadcast(text, root);
}

int64_t MpiSession::all_reduce_min(int64_t value) { return state_->world->all_reduce_min(value); }

void MpiSession::watched_by(const AbortFlag* abort) { state_->world->wait().abort = abort; }

}  // namespace phalanx::parallel
