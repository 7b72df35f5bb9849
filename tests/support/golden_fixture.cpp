// Fixture tensors into vectors.
#include "tests/support/golden_fixture.h"

#include <cstring>

#include "runtime/model/safetensors_reader.h"

namespace phalanx::testing {

namespace {

template <typename T>
Result<std::vector<T>> elements(const model::SafetensorsFile& file, const std::string& name,
                                DType dtype) {
  const model::TensorView* view = file.find(name);
  if (view == nullptr || view->dtype != dtype)
    return data_loss(file.path() + ": lacks tensor " + name + " of " + dtype_name(dtype));
  std::vector<T> out(static_cast<size_t>(view->num_elements));
  std::memcpy(out.data(), view->data, static_cast<size_t>(view->num_bytes()));
  return out;
}

}  // namespace

Result<std::vector<GoldenPrompt>> read_golden_fixture(const std::string& directory) {
  PHALANX_ASSIGN_OR_RETURN(const auto file,
                           model::SafetensorsFile::open(directory + "/expected.safetensors"));
  std::vector<GoldenPrompt> prompts;
  while (true) {
    const std::string prefix = "prompt" + std::to_string(prompts.size()) + ".";
    const model::TensorView* logits = file->find(prefix + "logits");
    if (logits == nullptr) break;
    GoldenPrompt prompt;
    PHALANX_ASSIGN_OR_RETURN(prompt.tokens,
                             elements<int32_t>(*file, prefix + "tokens", DType::kI32));
    PHALANX_ASSIGN_OR_RETURN(prompt.positions,
                             elements<int32_t>(*file, prefix + "positions", DType::kI32));
    PHALANX_ASSIGN_OR_RETURN(prompt.logits, elements<float>(*file, prefix + "logits", DType::kF32));
    PHALANX_ASSIGN_OR_RETURN(prompt.greedy,
                             elements<int32_t>(*file, prefix + "greedy", DType::kI32));
    if (logits->shape.size() != 2 ||
        logits->shape[0] != static_cast<int64_t>(prompt.positions.size()))
      return data_loss(file->path() + ": " + prefix + "logits has another shape than positions");
    prompt.vocab_size = logits->shape[1];
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) return data_loss(file->path() + ": holds no prompt");
  return prompts;
}

}  // namespace phalanx::testing
