// The safetensors format, read and distrusted: 8 bytes little-endian header length, a JSON header
// {name: {dtype, shape, data_offsets}}, then the data. Called by engine_file and by the checkpoint
// reader. Source: github.com/huggingface/safetensors, "Format".
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"
#include "runtime/base/result.h"
#include "runtime/model/mapped_file.h"

namespace phalanx::model {

/// Where one tensor lies. `data` may have any alignment.
struct TensorView {
  std::string dtype_name;      ///< as in the header: "BF16"
  std::optional<DType> dtype;  ///< absent for types this project does not compute with
  std::vector<int64_t> shape;
  int64_t num_elements = 0;
  int64_t begin = 0;  ///< byte offsets from the start of the data
  int64_t end = 0;
  const std::byte* data = nullptr;
  int64_t num_bytes() const { return end - begin; }
};

/// "[256, 64]".
std::string shape_text(const std::vector<int64_t>& shape);

/// Longest header accepted; the format's own limit.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

/// Checks a whole file's bytes: header length, JSON depth and duplicates, dtypes, shapes whose
/// product overflows or disagrees with the offsets, offsets outside the file, overlaps and gaps.
/// `where` opens each error. Errors: kDataLoss with the byte offset or the tensor's name.
Result<std::map<std::string, TensorView>> parse_safetensors(std::span<const std::byte> file,
                                                            const std::string& where);

/// A mapped and checked file. Immutable, any thread; views live as long as it does.
class SafetensorsFile {
 public:
  static Result<std::shared_ptr<const SafetensorsFile>> open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  std::span<const std::byte> bytes() const { return file_->bytes(); }
  void release_pages() const { file_->release_pages(); }
  /// The length field and the JSON header, for hashing.
  std::span<const std::byte> header() const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const TensorView* find(const std::string& name) const;  ///< null when absent

 private:
  SafetensorsFile(std::shared_ptr<const MappedFile> file, std::map<std::string, TensorView> tensors)
      : file_(std::move(file)), tensors_(std::move(tensors)) {}
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace phalanx::model
