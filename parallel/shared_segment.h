// A piece of memory that several processes of one host map. Used by the shared-memory transport and
// the step channel.
#pragma once

#include <cstddef>
#include <string>

namespace phalanx::parallel {

/// Zero-filled anonymous memory (memfd): it has no name in the file system, so nothing remains when
/// its processes die, however they die. One process creates it and hands its ticket around; the
/// others attach while the creator holds the handle; then the creator drops the handle.
class SharedSegment {
 public:
  SharedSegment() = default;
  ~SharedSegment();
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  /// `num_bytes` of data, really allocated now. Errors: DeviceError (out of memory, limits).
  static SharedSegment create(size_t num_bytes);

  /// Maps the segment of a ticket. Errors: DeviceError when its process cannot be looked into
  /// (other container, other user) or shows something else under that number: the caller then uses
  /// MPI.
  static SharedSegment attach(const std::string& ticket);

  /// How others find it: a line of printable text. Creator only, before drop_handle().
  std::string ticket() const;
  void drop_handle();

  std::byte* data() const { return data_; }
  size_t size() const { return data_bytes_; }

 private:
  void unmap();

  std::byte* data_ = nullptr;  ///< just behind the header
  size_t data_bytes_ = 0;
  int handle_ = -1;
};

}  // namespace phalanx::parallel
