// Prompts become tokens, and are held against the context.
#include "runtime/server/prompt_encoding.h"

#include <gtest/gtest.h>

#include "tests/support/fake_generation_service.h"

namespace phalanx {
namespace {

ServiceInfo info(int64_t context, int64_t kv_capacity) {
  ServiceInfo info;
  info.max_context_tokens = context;
  info.kv_capacity_tokens = kv_capacity;
  return info;
}

ApiResult<std::vector<GenerationCall::Prompt>> encode(const OpenAiRequest& request,
                                                      const ServiceInfo& service_info) {
  const testing::ByteTextCodec codec;
  return make_prompts(request, codec, ServerOptions(), service_info);
}

TEST(PromptEncoding, EncodesTextAndTakesTokens) {
  OpenAiRequest request;
  request.prompts = {std::string("ab"), std::vector<int32_t>{99, 100}};
  request.echo = true;
  auto prompts = encode(request, info(10, 10));
  ASSERT_TRUE(prompts.ok());
  EXPECT_EQ(prompts.value()[0].token_ids, (std::vector<int32_t>{97, 98}));
  EXPECT_EQ(prompts.value()[0].echo, "ab");
  EXPECT_EQ(prompts.value()[1].token_ids, (std::vector<int32_t>{99, 100}));
  EXPECT_EQ(prompts.value()[1].echo, "cd");
}

TEST(PromptEncoding, LeavesRoomForAnAnswer) {
  OpenAiRequest request;
  request.prompts = {std::string(9, 'x')};
  EXPECT_TRUE(encode(request, info(10, 10)).ok());
  for (const ServiceInfo& small : {info(9, 100), info(100, 9)}) {
    const auto refused = encode(request, small);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().status, 400);
    EXPECT_EQ(refused.error().code, "context_length_exceeded");
    EXPECT_NE(refused.error().message.find("9 tokens; at most 8"), std::string::npos);
  }
}

TEST(PromptEncoding, NamesTheEmptyPrompt) {
  OpenAiRequest request;
  request.prompts = {std::string("a"), std::string()};
  EXPECT_EQ(encode(request, info(10, 10)).error().param, "prompt[1]");
}

TEST(PromptEncoding, NamesMessagesForWhatTheTemplateRefuses) {
  OpenAiRequest request;
  request.is_chat = true;
  request.messages = RequestJson::parse(R"([{"role": "user", "content": "REFUSE"}])");
  const auto refused = encode(request, info(100, 100));
  EXPECT_EQ(refused.error().param, "messages");
  EXPECT_EQ(refused.error().status, 400);
}

}  // namespace
}  // namespace phalanx
