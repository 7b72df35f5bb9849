// Loading and checking of architecture texts. The built-in ones are a table that CMake generates
// from architectures/*.textproto.
#include "runtime/model/architecture.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/model/builtin_architectures.h"
#include "runtime/model/mapped_file.h"
#include "runtime/model/textproto.h"

namespace phalanx::model {

namespace {

constexpr int64_t kMaxArchitectureBytes = int64_t{1} << 20;
constexpr std::string_view kLayerMark = "{layer}";

/// Names used more than once or never declared, over one kind of thing in a text.
class NameSet {
 public:
  explicit NameSet(std::string what) : what_(std::move(what)) {}
  Status declare(const std::string& name) {
    if (name.empty()) return invalid_argument(what_ + " has no name");
    if (!names_.insert(name).second)
      return invalid_argument(what_ + " \"" + name + "\" is declared twice");
    return {};
  }
  Status require(const std::string& name, const std::string& user) const {
    if (names_.count(name) == 0)
      return invalid_argument(user + " names the " + what_ + " \"" + name +
                              "\", which is not declared");
    return {};
  }

 private:
  std::string what_;
  std::set<std::string> names_;
};

Status check_tensor(const engine::TensorTemplate& tensor, const NameSet& switches,
                    const std::set<std::string>& all_roles) {
  const std::string what = "tensor \"" + tensor.role() + "\"";
  if (tensor.checkpoint_names().empty()) return invalid_argument(what + " has no checkpoint_names");
  const bool per_layer = tensor.checkpoint_names(0).find(kLayerMark) != std::string::npos;
  for (const std::string& name : tensor.checkpoint_names()) {
    if ((name.find(kLayerMark) != std::string::npos) != per_layer)
      return invalid_argument(what + " mixes checkpoint_names with and without {layer}");
  }
  if (tensor.rows().empty()) return invalid_argument(what + " has no rows");
  engine::ModelConfig ones;  // any dimensions do: this checks the names in the shapes
  ones.set_hidden_size(1);
  ones.set_num_hidden_layers(1);
  ones.set_num_attention_heads(1);
  ones.set_num_key_value_heads(1);
  ones.set_head_dim(1);
  ones.set_intermediate_size(1);
  ones.set_vocab_size(1);
  for (const auto& [field, shape] : {std::pair("rows", tensor.rows()), {"cols", tensor.cols()}}) {
    if (shape.empty()) continue;
    const auto extent = shape_extent(shape, ones);
    if (!extent.ok()) return invalid_argument(what + ": " + extent.error().message);
    if (*extent < 1)
      return invalid_argument(what + ": " + field + " is \"" + shape + "\", must be positive");
  }
  if (!tensor.condition().empty())
    PHALANX_RETURN_IF_ERROR(switches.require(tensor.condition(), what));
  if (!tensor.tied_to().empty() && all_roles.count(tensor.tied_to()) == 0)
    return invalid_argument(what + " is tied to the unknown role \"" + tensor.tied_to() + "\"");
  return {};
}

Status check_op(const engine::OpTemplate& op, const NameSet& switches, const NameSet& roles) {
  const std::string what = "op \"" + op.name() + "\"";
  if (op.kind() == engine::OP_UNSPECIFIED) return invalid_argument(what + " has no kind");
  if (op.kind() == engine::ALL_REDUCE)
    return invalid_argument(what + ": ALL_REDUCE is inserted when a topology is known");
  if (op.outputs().empty()) return invalid_argument(what + " has no outputs");
  for (const std::string& weight : op.weights())
    PHALANX_RETURN_IF_ERROR(roles.require(weight, what));
  for (const std::string& bias : op.biases()) {
    if (!bias.empty()) PHALANX_RETURN_IF_ERROR(roles.require(bias, what));
  }
  if (!op.condition().empty()) PHALANX_RETURN_IF_ERROR(switches.require(op.condition(), what));
  return {};
}

Status check_architecture(const engine::Architecture& text) {
  if (text.name().empty()) return invalid_argument("name is empty");
  NameSet switches("switch");
  for (const auto& item : text.switches()) {
    PHALANX_RETURN_IF_ERROR(switches.declare(item.name()));
    if (item.config_key().empty())
      return invalid_argument("switch \"" + item.name() + "\" has no config_key");
  }
  NameSet keys("config key");
  for (const auto& item : text.config_keys()) PHALANX_RETURN_IF_ERROR(keys.declare(item.name()));

  NameSet roles("role");
  std::set<std::string> all_roles;
  for (const auto& tensor : text.tensors()) {
    PHALANX_RETURN_IF_ERROR(roles.declare(tensor.role()));
    all_roles.insert(tensor.role());
  }
  for (const auto& tensor : text.tensors())
    PHALANX_RETURN_IF_ERROR(check_tensor(tensor, switches, all_roles));
  for (const auto* section : {&text.prologue(), &text.layer(), &text.epilogue()}) {
    NameSet names("op");
    for (const auto& op : *section) {
      PHALANX_RETURN_IF_ERROR(names.declare(op.name()));
      PHALANX_RETURN_IF_ERROR(check_op(op, switches, roles));
    }
  }
  return {};
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

Error unknown_factor(const std::string& expression, const std::string& factor) {
  return invalid_argument("shape \"" + expression + "\" has the factor \"" + factor +
                          "\"; allowed are hidden_size, num_attention_heads, "
                          "num_key_value_heads, head_dim, intermediate_size, vocab_size and "
                          "integers");
}

}  // namespace

const std::vector<engine::Architecture>& builtin_architectures() {
  static const std::vector<engine::Architecture> architectures = [] {
    std::vector<engine::Architecture> parsed;
    for (const BuiltinArchitecture& builtin : kBuiltinArchitectures) {
      auto architecture = parse_architecture(builtin.text, builtin.file);
      PHALANX_CHECK(architecture.ok(), architecture.error().message);
      parsed.push_back(std::move(*architecture));
    }
    std::sort(parsed.begin(), parsed.end(),
              [](const auto& a, const auto& b) { return a.name() < b.name(); });
    return parsed;
  }();
  return architectures;
}

Result<engine::Architecture> parse_architecture(const std::string& text, const std::string& where) {
  engine::Architecture architecture;
  PHALANX_RETURN_IF_ERROR(parse_textproto(text, where, &architecture));
  if (Status status = check_architecture(architecture); !status.ok())
    return invalid_argument(where + ": " + status.error().message);
  return architecture;
}

Result<engine::Architecture> read_architecture(const std::string& path) {
  PHALANX_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxArchitectureBytes));
  return parse_architecture(text, path);
}

