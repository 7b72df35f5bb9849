// Temporary directory, flush and rename.
#include "runtime/builder/engine_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

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
  const std::string path = target + ".building-" + std::to_string(::getpid());
  std::error_code code;
  fs::remove_all(path, code);  // of an earlier process with this id, which is gone
  if (!fs::create_directory(path, code) || code)
    return io_error(path + ": creating the directory failed: " + code.message());
  return EngineDirectory(target, path);
}

EngineDirectory::EngineDirectory(EngineDirectory&& other) noexcept
    : target_(std::move(other.target_)), path_(std::exchange(other.path_, std::string())) {}

EngineDirectory::~EngineDirectory() {
  if (path_.empty()) return;
  std::error_code code;
  fs::remove_all(path_, code);
}

Status EngineDirectory::write_file(const std::string& name, const std::string& content) const {
  const std::string path = path_ + "/" + name;
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

Status EngineDirectory::publish(bool force) {
  PHALANX_RETURN_IF_ERROR(flush_directory(path_));
  if (is_engine(target_)) {
    if (!force)
      return Error{ErrorCode::kAlreadyExists, target_ + ": an engine appeared while building"};
    // One exchange: whoever opens the target sees the old engine or the whole new one.
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0)
      return system_error(target_, "exchange with the new engine");
    std::error_code code;
    fs::remove_all(path_, code);
  } else if (::rename(path_.c_str(), target_.c_str()) != 0) {
    return system_error(target_, "rename");
  }
  path_.clear();
  return flush_directory(parent_of(target_));
}

}  // namespace phalanx::builder
