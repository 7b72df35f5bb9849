// Creates and attaches memfd segments. Called while communicators and step channels are made.
#include "parallel/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <utility>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

/// The first bytes of a segment: what proves to an attacher that it found the right one.
struct Header {
  uint64_t magic;
  uint64_t token[2];
  uint64_t data_bytes;
};
constexpr uint64_t kMagic = 0x31676573786c6870;  // "phlxseg1"
constexpr size_t kHeaderBytes = 4096;            // data starts on a page
static_assert(sizeof(Header) <= kHeaderBytes);

DeviceError system_error(const std::string& what, int error) {
  return DeviceError(what + ": " + std::strerror(error));
}

}  // namespace

SharedSegment::~SharedSegment() {
  unmap();
  drop_handle();
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      data_bytes_(std::exchange(other.data_bytes_, 0)),
      handle_(std::exchange(other.handle_, -1)) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(data_bytes_, other.data_bytes_);
  std::swap(handle_, other.handle_);
  return *this;
}

void SharedSegment::unmap() {
  if (data_ != nullptr) munmap(data_ - kHeaderBytes, kHeaderBytes + data_bytes_);
  data_ = nullptr;
}

void SharedSegment::drop_handle() {
  if (handle_ >= 0) close(handle_);
  handle_ = -1;
}

SharedSegment SharedSegment::create(size_t num_bytes) {
  // Linux would try to allocate any size, and end some process when memory runs out.
  const auto machine_bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (num_bytes > machine_bytes / 2)
    throw DeviceError(std::to_string(num_bytes) +
                      " bytes of shared memory are more than half of this machine's " +
                      std::to_string(machine_bytes));
  const size_t total = kHeaderBytes + num_bytes;
  SharedSegment segment;
  segment.handle_ = memfd_create("phalanx", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (segment.handle_ < 0) throw system_error("memfd_create", errno);
  // Allocated, not only sized: lack of memory is an error here and not a SIGBUS later.
  if (const int error = posix_fallocate(segment.handle_, 0, static_cast<off_t>(total)); error != 0)
    throw system_error("allocating " + std::to_string(total) + " bytes of shared memory", error);
  if (fcntl(segment.handle_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    throw system_error("sealing a shared memory segment", errno);
  void* base = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED, segment.handle_, 0);
  if (base == MAP_FAILED)
    throw system_error("mapping " + std::to_string(total) + " bytes of shared memory", errno);
  segment.data_ = static_cast<std::byte*>(base) + kHeaderBytes;
  segment.data_bytes_ = num_bytes;
  Header header{kMagic, {}, num_bytes};
  if (getrandom(header.token, sizeof(header.token), 0) != sizeof(header.token))
    throw system_error("getrandom", errno);
  std::memcpy(base, &header, sizeof(header));
  return segment;
}

std::string SharedSegment::ticket() const {
  PHALANX_CHECK(handle_ >= 0 && data_ != nullptr, "a ticket of a segment without its handle");
  Header header{};
  std::memcpy(&header, data_ - kHeaderBytes, sizeof(header));
  std::ostringstream text;
  text << getpid() << ' ' << handle_ << ' ' << header.token[0] << ' ' << header.token[1];
  return text.str();
}

SharedSegment SharedSegment::attach(const std::string& ticket) {
  int64_t process = 0;
  int64_t number = 0;
  uint64_t token[2] = {};
  std::istringstream text(ticket);
  text >> process >> number >> token[0] >> token[1];
  PHALANX_CHECK(!text.fail(), "not a ticket of a shared segment: \"" + ticket + "\"");

  SharedSegment segment;
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(number);
  segment.handle_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (segment.handle_ < 0) throw system_error("opening shared memory " + path, errno);
  struct stat status {};
  if (fstat(segment.handle_, &status) != 0) throw system_error("fstat of " + path, errno);
  // In another pid namespace that number may be anybody's file: nothing is trusted before the
  // token.
  Header header{};
  const bool is_ours = S_ISREG(status.st_mode) && status.st_size > off_t{kHeaderBytes} &&
                       pread(segment.handle_, &header, sizeof(header), 0) == sizeof(header) &&
                       header.magic == kMagic && header.token[0] == token[0] &&
                       header.token[1] == token[1] &&
                       header.data_bytes == static_cast<size_t>(status.st_size) - kHeaderBytes;
  if (!is_ours) throw DeviceError(path + " is not the expected shared memory segment");
  const auto total = static_cast<size_t>(status.st_size);
  void* base =
      mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, segment.handle_, 0);
  if (base == MAP_FAILED) throw system_error("mapping shared memory " + path, errno);
  segment.data_ = static_cast<std::byte*>(base) + kHeaderBytes;
  segment.data_bytes_ = header.data_bytes;
  segment.drop_handle();
  return segment;
}

}  // namespace phalanx::parallel
