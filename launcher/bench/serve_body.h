// The JSON that a load client posts. Used by serve.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "launcher/bench/serve_workload.h"

namespace phalanx::bench {

struct BodyOptions {
  bool is_chat = false;
  std::string model;  ///< empty: left out
  double temperature = 0;
  bool ignore_eos = false;     ///< "ignore_eos": vLLM, SGLang, llama.cpp, OpenVINO and we know it
  bool include_usage = false;  ///< "stream_options": {"include_usage": true}
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();  ///< further fields
};

/// The body of a streaming request for `item`. A chat is one user message and takes text only.
std::string make_request_body(const BodyOptions& options, const WorkItem& item);

}  // namespace phalanx::bench
