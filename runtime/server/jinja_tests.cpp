// The tests of the template language: `value is name(arguments)`.
// Called by the interpreter and by select and reject.
#include <unordered_map>

#include "runtime/server/jinja_builtins.h"
#include "runtime/server/tokenizer_unicode.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using Test = bool (*)(JinjaInterpreter&, const JinjaValue&, const JinjaArguments&);

const JinjaValue& only(const char* name, const JinjaArguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    throw JinjaError(std::string("test '") + name + "' takes one argument");
  }
  return arguments.positional[0];
}

bool is_multiple(JinjaInterpreter& run, const JinjaValue& value, int64_t of, int64_t rest) {
  const JinjaValue modulo = jinja_binary(run, "%", value, JinjaValue::integer(of));
  return jinja_equal(modulo, JinjaValue::integer(rest), run.budget());
}

bool text_is(JinjaInterpreter& run, const JinjaValue& value, const char* method) {
  return jinja_truth(call_jinja_string_method(run, run.str(value), method, {}));
}

const std::unordered_map<std::string_view, Test>& tests() {
  static const std::unordered_map<std::string_view, Test> table = [] {
    std::unordered_map<std::string_view, Test> t;
    using Run = JinjaInterpreter;
    using Value = JinjaValue;
    using Arguments = JinjaArguments;
    t["defined"] = [](Run&, const Value& v, const Arguments&) { return !v.is_undefined(); };
    t["undefined"] = [](Run&, const Value& v, const Arguments&) { return v.is_undefined(); };
    t["none"] = [](Run&, const Value& v, const Arguments&) { return v.is_none(); };
    t["boolean"] = [](Run&, const Value& v, const Arguments&) { return v.is_bool(); };
    t["true"] = [](Run&, const Value& v, const Arguments&) { return v.is_bool() && v.as_bool(); };
    t["false"] = [](Run&, const Value& v, const Arguments&) { return v.is_bool() && !v.as_bool(); };
    t["integer"] = [](Run&, const Value& v, const Arguments&) { return v.is_int(); };
    t["float"] = [](Run&, const Value& v, const Arguments&) { return v.is_float(); };
    t["number"] = [](Run&, const Value& v, const Arguments&) { return v.is_number(); };
    t["string"] = [](Run&, const Value& v, const Arguments&) { return v.is_string(); };
    t["mapping"] = [](Run&, const Value& v, const Arguments&) { return v.is_dict(); };
    t["callable"] = [](Run&, const Value& v, const Arguments&) {
      return v.is_callable() || v.is_loop();
    };
    t["escaped"] = [](Run&, const Value&, const Arguments&) { return false; };
    // Undefined has a length and items: jinja2 counts it as both.
    t["sequence"] = [](Run&, const Value& v, const Arguments&) {
      return v.is_sequence() || v.is_string() || v.is_dict() || v.is_undefined();
    };
    t["iterable"] = [](Run&, const Value& v, const Arguments&) {
      return v.is_sequence() || v.is_string() || v.is_dict() || v.is_undefined() || v.is_loop();
    };
    t["odd"] = [](Run& run, const Value& v, const Arguments&) { return is_multiple(run, v, 2, 1); };
    t["even"] = [](Run& run, const Value& v, const Arguments&) {
      return is_multiple(run, v, 2, 0);
    };
    t["divisibleby"] = [](Run& run, const Value& v, const Arguments& a) {
      const JinjaValue rest = jinja_binary(run, "%", v, only("divisibleby", a));
      return jinja_equal(rest, JinjaValue::integer(0), run.budget());
    };
    t["lower"] = [](Run& run, const Value& v, const Arguments&) {
      return text_is(run, v, "islower");
    };
    t["upper"] = [](Run& run, const Value& v, const Arguments&) {
      return text_is(run, v, "isupper");
    };
    t["in"] = [](Run& run, const Value& v, const Arguments& a) {
      return jinja_contains(run, only("in", a), v);
    };
    t["sameas"] = [](Run&, const Value& v, const Arguments& a) {
      return v.is_same(only("sameas", a));
    };
    t["filter"] = [](Run&, const Value& v, const Arguments&) {
      return v.is_string() && has_jinja_filter(v.as_string());
    };
    t["test"] = [](Run&, const Value& v, const Arguments&) {
      return v.is_string() && has_jinja_test(v.as_string());
    };
    for (const char* name : {"eq", "equalto", "=="}) {
      t[name] = [](Run& run, const Value& v, const Arguments& a) {
        return jinja_equal(v, only("eq", a), run.budget());
      };
    }
    for (const char* name : {"ne", "!="}) {
      t[name] = [](Run& run, const Value& v, const Arguments& a) {
        return !jinja_equal(v, only("ne", a), run.budget());
      };
    }
    for (const char* name : {"lt", "lessthan", "<"}) {
      t[name] = [](Run& run, const Value& v, const Arguments& a) {
        return jinja_less(v, only("lt", a), run.budget());
      };
    }
    for (const char* name : {"gt", "greaterthan", ">"}) {
      t[name] = [](Run& run, const Value& v, const Arguments& a) {
        return jinja_less(only("gt", a), v, run.budget());
      };
    }
    for (const char* name : {"le", "<="}) {
      t[name] = [](Run& run, const Value& v, const Arguments& a) {
        return !jinja_less(only("le", a), v, run.budget());
      };
    }
    for (const char* name : {"ge", ">="}) {
      t[name] = [](Run& run, const Value& v, const Arguments& a) {
        return !jinja_less(v, only("ge", a), run.budget());
      };
    }
    return t;
  }();
  return table;
}

}  // namespace

bool has_jinja_test(std::string_view name) { return tests().contains(name); }

bool apply_jinja_test(JinjaInterpreter& run, std::string_view name, const JinjaValue& value,
                      const JinjaArguments& arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) throw JinjaError("No test named '" + std::string(name) + "'.");
  run.charge(1);
  return found->second(run, value, arguments);
}

}  // namespace phalanx
