// JSON parsing on top of nlohmann's DOM, which alone would keep the last of duplicate keys.
#include "runtime/model/strict_json.h"

#include <set>
#include <vector>

#include "runtime/model/mapped_file.h"

namespace phalanx::model {

Result<nlohmann::json> parse_strict_json(std::string_view text, const std::string& where,
                                         int max_depth, int64_t byte_offset) {
  using nlohmann::json;
  std::vector<std::set<std::string>> open_objects;
  std::string complaint;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        open_objects.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= max_depth && complaint.empty())
          complaint = "is nested deeper than " + std::to_string(max_depth) + " containers";
        break;
      case json::parse_event_t::key:
        if (!open_objects.back().insert(parsed.get_ref<const std::string&>()).second &&
            complaint.empty())
          complaint = "has the key \"" + parsed.get<std::string>() + "\" twice in one object";
        break;
      case json::parse_event_t::object_end:
        open_objects.pop_back();
        break;
      case json::parse_event_t::array_end:
      case json::parse_event_t::value:
        break;
    }
    return complaint.empty();  // once something is wrong, keep nothing more in memory
  };
  try {
    json document = json::parse(text.begin(), text.end(), watch);
    if (!complaint.empty()) return data_loss(where + ": JSON " + complaint);
    return document;
  } catch (const json::parse_error& error) {
    if (!complaint.empty()) return data_loss(where + ": JSON " + complaint);
    const auto byte = byte_offset + static_cast<int64_t>(error.byte == 0 ? 0 : error.byte - 1);
    return data_loss(where + ": not valid JSON at byte " + std::to_string(byte));
  } catch (const json::exception& error) {
    return data_loss(where + ": JSON value out of range (" + error.what() + ")");
  }
}

Result<nlohmann::json> read_strict_json(const std::string& path, int max_depth, int64_t max_bytes) {
  PHALANX_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, max_bytes));
  return parse_strict_json(text, path, max_depth);
}

}  // namespace phalanx::model
