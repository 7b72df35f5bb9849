// Result, Status and the always-on checks.
#include "runtime/base/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

using ::testing::HasSubstr;

Result<int> half(int value) {
  if (value % 2 != 0) return invalid_argument("value " + std::to_string(value) + " is odd");
  return value / 2;
}

Result<int> quarter(int value) {
  PHALANX_ASSIGN_OR_RETURN(const int once, half(value));
  PHALANX_ASSIGN_OR_RETURN(const int twice, half(once));
  return twice;
}

Status check_even(int value) {
  PHALANX_RETURN_IF_ERROR(half(value));
  return {};
}

TEST(Result, ErrorsPropagate) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(6).error().message, "value 3 is odd");
  EXPECT_EQ(quarter(6).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(check_even(2).ok());
  EXPECT_FALSE(check_even(3).ok());
}

TEST(Result, MisuseThrowsWithTheMessage) {
  try {
    (void)half(3).value();
    FAIL() << "no exception";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("value 3 is odd"));
  }
  EXPECT_THROW((void)half(2).error(), InternalError);
  EXPECT_THROW((void)Status().error(), InternalError);
}

TEST(Check, PrintsBothValuesAndThePlace) {
  try {
    PHALANX_CHECK_EQ(2 + 2, 5, "arithmetic");
    FAIL() << "no exception";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("(4 against 5)"));
    EXPECT_THAT(error.what(), HasSubstr("arithmetic"));
    EXPECT_THAT(error.what(), HasSubstr("result_test.cpp"));
  }
}

TEST(ErrorCode, NamesAreDistinct) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kIoError); ++code) {
    names.insert(error_code_name(static_cast<ErrorCode>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(ErrorCode::kIoError) + 1);
  EXPECT_FALSE(names.contains("unknown"));
}

}  // namespace
}  // namespace phalanx
