// Writes a random checkpoint of a shape and has the builder make an engine of it.
#include "launcher/bench/shape_engine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "launcher/stop_signal.h"
#include "runtime/base/check.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/builder/quantization_plan.h"
#include "runtime/builder/safetensors_writer.h"
#include "runtime/model/engine_file.h"
#include "runtime/scheduler/hash64.h"
#include "runtime/server/tokenizer_byte_level.h"

namespace phalanx::bench {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int64_t kNumSpecialTokens = 3;
constexpr int64_t kChunkElements = int64_t{1} << 20;

/// Bits of a counter (splitmix64): every element's number stands alone.
uint64_t mix(uint64_t x) { return mix64(x + 0x9e3779b97f4a7c15ULL); }

struct RandomTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t count() const {
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
};

std::vector<RandomTensor> tensors_of(const ModelShape& shape) {
  const int64_t q_size = shape.num_heads * shape.head_dim;
  const int64_t kv_size = shape.num_kv_heads * shape.head_dim;
  std::vector<RandomTensor> tensors = {
      {"model.embed_tokens.weight", {shape.vocab_size, shape.hidden_size}}};
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto add = [&](const char* name, std::vector<int64_t> extents) {
      tensors.push_back({prefix + name + ".weight", std::move(extents)});
    };
    add("input_layernorm", {shape.hidden_size});
    add("self_attn.q_proj", {q_size, shape.hidden_size});
    add("self_attn.k_proj", {kv_size, shape.hidden_size});
    add("self_attn.v_proj", {kv_size, shape.hidden_size});
    add("self_attn.o_proj", {shape.hidden_size, q_size});
    add("post_attention_layernorm", {shape.hidden_size});
    add("mlp.gate_proj", {shape.intermediate_size, shape.hidden_size});
    add("mlp.up_proj", {shape.intermediate_size, shape.hidden_size});
    add("mlp.down_proj", {shape.hidden_size, shape.intermediate_size});
  }
  tensors.push_back({"model.norm.weight", {shape.hidden_size}});
  if (!shape.tied) tensors.push_back({"lm_head.weight", {shape.vocab_size, shape.hidden_size}});
  return tensors;
}

/// bf16 elements [first, first + out.size()) of a tensor: uniform with variance 1/K, or 1 for a
/// vector.
void fill(const RandomTensor& tensor, uint64_t seed, int64_t first, std::span<uint16_t> out) {
  if (tensor.shape.size() == 1) {
    std::fill(out.begin(), out.end(), uint16_t{0x3f80});
    return;
  }
  const float scale =
      static_cast<float>(std::sqrt(3.0 / static_cast<double>(tensor.shape[1])) / 32768.0);
  for (size_t i = 0; i < out.size(); i += 4) {  // `first` and sizes of chunks are multiples of 4
    const uint64_t bits = mix(seed + (static_cast<uint64_t>(first) + i) / 4);
    for (size_t j = 0; j < 4 && i + j < out.size(); ++j) {
      const float value = static_cast<float>(static_cast<int16_t>(bits >> (16 * j))) * scale;
      out[i + j] = static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0x8000U) >> 16);
    }
  }
}

/// Runs work(i) for i in [0, count) on some threads; the first error, or what was thrown.
template <typename Work>
Status for_each_parallel(int64_t count, int num_threads, const Work& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;  // guards the two below
  Status status;
  std::exception_ptr thrown;
  const auto run = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < count;) {
      try {
        const Status result = work(i);
        if (result.ok()) continue;
        const std::lock_guard lock(mutex);
        if (status.ok()) status = result;
      } catch (...) {
        const std::lock_guard lock(mutex);
        thrown = std::current_exception();
      }
      next = count;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  if (thrown) std::rethrow_exception(thrown);
  return status;
}

Status write_weights(const std::string& path, const ModelShape& shape, int num_threads) {
  struct Chunk {
    const RandomTensor* tensor;
    uint64_t seed;
    int64_t first;
    int64_t count;
  };
  const std::vector<RandomTensor> tensors = tensors_of(shape);
  std::vector<model::StoredTensor> stored;
  std::vector<Chunk> chunks;
  for (size_t t = 0; t < tensors.size(); ++t) {
    stored.push_back({tensors[t].name, DType::kBf16, tensors[t].shape});
    const int64_t count = tensors[t].count();
    for (int64_t first = 0; first < count; first += kChunkElements)
      chunks.push_back({&tensors[t], mix(t), first, std::min(kChunkElements, count - first)});
  }
  PHALANX_ASSIGN_OR_RETURN(const auto writer, builder::SafetensorsWriter::create(path, stored));
  PHALANX_RETURN_IF_ERROR(
      for_each_parallel(static_cast<int64_t>(chunks.size()), num_threads, [&](int64_t i) -> Status {
        check_stop();
        const Chunk& chunk = chunks[static_cast<size_t>(i)];
        std::vector<uint16_t> values(static_cast<size_t>(chunk.count));
        fill(*chunk.tensor, chunk.seed, chunk.first, values);
        return writer->write(chunk.tensor->name, chunk.first * 2, std::as_bytes(std::span(values)));
      }));
  return writer->finish();
}

