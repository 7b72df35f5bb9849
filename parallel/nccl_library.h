// The NCCL library, found when a job first wants it: one binary starts on machines with and without
// it. Used by nccl_communicator.
//
// The declarations below are ours, so that no header of NCCL is needed to build: the part of its
// interface that we call, as of 2.18 and unchanged in 2.28. nccl_interface_test.cpp holds them
// against nccl.h where a machine has it. Source: NVIDIA's "NCCL API" pages.
#pragma once

#include <cstddef>
#include <string>

namespace phalanx::parallel::nccl {

/// 2.18.0: configurations know everything that we set, and non-blocking communicators work.
inline constexpr int kLeastVersion = 21800;

/// ncclResult_t
enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

/// ncclDataType_t; we move bytes only.
enum DataType : int { kUint8 = 1 };

/// ncclUniqueId
struct UniqueId {
  char bytes[128];
};

inline constexpr int kUndefined = -2147483647 - 1;  ///< NCCL chooses

/// ncclConfig_t of 2.18. A library reads as many fields as the version says.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kLeastVersion;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
};

struct Communicator;         ///< opaque
using Comm = Communicator*;  ///< ncclComm_t
using Stream = void*;        ///< cudaStream_t

/// NCCL's functions by their names without the prefix. Those that enqueue or change a communicator
/// may return kInProgress: then get_async_error tells when it is done, and nothing else may be
/// called on the communicator before.
struct Functions {
  Result (*get_version)(int* version) = nullptr;
  Result (*get_unique_id)(UniqueId* id) = nullptr;
  Result (*comm_init_rank_config)(Comm* comm, int num_ranks, UniqueId id, int rank,
                                  Config* config) = nullptr;
  Result (*comm_finalize)(Comm comm) = nullptr;
  Result (*comm_destroy)(Comm comm) = nullptr;
  Result (*comm_abort)(Comm comm) = nullptr;
  Result (*comm_get_async_error)(Comm comm, Result* error) = nullptr;
  const char* (*get_error_string)(Result result) = nullptr;
  const char* (*get_last_error)(Comm comm) = nullptr;
  Result (*group_start)() = nullptr;
  Result (*group_end)() = nullptr;
  Result (*all_gather)(const void* part, void* out, size_t part_count, DataType type, Comm comm,
                       Stream stream) = nullptr;
  Result (*broadcast)(const void* from, void* to, size_t count, DataType type, int root, Comm comm,
                      Stream stream) = nullptr;
  Result (*send)(const void* data, size_t count, DataType type, int peer, Comm comm,
                 Stream stream) = nullptr;
  Result (*recv)(void* data, size_t count, DataType type, int peer, Comm comm,
                 Stream stream) = nullptr;
};

struct Library {
  Functions functions;
  int version = 0;  ///< 22809 for 2.28.9
};

/// Opens the library: a name that the loader looks up ("libnccl.so.2") or a path. It stays open for
/// the life of the process: what it has started on the device cannot be unloaded. Errors:
/// DeviceError when it is not there, lacks a function or is older than kLeastVersion.
Library open_library(const std::string& name);

/// "2.28.9"
std::string version_text(int version);

}  // namespace phalanx::parallel::nccl
