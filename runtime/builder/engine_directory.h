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

/// A directory "<target>.building-XXXXXX" (six random characters, so that what a killed build left
/// there is in nobody's way) which is removed with its content, unless only publish failed. The
/// engine is written to "engine" inside it.
class EngineDirectory {
 public:
  /// Errors: kIoError.
  static Result<EngineDirectory> create(const std::string& target);
  ~EngineDirectory();
  EngineDirectory(EngineDirectory&& other) noexcept;
  EngineDirectory& operator=(EngineDirectory&&) = delete;
  EngineDirectory(const EngineDirectory&) = delete;

  std::string path() const { return workplace_ + "/engine"; }

  /// Writes a small file into it and flushes it. Errors: kIoError.
  Status write_file(const std::string& name, const std::string& content) const;

  /// Flushes the directory and renames it to the target; an engine that was there is removed
  /// afterwards. Old and new change places at once where the file system can exchange names; where
  /// it cannot (NFS), the old one is renamed away first, and for a moment there is none: whoever
  /// opens the target then finds nothing, and after a crash in that moment the old engine is
  /// "replaced" beside the new one in "<target>.building-XXXXXX".
  /// Errors: kIoError, kAlreadyExists (a race). The finished engine then stays where it is, with
  /// the old one in place, and the message says where: hours of work are not thrown away.
  Status publish(bool force);

 private:
  EngineDirectory(std::string target, std::string workplace)
      : target_(std::move(target)), workplace_(std::move(workplace)) {}
  Status replace_target() const;
  Status move_to_target(bool force) const;

  std::string target_;
  std::string workplace_;  ///< empty when nothing is to be removed
};

}  // namespace phalanx::builder
