// Header checks of safetensors files: nothing is believed before it is inside the file.
#include "runtime/model/safetensors_reader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/model/strict_json.h"

namespace phalanx::model {

namespace {

struct StoredType {
  const char* name;
  int64_t bytes;
  std::optional<DType> dtype;
};

constexpr std::array<StoredType, 15> kStoredTypes = {{
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBf16},
    {"I8", 1, DType::kI8},
    {"U8", 1, DType::kU8},
    {"I32", 4, DType::kI32},
    {"F64", 8, std::nullopt},
    {"I64", 8, std::nullopt},
    {"U64", 8, std::nullopt},
    {"U32", 4, std::nullopt},
    {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},
    {"BOOL", 1, std::nullopt},
    {"F8_E4M3", 1, DType::kF8E4M3},
    {"F8_E5M2", 1, std::nullopt},
}};

constexpr int64_t kLengthBytes = 8;
constexpr int kMaxDimensions = 8;

uint64_t little_endian_length(std::span<const std::byte> file) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i)
    length = (length << 8) | std::to_integer<uint64_t>(file[static_cast<size_t>(i)]);
  return length;
}

/// Reads a non-negative integer that fits int64.
bool read_size(const nlohmann::json& value, int64_t* out) {
  if (!value.is_number_unsigned()) return false;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return false;
  *out = static_cast<int64_t>(number);
  return true;
}

Result<TensorView> parse_tensor(const nlohmann::json& entry, const std::string& what,
                                int64_t data_bytes) {
  if (!entry.is_object()) return data_loss(what + " is not an object");
  for (const auto& [key, unused] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      return data_loss(what + " has an unknown field \"" + key + "\"");
  }
  TensorView view;
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return data_loss(what + " lacks a dtype string");
  view.dtype_name = dtype->get<std::string>();
  const auto* const stored =
      std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                   [&](const StoredType& type) { return view.dtype_name == type.name; });
  if (stored == kStoredTypes.end())
    return data_loss(what + " has the unknown dtype \"" + view.dtype_name + "\"");
  view.dtype = stored->dtype;

  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array()) return data_loss(what + " lacks a shape array");
  if (shape->size() > kMaxDimensions)
    return data_loss(what + " has " + std::to_string(shape->size()) + " dimensions, at most " +
                     std::to_string(kMaxDimensions) + " are allowed");
  view.num_elements = 1;
  for (const auto& dimension : *shape) {
    int64_t extent = 0;
    if (!read_size(dimension, &extent))
      return data_loss(what + " has a shape entry that is not a size: " + dimension.dump());
    view.shape.push_back(extent);
    if (__builtin_mul_overflow(view.num_elements, extent, &view.num_elements))
      return data_loss(what + " has a shape whose product overflows 64 bits");
  }
  int64_t expected_bytes = 0;
  if (__builtin_mul_overflow(view.num_elements, stored->bytes, &expected_bytes))
    return data_loss(what + " has a shape whose size in bytes overflows 64 bits");

  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !read_size((*offsets)[0], &view.begin) || !read_size((*offsets)[1], &view.end))
    return data_loss(what + " lacks data_offsets [begin, end]");
  if (view.begin > view.end || view.end > data_bytes)
    return data_loss(what + " lies at data bytes [" + std::to_string(view.begin) + ", " +
                     std::to_string(view.end) + ") of " + std::to_string(data_bytes));
  if (view.end - view.begin != expected_bytes)
    return data_loss(what + " takes " + std::to_string(view.end - view.begin) + " bytes, but " +
                     view.dtype_name + " " + shape_text(view.shape) + " needs " +
                     std::to_string(expected_bytes));
  return view;
}

/// Tensors must tile the data exactly: sorted by offset, each begins where the last ended.
Status check_tiling(const std::map<std::string, TensorView>& tensors, const std::string& where,
                    int64_t data_bytes) {
  struct Extent {
    int64_t begin, end;
    const std::string* name;
  };
  std::vector<Extent> extents;
  extents.reserve(tensors.size());
  for (const auto& [name, view] : tensors) extents.push_back({view.begin, view.end, &name});
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  int64_t reached = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != reached)
      return data_loss(where + ": tensor " + *extent.name + " begins at data byte " +
                       std::to_string(extent.begin) +
                       (extent.begin < reached ? " inside" : " after a gap behind") +
                       " another, which ends at " + std::to_string(reached));
    reached = extent.end;
  }
  if (reached != data_bytes)
    return data_loss(where + ": " + std::to_string(data_bytes - reached) +
                     " bytes at the end belong to no tensor");
  return {};
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

Result<std::map<std::string, TensorView>> parse_safetensors(std::span<const std::byte> file,
                                                            const std::string& where) {
  const auto file_bytes = static_cast<int64_t>(file.size());
  if (file_bytes < kLengthBytes)
    return data_loss(where + ": is " + std::to_string(file_bytes) +
                     " bytes, too short for the 8 byte header length at byte 0");
  const uint64_t header_length = little_endian_length(file);
  if (header_length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes) ||
      static_cast<int64_t>(header_length) > file_bytes - kLengthBytes)
    return data_loss(where + ": header length at byte 0 is " + std::to_string(header_length) +
                     ", but the file is " + std::to_string(file_bytes) + " bytes and at most " +
                     std::to_string(kMaxSafetensorsHeaderBytes) + " are allowed");
  const auto header_bytes = static_cast<int64_t>(header_length);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                              static_cast<size_t>(header_bytes));
  PHALANX_ASSIGN_OR_RETURN(const nlohmann::json header,
                           parse_strict_json(text, where, 3, kLengthBytes));
  if (!header.is_object()) return data_loss(where + ": the header at byte 8 is not a JSON object");

  const int64_t data_begin = kLengthBytes + header_bytes;
  const int64_t data_bytes = file_bytes - data_begin;
  std::map<std::string, TensorView> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return data_loss(where + ": __metadata__ is not an object");
      continue;
    }
    PHALANX_ASSIGN_OR_RETURN(TensorView view,
                             parse_tensor(entry, where + ": tensor " + name, data_bytes));
    view.data = file.data() + data_begin + view.begin;
    tensors.emplace(name, std::move(view));
  }
  PHALANX_RETURN_IF_ERROR(check_tiling(tensors, where, data_bytes));
  return tensors;
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  PHALANX_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file, MappedFile::open(path));
  PHALANX_ASSIGN_OR_RETURN(auto tensors, parse_safetensors(file->bytes(), path));
  return std::shared_ptr<const SafetensorsFile>(
      new SafetensorsFile(std::move(file), std::move(tensors)));
}

std::span<const std::byte> SafetensorsFile::header() const {
  const auto length = static_cast<size_t>(kLengthBytes) + little_endian_length(file_->bytes());
  return file_->bytes().first(length);
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace phalanx::model
