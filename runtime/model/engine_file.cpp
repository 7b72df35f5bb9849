// Opening an engine directory: parse, check, map, and look up.
#include "runtime/model/engine_file.h"

#include <cstring>
#include <set>
#include <unordered_map>

#include "runtime/base/check.h"
#include "runtime/model/manifest.h"
#include "runtime/model/safetensors_reader.h"
#include "runtime/model/textproto.h"

namespace phalanx::model {

namespace {

constexpr int64_t kMaxManifestBytes = int64_t{256} << 20;

class MappedEngine final : public EngineFile {
 public:
  explicit MappedEngine(std::string directory) : directory_(std::move(directory)) {}

  Status load();

  const engine::EngineManifest& manifest() const override { return manifest_; }
  const std::string& directory() const override { return directory_; }
  const engine::Weight& weight(const std::string& name) const override {
    return *entry(name).weight;
  }
  MatrixView matrix(const std::string& name) const override;
  std::span<const float> vector(const std::string& name) const override;
  void release_pages() const override {
    for (const auto& file : files_) file->release_pages();
  }

 private:
  struct Entry {
    const engine::Weight* weight = nullptr;
    const TensorView* codes = nullptr;
    const TensorView* scales = nullptr;
    const TensorView* zeros = nullptr;
  };

  Status map_files();
  Status bind_weights();
  const Entry& entry(const std::string& name) const {
    const auto found = entries_.find(name);
    PHALANX_CHECK(found != entries_.end(), "engine " + directory_ + " has no weight " + name);
    return found->second;
  }

  std::string directory_;
  engine::EngineManifest manifest_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::unordered_map<std::string, Entry> entries_;
};

Status MappedEngine::map_files() {
  std::vector<std::span<const std::byte>> headers;
  for (const engine::WeightFile& listed : manifest_.files()) {
    PHALANX_ASSIGN_OR_RETURN(auto file, SafetensorsFile::open(directory_ + "/" + listed.name()));
    if (static_cast<int64_t>(file->bytes().size()) != listed.size_bytes())
      return data_loss(file->path() + ": is " + std::to_string(file->bytes().size()) +
                       " bytes, the manifest says " + std::to_string(listed.size_bytes()));
    headers.push_back(file->header());
    files_.push_back(std::move(file));
  }
  const std::string hash = compute_engine_hash(manifest_, headers);
  if (hash != manifest_.engine_hash())
    return data_loss(directory_ + "/" + kManifestFile + ": engine_hash is \"" +
                     manifest_.engine_hash() + "\", but manifest and weight files hash to " + hash +
                     "; the engine was changed after llm-build wrote it");
  return {};
}

Status MappedEngine::bind_weights() {
  std::unordered_map<std::string, std::pair<const SafetensorsFile*, const TensorView*>> tensors;
  for (const auto& file : files_) {
    for (const auto& [name, view] : file->tensors()) {
      if (!tensors.emplace(name, std::pair(file.get(), &view)).second)
        return data_loss(file->path() + ": tensor " + name + " is also in another file");
    }
  }
  size_t num_bound = 0;
  for (const engine::Weight& weight : manifest_.weights()) {
    Entry bound;
    bound.weight = &weight;
    for (const StoredTensor& stored : stored_tensors(weight)) {
      const auto found = tensors.find(stored.name);
      if (found == tensors.end())
        return data_loss(directory_ + ": no weight file holds tensor " + stored.name);
      const auto& [file, view] = found->second;
      const bool is_scales =
          stored.name.size() > weight.name().size() && stored.name == weight.name() + ".scales";
      const bool dtype_fits = is_scales && stored.dtype == DType::kBf16
                                  ? (view->dtype == DType::kF32 || view->dtype == DType::kF16 ||
                                     view->dtype == DType::kBf16)
                                  : view->dtype == stored.dtype;
      if (!dtype_fits || view->shape != stored.shape)
        return data_loss(file->path() + ": tensor " + stored.name + " is " + view->dtype_name +
                         " " + shape_text(view->shape) + ", the manifest says " +
                         dtype_name(stored.dtype) + " " + shape_text(stored.shape));
      const auto address = reinterpret_cast<uintptr_t>(view->data);
      if (view->num_elements > 0 && address % dtype_bytes(*view->dtype) != 0)
        return data_loss(file->path() + ": tensor " + stored.name + " at data byte " +
                         std::to_string(view->begin) + " is not aligned to its elements");
      (stored.name == weight.name() ? bound.codes : is_scales ? bound.scales : bound.zeros) = view;
      ++num_bound;
    }
    entries_.emplace(weight.name(), bound);
  }
  if (num_bound != tensors.size())
    return data_loss(directory_ + ": the weight files hold " + std::to_string(tensors.size()) +
                     " tensors, the manifest names " + std::to_string(num_bound));
  return {};
}

Status MappedEngine::load() {
  const std::string path = directory_ + "/" + kManifestFile;
  PHALANX_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxManifestBytes));
  if (Status status = parse_textproto(text, path, &manifest_); !status.ok())
    return data_loss(status.error().message);
  if (Status status = verify_manifest(manifest_); !status.ok()) {
    const bool version = status.error().code == ErrorCode::kUnsupported;
    return Error{version ? ErrorCode::kUnsupported : ErrorCode::kDataLoss,
                 path + ": " + status.error().message};
  }
  PHALANX_RETURN_IF_ERROR(map_files());
  return bind_weights();
}

MatrixView MappedEngine::matrix(const std::string& name) const {
  const Entry& bound = entry(name);
  PHALANX_CHECK(bound.weight->cols() > 0, "weight " + name + " is a vector");
  MatrixView view;
  view.format = bound.weight->format();
  view.rows = bound.weight->rows();
  view.cols = bound.weight->cols();
  view.group_size = bound.weight->group_size();
  view.codes = bound.codes->data;
  view.row_stride_bytes = bound.codes->num_bytes() / view.rows;
  if (bound.scales != nullptr) {
    view.scales = bound.scales->data;
    view.scale_dtype = *bound.scales->dtype;
    view.scale_row_stride = bound.scales->shape[1];
    view.scale_rows = bound.weight->scale_rows();
    view.scale_cols = bound.weight->scale_cols();
  }
  if (bound.zeros != nullptr) view.zeros = reinterpret_cast<const uint8_t*>(bound.zeros->data);
  return view;
}

std::span<const float> MappedEngine::vector(const std::string& name) const {
  const Entry& bound = entry(name);
  PHALANX_CHECK(bound.weight->cols() == 0, "weight " + name + " is a matrix");
  return {reinterpret_cast<const float*>(bound.codes->data),
          static_cast<size_t>(bound.weight->rows())};
}

}  // namespace

Result<std::shared_ptr<const EngineFile>> EngineFile::open(const std::string& directory) {
  auto engine = std::make_shared<MappedEngine>(directory);
  PHALANX_RETURN_IF_ERROR(engine->load());
  return std::shared_ptr<const EngineFile>(std::move(engine));
}

}  // namespace phalanx::model
