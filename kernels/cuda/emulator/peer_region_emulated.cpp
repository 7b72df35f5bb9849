// Regions of emulated devices: anonymous memory (memfd), which other processes of the host map
// through /proc. It has no name in the file system, so nothing of it remains when its processes
// die, however they die.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <utility>

#include "kernels/cuda/peer_memory.h"
#include "kernels/cuda/peer_region.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

/// Blocks of a kernel that waits for peers are OS threads, each rank's beside the others'.
constexpr int kMultiprocessors = 8;

DeviceError system_error(const std::string& what, int error) {
  return DeviceError(what + ": " + std::strerror(error));
}

/// Memory behind an open file, closed by drop_ticket().
class MappedRegion : public PeerRegion {
 public:
  MappedRegion(int file, int64_t bytes) : file_(file), bytes_(static_cast<size_t>(bytes)) {
    void* base = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file_, 0);
    const int error = errno;
    if (base == MAP_FAILED) {
      close(file_);
      throw system_error("mapping " + std::to_string(bytes) + " bytes of shared memory", error);
    }
    data_ = static_cast<std::byte*>(base);
  }
  ~MappedRegion() override {
    munmap(data_, bytes_);
    drop_ticket();
  }
  MappedRegion(const MappedRegion&) = delete;
  MappedRegion& operator=(const MappedRegion&) = delete;

  std::byte* data() const override { return data_; }
  uint32_t* host_words() const override { return host_words_.data(); }
  void clear(int64_t bytes) override { std::memset(data_, 0, static_cast<size_t>(bytes)); }

  std::string ticket() const override {
    struct stat status {};
    if (fstat(file_, &status) != 0) throw system_error("fstat of shared memory", errno);
    std::ostringstream text;
    text << getpid() << ' ' << file_ << ' ' << status.st_dev << ' ' << status.st_ino;
    return text.str();
  }
  void drop_ticket() override {
    if (file_ >= 0) close(file_);
    file_ = -1;
  }

 private:
  int file_;
  size_t bytes_;
  std::byte* data_ = nullptr;
  mutable std::array<uint32_t, PeerMemory::kNumHostWords> host_words_{};
};

}  // namespace

// Each rank has a device of its own.
PeerDevice current_peer_device() {
  static std::atomic<int> count{0};
  return {"emulated-" + std::to_string(getpid()) + "-" + std::to_string(++count), kMultiprocessors};
}

std::shared_ptr<PeerRegion> allocate_peer_region(int64_t bytes) {
  // Linux would try to allocate any size, and end some process when memory runs out.
  const int64_t machine_bytes = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  if (bytes > machine_bytes / 2)
    throw DeviceError(std::to_string(bytes) + " bytes are more than half of this machine's " +
                      std::to_string(machine_bytes));
  const int file = memfd_create("phalanx-device", MFD_CLOEXEC);
  if (file < 0) throw system_error("memfd_create", errno);
  // Allocated, not only sized: lack of memory is an error here and not a SIGBUS later.
  if (const int error = posix_fallocate(file, 0, static_cast<off_t>(bytes)); error != 0) {
    close(file);
    throw system_error("allocating " + std::to_string(bytes) + " bytes of shared memory", error);
  }
  return std::make_shared<MappedRegion>(file, bytes);
}

std::shared_ptr<PeerRegion> open_peer_region(const std::string& ticket,
                                             const std::string& /*device*/, int64_t bytes) {
  int64_t process = 0;
  int64_t number = 0;
  uint64_t device = 0;
  uint64_t inode = 0;
  std::istringstream text(ticket);
  text >> process >> number >> device >> inode;
  PHALANX_CHECK(!text.fail(), "not a ticket of an emulated region: \"" + ticket + "\"");
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(number);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) throw system_error("opening " + path, errno);
  // In another container that number may be anybody's file.
  struct stat status {};
  if (fstat(file, &status) != 0 || status.st_dev != device || status.st_ino != inode ||
      status.st_size != bytes) {
    close(file);
    throw DeviceError(path + " is not the expected memory");
  }
  auto region = std::make_shared<MappedRegion>(file, bytes);
  region->drop_ticket();
  return region;
}

void require_peer_access(const std::string& /*device*/) {}

}  // namespace phalanx::kernels::cuda
