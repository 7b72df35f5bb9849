// Loads NCCL and finds its functions. Called while communicators are made.
#include "parallel/nccl_library.h"

#include <dlfcn.h>

#include "runtime/base/check.h"

namespace phalanx::parallel::nccl {

std::string version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

Library open_library(const std::string& name) {
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw DeviceError("NCCL cannot be loaded from \"" + name +
                      "\": " + (reason != nullptr ? reason : "unknown reason"));
  }
  Library library;
  const auto find = [&]<typename Function>(Function*& function, const char* symbol) {
    function = reinterpret_cast<Function*>(dlsym(handle, symbol));
    if (function == nullptr)
      throw DeviceError("\"" + name + "\" is not NCCL " + version_text(kLeastVersion) +
                        " or later: it has no " + symbol);
  };
  Functions& functions = library.functions;
  find(functions.get_version, "ncclGetVersion");
  find(functions.get_error_string, "ncclGetErrorString");
  const Result result = functions.get_version(&library.version);
  if (result != kSuccess)
    throw DeviceError("ncclGetVersion of \"" + name + "\": " + functions.get_error_string(result));
  if (library.version < kLeastVersion)
    throw DeviceError("\"" + name + "\" is NCCL " + version_text(library.version) + ", and " +
                      version_text(kLeastVersion) + " is the oldest that will do");
  find(functions.get_unique_id, "ncclGetUniqueId");
  find(functions.comm_init_rank_config, "ncclCommInitRankConfig");
  find(functions.comm_finalize, "ncclCommFinalize");
  find(functions.comm_destroy, "ncclCommDestroy");
  find(functions.comm_abort, "ncclCommAbort");
  find(functions.comm_get_async_error, "ncclCommGetAsyncError");
  find(functions.get_last_error, "ncclGetLastError");
  find(functions.group_start, "ncclGroupStart");
  find(functions.group_end, "ncclGroupEnd");
  find(functions.all_gather, "ncclAllGather");
  find(functions.broadcast, "ncclBroadcast");
  find(functions.send, "ncclSend");
  find(functions.recv, "ncclRecv");
  return library;
}

}  // namespace phalanx::parallel::nccl
