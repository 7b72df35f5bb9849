// Reading files: a read-only mapping that ranks of one host share, and whole small text files.
// Called by the safetensors reader, engine_file and the builder.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "runtime/base/result.h"

namespace phalanx::model {

/// A file mapped read-only. Immutable, any thread. A file that another process truncates while it
/// is mapped raises SIGBUS on access: engines are replaced by rename, never rewritten in place.
class MappedFile {
 public:
  /// Errors: kNotFound, kIoError, kDataLoss when it is not a regular file.
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Takes the pages read so far out of this process; they stay in the file cache, and a later read
  /// finds them there.
  void release_pages() const;
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_;
  size_t size_;
};

/// All bytes of a file of at most max_bytes. Errors: kNotFound, kIoError, kDataLoss (too large, not
/// a regular file).
Result<std::string> read_text_file(const std::string& path, int64_t max_bytes);

}  // namespace phalanx::model
