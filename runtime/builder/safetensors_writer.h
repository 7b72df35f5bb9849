// Writes safetensors files whose layout is known before their content: any thread may fill in any
// part of a tensor. Called by engine_builder and by test fixtures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/manifest.h"

namespace phalanx::builder {

/// One file being written. `write` may be called by several threads at once; the rest by one.
/// A file that was not finished is left as it is: the directory it is in is temporary.
class SafetensorsWriter {
 public:
  /// Lays the tensors out and creates the file, which must not exist. Order in the file: by the
  /// largest power of two (at most 64) that divides a tensor's size, descending, then as given;
  /// with a header padded to 64 bytes every tensor is then aligned to that power, without gaps.
  /// Errors: kIoError with path and reason.
  static Result<std::unique_ptr<SafetensorsWriter>> create(
      const std::string& path, const std::vector<model::StoredTensor>& tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Puts bytes at `offset` in a tensor. Errors: kIoError (a full disk names how far it came).
  Status write(const std::string& tensor, int64_t offset, std::span<const std::byte> bytes);

  /// Flushes to disk. The caller has written every byte of every tensor.
  Status finish();

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  SafetensorsWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Status write_at(int64_t offset, std::span<const std::byte> bytes);

  std::string path_;
  int fd_;
  int64_t size_bytes_ = 0;
  std::map<std::string, std::pair<int64_t, int64_t>> places_;  // name -> file offset, bytes
};

/// "F32", "BF16", "U8", ... as the format spells it.
const char* safetensors_dtype(DType dtype);

}  // namespace phalanx::builder
