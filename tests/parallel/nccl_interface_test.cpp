// Holds our declarations of NCCL's interface against NVIDIA's own header.
#include <cstddef>
#include <type_traits>

#include <gtest/gtest.h>
#include <nccl.h>

#include "parallel/nccl_library.h"

namespace phalanx::parallel::nccl {
namespace {

static_assert(NCCL_VERSION_CODE >= kLeastVersion);
static_assert(kLeastVersion == NCCL_VERSION(2, 18, 0));

static_assert(static_cast<int>(kSuccess) == ncclSuccess);
static_assert(static_cast<int>(kUnhandledCudaError) == ncclUnhandledCudaError);
static_assert(static_cast<int>(kSystemError) == ncclSystemError);
static_assert(static_cast<int>(kInternalError) == ncclInternalError);
static_assert(static_cast<int>(kInvalidArgument) == ncclInvalidArgument);
static_assert(static_cast<int>(kInvalidUsage) == ncclInvalidUsage);
static_assert(static_cast<int>(kRemoteError) == ncclRemoteError);
static_assert(static_cast<int>(kInProgress) == ncclInProgress);
static_assert(sizeof(Result) == sizeof(ncclResult_t));
static_assert(static_cast<int>(kUint8) == ncclUint8);
static_assert(sizeof(DataType) == sizeof(ncclDataType_t));
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId) && alignof(UniqueId) == 1);
static_assert(kUndefined == NCCL_CONFIG_UNDEF_INT);

// A later configuration begins with the fields of ours.
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));
static_assert(offsetof(Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(Config, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(Config, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(Config, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(Config, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(Config, split_share) == offsetof(ncclConfig_t, splitShare));

/// Ours for NVIDIA's types: what a function of theirs is declared as here.
template <typename T>
struct Ours {
  using Type = T;
};
template <>
struct Ours<ncclResult_t> {
  using Type = Result;
};
template <>
struct Ours<ncclResult_t*> {
  using Type = Result*;
};
template <>
struct Ours<ncclDataType_t> {
  using Type = DataType;
};
template <>
struct Ours<ncclUniqueId> {
  using Type = UniqueId;
};
template <>
struct Ours<ncclUniqueId*> {
  using Type = UniqueId*;
};
template <>
struct Ours<ncclConfig_t*> {
  using Type = Config*;
};
template <>
struct Ours<ncclComm_t> {
  using Type = Comm;
};
template <>
struct Ours<ncclComm_t*> {
  using Type = Comm*;
};
template <>
struct Ours<cudaStream_t> {
  using Type = Stream;
};
template <typename T, typename... Parameters>
struct Ours<T(Parameters...)> {
  using Type = typename Ours<T>::Type(typename Ours<Parameters>::Type...);
};

template <typename Function, typename Theirs>
constexpr bool kIsSame = std::is_same_v<Function, typename Ours<Theirs>::Type*>;

static_assert(kIsSame<decltype(Functions::get_version), decltype(ncclGetVersion)>);
static_assert(kIsSame<decltype(Functions::get_unique_id), decltype(ncclGetUniqueId)>);
static_assert(
    kIsSame<decltype(Functions::comm_init_rank_config), decltype(ncclCommInitRankConfig)>);
static_assert(kIsSame<decltype(Functions::comm_finalize), decltype(ncclCommFinalize)>);
static_assert(kIsSame<decltype(Functions::comm_destroy), decltype(ncclCommDestroy)>);
static_assert(kIsSame<decltype(Functions::comm_abort), decltype(ncclCommAbort)>);
static_assert(kIsSame<decltype(Functions::comm_get_async_error), decltype(ncclCommGetAsyncError)>);
static_assert(kIsSame<decltype(Functions::get_error_string), decltype(ncclGetErrorString)>);
static_assert(kIsSame<decltype(Functions::get_last_error), decltype(ncclGetLastError)>);
static_assert(kIsSame<decltype(Functions::group_start), decltype(ncclGroupStart)>);
static_assert(kIsSame<decltype(Functions::group_end), decltype(ncclGroupEnd)>);
static_assert(kIsSame<decltype(Functions::all_gather), decltype(ncclAllGather)>);
static_assert(kIsSame<decltype(Functions::broadcast), decltype(ncclBroadcast)>);
static_assert(kIsSame<decltype(Functions::send), decltype(ncclSend)>);
static_assert(kIsSame<decltype(Functions::recv), decltype(ncclRecv)>);

TEST(NcclInterfaceTest, StartsAConfigurationAsItsHeaderDoes) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const Config ours;
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_EQ(ours.blocking, theirs.blocking);
  EXPECT_EQ(ours.cga_cluster_size, theirs.cgaClusterSize);
  EXPECT_EQ(ours.min_ctas, theirs.minCTAs);
  EXPECT_EQ(ours.max_ctas, theirs.maxCTAs);
  EXPECT_EQ(ours.net_name, theirs.netName);
  EXPECT_EQ(ours.split_share, theirs.splitShare);
}

}  // namespace
}  // namespace phalanx::parallel::nccl