Result<engine::Architecture> architecture_for_model_type(const std::string& model_type) {
  std::string supported;
  for (const engine::Architecture& architecture : builtin_architectures()) {
    for (const std::string& served : architecture.model_types()) {
      if (served == model_type) return architecture;
      if (!supported.empty()) supported += ", ";
      supported += served;
    }
  }
  return unsupported("model_type is \"" + model_type + "\"; built in are " + supported +
                     " (another family can be described in a file: --architecture FILE)");
}

Result<int64_t> shape_extent(const std::string& expression, const engine::ModelConfig& config) {
  int64_t product = 1;
  size_t begin = 0;
  while (begin <= expression.size()) {
    const size_t star = std::min(expression.find('*', begin), expression.size());
    const std::string factor = trimmed(expression.substr(begin, star - begin));
    begin = star + 1;
    int64_t extent = 0;
    if (factor == "hidden_size") {
      extent = config.hidden_size();
    } else if (factor == "num_attention_heads") {
      extent = config.num_attention_heads();
    } else if (factor == "num_key_value_heads") {
      extent = config.num_key_value_heads();
    } else if (factor == "head_dim") {
      extent = config.head_dim();
    } else if (factor == "intermediate_size") {
      extent = config.intermediate_size();
    } else if (factor == "vocab_size") {
      extent = config.vocab_size();
    } else if (!factor.empty() && factor.size() <= 9 &&
               factor.find_first_not_of("0123456789") == std::string::npos) {
      extent = std::stoll(factor);
    } else {
      return unknown_factor(expression, factor);
    }
    if (__builtin_mul_overflow(product, extent, &product))
      return invalid_argument("shape \"" + expression + "\" overflows 64 bits");
  }
  return product;
}

bool matches_pattern(const std::string& pattern, const std::string& text) {
  // Greedy with one backtracking point: enough for "*", linear memory.
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string::npos;
  size_t resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace phalanx::model
