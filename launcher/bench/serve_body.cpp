// Bodies by nlohmann's serializer: one a request, not one a token.
#include "launcher/bench/serve_body.h"

#include <utility>

#include "runtime/base/check.h"

namespace phalanx::bench {

std::string make_request_body(const BodyOptions& options, const WorkItem& item) {
  nlohmann::ordered_json body = nlohmann::ordered_json::object();
  if (!options.model.empty()) body["model"] = options.model;
  if (options.is_chat) {
    PHALANX_CHECK(item.ids.empty(), "a chat takes text");
    body["messages"] = nlohmann::ordered_json::array({{{"role", "user"}, {"content", item.text}}});
  } else if (item.ids.empty()) {
    body["prompt"] = item.text;
  } else {
    body["prompt"] = item.ids;
  }
  body["max_tokens"] = item.output_tokens;
  body["temperature"] = options.temperature;
  body["stream"] = true;
  if (options.include_usage) body["stream_options"] = {{"include_usage", true}};
  if (options.ignore_eos) body["ignore_eos"] = true;
  body.update(options.extra);
  return body.dump();
}

}  // namespace phalanx::bench
