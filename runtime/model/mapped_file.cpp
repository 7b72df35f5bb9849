// mmap of regular files with errors that name the path.
#include "runtime/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace phalanx::model {

namespace {

Error system_error(const std::string& path, const char* operation) {
  const int code = errno;
  Error error = io_error(path + ": " + operation + " failed: " + std::strerror(code));
  if (code == ENOENT || code == ENOTDIR) error.code = ErrorCode::kNotFound;
  return error;
}

/// Closes its descriptor at the end of the scope.
struct Descriptor {
  explicit Descriptor(int descriptor) : fd(descriptor) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd;
};

/// Opens a regular file and says how long it is.
Result<int64_t> regular_size(const Descriptor& file, const std::string& path) {
  if (file.fd < 0) return system_error(path, "open");
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) return system_error(path, "stat");
  if (!S_ISREG(status.st_mode)) return data_loss(path + ": is not a regular file");
  return static_cast<int64_t>(status.st_size);
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  PHALANX_ASSIGN_OR_RETURN(const int64_t size, regular_size(file, path));
  void* data = nullptr;
  if (size > 0) {
    data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.fd, 0);
    if (data == MAP_FAILED) return system_error(path, "mmap");
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, static_cast<const std::byte*>(data), static_cast<size_t>(size)));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release_pages() const {
  // Advice: where the kernel refuses, the pages merely go on counting as this process's.
  if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

Result<std::string> read_text_file(const std::string& path, int64_t max_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  PHALANX_ASSIGN_OR_RETURN(const int64_t size, regular_size(file, path));
  if (size > max_bytes)
    return data_loss(path + ": is " + std::to_string(size) + " bytes, at most " +
                     std::to_string(max_bytes) + " are allowed");
  std::string text(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(path, "read");
    if (got == 0)
      return data_loss(path + ": ended at byte " + std::to_string(done) + " while being read");
    done += static_cast<size_t>(got);
  }
  return text;
}

}  // namespace phalanx::model
