// Plain calls of MPI's collectives. Called by llm-bench.
#include "parallel/mpi_collectives.h"

#include <climits>

#include "parallel/mpi_group.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

constexpr int kTag = 1;
constexpr int kGroupTag = 19;

int count_of(size_t size) {
  PHALANX_CHECK_LE(size, static_cast<size_t>(INT_MAX), "elements of one MPI message");
  return static_cast<int>(size);
}

}  // namespace

struct MpiCollectives::State {
  MPI_Comm group = MPI_COMM_NULL;
};

MpiCollectives::MpiCollectives(std::span<const int> ranks) : state_(std::make_unique<State>()) {
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &world), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(world, count_of(ranks.size()), ranks.data(), &group), "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(MPI_COMM_WORLD, group, kGroupTag, &state_->group),
            "MPI_Comm_create_group");
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  check_mpi(MPI_Comm_set_errhandler(state_->group, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiCollectives::~MpiCollectives() { MPI_Comm_free(&state_->group); }

void MpiCollectives::all_reduce_sum(std::span<float> data) {
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, data.data(), count_of(data.size()), MPI_FLOAT, MPI_SUM,
                          state_->group),
            "MPI_Allreduce");
}

void MpiCollectives::gather(std::span<const std::byte> part, std::span<std::byte> out, int root) {
  const int count = count_of(part.size());
  check_mpi(
      MPI_Gather(part.data(), count, MPI_BYTE, out.data(), count, MPI_BYTE, root, state_->group),
      "MPI_Gather");
}

void MpiCollectives::broadcast(std::span<std::byte> data, int root) {
  check_mpi(MPI_Bcast(data.data(), count_of(data.size()), MPI_BYTE, root, state_->group),
            "MPI_Bcast");
}

void MpiCollectives::send(std::span<const std::byte> data, int peer) {
  check_mpi(MPI_Send(data.data(), count_of(data.size()), MPI_BYTE, peer, kTag, state_->group),
            "MPI_Send");
}

void MpiCollectives::recv(std::span<std::byte> data, int peer) {
  check_mpi(MPI_Recv(data.data(), count_of(data.size()), MPI_BYTE, peer, kTag, state_->group,
                     MPI_STATUS_IGNORE),
            "MPI_Recv");
}

std::string MpiCollectives::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  check_mpi(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  const std::string whole(text, static_cast<size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace phalanx::parallel