/// The token of each byte.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> characters;
  for (int byte = 0; byte < 256; ++byte) {
    const char plain = static_cast<char>(byte);
    char character[kMaxByteLevelBytes];
    characters.emplace_back(character, write_byte_level(character, {&plain, 1}));
  }
  return characters;
}

/// Byte-level BPE whose tokens are made-up words, some with a space before them.
nlohmann::json tokenizer_of(const ModelShape& shape) {
  std::vector<std::string> tokens = byte_alphabet();
  const int64_t num_plain = shape.vocab_size - kNumSpecialTokens;
  PHALANX_CHECK_GT(num_plain, static_cast<int64_t>(tokens.size()), "a vocabulary below all bytes");
  const std::string space = tokens[' '];
  std::vector<std::string> starts = {space};
  std::vector<std::string> parts;
  for (char letter = 'a'; letter <= 'z'; ++letter) parts.emplace_back(1, letter);
  starts.insert(starts.end(), parts.begin(), parts.end());
  std::unordered_set<std::string> known(tokens.begin(), tokens.end());
  nlohmann::json merges = nlohmann::json::array();
  uint64_t counter = 0;
  while (static_cast<int64_t>(tokens.size()) < num_plain) {
    const std::string& left = starts[mix(counter) % starts.size()];
    const std::string& right = parts[mix(counter + 1) % parts.size()];
    counter += 2;
    if (left.size() + right.size() > 12) continue;
    const std::string token = left + right;
    if (!known.insert(token).second) continue;
    merges.push_back(left + " " + right);
    tokens.push_back(token);
    starts.push_back(token);
    if (!token.starts_with(space)) parts.push_back(token);
  }
  nlohmann::json vocabulary = nlohmann::json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocabulary[tokens[id]] = id;
  nlohmann::json special = nlohmann::json::array();
  const char* names[kNumSpecialTokens] = {"<|begin|>", "<|end|>", "<|turn|>"};
  for (int64_t i = 0; i < kNumSpecialTokens; ++i) {
    special.push_back({{"id", num_plain + i},
                       {"content", names[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
  }
  // The split pattern of Llama 3.
  constexpr const char* kPattern =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const nlohmann::json split = {{"type", "Split"},
                                {"pattern", {{"Regex", kPattern}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
  const nlohmann::json bytes = {{"type", "ByteLevel"},
                                {"add_prefix_space", false},
                                {"trim_offsets", true},
                                {"use_regex", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", special},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
          {"post_processor", nullptr},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", true},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

ordered_json config_of(const ModelShape& shape) {
  return {{"model_type", "llama"},
          {"hidden_size", shape.hidden_size},
          {"num_hidden_layers", shape.num_layers},
          {"num_attention_heads", shape.num_heads},
          {"num_key_value_heads", shape.num_kv_heads},
          {"head_dim", shape.head_dim},
          {"intermediate_size", shape.intermediate_size},
          {"vocab_size", shape.vocab_size},
          {"max_position_embeddings", shape.max_positions},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", shape.tied},
          {"bos_token_id", shape.vocab_size - kNumSpecialTokens},
          {"eos_token_id", shape.vocab_size - kNumSpecialTokens + 1}};
}

ordered_json tokenizer_config() {
  return {{"tokenizer_class", "PreTrainedTokenizerFast"},
          {"bos_token", "<|begin|>"},
          {"eos_token", "<|end|>"},
          {"chat_template",
           "{{ bos_token }}{% for message in messages %}<|turn|>{{ message['role'] }}\n"
           "{{ message['content'] }}{{ eos_token }}{% endfor %}"
           "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"}};
}

template <typename Json>
Status write_json(const fs::path& path, const Json& json) {
  std::ofstream file(path);
  file << json.dump();
  file.close();
  if (!file) return io_error(path.string() + ": " + std::strerror(errno));
  return {};
}

/// A directory that goes away with all that is in it.
class ScratchDirectory {
 public:
  static Result<std::unique_ptr<ScratchDirectory>> make(const std::string& prefix) {
    std::string path = prefix + "XXXXXX";
    if (mkdtemp(path.data()) == nullptr) return io_error(path + ": " + std::strerror(errno));
    return std::unique_ptr<ScratchDirectory>(new ScratchDirectory(path));
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const fs::path& path() const { return path_; }

 private:
  explicit ScratchDirectory(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

engine::WeightFormat weight_format(const std::string& text) {
  if (text == "f32") return engine::F32;
  if (text == "bf16") return engine::BF16;
  if (text == "fp8") return engine::FP8;
  return text == "w4" ? engine::W4 : engine::W8;
}

Result<const ModelShape*> find_shape(const std::string& name) {
  std::string names;
  for (const ModelShape& shape : model_shapes()) {
    if (shape.name == name) return &shape;
    names += (names.empty() ? "" : ", ") + shape.name;
  }
  return invalid_argument("shape \"" + name + "\", must be one of " + names);
}

}  // namespace

const std::vector<ModelShape>& model_shapes() {
  static const std::vector<ModelShape> kShapes = {
      {"llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, 131072, true},
      {"llama-3.1-8b", 4096, 32, 32, 8, 128, 14336, 128256, 131072, false},
      {"110m", 768, 12, 12, 12, 64, 2048, 32000, 4096, true},
      {"tiny", 256, 2, 4, 2, 64, 512, 1024, 2048, true},
  };
  return kShapes;
}

std::vector<std::string> model_shape_names() {
  std::vector<std::string> names;
  for (const ModelShape& shape : model_shapes()) names.push_back(shape.name);
  return names;
}

std::string default_engine_directory() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0')
    return std::string(cache) + "/phalanx/engines";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : ".") + "/.cache/phalanx/engines";
}

std::vector<Flag> shape_flags() {
  std::string names;
  for (const std::string& name : model_shape_names()) names += (names.empty() ? "" : "|") + name;
  return {{"--shape", "NAME", "llama-3.2-1b", "random weights of a shape: " + names},
          {"--weights", "FORMAT", "w8", "of the shape's engine: f32, bf16, w8, w4 or fp8"},
          {"--group-size", "N", "128", "its quantization group, a power of two"},
          {"--engines", "DIR", default_engine_directory(), "where such engines are kept"}};
}

Result<ShapeEngineRequest> read_shape_request(const BenchOptions& options) {
  ShapeEngineRequest request;
  PHALANX_ASSIGN_OR_RETURN(request.shape, options.one_of("--shape", model_shape_names()));
  PHALANX_ASSIGN_OR_RETURN(request.weights,
                           options.one_of("--weights", {"f32", "bf16", "w8", "w4", "fp8"}));
  PHALANX_ASSIGN_OR_RETURN(
      request.group_size,
      options.integer("--group-size", builder::kMinGroupSize, builder::kMaxGroupSize));
  request.directory = options.text("--engines");
  request.num_threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  request.shows_progress = true;
  return request;
}

Result<std::string> shape_engine_path(const ShapeEngineRequest& request) {
  PHALANX_ASSIGN_OR_RETURN([[maybe_unused]] const ModelShape* shape, find_shape(request.shape));
  const bool is_quantized =
      request.weights == "w8" || request.weights == "w4" || request.weights == "fp8";
  const std::string directory =
      request.directory.empty() ? default_engine_directory() : request.directory;
  return directory + "/" + request.shape + "-" + request.weights +
         (is_quantized ? "-g" + std::to_string(request.group_size) : "");
}

Result<std::string> ensure_shape_engine(const ShapeEngineRequest& request) {
  PHALANX_ASSIGN_OR_RETURN(const ModelShape* shape, find_shape(request.shape));
  PHALANX_ASSIGN_OR_RETURN(const std::string path, shape_engine_path(request));
  if (model::EngineFile::open(path).ok()) return path;

  std::error_code code;
  fs::create_directories(fs::path(path).parent_path(), code);
  if (code) return io_error(fs::path(path).parent_path().string() + ": " + code.message());
  PHALANX_ASSIGN_OR_RETURN(const auto scratch, ScratchDirectory::make(path + ".checkpoint-"));
  const fs::path checkpoint = scratch->path() / ("random-" + shape->name);  // named in the engine
  if (!fs::create_directory(checkpoint, code))
    return io_error(checkpoint.string() + ": " + code.message());
  if (request.shows_progress)
    std::fprintf(stderr, "making an engine of random weights, %s\n", path.c_str());
  PHALANX_RETURN_IF_ERROR(write_json(checkpoint / "config.json", config_of(*shape)));
  PHALANX_RETURN_IF_ERROR(write_json(checkpoint / "tokenizer.json", tokenizer_of(*shape)));
  PHALANX_RETURN_IF_ERROR(write_json(checkpoint / "tokenizer_config.json", tokenizer_config()));
  PHALANX_RETURN_IF_ERROR(
      write_weights((checkpoint / "model.safetensors").string(), *shape, request.num_threads));

  builder::BuildOptions options;
  options.checkpoint = checkpoint.string();
  options.engine = path;
  options.quantization.weights = weight_format(request.weights);
  options.quantization.group_size = request.group_size;
  options.name = request.shape;
  options.num_threads = request.num_threads;
  options.force = true;  // what is there does not open
  options.progress = [&](int64_t done, int64_t total) {
    check_stop();
    if (!request.shows_progress || ::isatty(STDERR_FILENO) == 0) return;
    std::fprintf(stderr, "\r%lld of %lld MB%s", static_cast<long long>(done / 1000000),
                 static_cast<long long>(total / 1000000), done < total ? "  " : "  \n");
  };
  const auto report = builder::build_engine(options);
  if (!report.ok()) return report.error();
  return path;
}

}  // namespace phalanx::bench
