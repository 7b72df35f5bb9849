// Temporary directory, flush and rename.
#include "runtime/builder/engine_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "runtime/model/manifest.h"

namespace phalanx::builder {

namespace fs = std::filesystem;

namespace {

Error system_error(const std::string& path, const std::string& operation) {
  return io_error(path + ": " + operation + " failed: " + std::strerror(errno));
}

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

Status flush_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return system_error(path, "open");
  const int result = ::fsync(fd);
  ::close(fd);
  if (result != 0 && errno != EINVAL) return system_error(path, "fsync");
  return {};
}

bool is_engine(const std::string& path) {
  std::error_code code;
  return fs::is_regular_file(path + "/" + model::kManifestFile, code);
}

}  // namespace

Status check_engine_target(const std::string& given, bool force) {
  const std::string path = without_trailing_slash(given);
  std::error_code code;
  if (!fs::is_directory(parent_of(path), code))
    return not_found(parent_of(path) + ": is not a directory; create it first");
  const fs::file_status status = fs::symlink_status(path, code);
  if (status.type() == fs::file_type::not_found) return {};
  if (status.type() != fs::file_type::directory)
    return Error{ErrorCode::kAlreadyExists, path + ": exists and is not a directory"};
  if (is_engine(path)) {
    if (force) return {};
    return Error{ErrorCode::kAlreadyExists,
                 path + ": holds an engine already; --force replaces it"};
  }
  if (fs::is_empty(path, code) && !code) return {};
  return Error{ErrorCode::kAlreadyExists, path + ": is a directory with other content and no " +
                                              model::kManifestFile +
                                              "; it is not replaced, also with --force"};
}

Result<EngineDirectory> EngineDirectory::create(const std::string& given) {
  const std::string target = without_trailing_slash(given);
  std::string workplace = target + ".building-XXXXXX";
  if (::mkdtemp(workplace.data()) == nullptr) return system_error(workplace, "mkdtemp");
  EngineDirectory directory(target, workplace);
  std::error_code code;
  if (!fs::create_directory(directory.path(), code) || code)
    return io_error(directory.path() + ": creating the directory failed: " + code.message());
  return directory;
}

EngineDirectory::EngineDirectory(EngineDirectory&& other) noexcept
    : target_(std::move(other.target_)),
      workplace_(std::exchange(other.workplace_, std::string())) {}

EngineDirectory::~EngineDirectory() {
  if (workplace_.empty()) return;
  std::error_code code;
  fs::remove_all(workplace_, code);
}

Status EngineDirectory::write_file(const std::string& name, const std::string& content) const {
  const std::string path = this->path() + "/" + name;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return system_error(path, "create");
  size_t done = 0;
  bool failed = false;
  while (done < content.size() && !failed) {
    const ssize_t put = ::write(fd, content.data() + done, content.size() - done);
    if (put > 0) done += static_cast<size_t>(put);
    failed = put < 0 && errno != EINTR;
  }
  failed = failed || ::fsync(fd) != 0;
  const Error error = system_error(path, "write");  // before close changes errno
  if (::close(fd) != 0 && !failed) return system_error(path, "close");
  if (failed) return error;
  return {};
}

/// The engine that is there makes way, and ends up in the workplace.
Status EngineDirectory::replace_target() const {
  const std::string made = path();
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0)
    return {};
  if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
    return system_error(target_, "exchange with the new engine");
  const std::string replaced = workplace_ + "/replaced";
  if (::rename(target_.c_str(), replaced.c_str()) != 0)
    return system_error(target_, "rename to " + replaced);
  if (::rename(made.c_str(), target_.c_str()) == 0) return {};
  const Error error = system_error(target_, "rename");  // before the next call changes errno
  if (::rename(replaced.c_str(), target_.c_str()) != 0)
    return io_error(error.message + "; the engine that was there is at " + replaced);
  return error;
}

Status EngineDirectory::move_to_target(bool force) const {
  PHALANX_RETURN_IF_ERROR(flush_directory(path()));
  if (is_engine(target_)) {
    if (force) return replace_target();
    return Error{ErrorCode::kAlreadyExists, target_ + ": an engine appeared while building"};
  }
  if (::rename(path().c_str(), target_.c_str()) != 0) return system_error(target_, "rename");
  return {};
}

Status EngineDirectory::publish(bool force) {
  if (const Status moved = move_to_target(force); !moved.ok()) {
    Error error = moved.error();
    error.message += "; the new engine is finished: take it from " + path();
    workplace_.clear();  // stays
    return error;
  }
  std::error_code code;
  fs::remove_all(std::exchange(workplace_, std::string()), code);
  return flush_directory(parent_of(target_));
}

}  // namespace phalanx::builder
