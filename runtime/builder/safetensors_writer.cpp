// Layout and positional writes of safetensors files.
#include "runtime/builder/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <nlohmann/json.hpp>

#include "runtime/base/check.h"

namespace phalanx::builder {

namespace {

constexpr int64_t kAlignment = 64;

int64_t size_alignment(int64_t bytes) {
  return bytes == 0 ? kAlignment : std::min(kAlignment, bytes & -bytes);
}

Error write_error(const std::string& path, const char* operation, int code) {
  std::string text = path + ": " + operation + " failed: " + std::strerror(code);
  if (code == ENOSPC || code == EDQUOT || code == EFBIG)
    text += " (free disk space or raise the file size limit; nothing was left behind)";
  return io_error(std::move(text));
}

}  // namespace

const char* safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBf16:
      return "BF16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kI32:
      return "I32";
    case DType::kF8E4M3:
      return "F8_E4M3";
  }
  return "unknown";
}

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::create(
    const std::string& path, const std::vector<model::StoredTensor>& tensors) {
  std::vector<const model::StoredTensor*> order;
  for (const model::StoredTensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_alignment(a->num_bytes()) > size_alignment(b->num_bytes());
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::map<std::string, std::pair<int64_t, int64_t>> places;
  int64_t offset = 0;
  for (const model::StoredTensor* tensor : order) {
    const int64_t bytes = tensor->num_bytes();
    header[tensor->name] = {{"dtype", safetensors_dtype(tensor->dtype)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + bytes}}};
    PHALANX_CHECK(places.emplace(tensor->name, std::pair(offset, bytes)).second,
                  "tensor " + tensor->name + " twice in one file");
    offset += bytes;
  }
  std::string text = header.dump();
  while ((text.size() + sizeof(uint64_t)) % kAlignment != 0) text += ' ';
  const uint64_t length = text.size();
  text.insert(0, reinterpret_cast<const char*>(&length), sizeof(length));

  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return write_error(path, "create", errno);
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  const auto header_bytes = static_cast<int64_t>(text.size());
  for (auto& [name, place] : places) place.first += header_bytes;
  writer->places_ = std::move(places);
  writer->size_bytes_ = header_bytes + offset;
  // Claim the space now: a full disk is an error before an hour of quantizing, not after.
  if (const int code = ::posix_fallocate(fd, 0, writer->size_bytes_);
      code != 0 && code != EOPNOTSUPP && code != EINVAL)
    return write_error(
        path, ("allocating " + std::to_string(writer->size_bytes_) + " bytes").c_str(), code);
  PHALANX_RETURN_IF_ERROR(writer->write_at(0, std::as_bytes(std::span(text))));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
}

Status SafetensorsWriter::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0)
      return write_error(path_, ("writing at byte " + std::to_string(offset)).c_str(),
                         done < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += done;
  }
  return {};
}

Status SafetensorsWriter::write(const std::string& tensor, int64_t offset,
                                std::span<const std::byte> bytes) {
  const auto found = places_.find(tensor);
  PHALANX_CHECK(found != places_.end(), "no tensor " + tensor + " in " + path_);
  const auto& [begin, size] = found->second;
  PHALANX_CHECK(offset >= 0 && offset + static_cast<int64_t>(bytes.size()) <= size,
                "bytes outside tensor " + tensor);
  return write_at(begin + offset, bytes);
}

Status SafetensorsWriter::finish() {
  if (::fsync(fd_) != 0) return write_error(path_, "fsync", errno);
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) return write_error(path_, "close", errno);
  return {};
}

}  // namespace phalanx::builder
