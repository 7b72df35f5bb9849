// The engine's directory appears whole or not at all: it is written beside its place and renamed.
// Called by engine_builder.
#pragma once

#include <string>

#include "runtime/base/result.h"

namespace phalanx::builder {

/// Whether an engine may be written to `path`: nothing there, an empty directory, or, with `force`,
/// an engine (a directory with engine.textproto). Anything else is refused, also with force.
/// Errors: kAlreadyExists saying what is there; kNotFound when the parent directory is missing.
Status check_engine_target(const std::string& path, bool force);

/// A directory "<target>.building-<pid>" that is removed with its content unless published.
class EngineDirectory {
 public:
  /// Errors: kIoError.
  static Result<EngineDirectory> create(const std::string& target);
  ~EngineDirectory();
  EngineDirectory(EngineDirectory&& other) noexcept;
  EngineDirectory& operator=(EngineDirectory&&) = delete;
  EngineDirectory(const EngineDirectory&) = delete;

  const std::string& path() const { return path_; }

  /// Writes a small file into it and flushes it. Errors: kIoError.
  Status write_file(const std::string& name, const std::string& content) const;

  /// Flushes the directory and renames it to the target; an engine that was there is removed after
  /// the exchange. Errors: kIoError, kAlreadyExists (a race).
  Status publish(bool force);

 private:
  EngineDirectory(std::string target, std::string path)
      : target_(std::move(target)), path_(std::move(path)) {}
  std::string target_;
  std::string path_;  ///< empty after publish
};

}  // namespace phalanx::builder
