// Mutations of valid safetensors files: each is either refused or its tensors are inside the file.
// Run under AddressSanitizer this also shows that no byte outside is touched.
#include <random>

#include <gtest/gtest.h>

#include "runtime/model/safetensors_reader.h"

namespace phalanx::model {
namespace {

std::string valid_file() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},)"
      R"("v.scales":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
      R"("z":{"dtype":"U8","shape":[1,5],"data_offsets":[32,37]}})";
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += header;
  file.append(37, 'x');
  return file;
}

/// Reads every byte that a successful parse promises.
void check(const std::string& file) {
  // An exact heap copy, so that a sanitizer sees the end.
  const std::vector<char> exact(file.begin(), file.end());
  const auto bytes = std::as_bytes(std::span(exact));
  const auto tensors = parse_safetensors(bytes, "f");
  if (!tensors.ok()) {
    ASSERT_EQ(tensors.error().code, ErrorCode::kDataLoss);
    return;
  }
  unsigned sum = 0;
  for (const auto& [name, view] : *tensors) {
    ASSERT_GE(view.data, bytes.data());
    ASSERT_LE(view.data + view.num_bytes(), bytes.data() + bytes.size());
    for (int64_t i = 0; i < view.num_bytes(); ++i) sum += std::to_integer<unsigned>(view.data[i]);
  }
  ASSERT_LE(sum, 255U * bytes.size());
}

TEST(SafetensorsFuzz, EveryByteSetToEveryInterestingValue) {
  const std::string file = valid_file();
  for (size_t i = 0; i < file.size(); ++i) {
    for (const int value : {0,  1,  9,  10,  32,  34,  44,  45,  46,  48,  57, 58,
                            91, 92, 93, 101, 123, 125, 127, 128, 195, 237, 255}) {
      std::string mutated = file;
      mutated[i] = static_cast<char>(value);
      check(mutated);
    }
  }
}

TEST(SafetensorsFuzz, EveryTruncationAndExtension) {
  const std::string file = valid_file();
  for (size_t size = 0; size < file.size(); ++size) {
    const std::string cut = file.substr(0, size);
    ASSERT_FALSE(parse_safetensors(std::as_bytes(std::span(cut)), "f").ok()) << size;
    check(cut);
  }
  check(file + "y");
}

TEST(SafetensorsFuzz, RandomEdits) {
  std::mt19937_64 random(20240611);
  const std::string file = valid_file();
  const std::vector<std::string> pieces = {
      "{",        "}",     "[",    "]",    "\"",      ",",       ":",
      "-1",       "1e999", "null", "true", "\\u0000", "\\ud800", "18446744073709551616",
      "\"w\":{}", "[0,24]"};
  for (int round = 0; round < 20000; ++round) {
    std::string mutated = file;
    for (uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % (mutated.size() + 1);
      switch (random() % 4) {
        case 0:
          mutated.insert(at, pieces[random() % pieces.size()]);
          break;
        case 1:
          mutated.erase(at, random() % 8);
          break;
        case 2:
          if (at < mutated.size()) mutated[at] = static_cast<char>(random());
          break;
        default:
          mutated.insert(at, mutated.substr(random() % mutated.size(), random() % 40));
          break;
      }
    }
    check(mutated);
  }
}

}  // namespace
}  // namespace phalanx::model
