// The safetensors header against malformed input, case by case; mutations are in the fuzz test.
#include "runtime/model/safetensors_reader.h"

#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace phalanx::model {
namespace {

using ::testing::HasSubstr;

/// A file from a header text and some data bytes.
std::string make_file(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

auto parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "f");
}

TEST(SafetensorsReader, ReadsTensorsAtAnyAlignment) {
  const std::string file = make_file(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
      R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[3,11]},)"
      R"("none":{"dtype":"F32","shape":[0,7],"data_offsets":[11,11]},)"
      R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[11,15]}}  )",
      15);
  const auto tensors = parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 4U);
  const TensorView& b = tensors->at("b");
  EXPECT_EQ(b.dtype, DType::kBf16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(b.num_bytes(), 8);
  EXPECT_EQ(std::to_integer<int>(*b.data), 3);
  EXPECT_EQ(tensors->at("scalar").num_elements, 1);
  EXPECT_EQ(tensors->at("none").num_elements, 0);
}

struct BadHeader {
  const char* name;
  const char* header;
  size_t data_bytes;
  const char* complaint;
};

class SafetensorsBadHeader : public ::testing::TestWithParam<BadHeader> {};

TEST_P(SafetensorsBadHeader, IsRefused) {
  const auto tensors = parse(make_file(GetParam().header, GetParam().data_bytes));
  ASSERT_FALSE(tensors.ok());
  EXPECT_EQ(tensors.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(tensors.error().message, HasSubstr(GetParam().complaint));
}

INSTANTIATE_TEST_SUITE_P(
    All, SafetensorsBadHeader,
    ::testing::Values(
        BadHeader{"NotJson", "{\"a\":", 0, "not valid JSON at byte 13"},
        BadHeader{"NotObject", "[1]", 0, "not a JSON object"},
        BadHeader{"TrailingText", "{} x", 0, "not valid JSON at byte"},
        BadHeader{"EntryNotObject", R"({"a":3})", 0, "tensor a is not an object"},
        BadHeader{"UnknownField", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})",
                  1, "unknown field \"x\""},
        BadHeader{"NoDtype", R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "dtype"},
        BadHeader{"UnknownDtype", R"({"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}})", 1,
                  "unknown dtype \"F7\""},
        BadHeader{"NegativeShape", R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1,
                  "not a size: -1"},
        BadHeader{"FractionalShape", R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})",
                  1, "not a size: 1.5"},
        BadHeader{"HugeExtent",
                  R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", 1,
                  "not a size"},
        BadHeader{"ShapeOverflow",
                  R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                  "overflows"},
        BadHeader{"BytesOverflow",
                  R"({"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
                  "overflows"},
        BadHeader{"ManyDimensions",
                  R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
                  "9 dimensions"},
        BadHeader{"OffsetsBackwards", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})", 2,
                  "data bytes [2, 1)"},
        BadHeader{"OffsetsOutside", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3,
                  "data bytes [0, 4) of 3"},
        BadHeader{"WrongSize", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
                  "needs 8"},
        BadHeader{"OneOffset", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1,
                  "data_offsets"},
        BadHeader{"Overlap",
                  R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                  R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                  4, "inside another"},
        BadHeader{"Gap",
                  R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                  R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                  3, "gap"},
        BadHeader{"Trailing", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 5,
                  "4 bytes at the end"},
        BadHeader{"DuplicateTensor",
                  R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                  R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                  1, "\"a\" twice"},
        BadHeader{"DuplicateField",
                  R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
                  "\"dtype\" twice"},
        BadHeader{"Deep", R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1,
                  "nested deeper"},
        BadHeader{"MetadataNotObject", R"({"__metadata__":[]})", 0, "__metadata__"}),
    [](const auto& instance) { return instance.param.name; });

TEST(SafetensorsReader, RefusesBadLengths) {
  EXPECT_THAT(parse("abc").error().message, HasSubstr("too short"));
  std::string file = make_file("{}", 0);
  file[0] = 3;  // one byte more than there is
  EXPECT_THAT(parse(file).error().message, HasSubstr("header length at byte 0 is 3"));
  for (int i = 0; i < 8; ++i) file[static_cast<size_t>(i)] = '\xff';
  EXPECT_FALSE(parse(file).ok());
}

TEST(SafetensorsReader, DeepNestingIsBounded) {
  const std::string deep(200000, '[');
  const auto tensors = parse(make_file(deep, 0));
  ASSERT_FALSE(tensors.ok());
  EXPECT_THAT(tensors.error().message, HasSubstr("nested deeper"));
}

TEST(SafetensorsReader, FileErrorsNameThePath) {
  const testing::TemporaryDirectory directory;
  const auto missing = SafetensorsFile::open(directory.path() + "/no.safetensors");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("no.safetensors"));
  EXPECT_THAT(SafetensorsFile::open(directory.path()).error().message,
              HasSubstr("not a regular file"));
  std::ofstream(directory.path() + "/empty").close();
  EXPECT_THAT(SafetensorsFile::open(directory.path() + "/empty").error().message,
              HasSubstr("too short"));
}

}  // namespace
}  // namespace phalanx::model
