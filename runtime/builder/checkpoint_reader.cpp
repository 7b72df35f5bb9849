// Opening of single-file and sharded checkpoints.
#include "runtime/builder/checkpoint_reader.h"

#include <filesystem>
#include <set>

#include "runtime/model/strict_json.h"

namespace phalanx::builder {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

/// Why a directory without safetensors weights cannot be read.
Error no_weights(const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code code;
  if (!fs::is_directory(directory, code))
    return not_found(directory + ": is not a directory; give a checkpoint's directory");
  for (const auto& entry : fs::directory_iterator(directory, code)) {
    const std::string suffix = entry.path().extension();
    if (suffix == ".bin" || suffix == ".pt" || suffix == ".pth" || suffix == ".gguf")
      return not_found(directory + ": holds " + entry.path().filename().string() + " but no " +
                       kSingleFile + " or " + kIndexFile +
                       "; only safetensors checkpoints are read");
  }
  return not_found(directory + ": holds neither " + kSingleFile + " nor " + kIndexFile);
}

}  // namespace

Status CheckpointReader::add_file(const std::string& path) {
  PHALANX_ASSIGN_OR_RETURN(auto file, model::SafetensorsFile::open(path));
  for (const auto& [name, view] : file->tensors()) {
    const auto [where, is_new] = tensors_.emplace(name, CheckpointTensor{view, path});
    if (!is_new) return data_loss(path + ": tensor " + name + " is also in " + where->second.file);
  }
  files_.push_back(std::move(file));
  return {};
}

Result<CheckpointReader> CheckpointReader::open(const std::string& directory) {
  namespace fs = std::filesystem;
  CheckpointReader reader;
  std::error_code code;
  const std::string single = directory + "/" + kSingleFile;
  const std::string index_path = directory + "/" + kIndexFile;
  if (fs::exists(single, code)) {
    PHALANX_RETURN_IF_ERROR(reader.add_file(single));
    return reader;
  }
  if (!fs::exists(index_path, code)) return no_weights(directory);

  PHALANX_ASSIGN_OR_RETURN(const nlohmann::json index, model::read_strict_json(index_path, 4));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    return data_loss(index_path + ": lacks the object weight_map");
  std::set<std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) return data_loss(index_path + ": weight_map." + name + " is no string");
    const auto& text = file.get_ref<const std::string&>();
    if (text.empty() || text[0] == '.' || text.find('/') != std::string::npos)
      return data_loss(index_path + ": weight_map." + name + " is \"" + text +
                       "\", must be a plain file name");
    files.insert(text);
  }
  if (files.empty()) return data_loss(index_path + ": weight_map is empty");
  for (const std::string& file : files)
    PHALANX_RETURN_IF_ERROR(reader.add_file(directory + "/" + file));
  for (const auto& [name, file] : index["weight_map"].items()) {
    const CheckpointTensor* tensor = reader.find(name);
    const std::string expected = directory + "/" + file.get<std::string>();
    if (tensor == nullptr || tensor->file != expected)
      return data_loss(index_path + ": says that " + name + " is in " + file.get<std::string>() +
                       ", which does not hold it");
  }
  return reader;
}

const CheckpointTensor* CheckpointReader::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace phalanx::builder
